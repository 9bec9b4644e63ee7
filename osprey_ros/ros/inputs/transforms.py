"""Transforms of the robot from /tf and /tf_static, and the pose of a camera in the fixed frame."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from osprey_ros.errors import InputError
from osprey_ros.messages.stamps import stamp_of
from osprey_ros.ros.diagnostics.transform_state import TransformState
from osprey_ros.scene.transforms import Transform, TransformBuffer, TransformError

TF, TF_STATIC = "/tf", "/tf_static"
_DEPTH = 100  # messages, as tf2_ros has it


class Transforms:
    """Subscribes to transforms. `camera_pose` may be called from any thread, all else in the executor's.

    Args:
        node: Owner of the subscriptions.
        fixed_frame: Name of the frame in which objects have poses.
        timeout: Seconds for which a frame waits for its transform.

    Raises InputError if tf2_msgs is not installed.
    """

    def __init__(self, node: Node, fixed_frame: str, timeout: float) -> None:
        try:
            kind: Any = import_module("tf2_msgs.msg").TFMessage
        except ImportError as error:
            raise InputError(
                f"fixed_frame is {fixed_frame!r} but tf2_msgs is not installed; install ros-$ROS_DISTRO-tf2-msgs, or "
                "leave fixed_frame empty"
            ) from error
        self._node, self._fixed_frame, self._timeout = node, fixed_frame, timeout
        self._buffer = TransformBuffer()
        self._known = self._unknown = 0
        self._problem = self._refused = ""
        latched = QoSProfile(
            depth=_DEPTH, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
        )
        self._subscriptions = [
            node.create_subscription(kind, TF, self._keep(static=False), _DEPTH),
            node.create_subscription(kind, TF_STATIC, self._keep(static=True), latched),
        ]

    def close(self) -> None:
        """Unsubscribe."""
        while self._subscriptions:
            self._node.destroy_subscription(self._subscriptions.pop())

    def camera_pose(self, frame_id: str, stamp: int) -> Transform | None:
        """Return the transform from a camera's optical frame to the fixed frame at a stamp in nanoseconds.

        Waits until it is there, up to the timeout; None if it is not.
        """
        try:
            pose = self._buffer.wait(self._fixed_frame, frame_id, stamp, self._timeout)
        except TransformError as error:
            self._problem = str(error)
            self._unknown += 1
            return None
        self._problem = ""
        self._known += 1
        return pose

    def state(self) -> TransformState:
        """Return the counts so far."""
        return TransformState(self._fixed_frame, self._known, self._unknown, self._problem, self._refused)

    def _keep(self, static: bool) -> Callable[[Any], None]:
        def keep(message: Any) -> None:
            for one in message.transforms:
                moved, turned = one.transform.translation, one.transform.rotation
                try:
                    self._buffer.add(
                        one.header.frame_id,
                        one.child_frame_id,
                        stamp_of(one),
                        (moved.x, moved.y, moved.z),
                        (turned.x, turned.y, turned.z, turned.w),
                        static,
                    )
                except TransformError as error:
                    self._refused = str(error)

        return keep
