"""Simulated tabletops: seeded scenes of household objects with exact masks, depth and true words about every object."""
