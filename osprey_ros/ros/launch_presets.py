"""Launch descriptions of the node for segmentations and detectors that people run: osprey.launch.py, other defaults."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def osprey_with(defaults: Mapping[str, str]) -> Any:
    """Return a launch description that includes osprey.launch.py with other defaults.

    All arguments of osprey.launch.py are accepted, too.

    Args:
        defaults: Default of each argument of osprey.launch.py that has another one here.
    """
    # Here, because only machines with a ROS from apt have these packages.
    from ament_index_python.packages import get_package_share_directory
    from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
    from launch.launch_description_sources import PythonLaunchDescriptionSource

    from launch import LaunchDescription  # type: ignore[attr-defined]

    file = Path(get_package_share_directory("osprey_ros")) / "launch" / "osprey.launch.py"
    declared = [
        DeclareLaunchArgument(name, default_value=value, description=f"As in osprey.launch.py. Default here: {value}")
        for name, value in defaults.items()
    ]
    return LaunchDescription([*declared, IncludeLaunchDescription(PythonLaunchDescriptionSource(str(file)))])
