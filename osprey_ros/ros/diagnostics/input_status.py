"""State of the node's inputs, and the reasons why no complete frame arrives. Plain data."""

from __future__ import annotations

from dataclasses import dataclass

from osprey_ros.messages.frames import CAMERA_INFO, DEPTH, IMAGE
from osprey_ros.messages.synchronizer import MAX_QUEUE_SIZE, MAX_SLOP

_LATCHED = "transient local"
_RAW, _COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"


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
        last_stamp: stamp of the latest message in nanoseconds, 0 if it has none, None before the first.
        requested_reliability: "reliable" or "best effort".
        offered_reliability: reliabilities of the current publishers.
        incompatible_qos: QoS policies that keep a publisher from connecting, such as "RELIABILITY".
        offered_durability: durabilities of the current publishers, "volatile" or "transient local".
        other_transport: transport under which the image is published, if it is not under the chosen one.
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
    offered_durability: tuple[str, ...] = ()
    other_transport: str = ""


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

    @property
    def latched(self) -> bool:
        """Whether all publishers of the images and their regions are transient local, so that no more may come."""
        matched = [topic for topic in self.topics if topic.role != CAMERA_INFO]
        return all(topic.offered_durability == (_LATCHED,) for topic in matched)

    def problems(self) -> list[str]:
        """Return the reasons why frames stay incomplete, each with its remedy; empty if no reason is known."""
        found = []
        for topic in self.topics:
            found += _topic_problems(topic)
        if found or not all(topic.received for topic in self.topics if topic.role != CAMERA_INFO):
            return found
        if self.late:
            larger = "raise queue_size" if self.queue_size < MAX_QUEUE_SIZE else "lower the rate of the images"
            found.append(
                f"{' and '.join(self.late)}: messages arrive after the matching messages have left the queue of "
                f"{self.queue_size}; {larger}"
            )
        elif self.offset is not None and self.offset > round(self.slop * 1e9):
            slop = f", or set slop to {_suggested_slop(self.offset):g}" if self.offset <= MAX_SLOP * 1e9 else ""
            found.append(
                f"stamps differ by at least {self.offset / 1e6:.3g} ms, slop allows {self.slop * 1e3:.3g} ms; publish "
                f"with the stamp of the image{slop}"
            )
        return found


def without_stamp(role: str, topic: str) -> str:
    """Return a sentence about an input whose messages have no stamp."""
    wanted = "the time of the image" if role == IMAGE else "the stamp of its image"
    return (
        f"{topic}: messages have no stamp (header.stamp is 0), so they match nothing; set it to {wanted} in the "
        "publisher"
    )


def _topic_problems(topic: TopicState) -> list[str]:
    if topic.incompatible_qos:
        return [
            f"{topic.name}: QoS policy {', '.join(topic.incompatible_qos)} is incompatible: a publisher offers "
            f"{' and '.join(topic.offered_reliability)}, the node requests {topic.requested_reliability}; "
            "set the parameter reliability to auto"
        ]
    if not topic.publishers and topic.other_types:
        published = f"{' and '.join(topic.other_types)} is published, {topic.type} is expected"
        return [f"{topic.name}: {published}{_transport_remedy(topic)}"]
    if not topic.publishers and topic.other_transport:
        return [
            f"{topic.name}: no publisher, but this image is published with another transport; set "
            f"{topic.role}_transport to {topic.other_transport}"
        ]
    if not topic.publishers:
        return [f"{topic.name}: no publisher; start one, or remap {topic.role} to an existing topic"]
    if not topic.received and len(topic.offered_durability) > 1:
        return [
            f"{topic.name}: no message received from {topic.publishers} publishers, of which some are transient local "
            "(latched) and some volatile, so earlier messages are not delivered; make all of them transient local"
        ]
    if not topic.received:
        return [f"{topic.name}: no message received from {topic.publishers} publisher(s)"]
    if topic.last_stamp == 0 and topic.role != CAMERA_INFO:
        return [without_stamp(topic.role, topic.name)]
    return []


def _transport_remedy(topic: TopicState) -> str:
    """Return the parameter to set if the topic has images of another transport, "" for other types."""
    transport = "compressedDepth" if topic.role == DEPTH else "compressed"
    if topic.type == _RAW and _COMPRESSED in topic.other_types:
        name = "" if topic.name.endswith(f"/{transport}") else f" and publish it as {topic.name}/{transport}"
        return f"; set {topic.role}_transport to {transport}{name}"
    if topic.type == _COMPRESSED and _RAW in topic.other_types:
        return f"; set {topic.role}_transport to raw and remap {topic.role} to it"
    return ""


def _suggested_slop(offset: int) -> float:
    """Return a slop in seconds that tolerates an offset in nanoseconds with a margin, rounded to milliseconds."""
    return min(max(0.001, round(offset * 1.5 / 1e9, 3)), MAX_SLOP)
