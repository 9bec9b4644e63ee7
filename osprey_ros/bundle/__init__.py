"""Bundles: folders of engines that belong together, their manifest, calibration and fingerprints. Pure data."""
