"""Starts the osprey node with a simulated camera in front of it: `ros2 launch osprey_ros demo.launch.py`.

The arguments of osprey.launch.py can be given here as well. Needs mujoco and PyOpenGL.
"""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchDescription

OSPREY = Path(get_package_share_directory("osprey_ros")) / "launch" / "osprey.launch.py"


def generate_launch_description() -> LaunchDescription:
    """The camera in the namespace /camera, and the osprey node listening to it."""
    arguments = [
        DeclareLaunchArgument("rate", default_value="2.0", description="Frames of the camera per second."),
        DeclareLaunchArgument("seed", default_value="0", description="Seed of the first scene."),
        DeclareLaunchArgument("frames_per_scene", default_value="10", description="Frames before the scene changes."),
    ]
    camera = Node(
        package="osprey_ros",
        executable="sim_camera",
        name="camera",
        namespace="camera",
        parameters=[
            {
                "rate": ParameterValue(LaunchConfiguration("rate"), value_type=float),
                "seed": ParameterValue(LaunchConfiguration("seed"), value_type=int),
                "frames_per_scene": ParameterValue(LaunchConfiguration("frames_per_scene"), value_type=int),
            }
        ],
        output="screen",
    )
    osprey = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(OSPREY)),
        launch_arguments={"image": "/camera/image", "segmentation": "/camera/segmentation"}.items(),
    )
    return LaunchDescription([*arguments, camera, osprey])
