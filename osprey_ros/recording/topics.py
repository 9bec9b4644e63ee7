"""Topics and messages of recordings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from rosbags.interfaces import Qos


@dataclass(frozen=True)
class Topic:
    """A recorded topic.

    Comparison ignores ``definition`` and ``type_hash``.

    Attributes:
        name: Full name, such as "/camera/image".
        type: Such as "sensor_msgs/msg/Image"; "" if it was not recorded.
        qos: Profiles that the publishers offered.
        encoding: Serialization of the messages, "cdr" in ROS 2.
        definition: Text of the type's .msg or .idl files, "" if it is unknown.
        type_hash: Hash of the type (REP-2011), "" if it is unknown.
    """

    name: str
    type: str
    qos: tuple[Qos, ...] = ()
    encoding: str = "cdr"
    definition: str = field(default="", compare=False)
    type_hash: str = field(default="", compare=False)


class RecordedMessage(NamedTuple):
    """A serialized message and the time in nanoseconds at which it was recorded."""

    topic: Topic
    time: int
    data: bytes


class StorageFile(Protocol):
    """One open file of a recording.

    Attributes:
        topics: The topics by their number in the file.
        count: Number of messages according to the file's index.
        notes: What may be missing in the file, one sentence each.
        cut_off: Whether the file ends in the middle of a record.
    """

    topics: dict[int, Topic]
    count: int
    notes: tuple[str, ...]
    cut_off: bool

    def read(self) -> Iterator[tuple[int, int, bytes]]:
        """Yield topic number, time in nanoseconds and data of all messages."""

    def close(self) -> None:
        """Close the file."""
