"""The two subscriptions of the node: pairs of image and segmentation out, and in words what keeps pairs away."""

from __future__ import annotations

import time
from collections.abc import Callable

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from sensor_msgs.msg import Image

from osprey_ros.ros.messages import stamp_of
from osprey_ros.ros.sync import FrameSync

# Deep enough for large images: with a depth of 1, stock Fast DDS loses most of them.
QOS_DEPTH = 5
_WATCH_PERIOD = 1.0  # seconds between two looks at the publishers
_SILENCE = 10.0  # seconds without a pair before the log says what is lacking


class FrameInputs:
    """Subscribes to ``image`` and ``segmentation`` and hands over each pair of one stamp; all in the executor's thread.

    ``reliability`` is one of `parameters.RELIABILITIES`. With "auto" a subscription asks for reliable delivery, and is
    renewed with best effort when a publisher appears that offers nothing better, and back when that one has gone.
    """

    def __init__(self, node: Node, reliability: str, queue_size: int, on_pair: Callable[[Image, Image], None]) -> None:
        self._node = node
        self._reliability = reliability
        self._on_pair = on_pair
        self._sync: FrameSync[Image, Image] = FrameSync(queue_size)
        self._image = self._subscribe("image", self._on_image)
        self._segmentation = self._subscribe("segmentation", self._on_segmentation)
        self._last_pair = time.monotonic()
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # simulated time may stand still
        self._timer = node.create_timer(_WATCH_PERIOD, self._watch, clock=steady)

    @property
    def topics(self) -> tuple[str, str]:
        """Full names of the image and the segmentation topic."""
        return self._image.topic_name, self._segmentation.topic_name

    def close(self) -> None:
        """Unsubscribes and forgets what waited for its partner."""
        self._node.destroy_timer(self._timer)
        self._node.destroy_subscription(self._image)
        self._node.destroy_subscription(self._segmentation)
        self._sync.clear()

    def _subscribe(
        self, topic: str, callback: Callable[[Image], None], reliability: ReliabilityPolicy | None = None
    ) -> Subscription:
        wanted = reliability or self._wanted(self._node.resolve_topic_name(topic), ReliabilityPolicy.RELIABLE)
        return self._node.create_subscription(Image, topic, callback, QoSProfile(depth=QOS_DEPTH, reliability=wanted))

    def _wanted(self, topic: str, otherwise: ReliabilityPolicy) -> ReliabilityPolicy:
        """What to ask of the publishers of a topic; ``otherwise`` where there are none to adapt to."""
        if self._reliability != "auto":
            return ReliabilityPolicy[self._reliability.upper()]
        offered = self._offered(topic)
        if not offered:
            return otherwise
        # Best effort hears both kinds.
        best_effort = ReliabilityPolicy.BEST_EFFORT in offered
        return ReliabilityPolicy.BEST_EFFORT if best_effort else ReliabilityPolicy.RELIABLE

    def _offered(self, topic: str) -> set[ReliabilityPolicy]:
        return {p.qos_profile.reliability for p in self._node.get_publishers_info_by_topic(topic)}

    def _watch(self) -> None:
        self._image = self._adapted(self._image, "image", self._on_image)
        self._segmentation = self._adapted(self._segmentation, "segmentation", self._on_segmentation)
        silent = time.monotonic() - self._last_pair
        if silent >= _SILENCE:
            self._last_pair = time.monotonic()
            self._node.get_logger().warning(f"no complete frame for {silent:.0f} s: {self._reasons()}")

    def _adapted(self, subscription: Subscription, topic: str, callback: Callable[[Image], None]) -> Subscription:
        """The subscription, or a new one where the publishers that are there now want another reliability."""
        asked = subscription.qos_profile.reliability
        wanted = self._wanted(subscription.topic_name, asked)
        if wanted == asked:
            return subscription
        name = wanted.name.lower().replace("_", " ")
        self._node.get_logger().info(
            f"{subscription.topic_name}: its publisher offers {name}, subscribing again with that"
        )
        self._node.destroy_subscription(subscription)
        return self._subscribe(topic, callback, wanted)

    def _reasons(self) -> str:
        counts = self._sync.counts
        received = zip(self.topics, (counts.first, counts.second), strict=True)
        reasons = [
            f"{topic} has {self._node.count_publishers(topic)} publishers, {number} messages came"
            for topic, number in received
        ]
        if counts.first and counts.second:
            reasons.append("image and segmentation must carry exactly the same stamp")
        deaf = [t for t in self.topics if ReliabilityPolicy.BEST_EFFORT in self._offered(t)]
        if deaf and self._reliability == "reliable":
            reasons.append(f"{' and '.join(deaf)}: published with best effort; set the parameter reliability to auto")
        return "; ".join(reasons)

    def _on_image(self, image: Image) -> None:
        self._hand_over(self._sync.add_first(stamp_of(image), image))

    def _on_segmentation(self, segmentation: Image) -> None:
        self._hand_over(self._sync.add_second(stamp_of(segmentation), segmentation))

    def _hand_over(self, pair: tuple[Image, Image] | None) -> None:
        if pair is not None:
            self._last_pair = time.monotonic()
            self._on_pair(*pair)
