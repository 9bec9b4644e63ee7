"""A subscription that adapts its reliability to the publishers that are there, and knows what it has heard."""

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
    from rclpy.qos_event import (  # type: ignore[import-not-found,no-redef]
        SubscriptionEventCallbacks,
        UnsupportedEventTypeError,
    )

# Deep enough for large images: with a depth of 1, stock Fast DDS loses most of them.
QOS_DEPTH = 5


class AdaptiveSubscription:
    """One input of a node. All of it runs in the executor's thread.

    With the reliability "auto" it asks for reliable delivery; `adapt` renews it with best effort when a publisher has
    appeared that offers nothing better, and back when that one has gone.

    Args:
        role: what the input is called in reports.
        kind: class of its messages, which have a header.
        topic: its name, relative or full.
        reliability: "auto", "reliable" or "best_effort".
    """

    def __init__(
        self, node: Node, role: str, kind: type, topic: str, reliability: str, on_message: Callable[[Any], None]
    ) -> None:
        self._node, self._role, self._kind = node, role, kind
        self._reliability, self._on_message = reliability, on_message
        self._type = type_of(kind)
        self._received = self._lost = 0
        self._last_stamp: int | None = None
        self._refused: set[str] = set()  # policies that the middleware named since this was subscribed
        self._topic = topic  # as given: a name that was resolved might be remapped once more
        self._subscribe(self._wanted(ReliabilityPolicy.RELIABLE))

    @property
    def name(self) -> str:
        """Full name of the topic."""
        return self._subscription.topic_name

    def adapt(self) -> bool:
        """Subscribes again where the publishers that are there now want another reliability; says whether it did."""
        wanted = self._wanted(self._asked)
        if wanted == self._asked:
            return False
        self._node.get_logger().info(f"{self.name}: its publisher offers {_words(wanted)}, subscribing again with that")
        self.close()
        self._subscribe(wanted)
        return True

    def close(self) -> None:
        """Unsubscribes."""
        self._node.destroy_subscription(self._subscription)

    def state(self) -> TopicState:
        """What is known now."""
        publishers = self._node.get_publishers_info_by_topic(self._topic)
        offered = self._offered()
        # Of all policies, only reliability is asked for. With "auto" it is about to be adapted.
        unheard = self._reliability == "reliable" and ReliabilityPolicy.BEST_EFFORT in offered
        return TopicState(
            role=self._role,
            name=self.name,
            type=self._type,
            publishers=sum(publisher.topic_type == self._type for publisher in publishers),
            other_types=tuple(sorted({p.topic_type for p in publishers if p.topic_type != self._type})),
            received=self._received,
            lost=self._lost,
            last_stamp=self._last_stamp,
            asked_reliability=_words(self._asked),
            offered_reliability=tuple(sorted(_words(policy) for policy in offered)),
            incompatible_qos=tuple(sorted(self._refused | {"RELIABILITY"})) if unheard else (),
        )

    def _subscribe(self, reliability: ReliabilityPolicy) -> None:
        self._asked = reliability
        self._refused.clear()
        events = SubscriptionEventCallbacks(incompatible_qos=self._note_refusal, message_lost=self._note_loss)
        try:
            self._subscription = self._create(events)
        except UnsupportedEventTypeError:  # not every middleware has both; what publishers offer is known anyway
            self._subscription = self._create(SubscriptionEventCallbacks(use_default_callbacks=False))

    def _create(self, events: SubscriptionEventCallbacks) -> Subscription:
        qos = QoSProfile(depth=QOS_DEPTH, reliability=self._asked)
        return self._node.create_subscription(self._kind, self._topic, self._receive, qos, event_callbacks=events)

    def _note_refusal(self, event: Any) -> None:
        self._refused.add(qos_policy_name_from_kind(event.last_policy_kind))

    def _note_loss(self, event: Any) -> None:
        self._lost += event.total_count_change

    def _receive(self, message: Any) -> None:
        self._received += 1
        self._last_stamp = stamp_of(message)
        self._on_message(message)

    def _wanted(self, otherwise: ReliabilityPolicy) -> ReliabilityPolicy:
        """What to ask of the publishers; ``otherwise`` where there are none to adapt to."""
        if self._reliability != "auto":
            return ReliabilityPolicy[self._reliability.upper()]
        offered = self._offered()
        if not offered:
            return otherwise
        # Best effort hears both kinds.
        best_effort = ReliabilityPolicy.BEST_EFFORT in offered
        return ReliabilityPolicy.BEST_EFFORT if best_effort else ReliabilityPolicy.RELIABLE

    def _offered(self) -> set[ReliabilityPolicy]:
        return {
            publisher.qos_profile.reliability
            for publisher in self._node.get_publishers_info_by_topic(self._topic)
            if publisher.topic_type == self._type
        }


def type_of(kind: type) -> str:
    """The name of the type of a class of messages, such as "sensor_msgs/msg/Image"."""
    return f"{kind.__module__.split('.')[0]}/msg/{kind.__name__}"


def _words(policy: ReliabilityPolicy) -> str:
    return policy.name.lower().replace("_", " ")
