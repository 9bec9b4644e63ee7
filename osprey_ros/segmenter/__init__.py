"""Masks from an image: of clicks, of boxes, and of everything in it, by a segmenter's engines."""
