"""What resource managers ask of a node: requests out of a job's comment, what may be staged for users, hooks."""
