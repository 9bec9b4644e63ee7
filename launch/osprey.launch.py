"""Start the osprey node: `ros2 launch osprey_ros osprey.launch.py image:=/camera/image segmentation:=/camera/ids`.

For several cameras, start it once for each with a namespace, or include it several times in your own launch file. Under
the lifecycle manager of nav2, set `autostart:=false` here and `bond_timeout: 0.0` for the manager, because the node
forms no bond with it.
"""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch_ros.actions import LifecycleNode

from launch import LaunchContext, LaunchDescription
from osprey_ros.messages.frames import CAMERA_INFO, DETECTIONS, IMAGE
from osprey_ros.ros.parameters import PARAMETERS
from osprey_ros.ros.segmenter.settings import CLICKS, EVERYTHING, SegmenterSettings

PARAMETERS_FILE = Path(get_package_share_directory("osprey_ros")) / "config" / "osprey.yaml"
YES_OR_NO = ("true", "false")
TOPICS = {
    "image": "Topic of the camera images (compressed images: TOPIC/compressed).",
    "segmentation": "Topic of the images of instance ids.",
    "regions": "Topic of osprey_interfaces/RegionArray, used with regions_from:=regions.",
    "detections": "Topic of vision_msgs/Detection2DArray, used with regions_from:=detections.",
    "yolo": "Topic of yolo_msgs/DetectionArray, used with regions_from:=yolo.",
    "depth": "Topic of the depth images, registered to the image, used with use_depth:=true.",
    "camera_info": "Topic of the calibration of the rectified image, used with use_depth:=true.",
}
SHARED = ("autostart", "use_sim_time", "image_transport")  # parameters of both nodes
SEGMENTED = (IMAGE, DETECTIONS, CAMERA_INFO)  # inputs of the segmenter, besides clicks
# Parameters of the node that are arguments as well. An empty argument leaves the parameter to params_file.
GIVEN = (
    "bundle",
    "image_transport",
    "regions_from",
    "segmentation_values",
    "class_names",
    "background_classes",
    "use_depth",
    "fixed_frame",
)


def parameter_argument(name: str) -> DeclareLaunchArgument:
    """Return the launch argument of a parameter, with the parameter's own text."""
    info = PARAMETERS[name]
    values = info.choices or (YES_OR_NO if isinstance(info.default, bool) else ())
    return DeclareLaunchArgument(
        name,
        default_value="",
        description=f"{info.text} Empty: the value in params_file.",
        **({"choices": ("", *values)} if values else {}),
    )


ARGUMENTS = [
    DeclareLaunchArgument("namespace", default_value="", description="Namespace of the node, one for each camera."),
    *(
        DeclareLaunchArgument(topic, default_value=topic, description=description)
        for topic, description in TOPICS.items()
    ),
    DeclareLaunchArgument(
        "params_file", default_value=str(PARAMETERS_FILE), description="YAML file with the parameters of the node."
    ),
    *(parameter_argument(name) for name in GIVEN),
    DeclareLaunchArgument(
        "segmenter",
        default_value="false",
        choices=YES_OR_NO,
        description="Also start the node segmenter, whose ids take the place of the topic in segmentation:=.",
    ),
    DeclareLaunchArgument(
        "segmenter_bundle",
        default_value=SegmenterSettings.bundle,
        description="With segmenter:=true, its bundle: a folder or a name.",
    ),
    DeclareLaunchArgument(
        "segmenter_source",
        default_value=SegmenterSettings.source,
        choices=(EVERYTHING, DETECTIONS, CLICKS),
        description="With segmenter:=true, what it segments.",
    ),
    DeclareLaunchArgument(
        "segmenter_rate",
        default_value=str(SegmenterSettings.rate_limit),
        description="With segmenter:=true, the most images that it segments per second; 0.0: no limit.",
    ),
    DeclareLaunchArgument(
        "clicked_point",
        default_value="clicked_point",
        description="With segmenter:=true, topic of geometry_msgs/PointStamped: pixels with z = 0, or meters.",
    ),
    DeclareLaunchArgument(
        "autostart",
        default_value="true",
        choices=YES_OR_NO,
        description=PARAMETERS["autostart"].text,
    ),
    DeclareLaunchArgument(
        "use_sim_time",
        default_value="",
        choices=("", *YES_OR_NO),
        description="Take the time from /clock. Empty: the value in params_file.",
    ),
    DeclareLaunchArgument(
        "respawn",
        default_value="false",
        choices=YES_OR_NO,
        description="Restart the node 2 s after its process has ended.",
    ),
    DeclareLaunchArgument(
        "log_level",
        default_value="info",
        choices=("debug", "info", "warn", "error", "fatal"),
        description="Minimum severity of log messages.",
    ),
]


def osprey(context: LaunchContext) -> list[LifecycleNode]:
    """Return the node, and the segmenter if it is wanted. Arguments that are set override the values in params_file."""
    value = context.launch_configurations
    parameters: dict[str, str | bool] = {name: value[name] for name in GIVEN if value[name]}
    for name in ("autostart", "use_sim_time", "use_depth"):
        if value[name]:
            parameters[name] = value[name] == "true"
    topics = {topic: value[topic] for topic in TOPICS}
    common = {
        "package": "osprey_ros",
        "namespace": value["namespace"],
        "ros_arguments": ["--log-level", value["log_level"]],
        "respawn": value["respawn"] == "true",
        "respawn_delay": 2.0,
        "output": "screen",
    }
    nodes = []
    if value["segmenter"] == "true":
        own = {
            "bundle": value["segmenter_bundle"],
            "source": value["segmenter_source"],
            "rate_limit": float(value["segmenter_rate"]),
            **{
                name: parameters[name]
                for name in ("autostart", "use_sim_time", "image_transport")
                if name in parameters
            },
        }
        inputs = {**topics, "clicked_point": value["clicked_point"]}
        nodes.append(
            LifecycleNode(
                executable="segmenter_node",
                name="segmenter",
                parameters=[own],
                remappings=[(name, inputs[name]) for name in (*SEGMENTED, "clicked_point")],
                **common,
            )
        )
        topics["segmentation"] = "segmenter/ids"
    nodes.append(
        LifecycleNode(
            executable="osprey_node",
            name="osprey",
            parameters=[value["params_file"], parameters],
            remappings=list(topics.items()),
            **common,
        )
    )
    return nodes


def generate_launch_description() -> LaunchDescription:
    """Return the arguments and the nodes."""
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=osprey)])
