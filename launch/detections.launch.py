"""Start the osprey node for a detector: `ros2 launch osprey_ros detections.launch.py detections:=TOPIC`.

It takes boxes, vision_msgs/Detection2DArray, as Isaac ROS's and most other detectors publish them. docs/masks.md has
the details.
"""

from launch import LaunchDescription
from osprey_ros.ros.launch_presets import osprey_with


def generate_launch_description() -> LaunchDescription:
    """Return the node that takes boxes."""
    return osprey_with({"image": "/camera/image_raw", "detections": "/detections_output", "regions_from": "detections"})
