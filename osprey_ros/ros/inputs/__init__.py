"""Subscriptions of the node: the messages of one moment."""
