"""Collect the messages of the frames of a plan while a recording is read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from osprey_ros.frame import Frame
from osprey_ros.messages.frames import IMAGE, SEGMENTATION
from osprey_ros.recording.frames import FrameReader, Pair, Plan
from osprey_ros.recording.reader import Recording
from osprey_ros.recording.topics import RecordedMessage


def frames_of(recording: Recording, reader: FrameReader, plan: Plan, roles: dict[str, str]) -> Iterator[Frame]:
    """Yield the frames of a plan in the order of the recording. Arguments as for `FrameCollector`.

    Raises StorageError for a damaged recording, InputError for a message that cannot be converted.
    """
    collector = FrameCollector(plan, roles)
    for message in recording.read():
        pair, messages = collector.add(message)
        if pair is not None:
            yield reader.frame(messages[IMAGE].data, messages[SEGMENTATION].data)


class FrameCollector:
    """Collect the two messages of each frame of a plan while the recording is read.

    Args:
        plan: The frames.
        roles: IMAGE and SEGMENTATION by the full name of their topic.
    """

    def __init__(self, plan: Plan, roles: dict[str, str]) -> None:
        self._roles = roles
        self._pairs = {
            IMAGE: {pair.image: pair for pair in plan.frames},
            SEGMENTATION: {pair.segmentation: pair for pair in plan.frames},
        }
        self._counts = {IMAGE: 0, SEGMENTATION: 0}
        self._incomplete: defaultdict[Pair, dict[str, RecordedMessage]] = defaultdict(dict)

    def add(self, message: RecordedMessage) -> tuple[Pair | None, dict[str, RecordedMessage]]:
        """Return a frame and its messages by role if this message completes it, else None and no messages."""
        role = self._roles.get(message.topic.name)
        if role is None:
            return None, {}
        pair = self._pairs[role].get(self._counts[role])
        self._counts[role] += 1
        if pair is None:
            return None, {}
        self._incomplete[pair][role] = message
        return (pair, self._incomplete.pop(pair)) if len(self._incomplete[pair]) == len(self._pairs) else (None, {})
