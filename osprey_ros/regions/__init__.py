"""Regions of an image: masks in every form, their files, pooling masks and geometry."""
