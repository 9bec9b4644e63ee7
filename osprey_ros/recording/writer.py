"""An mcap recording that `ros2 bag` and Foxglove read: one file, or a folder with metadata.yaml.

It is written beside its place and moved there when it is whole.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import StringIO
from pathlib import Path
from typing import Any

from mcap.records import Attachment, Metadata
from mcap.writer import Writer
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2.metadata import dump_qos_v8, dump_qos_v9
from ruamel.yaml import YAML

from osprey_ros.errors import StorageError
from osprey_ros.recording.reader import METADATA_FILE, NEW_VERSION, ROSBAG2, About, Entry, Topic
from osprey_ros.recording.types import MSG, MessageTypes

_FOREVER = QosTime(9_223_372_036, 854_775_807)
# As the node offers it.
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


class BagWriter:
    """Writes messages as they come; `close` puts the recording in its place, `abort` leaves no trace.

    Args:
        output: a file NAME.mcap, or a folder to be made. Must not exist.
        about: what the metadata says; the QoS profiles of all topics are written as its version has them.
    """

    def __init__(self, output: Path, about: About) -> None:
        check_output(output)
        self._output, self._about = output, about
        with self._errors():
            output.parent.mkdir(parents=True, exist_ok=True)
            self._folder = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
            self._file = self._folder / (output.name if output.suffix == ".mcap" else f"{output.name}_0.mcap")
            self._stream = self._file.open("wb")
        self._writer = Writer(self._stream)
        self._writer.start(profile="ros2", library="osprey_ros")
        self._schemas: dict[tuple[str, str, str], int] = {}
        self._channels: dict[Topic, int] = {}
        self._counts: Counter[Topic] = Counter()
        self._first = self._last = 0

    def add_topic(self, topic: Topic) -> None:
        """Makes a topic known, whether it will have messages or not."""
        if topic in self._channels:
            return
        schema = 0
        if topic.type:
            key = (topic.type, topic.language, topic.definition)
            if key not in self._schemas:
                self._schemas[key] = self._writer.register_schema(
                    topic.type, topic.language, topic.definition.encode("utf-8")
                )
            schema = self._schemas[key]
        self._channels[topic] = self._writer.register_channel(topic.name, topic.encoding, schema, dict(topic.metadata))

    def write(self, item: Entry | Attachment | Metadata) -> None:
        """Writes a message of a topic that was added, or what else an mcap file holds. Raises StorageError."""
        with self._errors():
            if isinstance(item, Attachment):
                self._writer.add_attachment(item.create_time, item.log_time, item.name, item.media_type, item.data)
            elif isinstance(item, Metadata):
                self._writer.add_metadata(item.name, item.metadata)
            else:
                self._writer.add_message(
                    self._channels[item.topic], item.log_time, item.data, item.publish_time, item.sequence
                )
                self._first = min(self._first, item.log_time) if self._counts else item.log_time
                self._last = max(self._last, item.log_time)
                self._counts[item.topic] += 1

    def close(self) -> None:
        """Completes the recording and moves it to its place. Raises StorageError."""
        about = self._metadata()
        with self._errors():
            self._writer.add_metadata(ROSBAG2, {"serialized_metadata": _yaml(about)})
            self._writer.finish()
            self._stream.flush()
            os.fsync(self._stream.fileno())
            self._stream.close()
            check_output(self._output)  # something may have come there since
            if self._output.suffix == ".mcap":
                self._file.rename(self._output)
                self._folder.rmdir()
            else:
                (self._folder / METADATA_FILE).write_text(_yaml({"rosbag2_bagfile_information": about}), "utf-8")
                self._folder.chmod(0o777 & ~_umask())  # folders of tempfile are for their owner alone
                self._folder.rename(self._output)

    def abort(self) -> None:
        """Removes what was written."""
        with suppress(OSError):  # a full disk refuses the last bytes
            self._stream.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(f"{self._output} cannot be written: {error.strerror or error}") from error

    def _metadata(self) -> dict[str, Any]:
        count = sum(self._counts.values())
        times = {
            "starting_time": {"nanoseconds_since_epoch": self._first},
            "duration": {"nanoseconds": self._last - self._first},
            "message_count": count,
        }
        return {
            "version": self._about.version,
            "storage_identifier": "mcap",
            **times,
            "topics_with_message_count": [
                {"topic_metadata": self._topic_metadata(topic), "message_count": self._counts[topic]}
                for topic in self._channels
            ],
            "compression_format": "",
            "compression_mode": "",
            "relative_file_paths": [self._file.name],
            "files": [{"path": self._file.name, **times}],
            "custom_data": dict(self._about.custom_data),
            "ros_distro": self._about.ros_distro,
        }

    def _topic_metadata(self, topic: Topic) -> dict[str, Any]:
        metadata = dict(topic.metadata)
        qos: Any = metadata.get("offered_qos_profiles", "")
        if self._about.version >= NEW_VERSION:
            qos = YAML(typ="safe").load(qos) or []
        return {
            "name": topic.name,
            "type": topic.type,
            "serialization_format": topic.encoding,
            "offered_qos_profiles": qos,
            "type_description_hash": metadata.get("topic_type_hash", ""),
        }


def new_topic(name: str, type_name: str, types: MessageTypes, version: int) -> Topic:
    """A topic that the recording did not have, with the QoS of the node's publishers."""
    qos = _yaml(dump_qos_v9([_QOS])) if version >= NEW_VERSION else dump_qos_v8([_QOS])
    metadata = (("offered_qos_profiles", qos), ("topic_type_hash", types.type_hash(type_name)))
    return Topic(name, type_name, MSG, types.definition(type_name), metadata=metadata)


def check_output(output: Path) -> None:
    """Raises StorageError for a place where nothing can be put, or where something is."""
    if output.exists():
        raise StorageError(f"{output} exists already: give another name, or remove it")
    if output.suffix in (".db3", ".bag"):
        raise StorageError(f"{output}: recordings are written as mcap: give NAME.mcap, or a folder NAME")


def _yaml(data: Any) -> str:
    yaml = YAML(typ="safe")
    yaml.default_flow_style = False
    yaml.width = 1 << 16
    yaml.representer.ignore_aliases = lambda _: True  # times that are said twice are written twice
    text = StringIO()
    yaml.dump(data, text)
    return text.getvalue()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
