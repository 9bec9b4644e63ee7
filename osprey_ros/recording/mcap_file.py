"""Read MCAP files. Those without a complete index, as of a killed recorder, are read from their beginning."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, BinaryIO, cast

from mcap.records import Channel, Message, Schema
from mcap.stream_reader import StreamReader
from rosbags.interfaces import Connection, ConnectionExtRosbag2
from rosbags.rosbag2.storage_mcap import McapReader

from osprey_ros.errors import StorageError
from osprey_ros.recording.sqlite_file import profiles_of
from osprey_ros.recording.topics import Topic

_UNTYPED = "__schemaless__"  # type of channels without a schema, as rosbags names it
_ENCODINGS = ("", "ros2msg", "ros2idl")  # of definitions


class McapFile:
    """One open .mcap file: rosbags reads it by its index, the `mcap` package without.

    Attributes:
        topics: As of `StorageFile`.
        count: Number of messages according to the index, or as counted in a file without one.
        notes: Empty.
        cut_off: Whether the file ends in the middle of a record.

    Raises:
        StorageError: A definition is in an unknown language.
        Exception: Errors of both libraries for a damaged file.
    """

    notes: tuple[str, ...] = ()

    def __init__(self, path: Path) -> None:
        self.path, self.cut_off = path, False
        self._indexed: McapReader | None = McapReader(path)
        try:
            self._indexed.open()
        except Exception:
            self._indexed = None  # cut off, most likely; other damage is reported by the reading below
        else:
            if not _has_index(self._indexed):
                self._indexed.close()
                self._indexed = None
        if self._indexed is not None:
            self.topics = {found.id: _topic_of(found) for found in self._indexed.connections}
            self.count = self._indexed.metadata.message_count
        else:
            self.topics = {}
            self.count = Counter(number for number, _, _ in self._records()).total()

    def read(self) -> Iterator[tuple[int, int, bytes]]:
        """Yield topic number, time in nanoseconds and data of all messages.

        They are ordered by time, or as in the file if it has no index.
        """
        if self._indexed is None:
            yield from self._records()
            return
        for connection, time, data in self._indexed.messages(self._indexed.connections):
            yield connection.id, time, data

    def close(self) -> None:
        """Close the file. Reading without an index keeps none open."""
        if self._indexed is not None:
            self._indexed.close()

    def _records(self) -> Iterator[tuple[int, int, bytes]]:
        """Yield channel, time and data of each message in the order of the file, and collect the topics."""
        schemas: dict[int, Schema] = {}
        with self.path.open("rb") as stream:
            try:
                for record in StreamReader(cast("IO[bytes]", _WholeReads(stream)), validate_crcs=True).records:
                    if isinstance(record, Schema):
                        schemas[record.id] = record
                    elif isinstance(record, Channel):
                        self.topics[record.id] = _topic(record, schemas.get(record.schema_id))
                    elif isinstance(record, Message):
                        if record.channel_id not in self.topics:
                            raise StorageError(
                                f"{self.path} is damaged: a message has the unknown channel {record.channel_id}; copy "
                                "it again, or try `mcap recover`"
                            )
                        yield record.channel_id, record.log_time, record.data
            except _CutOffError:
                self.cut_off = True


def _has_index(reader: McapReader) -> bool:
    """Return whether the summary has chunks and all channels with their types. Writers may leave out any of it."""
    assert reader.statistics is not None
    complete = 0 < len(reader.connections) == reader.statistics.channel_count
    return complete and bool(reader.chunks) and all(found.msgtype != _UNTYPED for found in reader.connections)


def _topic_of(connection: Connection) -> Topic:
    assert isinstance(connection.ext, ConnectionExtRosbag2)
    qos, encoding = tuple(connection.ext.offered_qos_profiles), connection.ext.serialization_format
    return Topic(connection.topic, connection.msgtype, qos, encoding, connection.msgdef.data, connection.digest)


def _topic(channel: Channel, schema: Schema | None) -> Topic:
    if schema and schema.encoding == "ros1msg":
        raise StorageError(f"topic {channel.topic} was recorded with ROS 1; convert the recording to ROS 2")
    if schema and schema.encoding not in _ENCODINGS:
        raise StorageError(
            f"topic {channel.topic} has a definition in {schema.encoding}, not in ros2msg or ros2idl; remove the topic "
            "with `mcap filter`"
        )
    return Topic(
        channel.topic,
        schema.name if schema else "",
        profiles_of(channel.metadata.get("offered_qos_profiles", "")),
        channel.message_encoding,
        schema.data.decode() if schema else "",
        channel.metadata.get("topic_type_hash", ""),
    )


class _CutOffError(Exception):
    """A file ends in the middle of a record."""


class _WholeReads:
    """A file whose reads return all requested bytes; the `mcap` package accepts shorter ones as whole records."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        if len(data) < size:
            raise _CutOffError
        return data
