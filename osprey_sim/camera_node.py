"""A ROS 2 node that simulates a camera over a tabletop or in a home, with a segmentation and depth.

Publishes ``image`` (color or gray), ``segmentation`` (mono16 instance ids, 0 is background), ``depth`` (32FC1,
meters) and ``camera_info`` with one stamp, and ``~/truth`` (std_msgs/String, JSON): the stamp and, for each visible
object, its instance id, category and short description.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import String

from osprey_ros.errors import InputError
from osprey_ros.ros.outputs import messages
from osprey_ros.ros.parameter_values import converted, given_values, warn_of_unknown
from osprey_ros.ros.run import run_node
from osprey_ros.strict_json import to_json
from osprey_sim import words
from osprey_sim.object_sets import OBJECT_SETS, TABLETOP, SceneSource
from osprey_sim.render import Frame, Renderer
from osprey_sim.scene import MAX_OBJECTS, SPLITS, Scene

FRAME_ID = "camera_optical_frame"
_QOS_DEPTH = 5
_ENCODINGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "rgb8": lambda rgb: rgb,
    "bgr8": lambda rgb: rgb[..., ::-1],
    "rgba8": lambda rgb: cv2.cvtColor(rgb, cv2.COLOR_RGB2RGBA),
    "bgra8": lambda rgb: cv2.cvtColor(rgb, cv2.COLOR_RGB2BGRA),
    "mono8": lambda rgb: cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY),
}


class SimCamera(Node):
    """The node. It renders each scene once and publishes it ``frames_per_scene`` times, with new stamps."""

    def __init__(self) -> None:
        self._renderer: Renderer | None = None  # first, because rclpy also destroys a node whose constructor failed
        super().__init__("camera")
        self._given, self._declared = given_values(self), list[str]()
        width = self._declare("width", 640, "Width of the images in pixels.", limits=(16, 4096))
        height = self._declare("height", 480, "Height of the images in pixels.", limits=(16, 4096))
        rate = self._declare("rate", 5.0, "Frames per second; fewer if rendering takes longer.", limits=(0.01, 100.0))
        self._seed = self._declare(
            "seed", 0, "Seed of the first scene; it increases by 1 with each scene.", limits=(0, 2**31)
        )
        self._frames_per_scene = self._declare(
            "frames_per_scene", 10, "Number of frames of each scene.", limits=(1, 2**31)
        )
        self._split = self._declare("split", "test", "Split of the scenes.", choices=tuple(SPLITS))
        fewest = self._declare("min_objects", 4, "Smallest number of objects in a scene.", limits=(1, MAX_OBJECTS))
        most = self._declare("max_objects", 9, "Largest number of objects in a scene.", limits=(1, MAX_OBJECTS))
        objects = self._declare("objects", TABLETOP, "Set of the objects.", choices=OBJECT_SETS)
        encoding = self._declare("encoding", "rgb8", "Encoding of the image.", choices=tuple(_ENCODINGS))
        warn_of_unknown(self, self._given, self._declared)
        if fewest > most:
            raise InputError(f"min_objects is {fewest} but max_objects is {most}; use min_objects <= max_objects")
        self._objects = (fewest, most)
        self._encoding = encoding
        self._source = SceneSource(objects)

        self._renderer = Renderer(width, height)
        self._source.preload(self._renderer)
        self._image = self.create_publisher(Image, "image", _QOS_DEPTH)
        self._segmentation = self.create_publisher(Image, "segmentation", _QOS_DEPTH)
        self._depth = self.create_publisher(Image, "depth", _QOS_DEPTH)
        self._camera_info = self.create_publisher(CameraInfo, "camera_info", _QOS_DEPTH)
        self._truth = self.create_publisher(String, "~/truth", 2 * _QOS_DEPTH)
        self._published = 0
        self.create_timer(1.0 / rate, self._publish)
        self.get_logger().info(
            f"{width}x{height} {encoding} at {rate:g} Hz, {self._split} scenes from seed {self._seed}"
        )

    def destroy_node(self) -> None:
        """Free the GL context and destroy the node."""
        if self._renderer is not None:
            self._renderer.close()
        super().destroy_node()

    def _declare(
        self,
        name: str,
        default: Any,
        meaning: str,
        limits: tuple[float, float] | None = None,
        choices: tuple[str, ...] = (),
    ) -> Any:
        """Declare a read-only parameter and return its value. Raise ValueError if it is invalid."""
        descriptor = ParameterDescriptor(description=meaning, read_only=True)
        if choices:
            descriptor.additional_constraints = f"one of: {', '.join(choices)}"
        if limits and isinstance(default, float):
            descriptor.floating_point_range = [FloatingPointRange(from_value=limits[0], to_value=limits[1])]
        elif limits:
            descriptor.integer_range = [IntegerRange(from_value=limits[0], to_value=limits[1], step=1)]
        value = converted(name, self._given[name], default) if name in self._given else default
        if choices and value not in choices:
            raise InputError(f"{name} is {value!r}; use one of {', '.join(choices)}")
        if limits and not limits[0] <= value <= limits[1]:
            raise InputError(f"{name} is {value}; use a value from {limits[0]} to {limits[1]}")
        self._declared.append(name)
        return self.declare_parameter(name, value, descriptor, ignore_override=True).value

    def _publish(self) -> None:
        if self._published % self._frames_per_scene == 0:
            self._draw(self._seed + self._published // self._frames_per_scene)
        self._published += 1
        stamp = self.get_clock().now().nanoseconds
        header = messages.header_message(stamp, FRAME_ID)
        frame = self._frame
        assert frame.depth is not None
        height, width = frame.instance_ids.shape
        self._image.publish(messages.image_message(self._pixels, self._encoding, header))
        self._segmentation.publish(messages.image_message(frame.instance_ids, "mono16", header))
        self._depth.publish(messages.image_message(frame.depth, "32FC1", header))
        self._camera_info.publish(messages.camera_info_message(frame.ros_camera_matrix, width, height, header))
        moment = {"sec": header.stamp.sec, "nanosec": header.stamp.nanosec}
        self._truth.publish(String(data=to_json({"stamp": moment, "objects": self._visible})))

    def _draw(self, seed: int) -> None:
        assert self._renderer is not None  # it exists before the timer starts
        scene = self._source.sample(seed, self._split, self._objects)
        scene, self._frame = self._source.render(self._renderer, scene)
        self._pixels = _ENCODINGS[self._encoding](self._frame.rgb)
        self._visible = visible_objects(scene, self._frame)


def visible_objects(scene: Scene, frame: Frame) -> list[dict[str, Any]]:
    """Return the ground truth of the objects with at least one visible pixel, by ascending instance id."""
    visible = map(scene.object, frame.objects())
    return [{"instance_id": o.instance_id, "category": o.category, "short": words.short(o)} for o in visible]


def main(args: list[str] | None = None) -> int:
    """Run the camera until it is interrupted. Return the exit status, 2 for an invalid parameter."""
    return run_node(SimCamera, args, ("image", "segmentation", "depth", "camera_info", "truth"))


if __name__ == "__main__":
    sys.exit(main())
