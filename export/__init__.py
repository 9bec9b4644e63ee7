"""Converts an Osprey checkpoint to a bundle of engines that the runtime loads without torch."""
