"""Overlay images: regions and labels drawn on an image."""
