"""Start the osprey node for semantic_inference: `ros2 launch osprey_ros semantic_inference.launch.py image:=TOPIC`.

It takes the label image of its instance segmentation: class << 16 | instance, 32SC1. For its closed-set segmentation
add `segmentation_values:=classes`. docs/masks.md has the details.
"""

from launch import LaunchDescription
from osprey_ros.ros.launch_presets import osprey_with


def generate_launch_description() -> LaunchDescription:
    """Return the node with the topics of semantic_inference."""
    return osprey_with(
        {"image": "/color/image_raw", "segmentation": "/semantic/image_raw", "segmentation_values": "panoptic"}
    )
