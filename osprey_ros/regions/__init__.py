"""Regions of an image: masks and their encodings, files, pooling, geometry and the region encoder."""

from typing import TYPE_CHECKING

from osprey_ros._moved import old_names

if not TYPE_CHECKING:  # a type checker would accept any name
    __getattr__ = old_names("regions")  # osprey_ros.regions was a module in 0.1
