"""Write MCAP recordings that `ros2 bag` and Foxglove read: one file, or a folder with metadata.yaml.

rosbags writes into a temporary folder beside the output. The result is moved to its place when it is complete.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from rosbags.interfaces import (
    Connection,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from osprey_ros.errors import StorageError
from osprey_ros.recording.topics import RecordedMessage, Topic
from osprey_ros.recording.types import MessageTypes

_VERSION: Literal[8] = 8  # of the metadata; readers of later versions read it, and older ones cannot read the next
_UNKNOWN_HASH = "INVALID"  # as `ros2 topic info` prints it; rosbags refuses an empty one
_FOREVER = QosTime(9_223_372_036, 854_775_807)
# The profile of the node's publishers.
_QOS = Qos(
    QosHistory.KEEP_LAST,
    5,
    QosReliability.RELIABLE,
    QosDurability.VOLATILE,
    _FOREVER,
    _FOREVER,
    QosLiveliness.AUTOMATIC,
    _FOREVER,
    False,
)


class RecordingWriter:
    """Write messages one after another; `close` completes the recording, `abort` removes it.

    Args:
        output: A new file NAME.mcap, or a new folder.
        types: Computes the hashes of types that were recorded without one.
        custom_data: Notes for the metadata.

    Raises:
        StorageError: The output exists or cannot be written.
    """

    def __init__(self, output: Path, types: MessageTypes, custom_data: Mapping[str, str] | None = None) -> None:
        check_output(output)
        self._output, self._types = output, types
        self._connections: dict[Topic, Connection] = {}
        with self._errors():
            output.parent.mkdir(parents=True, exist_ok=True)
            self._folder = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
        name = output.stem if output.suffix == ".mcap" else output.name
        self._writer = Writer(self._folder / name, version=_VERSION, storage_plugin=StoragePlugin.MCAP)
        self._writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        for key, value in (custom_data or {}).items():
            self._writer.set_custom_data(str(key), str(value))
        with self._errors():
            self._writer.open()

    def __enter__(self) -> RecordingWriter:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        """Complete the recording; remove it after an exception."""
        try:
            if error is None:
                self.close()
        except BaseException:
            self.abort()
            raise
        if error is not None:
            self.abort()

    def add_topic(self, topic: Topic) -> None:
        """Add a topic, which may stay without messages. Topics that were added before are ignored."""
        if topic not in self._connections:
            self._connections[topic] = self._writer.add_connection(
                topic.name,
                topic.type,
                msgdef=topic.definition,
                rihs01=topic.type_hash or self._types.type_hash(topic.type, topic.definition) or _UNKNOWN_HASH,
                serialization_format=topic.encoding,
                offered_qos_profiles=topic.qos,
            )

    def write(self, message: RecordedMessage) -> None:
        """Write a message of a topic that was added.

        Raises:
            StorageError: The output cannot be written.
        """
        with self._errors():
            self._writer.write(self._connections[message.topic], message.time, message.data)

    def close(self) -> None:
        """Complete the recording and move it to its place.

        Raises:
            StorageError: The output cannot be written, or something else is in its place by now.
        """
        with self._errors():
            self._writer.close()
            (file,) = self._writer.path.glob("*.mcap")
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
            check_output(self._output)
            (file if self._output.suffix == ".mcap" else self._writer.path).rename(self._output)
            shutil.rmtree(self._folder)

    def abort(self) -> None:
        """Remove everything that was written."""
        with suppress(OSError):  # a full disk refuses the last bytes
            self._writer.abort()
        shutil.rmtree(self._folder, ignore_errors=True)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(f"{self._output} cannot be written: {error.strerror or error}") from error


def new_topic(name: str, type_name: str, types: MessageTypes) -> Topic:
    """Return a topic of a known type with the QoS profile of the node's publishers."""
    return Topic(name, type_name, (_QOS,), definition=types.definition(type_name))


def check_output(output: Path) -> None:
    """Check that a recording can be written there.

    Raises:
        StorageError: Something exists there, or the suffix is that of another format.
    """
    if output.exists():
        raise StorageError(f"{output} exists already; give another name, or remove it")
    if output.suffix in (".db3", ".bag"):
        raise StorageError(f"{output}: recordings are written as MCAP; give NAME.mcap, or a folder NAME")
