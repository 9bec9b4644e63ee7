"""Start the osprey node for Isaac ROS U-NET or Segformer: `ros2 launch osprey_ros isaac_ros.launch.py`.

It takes their mask of classes (mono8); each connected piece of a class is a region. docs/masks.md has the details.
"""

from launch import LaunchDescription
from osprey_ros.ros.launch_presets import osprey_with


def generate_launch_description() -> LaunchDescription:
    """Return the node with the topics of Isaac ROS's image segmentation."""
    return osprey_with(
        {
            "image": "/segmentation/image_resized",
            "segmentation": "/unet/raw_segmentation_mask",
            "segmentation_values": "classes",
        }
    )
