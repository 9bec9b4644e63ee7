"""The published evaluation of region models: readers of its data, its scores, and runs of a bundle on it."""
