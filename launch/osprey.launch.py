"""Starts the osprey node: `ros2 launch osprey_ros osprey.launch.py image:=/camera/image segmentation:=/camera/ids`."""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch_ros.actions import LifecycleNode

from launch import LaunchContext, LaunchDescription

PARAMETERS = Path(get_package_share_directory("osprey_ros")) / "config" / "osprey.yaml"
YES_OR_NO = ("true", "false")

ARGUMENTS = [
    DeclareLaunchArgument("namespace", default_value="", description="Namespace of the node; one for each camera."),
    DeclareLaunchArgument("image", default_value="image", description="Topic of the camera's images."),
    DeclareLaunchArgument("segmentation", default_value="segmentation", description="Topic of their instance ids."),
    DeclareLaunchArgument("params_file", default_value=str(PARAMETERS), description="Parameters of the node."),
    DeclareLaunchArgument(
        "bundle", default_value="", description="Engine bundle, a folder or a name; empty: as params_file says."
    ),
    DeclareLaunchArgument(
        "autostart",
        default_value="true",
        choices=YES_OR_NO,
        description="Whether the node configures and activates itself; false under a lifecycle manager.",
    ),
    DeclareLaunchArgument(
        "use_sim_time", default_value="false", choices=YES_OR_NO, description="Whether time comes from /clock."
    ),
    DeclareLaunchArgument(
        "log_level", default_value="info", description="Least severity that is logged: debug, info, warn, error, fatal."
    ),
]


def osprey(context: LaunchContext) -> list[LifecycleNode]:
    """The node; arguments that were given go before the file of parameters."""
    value = context.launch_configurations
    given = {name: value[name] == "true" for name in ("autostart", "use_sim_time")}
    bundle = {"bundle": value["bundle"]} if value["bundle"] else {}
    return [
        LifecycleNode(
            package="osprey_ros",
            executable="osprey_node",
            name="osprey",
            namespace=value["namespace"],
            parameters=[value["params_file"], {**given, **bundle}],
            remappings=[(topic, value[topic]) for topic in ("image", "segmentation")],
            ros_arguments=["--log-level", value["log_level"]],
            output="screen",
        )
    ]


def generate_launch_description() -> LaunchDescription:
    """The arguments and the node."""
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=osprey)])
