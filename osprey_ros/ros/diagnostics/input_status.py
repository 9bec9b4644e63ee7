"""What the inputs of the node have seen, and in words what keeps frames away. Plain data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TopicState:
    """One subscription."""

    role: str  # relative name of the input: image, segmentation, regions, detections, depth, camera_info
    name: str  # full name of the topic
    type: str  # "sensor_msgs/msg/Image"
    publishers: int  # of this type
    other_types: tuple[str, ...]  # of publishers that send something else under this name
    received: int  # messages, since the node was activated
    lost: int  # messages that the middleware says it lost
    last_stamp: int | None  # nanoseconds
    asked_reliability: str  # "reliable" or "best effort"
    offered_reliability: tuple[str, ...]  # of the publishers that are there
    incompatible_qos: tuple[str, ...]  # policies for which a publisher is not heard: "RELIABILITY"


@dataclass(frozen=True)
class InputState:
    """All subscriptions, and how their messages match."""

    topics: tuple[TopicState, ...]
    matched: int  # frames that were handed over
    unmatched_dropped: int  # messages given up without a partner
    offset: int | None  # smallest distance of stamps in nanoseconds since the last match; None: nothing to compare
    late: tuple[str, ...]  # topics whose messages come after their partners have left the queue
    slop: float  # seconds
    queue_size: int

    def complaints(self) -> list[str]:
        """What keeps frames from being complete, each with its remedy; empty where nothing is known to."""
        found = []
        for topic in self.topics:
            found += _complaints_about(topic)
        if found or not all(topic.received for topic in self.topics if topic.role != "camera_info"):
            return found
        if self.late:
            found.append(
                f"{' and '.join(self.late)}: messages come when what they belong to has left the queue of "
                f"{self.queue_size}: raise queue_size"
            )
        elif self.offset is not None and self.offset > round(self.slop * 1e9):
            found.append(
                f"stamps differ by {self.offset / 1e6:.3g} ms at least, slop allows {self.slop * 1e3:.3g} ms: "
                f"publish with the stamp of the image, or set slop to {_slop_for(self.offset):g}"
            )
        return found


def _complaints_about(topic: TopicState) -> list[str]:
    if topic.incompatible_qos:
        return [
            f"{topic.name}: a publisher is not heard, QoS policy {', '.join(topic.incompatible_qos)} is incompatible: "
            f"it offers {' and '.join(topic.offered_reliability)} and {topic.asked_reliability} is asked for; "
            "set the parameter reliability to auto"
        ]
    if not topic.publishers and topic.other_types:
        return [f"{topic.name}: {' and '.join(topic.other_types)} is published, {topic.type} is expected"]
    if not topic.publishers:
        return [f"{topic.name}: no publisher; remap {topic.role} to the topic that there is"]
    if not topic.received:
        return [f"{topic.name}: no message came yet, though {topic.publishers} can publish"]
    return []


def _slop_for(offset: int) -> float:
    """Seconds that hold an offset with some room, in round numbers."""
    return max(0.001, round(offset * 1.5 / 1e9, 3))
