"""Services and action of the node, and the client for the command line."""
