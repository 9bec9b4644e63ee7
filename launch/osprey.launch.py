"""Starts the osprey node: `ros2 launch osprey_ros osprey.launch.py image:=/camera/image segmentation:=/camera/ids`.

For several cameras, start it several times with a namespace for each, or include it so in a launch file of your own.
Under nav2's lifecycle manager give `autostart:=false` here, and the manager `bond_timeout: 0.0`: a Python node has no
bond.
"""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch_ros.actions import LifecycleNode

from launch import LaunchContext, LaunchDescription

PARAMETERS = Path(get_package_share_directory("osprey_ros")) / "config" / "osprey.yaml"
YES_OR_NO = ("true", "false")
TOPICS = {
    "image": "Topic of the camera's images (compressed ones are taken from TOPIC/compressed).",
    "segmentation": "Topic of images of instance ids.",
    "regions": "Topic of osprey_interfaces/RegionArray, with regions_from:=regions.",
    "detections": "Topic of vision_msgs/Detection2DArray, with regions_from:=detections.",
    "depth": "Topic of depth images that are registered to the image, with use_depth:=true.",
    "camera_info": "Topic of the calibration of the rectified image, with use_depth:=true.",
}
# Parameters of the node; where an argument is empty, the file of parameters has its way.
GIVEN = ("bundle", "image_transport", "regions_from", "use_depth")

ARGUMENTS = [
    DeclareLaunchArgument("namespace", default_value="", description="Namespace of the node; one for each camera."),
    *(
        DeclareLaunchArgument(topic, default_value=topic, description=description)
        for topic, description in TOPICS.items()
    ),
    DeclareLaunchArgument("params_file", default_value=str(PARAMETERS), description="YAML file of parameters."),
    DeclareLaunchArgument(
        "bundle", default_value="", description="Engine bundle, a folder or a name; empty: as params_file says."
    ),
    DeclareLaunchArgument(
        "image_transport",
        default_value="",
        choices=("", "raw", "compressed"),
        description="How images come; empty: as params_file says.",
    ),
    DeclareLaunchArgument(
        "regions_from",
        default_value="",
        choices=("", "segmentation", "regions", "detections"),
        description="Which topic says where the regions are; empty: as params_file says.",
    ),
    DeclareLaunchArgument(
        "use_depth",
        default_value="",
        choices=("", *YES_OR_NO),
        description="Whether objects are placed in space with depth and camera_info; empty: as params_file says.",
    ),
    DeclareLaunchArgument(
        "autostart",
        default_value="true",
        choices=YES_OR_NO,
        description="Whether the node configures and activates itself; false under a lifecycle manager.",
    ),
    DeclareLaunchArgument(
        "use_sim_time",
        default_value="",
        choices=("", *YES_OR_NO),
        description="Whether time comes from /clock; empty: as params_file says.",
    ),
    DeclareLaunchArgument(
        "respawn",
        default_value="false",
        choices=YES_OR_NO,
        description="Whether the node is started again, after 2 s, when its process has ended.",
    ),
    DeclareLaunchArgument(
        "log_level", default_value="info", description="Least severity that is logged: debug, info, warn, error, fatal."
    ),
]


def osprey(context: LaunchContext) -> list[LifecycleNode]:
    """The node; arguments that were given go before the file of parameters."""
    value = context.launch_configurations
    parameters: dict[str, str | bool] = {name: value[name] for name in GIVEN if value[name]}
    for name in ("autostart", "use_sim_time", "use_depth"):
        if value[name]:
            parameters[name] = value[name] == "true"
    return [
        LifecycleNode(
            package="osprey_ros",
            executable="osprey_node",
            name="osprey",
            namespace=value["namespace"],
            parameters=[value["params_file"], parameters],
            remappings=[(topic, value[topic]) for topic in TOPICS],
            ros_arguments=["--log-level", value["log_level"]],
            respawn=value["respawn"] == "true",
            respawn_delay=2.0,
            output="screen",
        )
    ]


def generate_launch_description() -> LaunchDescription:
    """The arguments and the node."""
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=osprey)])
