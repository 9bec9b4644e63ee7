"""Turns an Osprey checkpoint into a bundle of engines that the runtime loads without torch."""
