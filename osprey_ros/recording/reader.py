"""Recordings as rosbag2 writes them (mcap or sqlite3; one file, or a folder with metadata.yaml), message by message.

mcap is read with the format's own library, because rosbags keeps neither publication times, sequence numbers and type
hashes nor attachments. sqlite3, and what rosbag2 itself has compressed, is read by rosbags.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO, NamedTuple, Protocol, cast

import zstandard
from mcap.exceptions import McapError
from mcap.reader import make_reader
from mcap.records import Attachment, Channel, Message, Metadata, Schema
from mcap.stream_reader import StreamReader
from mcap.summary import Summary
from rosbags.interfaces import Connection, ConnectionExtRosbag2, MessageDefinitionFormat
from rosbags.rosbag2 import Reader, ReaderError
from rosbags.rosbag2.metadata import dump_qos_v8
from ruamel.yaml import YAML, YAMLError

from osprey_ros.errors import StorageError
from osprey_ros.recording.types import IDL, MSG, MessageTypes

ROSBAG2 = "rosbag2"  # name of the record of an mcap file that holds what metadata.yaml says
METADATA_FILE = "metadata.yaml"
OLD_VERSION, NEW_VERSION = 8, 9  # of the metadata: from 9 on, policies of QoS profiles are words instead of numbers
_MAGIC = b"\x89MCAP0\r\n"
_DAMAGE = (McapError, struct.error, ValueError, RuntimeError, zstandard.ZstdError)


@dataclass(frozen=True)
class Topic:
    """A topic as it was recorded. ``metadata`` holds pairs: the QoS profiles offered, and the hash of the type.

    ``definition`` is in ``language`` MSG or IDL; both are "" where the recording has none and the type is not known.
    """

    name: str
    type: str
    language: str
    definition: str
    encoding: str = "cdr"
    metadata: tuple[tuple[str, str], ...] = ()


class Entry(NamedTuple):
    """A message as it was recorded; times in nanoseconds."""

    topic: Topic
    log_time: int
    publish_time: int
    sequence: int
    data: bytes


@dataclass(frozen=True)
class About:
    """What the metadata of rosbag2 says, beside what can be counted.

    ``version`` is OLD_VERSION or NEW_VERSION: how the QoS profiles of the topics are written. ``custom_data`` is what
    the recorder was told to note.
    """

    version: int = OLD_VERSION
    ros_distro: str = ""
    custom_data: Mapping[str, str] = field(default_factory=dict)


class Recording(Protocol):
    """A recording that is read from its beginning each time.

    Attributes:
        path: what was opened.
        topics: all of its topics, those without messages too.
        about: what its metadata says.
        message_count: 0 if it is not known before it is read.
        cut_off: whether a file was found to end in the middle, when it was last read.
    """

    path: Path
    topics: tuple[Topic, ...]
    about: About
    message_count: int
    cut_off: bool

    def read(self) -> Iterator[Entry | Attachment | Metadata]:
        """All messages in the order in which they were written, and the rest of mcap files. Raises StorageError."""


def open_recording(path: Path, types: MessageTypes) -> Recording:
    """Looks into a recording. Raises StorageError if there is none, or it is damaged beyond use."""
    if not path.exists():
        raise StorageError(f"{path} does not exist")
    if path.is_dir():
        metadata = _folder_metadata(path)
        about = _about(metadata)
        if metadata["storage_identifier"] == "mcap" and not metadata["compressed"]:
            return McapRecording(path, metadata["files"], about)
        return RosbagsRecording(path, types, about)
    if path.suffix == ".mcap":
        return McapRecording(path, [path])
    if path.suffix == ".db3":
        return RosbagsRecording(path, types)
    raise StorageError(
        f"{path} is no recording of ROS 2: give a .mcap or .db3 file, or the folder with {METADATA_FILE}"
    )


class McapRecording:
    """One or several mcap files, one after the other."""

    def __init__(self, path: Path, files: list[Path], about: About | None = None) -> None:
        for file in files:
            _check_magic(file)
        self.path, self._files, self.cut_off = path, files, False
        contents = [_look_into(file) for file in files]
        self.topics = tuple(dict.fromkeys(topic for of_file in contents for topic in of_file.topics))
        self.message_count = sum(of_file.message_count for of_file in contents)
        self.about = about or contents[0].about

    def read(self) -> Iterator[Entry | Attachment | Metadata]:
        self.cut_off = False
        for file in self._files:
            yield from self._read(file)

    def _read(self, file: Path) -> Iterator[Entry | Attachment | Metadata]:
        schemas: dict[int, Schema] = {}
        topics: dict[int, Topic] = {}
        messages = 0
        try:
            for record in _records(file):
                if isinstance(record, Message):
                    messages += 1
                    yield Entry(
                        topics[record.channel_id],
                        record.log_time,
                        record.publish_time,
                        record.sequence,
                        record.data,
                    )
                elif isinstance(record, Schema):
                    schemas[record.id] = record
                elif isinstance(record, Channel):
                    topics[record.id] = _topic(record, schemas.get(record.schema_id))
                elif isinstance(record, Attachment) or (isinstance(record, Metadata) and record.name != ROSBAG2):
                    yield record
        except _CutOff:
            self.cut_off = True  # the recorder was killed: what it wrote until then is good
        except KeyError as error:
            raise StorageError(f"{file} is damaged after {messages} messages: it has no channel {error}") from error
        except OSError as error:
            raise StorageError(f"{file} cannot be read: {error.strerror}") from error
        except _DAMAGE as error:
            raise StorageError(f"{file} is damaged after {messages} messages ({error}): try `mcap recover`") from error


class RosbagsRecording:
    """What rosbags reads. It has no times of publication: those of recording stand for them."""

    def __init__(self, path: Path, types: MessageTypes, about: About | None = None) -> None:
        self.path, self.cut_off, self._types = path, False, types
        self.about = replace(about or About(), version=OLD_VERSION)  # as the topics below are written
        with self._open() as reader:
            self.topics = tuple(dict.fromkeys(map(self._topic, reader.connections)))
            self.message_count = reader.message_count

    def read(self) -> Iterator[Entry]:
        with self._open() as reader:
            topics = {connection.id: self._topic(connection) for connection in reader.connections}
            for connection, time, data in reader.messages():
                yield Entry(topics[connection.id], time, time, 0, data)

    @contextmanager
    def _open(self) -> Iterator[Reader]:
        try:
            with Reader(self.path) as reader:
                yield reader
        except (ReaderError, OSError) as error:
            raise StorageError(f"{self.path} cannot be read: {error}") from error
        except Exception as error:  # rosbags lets through what the libraries say that it reads with, whichever they are
            raise StorageError(
                f"{self.path} is damaged ({type(error).__name__}: {error}): copy it again from where it was recorded"
            ) from error

    def _topic(self, connection: Connection) -> Topic:
        language, definition = "", connection.msgdef.data
        if connection.msgdef.format == MessageDefinitionFormat.NONE:
            definition = self._types.definition(connection.msgtype)
        if definition:
            language = IDL if connection.msgdef.format == MessageDefinitionFormat.IDL else MSG
        assert isinstance(connection.ext, ConnectionExtRosbag2)
        metadata = [("offered_qos_profiles", dump_qos_v8(connection.ext.offered_qos_profiles))]
        if connection.digest:
            metadata.append(("topic_type_hash", connection.digest))
        return Topic(
            connection.topic,
            connection.msgtype,
            language,
            definition,
            connection.ext.serialization_format,
            tuple(metadata),
        )


@dataclass(frozen=True)
class _Contents:
    """What an mcap file has, beside its messages."""

    topics: list[Topic]
    message_count: int
    about: About


def _look_into(file: Path) -> _Contents:
    """From the summary at the end of the file if there is a good one, else by reading it all."""
    try:
        with file.open("rb") as stream:
            reader = make_reader(stream)
            summary = reader.get_summary()
            if summary and summary.statistics and _has_all_topics(summary, summary.statistics.channel_count):
                topics = [
                    _topic(channel, summary.schemas.get(channel.schema_id)) for channel in summary.channels.values()
                ]
                return _Contents(topics, summary.statistics.message_count, _about_of_records(reader.iter_metadata()))
    except (*_DAMAGE, OSError):
        pass  # cut off, most likely: what can be read is read below
    return _scan(file)


def _has_all_topics(summary: Summary, count: int) -> bool:
    """Whether a summary names so many channels, and what their types are: writers may leave out both."""
    # A channel without a type has the schema 0.
    named = all(channel.schema_id in (0, *summary.schemas) for channel in summary.channels.values())
    return named and len(summary.channels) == count


def _scan(file: Path) -> _Contents:
    schemas: dict[int, Schema] = {}
    topics: dict[int, Topic] = {}
    metadata: list[Metadata] = []
    messages = 0
    try:
        for record in _records(file):
            if isinstance(record, Schema):
                schemas[record.id] = record
            elif isinstance(record, Channel):
                topics[record.id] = _topic(record, schemas.get(record.schema_id))
            elif isinstance(record, Metadata):
                metadata.append(record)
            messages += isinstance(record, Message)
    except _CutOff:
        pass
    except _DAMAGE as error:
        raise StorageError(f"{file} is damaged after {messages} messages ({error}): try `mcap recover`") from error
    return _Contents(list(topics.values()), messages, _about_of_records(metadata))


class _CutOff(Exception):
    """A file ends where it should go on."""


class _WholeReads:
    """A file that gives as many bytes as asked for: mcap takes a record that is cut off for a shorter one."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        if len(data) < size:
            raise _CutOff
        return data


