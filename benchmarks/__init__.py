"""Measure speed and memory of the engines and of alternatives."""
