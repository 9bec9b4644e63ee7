"""Inputs of the node: subscriptions and complete frames."""
