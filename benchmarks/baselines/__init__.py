"""Alternatives to the engines: each module runs one of them with the weights of a bundle."""
