"""The subscriptions of the node: the messages of one moment out, and in words what keeps frames away."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from time import monotonic, sleep
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from osprey_ros.errors import InputError
from osprey_ros.messages.frames import CAMERA_INFO, DEPTH, DETECTIONS, IMAGE, REGIONS, SEGMENTATION, RawFrame
from osprey_ros.messages.stamps import stamp_of
from osprey_ros.messages.synchronizer import FrameSync
from osprey_ros.ros.diagnostics.input_status import InputState
from osprey_ros.ros.inputs.subscription import QOS_DEPTH, AdaptiveSubscription, type_of

TRANSPORTS = ("raw", "compressed")
DEPTH_TRANSPORTS = ("raw", "compressedDepth")
REGION_SOURCES = (SEGMENTATION, REGIONS, DETECTIONS)

_WATCH_PERIOD = 1.0  # seconds between two looks at the publishers
_SILENCE = 10.0  # seconds without a frame before the log says what is lacking
_LARGE = 1 << 20  # bytes of an image whose buffers are worth a thought
_FILLING = 0.3  # seconds in which a queue fills at 20 images a second or more


@dataclass(frozen=True)
class InputSettings:
    """What is subscribed to, and how messages are matched."""

    image_transport: str = "raw"  # one of TRANSPORTS; compressed: the topic image/compressed
    segmentation_transport: str = "raw"  # the same for segmentation
    regions_from: str = SEGMENTATION  # one of REGION_SOURCES: the topic of that name
    use_depth: bool = False  # whether depth and camera_info are subscribed to, and a frame waits for its depth
    depth_transport: str = "raw"  # one of DEPTH_TRANSPORTS; compressedDepth: the topic depth/compressedDepth
    slop: float = 0.0  # seconds that the stamps of one frame may differ; 0: they are the same
    queue_size: int = 15  # messages of each topic that wait for their partners
    reliability: str = "auto"  # or "reliable", "best_effort"


class FrameInputs:
    """Subscribes, and hands over the messages of each moment; all in the executor's thread.

    The middleware keeps as many buffers as messages have ever waited at once. So that memory does not grow when the
    machine is first busy, which may be after hours, large images are left waiting once, behind the first frame.

    Raises InputError if a package is missing that defines a message, and where a topic cannot be subscribed to, as one
    that this process has with another type; nothing stays subscribed then.
    """

    def __init__(self, node: Node, settings: InputSettings, on_frame: Callable[[RawFrame], None]) -> None:
        kinds = _kinds(settings)
        self._node = node
        self._settings = settings
        self._on_frame = on_frame
        self._camera_info: CameraInfo | None = None
        matched = [role for role in kinds if role != CAMERA_INFO]
        self._sync = FrameSync(matched, settings.queue_size, round(settings.slop * 1e9))
        self._subscriptions: dict[str, AdaptiveSubscription] = {}
        for role, kind in kinds.items():
            suffix = "compressedDepth" if role == DEPTH else "compressed"
            topic = f"{node.resolve_topic_name(role)}/{suffix}" if kind is CompressedImage else role
            take = self._keep_camera_info if role == CAMERA_INFO else functools.partial(self._take, role)
            try:
                subscription = AdaptiveSubscription(node, role, kind, topic, settings.reliability, take)
            except Exception as error:
                self._unsubscribe()
                raise InputError(
                    f"{role} cannot be subscribed to: {node.resolve_topic_name(topic)} as {type_of(kind)} ({error}): "
                    "remap it to a topic of that type"
                ) from error
            self._subscriptions[role] = subscription
        self._topics = {role: subscription.name for role, subscription in self._subscriptions.items()}
        self._last_frame = monotonic()
        self._filled = False  # whether the queues of these subscriptions have been full
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # simulated time may stand still
        self._timer = node.create_timer(_WATCH_PERIOD, self._watch, clock=steady)

    @property
    def topics(self) -> Mapping[str, str]:
        """Full names of the topics by the inputs' relative names: those of the image and of the regions come first."""
        return self._topics

    def state(self) -> InputState:
        """What has come so far, and from whom."""
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

    def close(self) -> None:
        """Unsubscribes and forgets what waited for its partners."""
        self._node.destroy_timer(self._timer)
        self._unsubscribe()
        self._sync.clear()
        self._camera_info = None

    def _unsubscribe(self) -> None:
        for subscription in self._subscriptions.values():
            subscription.close()

    def _take(self, role: str, message: Any) -> None:
        for messages in self._sync.add(role, stamp_of(message), message):
            self._last_frame = monotonic()
            of_role = dict(zip(self._sync.topics, messages, strict=True))
            self._on_frame(
                RawFrame(
                    image=of_role[IMAGE],
                    regions=of_role[self._settings.regions_from],
                    regions_from=self._settings.regions_from,
                    topics=self._topics,
                    depth=of_role.get(DEPTH),
                    camera_info=self._camera_info,
                )
            )
            if not self._filled:
                self._fill_queues(messages)

    def _fill_queues(self, messages: Iterable[Any]) -> None:
        """Lets images wait if those of this frame are large."""
        if max(len(getattr(message, "data", ())) for message in messages) >= _LARGE:
            self._filled = True
            sleep(_FILLING)
            self._node.get_logger().info(
                f"large images were left waiting for {_FILLING} s, once: of more than {QOS_DEPTH} the first are lost"
            )

    def _keep_camera_info(self, message: CameraInfo) -> None:
        # Not matched: it stays the same, and some drivers send it more rarely than images.
        self._camera_info = message

    def _watch(self) -> None:
        for subscription in self._subscriptions.values():
            if subscription.adapt():
                self._filled = False
        silent = monotonic() - self._last_frame
        if silent >= _SILENCE:
            self._last_frame = monotonic()
            complaints = self.state().complaints() or ["messages come, and none has all its partners yet"]
            self._node.get_logger().warning(f"no complete frame for {silent:.0f} s: {'; '.join(complaints)}")


def _kinds(settings: InputSettings) -> dict[str, type]:
    """The class of the messages of each input that is subscribed to."""
    kinds: dict[str, type] = {IMAGE: _image_kind(settings.image_transport)}
    if settings.regions_from == SEGMENTATION:
        kinds[SEGMENTATION] = _image_kind(settings.segmentation_transport)
    elif settings.regions_from == REGIONS:
        from osprey_interfaces.msg import RegionArray  # type: ignore[attr-defined]

        kinds[REGIONS] = RegionArray
    else:
        kinds[DETECTIONS] = _detections_kind()
    if settings.use_depth:
        kinds[DEPTH] = Image if settings.depth_transport == "raw" else CompressedImage
        kinds[CAMERA_INFO] = CameraInfo
    return kinds


def _image_kind(transport: str) -> type:
    return CompressedImage if transport == "compressed" else Image


def _detections_kind() -> type:
    try:
        from vision_msgs.msg import Detection2DArray  # type: ignore[import-not-found]
    except ImportError as error:
        raise InputError(
            "regions_from is 'detections' and vision_msgs is not installed: install ros-$ROS_DISTRO-vision-msgs, or "
            "set regions_from to segmentation or regions"
        ) from error
    return Detection2DArray
