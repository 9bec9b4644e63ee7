"""A subscription that adapts its reliability to its publishers and keeps statistics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy, qos_policy_name_from_kind
from rclpy.subscription import Subscription

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


class AdaptiveSubscription:
    """One input of a node. Everything runs in the executor's thread.

    With the reliability "auto" the subscription requests reliable delivery. `adapt` renews it with best effort while a
    publisher offers best effort only.

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
        self._topic = topic  # as given: a resolved name could be remapped a second time
        self._subscribe(self._suitable(ReliabilityPolicy.RELIABLE))

    @property
    def name(self) -> str:
        """Full name of the topic."""
        return self._subscription.topic_name

    def adapt(self) -> None:
        """Subscribe again if the current publishers need another reliability."""
        suitable = self._suitable(self._requested)
        if suitable == self._requested:
            return
        text = _text(suitable)
        self._node.get_logger().info(f"{self.name}: the publisher offers {text}, subscribing again with {text}")
        self.close()
        self._subscribe(suitable)

    def close(self) -> None:
        """Unsubscribe."""
        self._node.destroy_subscription(self._subscription)

    def state(self) -> TopicState:
        """Return the current state."""
        publishers = self._node.get_publishers_info_by_topic(self._topic)
        offered = self._offered()
        # Reliability is the only policy requested here. With "auto", the next `adapt` solves a mismatch.
        mismatch = self._reliability == "reliable" and ReliabilityPolicy.BEST_EFFORT in offered
        return TopicState(
            role=self._role,
            name=self.name,
            type=self._type,
            publishers=sum(publisher.topic_type == self._type for publisher in publishers),
            other_types=tuple(sorted({p.topic_type for p in publishers if p.topic_type != self._type})),
            received=self._received,
            lost=self._lost,
            last_stamp=self._last_stamp,
            requested_reliability=_text(self._requested),
            offered_reliability=tuple(sorted(_text(policy) for policy in offered)),
            incompatible_qos=tuple(sorted(self._refused | {"RELIABILITY"})) if mismatch else (),
        )

    def _subscribe(self, reliability: ReliabilityPolicy) -> None:
        self._requested = reliability
        self._refused.clear()
        events = SubscriptionEventCallbacks(incompatible_qos=self._note_refusal, message_lost=self._note_loss)
        try:
            self._subscription = self._create(events)
        except UnsupportedEventTypeError:  # not every middleware has both events
            self._subscription = self._create(SubscriptionEventCallbacks(use_default_callbacks=False))

    def _create(self, events: SubscriptionEventCallbacks) -> Subscription[Any]:
        qos = QoSProfile(depth=QOS_DEPTH, reliability=self._requested)
        return self._node.create_subscription(self._kind, self._topic, self._receive, qos, event_callbacks=events)

    def _note_refusal(self, event: Any) -> None:
        self._refused.add(qos_policy_name_from_kind(event.last_policy_kind))

    def _note_loss(self, event: Any) -> None:
        self._lost += event.total_count_change

    def _receive(self, message: Any) -> None:
        self._received += 1
        self._last_stamp = stamp_of(message)
        self._on_message(message)

    def _suitable(self, default: ReliabilityPolicy) -> ReliabilityPolicy:
        """Return the reliability to request; ``default`` without publishers."""
        if self._reliability != "auto":
            return ReliabilityPolicy[self._reliability.upper()]
        offered = self._offered()
        if not offered:
            return default
        # A best-effort subscription receives from both kinds of publishers.
        best_effort = ReliabilityPolicy.BEST_EFFORT in offered
        return ReliabilityPolicy.BEST_EFFORT if best_effort else ReliabilityPolicy.RELIABLE

    def _offered(self) -> set[ReliabilityPolicy]:
        return {
            publisher.qos_profile.reliability
            for publisher in self._node.get_publishers_info_by_topic(self._topic)
            if publisher.topic_type == self._type
        }


def type_of(kind: type) -> str:
    """Return the type name of a message class, such as "sensor_msgs/msg/Image"."""
    return f"{kind.__module__.split('.')[0]}/msg/{kind.__name__}"


def _text(policy: ReliabilityPolicy) -> str:
    return policy.name.lower().replace("_", " ")
