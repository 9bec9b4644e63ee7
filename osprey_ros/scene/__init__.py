"""The scene: its objects, tracking, camera motion, what is described when, and the scene file."""

from typing import TYPE_CHECKING

from osprey_ros._moved import old_names

if not TYPE_CHECKING:  # a type checker would accept any name
    __getattr__ = old_names("scene")  # osprey_ros.scene was a module in 0.1
