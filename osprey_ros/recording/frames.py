"""Which messages of a recording make up a frame, and the frame that they make.

Frames are matched as the node matches them, by the same code. It runs over the stamps of the whole recording before
anything is computed: so it is known how much there is to do, and what has no partner.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from rosbags.serde import SerdeError

from osprey_ros.errors import InputError, OspreyError, StorageError
from osprey_ros.frame import Frame, RegionLabel
from osprey_ros.messages.stamps import NANOSECONDS
from osprey_ros.recording.reader import Entry, Recording, Topic
from osprey_ros.recording.types import MessageTypes, serialized_stamp, stamp_text
from osprey_ros.regions.regions import Regions

IMAGE, SEGMENTATION = "image", "segmentation"
_IMAGE, _COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
_REGIONS, _DETECTIONS = "osprey_interfaces/msg/RegionArray", "vision_msgs/msg/Detection2DArray"
_TYPES = {IMAGE: (_IMAGE, _COMPRESSED), SEGMENTATION: (_IMAGE, _COMPRESSED, _REGIONS, _DETECTIONS)}
_QUEUE_SIZE = 1000  # stamps that wait for their partner: an image and its segmentation may be recorded far apart
_PROGRESS_EVERY = 256  # messages


@dataclass(frozen=True)
class Pair:
    """A frame to be described: its stamp, and which messages (0 is the first) of the two topics it is made of."""

    stamp: int
    image: int
    segmentation: int


@dataclass(frozen=True)
class Plan:
    """What there is to do in a recording.

    ``topics`` are the full topic names by role, ``frames`` those to be described, out of ``matched`` images that have
    a segmentation. ``alone`` holds the stamps of the messages without partner, and ``unreadable`` the number of those
    that are too short to have a stamp, both by role.
    """

    topics: Mapping[str, str]
    frames: tuple[Pair, ...]
    matched: int
    alone: Mapping[str, tuple[int, ...]]
    unreadable: Mapping[str, int]


def plan_frames(
    recording: Recording,
    image: str,
    segmentation: str,
    slop: float = 0.0,
    every: int = 1,
    rate: float = 0.0,
    progress: Callable[[int], None] | None = None,
) -> Plan:
    """Matches images with segmentations by stamp and selects frames.

    Args:
        recording: read once, from beginning to end.
        image, segmentation: full names of topics.
        slop: seconds that the stamps of a frame may differ.
        every: take each so-many-th frame.
        rate: take at most so many frames for each second of stamps; 0: all.
        progress: called with the number of messages read.

    Raises StorageError, naming the recording's topics, if a topic is missing or its type cannot be used, and if no
    image has a segmentation.
    """
    from osprey_ros.messages.synchronizer import FrameSync  # free of ROS, as all that is used here of osprey_ros.ros

    topics = {IMAGE: image, SEGMENTATION: segmentation}
    _check_topics(recording, topics)
    roles = {name: role for role, name in topics.items()}
    sync = FrameSync((IMAGE, SEGMENTATION), _QUEUE_SIZE, round(slop * NANOSECONDS))
    stamps: dict[str, list[int]] = {IMAGE: [], SEGMENTATION: []}
    unreadable = dict.fromkeys(roles.values(), 0)
    numbers = dict.fromkeys(roles.values(), -1)
    sets: list[tuple[Any, ...]] = []
    offset: int | None = None
    for count, entry in enumerate(recording.read()):
        if progress is not None and count % _PROGRESS_EVERY == 0:
            progress(count)
        if not isinstance(entry, Entry) or entry.topic.name not in roles:
            continue
        role = roles[entry.topic.name]
        numbers[role] += 1
        try:
            stamp = serialized_stamp(entry.data)
        except (struct.error, IndexError):
            unreadable[role] += 1
            continue
        stamps[role].append(stamp)
        sets += sync.add(role, stamp, (stamp, numbers[role]))
        offset = sync.offset if offset is None or sync.offset is None else min(offset, sync.offset)
    sets += _rest(sync, stamps)
    pairs = [Pair(first[0], first[1], second[1]) for first, second in sets]
    if not pairs:
        raise StorageError(_nothing_matches(topics, stamps, slop, offset))
    alone = {
        IMAGE: _without(stamps[IMAGE], [first[0] for first, _ in sets]),
        SEGMENTATION: _without(stamps[SEGMENTATION], [second[0] for _, second in sets]),
    }
    return Plan(topics, tuple(_selected(pairs, every, rate)), len(pairs), alone, unreadable)


class FrameReader:
    """Makes frames of serialized messages of two topics.

    Raises StorageError if the recording has no usable definition of their types.
    """

    def __init__(self, recording: Recording, topics: Mapping[str, str], types: MessageTypes) -> None:
        # A topic may have several publishers, each with a definition; they are the same in all but constructed cases.
        self._topics = {role: _topic_named(recording, name) for role, name in topics.items()}
        self._read = {
            role: types.reader(topic.type, topic.language, topic.definition) for role, topic in self._topics.items()
        }

    def frame(self, image: bytes, segmentation: bytes) -> Frame:
        """The frame of these two messages. Raises InputError that begins with the topic of the one that is no good."""
        frame_id, rgb = self._convert(IMAGE, image, lambda message: (message.header.frame_id, self._rgb(message)))
        shape = rgb.shape[:2]
        regions, labels = self._convert(SEGMENTATION, segmentation, lambda message: self._regions(message, shape))
        return Frame(stamp=serialized_stamp(image), frame_id=frame_id, rgb=rgb, regions=regions, labels=labels)

    def _convert(self, role: str, data: bytes, convert: Callable[[Any], Any]) -> Any:
        try:
            return convert(self._read[role](data))
        except (SerdeError, OspreyError) as error:
            raise InputError(f"{self._topics[role].name}: {error}") from error

    def _rgb(self, message: Any) -> np.ndarray:
        from osprey_ros.messages import images

        if self._topics[IMAGE].type == _COMPRESSED:
            return images.rgb_from_compressed(message)
        return images.rgb_from_message(message)

    def _regions(self, message: Any, shape: tuple[int, int]) -> tuple[np.ndarray | Regions, dict[int, RegionLabel]]:
        from osprey_ros.messages import images
        from osprey_ros.messages import regions as region_messages

        kind = self._topics[SEGMENTATION].type
        if kind == _REGIONS:
            return region_messages.regions_from_message(message)
        if kind == _DETECTIONS:
            return region_messages.regions_from_detections(message, *shape)
        return (images.ids_from_compressed if kind == _COMPRESSED else images.ids_from_message)(message), {}


def topics_text(recording: Recording) -> str:
    """The topics of a recording that can be described or describe, with their types."""
    usable = [topic for topic in recording.topics if topic.type in _TYPES[SEGMENTATION]]
    if not usable:
        return f"{recording.path} has no topic with images among its {len(recording.topics)} topics"
    names = ", ".join(sorted({f"{topic.name} ({topic.type.split('/')[-1]})" for topic in usable}))
    return f"{recording.path} has {names}"


def _check_topics(recording: Recording, topics: Mapping[str, str]) -> None:
    if topics[IMAGE] == topics[SEGMENTATION]:
        raise StorageError(f"--image and --segmentation are both {topics[IMAGE]}")
    for role, name in topics.items():
        topic = _topic_named(recording, name)
        if topic.type not in _TYPES[role]:
            wanted = ", ".join(_TYPES[role])
            raise StorageError(
                f"--{role} {name} is of type {topic.type or '?'}, not {wanted}; {topics_text(recording)}"
            )
        if topic.encoding != "cdr":
            raise StorageError(f"--{role} {name} is encoded as {topic.encoding!r}: only cdr can be read")


def _topic_named(recording: Recording, name: str) -> Topic:
    found = next((topic for topic in recording.topics if topic.name == name), None)
    if found is None:
        raise StorageError(f"there is no topic {name}; {topics_text(recording)}")
    return found


def _rest(sync: Any, stamps: Mapping[str, list[int]]) -> list[tuple[Any, ...]]:
    """The sets that wait for something nearer, when nothing is to come: a mark far behind everything settles them."""
    everything = [stamp for of_role in stamps.values() for stamp in of_role]
    end = max(everything, default=0) + 3600 * NANOSECONDS
    found = [*sync.add(IMAGE, end, None), *sync.add(SEGMENTATION, end, None)]
    return [messages for messages in found if None not in messages]


def _without(stamps: list[int], matched: list[int]) -> tuple[int, ...]:
    gone = set(matched)
    return tuple(stamp for stamp in stamps if stamp not in gone)


def _selected(pairs: list[Pair], every: int, rate: float) -> list[Pair]:
    pairs = pairs[::every]
    if not rate:
        return pairs
    period = round(NANOSECONDS / rate)
    chosen: list[Pair] = []
    due = before = pairs[0].stamp
    for pair in pairs:
        if pair.stamp < before:  # the clock went back: a recording of several runs
            due = pair.stamp
        before = pair.stamp
        if pair.stamp >= due:
            chosen.append(pair)
            # In step with the first, so that frames that come a little early or late do not lower the rate.
            due = max(due + period, pair.stamp + period // 2)
    return chosen


def _nothing_matches(
    topics: Mapping[str, str], stamps: Mapping[str, list[int]], slop: float, offset: int | None
) -> str:
    for role, name in topics.items():
        if not stamps[role]:
            return f"--{role} {name} has no messages"
    nearest = "" if offset is None else f"; the nearest are {offset / NANOSECONDS:.6g} s apart: give --slop accordingly"
    return (
        f"no image has a segmentation: none of the {len(stamps[IMAGE])} stamps of {topics[IMAGE]} (from "
        f"{stamp_text(stamps[IMAGE][0])}) is within {slop:g} s of one of the {len(stamps[SEGMENTATION])} stamps of "
        f"{topics[SEGMENTATION]} (from {stamp_text(stamps[SEGMENTATION][0])}){nearest}"
    )
