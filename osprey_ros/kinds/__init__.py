"""Kinds of objects: their tree, and the most specific name that an answer is sure of. Pure data and numpy."""