def _records(file: Path) -> Iterator[Any]:
    with file.open("rb") as stream:
        yield from StreamReader(cast("IO[bytes]", _WholeReads(stream)), validate_crcs=True).records


def _topic(channel: Channel, schema: Schema | None) -> Topic:
    metadata = tuple(sorted(channel.metadata.items()))
    if schema is None:
        return Topic(channel.topic, "", "", "", channel.message_encoding, metadata)
    definition = schema.data.decode("utf-8")
    return Topic(channel.topic, schema.name, schema.encoding, definition, channel.message_encoding, metadata)


def _about_of_records(records: Iterable[Metadata]) -> About:
    """From the record of rosbag2, the last one of several; the default if there is none that can be understood."""
    found = About()
    for record in records:
        if record.name == ROSBAG2:
            try:
                found = _about(YAML(typ="safe").load(record.metadata["serialized_metadata"]))
            except (KeyError, TypeError, ValueError, AttributeError, YAMLError):
                continue
    return found


def _about(metadata: Mapping[str, Any]) -> About:
    return About(
        NEW_VERSION if int(metadata["version"]) >= NEW_VERSION else OLD_VERSION,
        str(metadata.get("ros_distro") or ""),
        {str(key): str(value) for key, value in (metadata.get("custom_data") or {}).items()},
    )


