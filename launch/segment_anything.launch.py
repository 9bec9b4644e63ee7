"""Start the osprey node for FastSAM or SAM 2: `ros2 launch osprey_ros segment_anything.launch.py regions:=TOPIC`.

It takes osprey_interfaces/RegionArray, because their masks overlap; docs/masks.md has the lines that publish it. For a
node that publishes an image of ids add `regions_from:=segmentation segmentation:=TOPIC`.
"""

from launch import LaunchDescription
from osprey_ros.ros.launch_presets import osprey_with


def generate_launch_description() -> LaunchDescription:
    """Return the node that takes masks that overlap."""
    return osprey_with(
        {"image": "/camera/image_raw", "regions": "/segment_anything/regions", "regions_from": "regions"}
    )
