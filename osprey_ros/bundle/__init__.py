"""Bundles: folders of engines that belong together, their manifest, calibration and fingerprints. Pure data."""

from typing import TYPE_CHECKING

from osprey_ros._moved import old_names

if not TYPE_CHECKING:  # a type checker would accept any name
    __getattr__ = old_names("bundle")  # osprey_ros.bundle was a module in 0.1
