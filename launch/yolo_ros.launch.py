"""Start the osprey node for yolo_ros: `ros2 launch osprey_ros yolo_ros.launch.py image:=/camera/rgb/image_raw`.

It takes yolo_msgs/DetectionArray of yolo_ros's tracker: outlines of masks (with a -seg model), else boxes, and keeps
the ids of the tracks. Start yolo_ros itself by its own launch file. docs/masks.md has the details.
"""

from launch import LaunchDescription
from osprey_ros.ros.launch_presets import osprey_with


def generate_launch_description() -> LaunchDescription:
    """Return the node with the topics of yolo_ros."""
    return osprey_with({"image": "/camera/rgb/image_raw", "regions_from": "yolo", "yolo": "/yolo/tracking"})
