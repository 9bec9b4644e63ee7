"""Outputs of the node: publishers and the messages they send."""
