"""Subscriptions of the node: receive messages, match them by stamp and hand over complete frames."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import import_module
from time import monotonic
from typing import Any

from rclpy.clock import Clock, ClockType  # type: ignore[attr-defined]
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from osprey_ros.errors import InputError
from osprey_ros.frame import Frame
from osprey_ros.messages.frames import CAMERA_INFO, DEPTH, DETECTIONS, IMAGE, REGIONS, SEGMENTATION, YOLO, RawFrame
from osprey_ros.messages.stamps import check_stamp, stamp_of
from osprey_ros.messages.synchronizer import FrameSync
from osprey_ros.ros.diagnostics.input_status import InputState, without_stamp
from osprey_ros.ros.diagnostics.transform_state import TransformState
from osprey_ros.ros.inputs.settings import InputSettings
from osprey_ros.ros.inputs.subscription import AdaptiveSubscription, compressed_transport, type_of
from osprey_ros.ros.inputs.transforms import Transforms
from osprey_ros.system.warn_once import warn_once

logger = logging.getLogger(__name__)

WATCH_PERIOD = 1.0  # seconds between two checks of the publishers
# Message packages that are needed for one kind of input only: package, class, and how to get it.
_DETECTORS = {
    DETECTIONS: ("vision_msgs", "Detection2DArray", "install ros-$ROS_DISTRO-vision-msgs"),
    YOLO: ("yolo_msgs", "DetectionArray", "build yolo_ros in this workspace and source it"),
}
SILENCE_LIMIT = 10.0  # seconds without a complete frame before a warning with the reason


class FrameInputs:
    """Subscribe to all inputs and hand over complete frames. Everything runs in the executor's thread.

    Args:
        node: owner of the subscriptions.
        settings: topics, transports and matching.
        on_frame: receives each complete frame.
        regions: whether a frame has regions; otherwise each image is one.

    Raises:
        InputError: A package that defines a message is missing, or a topic cannot be subscribed to, for example because
            this process uses its name for another type. Then no subscription is left.
    """

    def __init__(
        self, node: Node, settings: InputSettings, on_frame: Callable[[RawFrame], None], regions: bool = True
    ) -> None:
        kinds = _kinds(settings) if regions else {IMAGE: _image_kind(settings.image_transport)}
        self._node = node
        self._settings = settings
        self._on_frame = on_frame
        self._values = settings.label_values()
        self._camera_info: CameraInfo | None = None
        matched = [role for role in kinds if role != CAMERA_INFO]
        self._sync = FrameSync(matched, settings.queue_size, round(settings.slop * 1e9))
        self._transforms: Transforms | None = None
        if regions and settings.fixed_frame:
            self._transforms = Transforms(node, settings.fixed_frame, settings.transform_timeout)
        self._subscriptions: dict[str, AdaptiveSubscription] = {}
        self._unstamped: set[str] = set()  # inputs with a message without a stamp, which was reported
        for role, kind in kinds.items():
            topic = _compressed_topic(node, role) if kind is CompressedImage else role
            take = self._keep_camera_info if role == CAMERA_INFO else functools.partial(self._take, role)
            try:
                subscription = AdaptiveSubscription(node, role, kind, topic, settings.reliability, take)
            except Exception as error:
                self._unsubscribe()
                logger.debug("subscribing to %s failed", topic, exc_info=True)
                raise InputError(
                    f"{role} cannot be subscribed to: {node.resolve_topic_name(topic)} as {type_of(kind)}; this "
                    "process may use the name for another type, remap it to a topic of that type"
                ) from error
            self._subscriptions[role] = subscription
        self._topics = {role: subscription.name for role, subscription in self._subscriptions.items()}
        self._last_frame = monotonic()
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # simulated time may stand still
        self._timer = node.create_timer(WATCH_PERIOD, self._watch, clock=steady)

    @property
    def topics(self) -> Mapping[str, str]:
        """Full topic names by relative input name; the image and the regions come first."""
        return self._topics

    def state(self) -> InputState:
        """Return the state of the subscriptions and of the matching."""
        sync = self._sync
        return InputState(
            topics=tuple(subscription.state() for subscription in self._subscriptions.values()),
            matched=sync.counts.matched,
            unmatched_dropped=sum(sync.counts.unmatched.values()),
            offset=sync.offset,
            late=tuple(self._topics[role] for role in sync.topics if role in sync.late),
            slop=self._settings.slop,
            queue_size=self._settings.queue_size,
        )

    def located(self, frame: Frame) -> Frame:
        """Return a frame with the pose of its camera in the fixed frame, if there is one. In the worker's thread.

        Waits for the transform, up to the timeout.
        """
        if self._transforms is None:
            return frame
        pose = self._transforms.camera_pose(frame.frame_id, frame.stamp)
        return replace(frame, fixed_frame=self._settings.fixed_frame, camera_pose=pose)

    def transform_state(self) -> TransformState | None:
        """Return the state of the transforms, None without a fixed frame."""
        return None if self._transforms is None else self._transforms.state()

    def close(self) -> None:
        """Unsubscribe and drop the waiting messages."""
        self._node.destroy_timer(self._timer)
        self._unsubscribe()
        self._sync.clear()
        self._camera_info = None

    def _unsubscribe(self) -> None:
        if self._transforms is not None:
            self._transforms.close()
        for subscription in self._subscriptions.values():
            subscription.close()

    def _take(self, role: str, message: Any) -> None:
        try:
            check_stamp(message)
        except InputError as error:
            warn_once(logger, f"stamp {self._topics[role]}", f"{self._topics[role]}: a message is left out: {error}")
            return
        stamp = stamp_of(message)
        if not stamp:  # 0 means none: equal stamps of 0 do not belong together
            if role not in self._unstamped:
                self._unstamped.add(role)
                self._node.get_logger().warning(without_stamp(role, self._topics[role]))
            return
        for messages in self._sync.add(role, stamp, message):
            self._last_frame = monotonic()
            of_role = dict(zip(self._sync.topics, messages, strict=True))
            self._on_frame(
                RawFrame(
                    image=of_role[IMAGE],
                    regions=of_role.get(self._settings.regions_from),
                    regions_from=self._settings.regions_from,
                    topics=self._topics,
                    values=self._values,
                    depth=of_role.get(DEPTH),
                    camera_info=self._camera_info,
                )
            )

    def _keep_camera_info(self, message: CameraInfo) -> None:
        # Not matched by stamp: it does not change, and some drivers send it less often than images.
        self._camera_info = message

    def _watch(self) -> None:
        for subscription in self._subscriptions.values():
            subscription.adapt()
        silent = monotonic() - self._last_frame
        if silent >= SILENCE_LIMIT:
            self._last_frame = monotonic()
            state = self.state()
            if state.latched and state.matched:
                return
            problems = state.problems() or ["messages arrive but none is complete yet"]
            self._node.get_logger().warning(f"no complete frame for {silent:.0f} s: {'; '.join(problems)}")


def _kinds(settings: InputSettings) -> dict[str, Any]:
    """Return the message class of each input, by its relative name."""
    kinds: dict[str, Any] = {IMAGE: _image_kind(settings.image_transport)}
    if settings.regions_from == SEGMENTATION:
        kinds[SEGMENTATION] = _image_kind(settings.segmentation_transport)
    elif settings.regions_from == REGIONS:
        from osprey_interfaces.msg import RegionArray  # type: ignore[attr-defined]

        kinds[REGIONS] = RegionArray
    else:
        kinds[settings.regions_from] = _detections_kind(settings.regions_from)
    if settings.use_depth:
        kinds[DEPTH] = Image if settings.depth_transport == "raw" else CompressedImage
        kinds[CAMERA_INFO] = CameraInfo
    return kinds


def _compressed_topic(node: Node, role: str) -> str:
    """Return the topic of a compressed input: below the one for raw images, or this one if it was remapped to it."""
    suffix = f"/{compressed_transport(role)}"
    name = node.resolve_topic_name(role)
    return role if name.endswith(suffix) else name + suffix


def _image_kind(transport: str) -> Any:
    return CompressedImage if transport == "compressed" else Image


def _detections_kind(regions_from: str) -> Any:
    """Return the message class of a detector. Raises InputError if its package is not installed."""
    package, name, remedy = _DETECTORS[regions_from]
    try:
        return getattr(import_module(f"{package}.msg"), name)
    except ImportError as error:
        raise InputError(
            f"regions_from is {regions_from!r} but {package} is not installed; {remedy}, or set regions_from to "
            "segmentation or regions"
        ) from error
