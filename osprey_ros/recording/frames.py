"""Match the images of a recording with their segmentations, and convert them to frames.

The node's synchronizer matches the stamps of the whole recording before anything is described. So the number of frames
and the messages without a partner are known in advance.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rosbags.serde import SerdeError

from osprey_ros.errors import StorageError
from osprey_ros.frame import Frame
from osprey_ros.messages.frames import DETECTIONS, IMAGE, REGIONS, SEGMENTATION, YOLO, RawFrame, frame_from_messages
from osprey_ros.messages.stamps import NANOSECONDS
from osprey_ros.messages.synchronizer import MAX_SLOP, FrameSync
from osprey_ros.recording.reader import Recording
from osprey_ros.recording.topics import Topic
from osprey_ros.recording.types import MessageTypes, serialized_stamp, stamp_text
from osprey_ros.regions.label_values import INSTANCE_IDS, LabelValues

_IMAGE, _COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
# Types of the segmentation's topic that are not images, by the kind of regions that they have.
_SOURCES = {
    "osprey_interfaces/msg/RegionArray": REGIONS,
    "vision_msgs/msg/Detection2DArray": DETECTIONS,
    "yolo_msgs/msg/DetectionArray": YOLO,
}
_TYPES = {IMAGE: (_IMAGE, _COMPRESSED), SEGMENTATION: (_IMAGE, _COMPRESSED, *_SOURCES)}
_QUEUE_SIZE = 1000  # stamps that wait for a partner: an image and its segmentation may be recorded far apart
_PROGRESS_EVERY = 256  # messages


@dataclass(frozen=True)
class Pair:
    """A frame: its stamp in nanoseconds, and the indices of its two messages, each within its topic."""

    stamp: int
    image: int
    segmentation: int


@dataclass(frozen=True)
class Plan:
    """The frames to describe.

    Attributes:
        frames: Selected pairs.
        matched: Number of all pairs.
        alone: Stamps of the messages without a partner, by role.
        unstamped: Number of messages whose stamp is 0, which means none, by role.
        unreadable: Number of messages that are too short to have a stamp, by role.
    """

    frames: tuple[Pair, ...]
    matched: int
    alone: Mapping[str, tuple[int, ...]]
    unstamped: Mapping[str, int]
    unreadable: Mapping[str, int]


def plan_frames(
    recording: Recording,
    image: str,
    segmentation: str,
    slop: float = 0.0,
    every: int = 1,
    rate: float = 0.0,
    progress: Callable[[int], object] | None = None,
) -> Plan:
    """Match images with segmentations by stamp, and select frames.

    Args:
        recording: Is read once.
        image: Full name of the topic with images.
        segmentation: Full name of the topic with their regions.
        slop: Largest difference in seconds between the two stamps of a frame.
        every: Select each N-th frame.
        rate: Select at most this many frames per second, by their stamps. 0 selects all.
        progress: Called after every 256 messages with the number of messages read since the last call.

    Raises:
        StorageError: The recording is damaged, or no image has a segmentation.
    """
    roles = {image: IMAGE, segmentation: SEGMENTATION}
    sync = FrameSync((IMAGE, SEGMENTATION), _QUEUE_SIZE, round(slop * NANOSECONDS))
    stamps: dict[str, list[int]] = {IMAGE: [], SEGMENTATION: []}
    unreadable, unstamped = {IMAGE: 0, SEGMENTATION: 0}, {IMAGE: 0, SEGMENTATION: 0}
    indices = {IMAGE: -1, SEGMENTATION: -1}
    matches: list[tuple[Any, ...]] = []
    offset: int | None = None
    for count, message in enumerate(recording.read(), start=1):
        if progress is not None and count % _PROGRESS_EVERY == 0:
            progress(_PROGRESS_EVERY)
        role = roles.get(message.topic.name)
        if role is None:
            continue
        indices[role] += 1
        try:
            stamp = serialized_stamp(message.data)
        except (struct.error, IndexError):
            unreadable[role] += 1
            continue
        if not stamp:
            unstamped[role] += 1
            continue
        stamps[role].append(stamp)
        matches += sync.add(role, stamp, (stamp, indices[role]))
        offset = sync.offset if offset is None or sync.offset is None else min(offset, sync.offset)
    # The synchronizer may still expect a nearer stamp. A stamp far behind all others decides every match.
    end = max([*stamps[IMAGE], *stamps[SEGMENTATION]], default=0) + 3600 * NANOSECONDS
    matches += [found for role in (IMAGE, SEGMENTATION) for found in sync.add(role, end, None) if None not in found]
    if not matches:
        plan = Plan((), 0, {role: tuple(found) for role, found in stamps.items()}, unstamped, unreadable)
        raise StorageError(_no_match(image, segmentation, plan, slop, offset))
    pairs = [Pair(first[0], first[1], second[1]) for first, second in matches]
    matched = {role: {found[row][0] for found in matches} for row, role in enumerate((IMAGE, SEGMENTATION))}
    alone = {role: tuple(stamp for stamp in stamps[role] if stamp not in matched[role]) for role in stamps}
    return Plan(tuple(_select(pairs[::every], rate)), len(pairs), alone, unstamped, unreadable)


class FrameReader:
    """Convert pairs of serialized messages to frames.

    Args:
        recording: Recording with both topics.
        image: Full name of the topic with images.
        segmentation: Full name of the topic with their regions.
        types: Definitions for topics that were recorded without one.
        values: What the values of a segmentation mean.

    Raises:
        StorageError: A topic does not exist, or messages of its type cannot be used or read.
    """

    def __init__(
        self,
        recording: Recording,
        image: str,
        segmentation: str,
        types: MessageTypes,
        values: LabelValues = INSTANCE_IDS,
    ) -> None:
        self._values = values
        self._names = {IMAGE: image, SEGMENTATION: segmentation}
        if image == segmentation:
            raise StorageError(f"--image and --segmentation are both {image}; give two topics")
        # If several publishers of a topic recorded definitions, the first one counts.
        topics = {role: _find_topic(recording, role, name) for role, name in self._names.items()}
        self._read = {role: types.reader(topic.type, topic.definition) for role, topic in topics.items()}
        self._source = _SOURCES.get(topics[SEGMENTATION].type, SEGMENTATION)

    def frame(self, image: bytes, segmentation: bytes) -> Frame:
        """Return the frame of two messages.

        Raises:
            StorageError: A message cannot be deserialized.
            InputError: A message cannot be converted.
        """
        messages = self._deserialize(IMAGE, image), self._deserialize(SEGMENTATION, segmentation)
        topics = {IMAGE: self._names[IMAGE], self._source: self._names[SEGMENTATION]}
        return frame_from_messages(RawFrame(*messages, self._source, topics, self._values))

    def _deserialize(self, role: str, data: bytes) -> Any:
        try:
            return self._read[role](data)
        except (SerdeError, struct.error, IndexError, ValueError) as error:
            raise StorageError(
                f"{self._names[role]}: a message of {len(data)} bytes ends early or is damaged; record it again"
            ) from error


def topics_text(recording: Recording) -> str:
    """Return a sentence with the topics of a recording that can be images or segmentations."""
    usable = [topic for topic in recording.topics if topic.type in _TYPES[SEGMENTATION]]
    if not usable:
        return f"{recording.path} has no topic with images among its {len(recording.topics)} topics"
    names = ", ".join(sorted({f"{topic.name} ({topic.type.split('/')[-1]})" for topic in usable}))
    return f"{recording.path} has {names}"


def _find_topic(recording: Recording, role: str, name: str) -> Topic:
    topic = next((topic for topic in recording.topics if topic.name == name), None)
    if topic is None:
        raise StorageError(f"there is no topic {name}; {topics_text(recording)}")
    if topic.type not in _TYPES[role]:
        wanted = ", ".join(_TYPES[role])
        raise StorageError(f"--{role} {name} is of type {topic.type or '?'}, not {wanted}; {topics_text(recording)}")
    if topic.encoding != "cdr":
        raise StorageError(f"--{role} {name} is serialized as {topic.encoding!r}; only cdr can be read")
    return topic


def _select(pairs: list[Pair], rate: float) -> list[Pair]:
    if not rate:
        return pairs
    period = round(NANOSECONDS / rate)
    selected: list[Pair] = []
    due = before = pairs[0].stamp
    for pair in pairs:
        if pair.stamp < before:  # the clock jumped back: a recording of several runs
            due = pair.stamp
        before = pair.stamp
        if pair.stamp >= due:
            selected.append(pair)
            # Keep the phase of the first frame, so that jitter does not lower the rate.
            due = max(due + period, pair.stamp + period // 2)
    return selected


def _no_match(image: str, segmentation: str, plan: Plan, slop: float, offset: int | None) -> str:
    """Return the reason why no image has a segmentation, from a plan without frames."""
    stamps = plan.alone
    for role, name in ((IMAGE, image), (SEGMENTATION, segmentation)):
        if plan.unstamped[role] and not stamps[role]:
            return (
                f"all {plan.unstamped[role]} messages of {name} have no stamp (it is 0); set header.stamp in the "
                f"publisher of {name}{'' if role == IMAGE else f' to the stamp of {image}'}, and record again"
            )
        if plan.unreadable[role] and not stamps[role]:
            return f"all {plan.unreadable[role]} messages of --{role} {name} are too short to have a stamp"
        if not stamps[role]:
            return f"--{role} {name} has no messages"
    remedy = ""
    if offset is not None and offset <= MAX_SLOP * NANOSECONDS:
        remedy = f"; the nearest are {offset / NANOSECONDS:.6g} s apart, give a larger --slop"
    elif offset is not None:
        remedy = (
            f"; the nearest are {offset / NANOSECONDS:.6g} s apart, so their publishers use different clocks; set "
            "header.stamp of the segmentation to the stamp of its image, and record again"
        )
    return (
        f"no image has a segmentation: none of the {len(stamps[IMAGE])} stamps of {image} (from "
        f"{stamp_text(stamps[IMAGE][0])}) is within {slop:g} s of one of the {len(stamps[SEGMENTATION])} stamps of "
        f"{segmentation} (from {stamp_text(stamps[SEGMENTATION][0])}){remedy}"
    )
