"""Measures of how right the words are, always through the engines that ship."""
