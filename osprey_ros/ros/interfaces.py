"""Messages, services and actions of osprey_interfaces, with advice if the package is not built."""

from __future__ import annotations

try:
    from osprey_interfaces.action import DescribeRegion as DescribeRegionAction  # type: ignore[attr-defined]
    from osprey_interfaces.msg import (  # type: ignore[attr-defined]
        Attribute,
        ObjectDescription,
        ObjectDescriptionArray,
        ObjectMatch,
        Region,
        RegionArray,
        SceneEvent,
    )
    from osprey_interfaces.srv import (  # type: ignore[attr-defined]
        DescribeRegion,
        Forget,
        GetScene,
        LoadBundle,
        Look,
        QueryScene,
    )
except ImportError as error:
    raise ImportError(
        "osprey_interfaces is not built for this Python; run `make venv` in the checkout of osprey_ros, or, in a "
        "workspace, `colcon build --base-paths src src/osprey_ros/osprey_interfaces` and then `. install/setup.bash`"
    ) from error

__all__ = [
    "Attribute",
    "DescribeRegion",
    "DescribeRegionAction",
    "Forget",
    "GetScene",
    "LoadBundle",
    "Look",
    "ObjectDescription",
    "ObjectDescriptionArray",
    "ObjectMatch",
    "QueryScene",
    "Region",
    "RegionArray",
    "SceneEvent",
]
