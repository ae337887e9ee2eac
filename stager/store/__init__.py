"""The store: the content-addressed directory on the node's local disk. The only code that writes there."""
