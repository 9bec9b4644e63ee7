"""Diagnostics of the node: statistics, status and /diagnostics."""
