"""Measure the accuracy of the answers, always with the engines of a bundle."""
