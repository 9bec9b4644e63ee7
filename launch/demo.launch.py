"""Start the osprey node and a simulated camera: `ros2 launch osprey_ros demo.launch.py`.

The camera shows models of real things in rooms (`objects:=home`), which the default bundle knows, or primitives on
tabletops (`objects:=tabletop`, and for the smallest bundle `bundle:=nano`).

The arguments of osprey.launch.py are accepted, too, except image, segmentation, depth, camera_info and use_depth, which
the simulated camera sets. Needs mujoco and PyOpenGL. For a view of the results use `rviz:=true`, or Foxglove with
foxglove/osprey.json of this package.
"""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.conditions import IfCondition
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchDescription

SHARE = Path(get_package_share_directory("osprey_ros"))
TOPICS = ("image", "segmentation", "depth", "camera_info")


def generate_launch_description() -> LaunchDescription:
    """Return the camera in the namespace /camera, the osprey node that subscribes to it, and RViz if requested."""
    arguments = [
        DeclareLaunchArgument("rate", default_value="2.0", description="Frames per second."),
        DeclareLaunchArgument("seed", default_value="0", description="Seed of the first scene."),
        DeclareLaunchArgument("frames_per_scene", default_value="10", description="Frames before the scene changes."),
        DeclareLaunchArgument(
            "objects",
            default_value="home",
            choices=("home", "tabletop"),
            description="What the camera shows: models of real things in rooms, or primitives on tabletops.",
        ),
        DeclareLaunchArgument(
            "rviz", default_value="false", choices=("true", "false"), description="Show the results in RViz."
        ),
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
                "objects": LaunchConfiguration("objects"),
                "frames_per_scene": ParameterValue(LaunchConfiguration("frames_per_scene"), value_type=int),
            }
        ],
        output="screen",
    )
    # RViz needs its fixed frame: the camera does not move in the world.
    frame = Node(
        package="tf2_ros",
        executable="static_transform_publisher",
        name="camera_frame",
        arguments=["--frame-id", "world", "--child-frame-id", "camera_optical_frame", "--roll", "-1.5707963"],
        condition=IfCondition(LaunchConfiguration("rviz")),
    )
    rviz = Node(
        package="rviz2",
        executable="rviz2",
        arguments=["-d", str(SHARE / "rviz" / "osprey.rviz")],
        condition=IfCondition(LaunchConfiguration("rviz")),
    )
    osprey = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(SHARE / "launch" / "osprey.launch.py")),
        launch_arguments={**{topic: f"/camera/{topic}" for topic in TOPICS}, "use_depth": "true"}.items(),
    )
    return LaunchDescription([*arguments, camera, frame, rviz, osprey])
