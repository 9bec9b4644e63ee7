"""Read recordings of rosbag2: MCAP and SQLite files, or folders with metadata.yaml.

rosbags reads both. MCAP files without a complete index, such as those of a killed recorder, are read from their
beginning by the `mcap` package.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple, cast

from mcap.exceptions import InvalidMagic
from mcap.records import Channel, Message, Schema
from mcap.stream_reader import StreamReader
from rosbags.interfaces import Connection, ConnectionExtRosbag2, MessageDefinition, MessageDefinitionFormat, Qos
from rosbags.rosbag2 import Reader, ReaderError
from rosbags.rosbag2.metadata import parse_qos
from rosbags.rosbag2.reader import DirectoryReader
from rosbags.rosbag2.storage_mcap import McapReader
from rosbags.rosbag2.storage_sqlite3 import Sqlite3Reader

from osprey_ros.errors import StorageError
from osprey_ros.recording.types import MessageTypes

_UNTYPED = "__schemaless__"  # type of channels without a schema, as rosbags names it
_FORMATS = {
    "": MessageDefinitionFormat.NONE,
    "ros2msg": MessageDefinitionFormat.MSG,
    "ros2idl": MessageDefinitionFormat.IDL,
}


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


class Recording:
    """An open recording. Use it in a ``with`` statement.

    Args:
        path: A .mcap or .db3 file, or a folder with metadata.yaml.
        types: Definitions for topics that were recorded without one.

    Attributes:
        topics: All topics, with and without messages.
        message_count: Number of messages according to the recording's index or metadata.
        custom_data: Notes of the recorder in metadata.yaml.
        cut_off: Whether a file ends in the middle of a record.

    Raises:
        StorageError: The path is not a recording, or it is damaged.
    """

    def __init__(self, path: Path, types: MessageTypes) -> None:
        self.path, self._count = path, 0
        if not path.exists():
            raise StorageError(f"{path} does not exist")
        if not path.is_dir() and path.suffix not in _Reader.STORAGE_PLUGINS:
            raise StorageError(
                f"{path} is not a recording of ROS 2; give a .mcap or .db3 file, or the folder with metadata.yaml"
            )
        with self._errors():
            self._reader = _Reader(path)
            self._reader.open()
        self._topics = {connection.id: _topic(connection, types) for connection in self._reader.connections}
        self.topics = tuple(dict.fromkeys(self._topics.values()))
        self.message_count = self._reader.message_count
        self.custom_data = dict(self._reader.storage.metadata.custom or {})
        storages = getattr(self._reader.storage, "storages", [self._reader.storage])
        self.cut_off = any(getattr(storage, "cut_off", False) for storage in storages)

    def __enter__(self) -> Recording:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()

    def read(self) -> Iterator[RecordedMessage]:
        """Yield all messages by time; those of a file without an index in the order in which they were written.

        Raises:
            StorageError: The recording is damaged.
        """
        self._count = 0
        with self._errors():
            for connection, time, data in self._reader.messages():
                self._count += 1
                yield RecordedMessage(self._topics[connection.id], time, data)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except StorageError:
            raise
        except FileNotFoundError as error:
            raise StorageError(
                f"{self.path} has no metadata.yaml; give the .mcap or .db3 file itself, or run `ros2 bag reindex`"
            ) from error
        except OSError as error:
            raise StorageError(f"{self.path} cannot be read: {error.strerror or error}") from error
        except InvalidMagic as error:
            raise StorageError(f"{self.path} is not an MCAP file") from error
        except Exception as error:  # rosbags also passes on the errors of the libraries below it
            raise StorageError(
                f"{self.path} is damaged after {self._count} messages ({type(error).__name__}: {error}); "
                "copy it again, or try `mcap recover`"
            ) from error


def _topic(connection: Connection, types: MessageTypes) -> Topic:
    assert isinstance(connection.ext, ConnectionExtRosbag2)
    return Topic(
        connection.topic,
        "" if connection.msgtype == _UNTYPED else connection.msgtype,
        tuple(connection.ext.offered_qos_profiles),
        connection.ext.serialization_format,
        connection.msgdef.data or types.definition(connection.msgtype),
        connection.digest,
    )


class _McapStorage(McapReader):
    """The reader of rosbags, extended to files without a complete index, which are read from their beginning."""

    cut_off = False
    _sequential = False

    def open(self) -> None:
        """Read the index, or else the whole file."""
        try:
            super().open()
        except Exception:
            indexed = False  # cut off, most likely; other damage is reported by the reading below
        else:
            indexed = self._has_index()
            if not indexed:
                super().close()
        if not indexed:
            self._sequential = True
            counts = Counter(channel for channel, _, _ in self._records())
            self.connections = [found._replace(msgcount=counts[found.id]) for found in self.connections]
            self.metadata = self.metadata._replace(message_count=counts.total())

    def close(self) -> None:
        """Close the file. Reading without an index keeps none open."""
        if not self._sequential:
            super().close()

    def messages(
        self, connections: Collection[Connection], start: int | None = None, stop: int | None = None
    ) -> Generator[tuple[Connection, int, bytes], None, None]:
        """Yield the messages of some connections; all of them in a file without an index, whatever their time."""
        if not self._sequential:
            yield from super().messages(connections, start, stop)
            return
        by_id = {connection.id: connection for connection in connections}
        for channel, time, data in self._records():
            if channel in by_id:
                yield by_id[channel], time, data

    def _has_index(self) -> bool:
        """Return whether the summary has chunks and all channels with their types. Writers may leave out any of it."""
        assert self.statistics is not None
        complete = 0 < len(self.connections) == self.statistics.channel_count
        return complete and bool(self.chunks) and all(found.msgtype != _UNTYPED for found in self.connections)

    def _records(self) -> Iterator[tuple[int, int, bytes]]:
        """Yield channel, time and data of each message in the order of the file, and collect the connections."""
        schemas: dict[int, Schema] = {}
        found: dict[int, Connection] = {}
        with self.path.open("rb") as stream, suppress(_CutOffError):
            self.cut_off = True
            for record in StreamReader(cast("IO[bytes]", _WholeReads(stream)), validate_crcs=True).records:
                if isinstance(record, Schema):
                    schemas[record.id] = record
                elif isinstance(record, Channel):
                    found[record.id] = self._connection(record, schemas.get(record.schema_id))
                    self.connections = list(found.values())
                elif isinstance(record, Message):
                    if record.channel_id not in found:
                        raise ReaderError(f"a message has the unknown channel {record.channel_id}")
                    yield record.channel_id, record.log_time, record.data
            self.cut_off = False

    def _connection(self, channel: Channel, schema: Schema | None) -> Connection:
        encoding = schema.encoding if schema else ""
        if encoding not in _FORMATS:
            raise StorageError(
                f"topic {channel.topic} has a definition in {encoding}, not in ros2msg or ros2idl; "
                "remove the topic with `mcap filter`"
            )
        return Connection(
            channel.id,
            channel.topic,
            schema.name if schema else _UNTYPED,
            MessageDefinition(_FORMATS[encoding], schema.data.decode() if schema else ""),
            channel.metadata.get("topic_type_hash", ""),
            0,
            ConnectionExtRosbag2(channel.message_encoding, parse_qos(channel.metadata.get("offered_qos_profiles", ""))),
            self,
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


class _FolderStorage(DirectoryReader):
    STORAGE_PLUGINS: Mapping[str, Any] = {"mcap": _McapStorage, "sqlite3": Sqlite3Reader}


class _Reader(Reader):
    STORAGE_PLUGINS: Mapping[str, Any] = {"dir": _FolderStorage, ".mcap": _McapStorage, ".db3": Sqlite3Reader}