def _check_magic(file: Path) -> None:
    try:
        with file.open("rb") as stream:
            if stream.read(len(_MAGIC)) != _MAGIC:
                raise StorageError(f"{file} is no mcap file")
    except OSError as error:
        raise StorageError(f"{file} cannot be read: {error.strerror}") from error


def _folder_metadata(folder: Path) -> dict[str, Any]:
    """What metadata.yaml says; and the ``files`` that it names, and whether rosbag2 itself has ``compressed`` them."""
    path = folder / METADATA_FILE
    try:
        metadata = YAML(typ="safe").load(path.read_text("utf-8"))["rosbag2_bagfile_information"]
        # The names were paths from elsewhere once.
        files = [folder / PurePosixPath(name).name for name in metadata["relative_file_paths"]]
        compressed = (metadata.get("compression_mode") or "none").lower() != "none"
        needed = {"storage_identifier": metadata["storage_identifier"], "version": int(metadata["version"])}
        if not files:
            raise StorageError(f"{path} names no files: run `ros2 bag reindex {folder}`")
        return {**metadata, **needed, "files": files, "compressed": compressed}
    except OSError as error:
        raise StorageError(
            f"{path} cannot be read ({error.strerror}): give the .mcap or .db3 file itself, or run `ros2 bag reindex`"
        ) from error
    except (KeyError, TypeError, ValueError, AttributeError, YAMLError) as error:
        raise StorageError(f"{path} is no metadata of rosbag2 ({error}): run `ros2 bag reindex {folder}`") from error
