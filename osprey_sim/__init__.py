"""Simulate tabletops: seeded scenes of household objects with exact masks, depth and a true description per object."""
