"""Services and actions of the node, and the client of the command line."""
