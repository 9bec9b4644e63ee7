"""State of the node's inputs, and the reasons why no complete frame arrives. Plain data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TopicState:
    """State of one subscription.

    Attributes:
        role: relative name of the input: image, segmentation, regions, detections, depth or camera_info.
        name: full name of the topic.
        type: message type, such as "sensor_msgs/msg/Image".
        publishers: number of publishers of this type.
        other_types: types of the publishers that use the topic name for another type.
        received: messages since the activation.
        lost: messages that the middleware reports as lost.
        last_stamp: stamp of the latest message in nanoseconds, None before the first.
        requested_reliability: "reliable" or "best effort".
        offered_reliability: reliabilities of the current publishers.
        incompatible_qos: QoS policies that keep a publisher from connecting, such as "RELIABILITY".
    """

    role: str
    name: str
    type: str
    publishers: int
    other_types: tuple[str, ...]
    received: int
    lost: int
    last_stamp: int | None
    requested_reliability: str
    offered_reliability: tuple[str, ...]
    incompatible_qos: tuple[str, ...]


@dataclass(frozen=True)
class InputState:
    """State of all subscriptions and of the matching of their messages.

    Attributes:
        topics: one state for each subscription.
        matched: number of complete frames.
        unmatched_dropped: messages dropped without a match.
        offset: smallest difference of stamps in nanoseconds since the last match, None if nothing can be compared.
        late: topics whose messages arrive after the matching messages have left the queue.
        slop: maximum difference of stamps in seconds.
        queue_size: messages of each topic that wait for a match.
    """

    topics: tuple[TopicState, ...]
    matched: int
    unmatched_dropped: int
    offset: int | None
    late: tuple[str, ...]
    slop: float
    queue_size: int

    def problems(self) -> list[str]:
        """Return the reasons why frames stay incomplete, each with its remedy; empty if no reason is known."""
        found = []
        for topic in self.topics:
            found += _topic_problems(topic)
        if found or not all(topic.received for topic in self.topics if topic.role != "camera_info"):
            return found
        if self.late:
            found.append(
                f"{' and '.join(self.late)}: messages arrive after the matching messages have left the queue of "
                f"{self.queue_size}; raise queue_size"
            )
        elif self.offset is not None and self.offset > round(self.slop * 1e9):
            found.append(
                f"stamps differ by at least {self.offset / 1e6:.3g} ms, slop allows {self.slop * 1e3:.3g} ms; "
                f"publish with the stamp of the image, or set slop to {_suggested_slop(self.offset):g}"
            )
        return found


def _topic_problems(topic: TopicState) -> list[str]:
    if topic.incompatible_qos:
        return [
            f"{topic.name}: QoS policy {', '.join(topic.incompatible_qos)} is incompatible: a publisher offers "
            f"{' and '.join(topic.offered_reliability)}, the node requests {topic.requested_reliability}; "
            "set the parameter reliability to auto"
        ]
    if not topic.publishers and topic.other_types:
        return [f"{topic.name}: {' and '.join(topic.other_types)} is published, {topic.type} is expected"]
    if not topic.publishers:
        return [f"{topic.name}: no publisher; start one, or remap {topic.role} to an existing topic"]
    if not topic.received:
        return [f"{topic.name}: no message received from {topic.publishers} publisher(s)"]
    return []


def _suggested_slop(offset: int) -> float:
    """Return a slop in seconds that tolerates an offset in nanoseconds with a margin, rounded to milliseconds."""
    return max(0.001, round(offset * 1.5 / 1e9, 3))
