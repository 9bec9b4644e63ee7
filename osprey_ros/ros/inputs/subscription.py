"""A subscription that adapts its reliability and durability to its publishers and keeps statistics."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import IntEnum
from typing import Any, NamedTuple

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy, qos_policy_name_from_kind
from rclpy.subscription import Subscription

from osprey_ros.messages.frames import DEPTH
from osprey_ros.messages.stamps import stamp_of
from osprey_ros.ros.diagnostics.input_status import TopicState

try:
    from rclpy.event_handler import SubscriptionEventCallbacks, UnsupportedEventTypeError
except ImportError:  # Humble
    from rclpy.qos_event import (
        SubscriptionEventCallbacks,
        UnsupportedEventTypeError,
    )

# With a depth of 1, Fast DDS with its default settings loses most large images.
QOS_DEPTH = 5


_RAW, _COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"


class Policies(NamedTuple):
    """The two QoS policies that can keep a publisher and this subscription from connecting."""

    reliability: ReliabilityPolicy
    durability: DurabilityPolicy


_DEFAULT = Policies(ReliabilityPolicy.RELIABLE, DurabilityPolicy.VOLATILE)


class AdaptiveSubscription:
    """One input of a node. Everything runs in the executor's thread.

    With the reliability "auto" the subscription requests reliable delivery. `adapt` renews it with best effort while a
    publisher offers best effort only, and as transient local while all publishers are: then it receives the messages
    that were published before ("latched").

    Args:
        node: owner of the subscription.
        role: relative name of the input.
        kind: message class with a header.
        topic: relative or full name of the topic.
        reliability: "auto", "reliable" or "best_effort".
        on_message: receives each message.
    """

    def __init__(
        self, node: Node, role: str, kind: type, topic: str, reliability: str, on_message: Callable[[Any], None]
    ) -> None:
        self._node, self._role, self._kind = node, role, kind
        self._reliability, self._on_message = reliability, on_message
        self._type = type_of(kind)
        self._received = self._lost = 0
        self._last_stamp: int | None = None
        self._refused: set[str] = set()  # incompatible policies reported by the middleware since the subscription
        self._recent: deque[int] = deque(maxlen=QOS_DEPTH)  # stamps of the latest messages
        self._repeated: set[int] = set()  # of these, those that a latched publisher may send again
        self._topic = topic  # as given: a resolved name could be remapped a second time
        self._subscribe(self._suitable(_DEFAULT))

    @property
    def name(self) -> str:
        """Full name of the topic."""
        return self._subscription.topic_name

    def adapt(self) -> None:
        """Subscribe again if the current publishers need other policies."""
        suitable = self._suitable(self._requested)
        if suitable == self._requested:
            return
        text = " and ".join(_text(new) for new, old in zip(suitable, self._requested, strict=True) if new != old)
        self._node.get_logger().info(f"{self.name}: the publisher offers {text}, subscribing again with {text}")
        self.close()
        self._repeated = set(self._recent) if suitable.durability is DurabilityPolicy.TRANSIENT_LOCAL else set()
        self._subscribe(suitable)

    def close(self) -> None:
        """Unsubscribe."""
        self._node.destroy_subscription(self._subscription)

    def state(self) -> TopicState:
        """Return the current state."""
        publishers = self._node.get_publishers_info_by_topic(self._topic)
        offered = self._offered()
        # With "auto", and for the durability always, the next `adapt` solves a mismatch.
        best_effort = any(policies.reliability is ReliabilityPolicy.BEST_EFFORT for policies in offered)
        mismatch = self._reliability == "reliable" and best_effort
        return TopicState(
            role=self._role,
            name=self.name,
            type=self._type,
            publishers=sum(publisher.topic_type == self._type for publisher in publishers),
            other_transport="" if publishers else self._other_transport(),
            other_types=tuple(sorted({p.topic_type for p in publishers if p.topic_type != self._type})),
            received=self._received,
            lost=self._lost,
            last_stamp=self._last_stamp,
            requested_reliability=_text(self._requested.reliability),
            offered_reliability=tuple(sorted({_text(policies.reliability) for policies in offered})),
            offered_durability=tuple(sorted({_text(policies.durability) for policies in offered})),
            incompatible_qos=tuple(sorted(self._refused | {"RELIABILITY"})) if mismatch else (),
        )

    def _subscribe(self, policies: Policies) -> None:
        self._requested = policies
        self._refused.clear()
        events = SubscriptionEventCallbacks(incompatible_qos=self._note_refusal, message_lost=self._note_loss)
        try:
            self._subscription = self._create(events)
        except UnsupportedEventTypeError:  # not every middleware has both events
            self._subscription = self._create(SubscriptionEventCallbacks(use_default_callbacks=False))

    def _create(self, events: SubscriptionEventCallbacks) -> Subscription[Any]:
        reliability, durability = self._requested
        qos = QoSProfile(depth=QOS_DEPTH, reliability=reliability, durability=durability)
        return self._node.create_subscription(self._kind, self._topic, self._receive, qos, event_callbacks=events)

    def _note_refusal(self, event: Any) -> None:
        self._refused.add(qos_policy_name_from_kind(event.last_policy_kind))

    def _note_loss(self, event: Any) -> None:
        self._lost += event.total_count_change

    def _receive(self, message: Any) -> None:
        stamp = stamp_of(message)
        if stamp in self._repeated:
            self._repeated.discard(stamp)
            return
        self._received += 1
        self._last_stamp = stamp
        self._recent.append(stamp)
        self._on_message(message)

    def _suitable(self, default: Policies) -> Policies:
        """Return the policies to request; ``default`` without publishers."""
        offered = self._offered()
        reliability, durability = default
        if offered:
            # Best effort and volatile subscriptions receive from both kinds of publishers.
            best_effort = any(policies.reliability is ReliabilityPolicy.BEST_EFFORT for policies in offered)
            reliability = ReliabilityPolicy.BEST_EFFORT if best_effort else ReliabilityPolicy.RELIABLE
            latched = all(policies.durability is DurabilityPolicy.TRANSIENT_LOCAL for policies in offered)
            durability = DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE
        if self._reliability != "auto":
            reliability = ReliabilityPolicy[self._reliability.upper()]
        return Policies(reliability, durability)

    def _offered(self) -> set[Policies]:
        return {
            Policies(publisher.qos_profile.reliability, publisher.qos_profile.durability)
            for publisher in self._node.get_publishers_info_by_topic(self._topic)
            if publisher.topic_type == self._type
        }

    def _other_transport(self) -> str:
        """Return the transport under which this image is published, "" if it is not."""
        suffix = compressed_transport(self._role)
        if self._type == _RAW:
            name, kind, transport = f"{self.name}/{suffix}", _COMPRESSED, suffix
        elif self._type == _COMPRESSED:
            name, kind, transport = self.name.removesuffix(f"/{suffix}"), _RAW, "raw"
        else:
            return ""
        publishers = self._node.get_publishers_info_by_topic(name)
        return transport if any(publisher.topic_type == kind for publisher in publishers) else ""


def compressed_transport(role: str) -> str:
    """Return the transport of compressed images of an input, which is also the end of its topic."""
    return "compressedDepth" if role == DEPTH else "compressed"


def type_of(kind: type) -> str:
    """Return the type name of a message class, such as "sensor_msgs/msg/Image"."""
    return f"{kind.__module__.split('.')[0]}/msg/{kind.__name__}"


def _text(policy: IntEnum) -> str:
    return policy.name.lower().replace("_", " ")
