"""Elections: who does a piece of work that several contenders want done once."""
