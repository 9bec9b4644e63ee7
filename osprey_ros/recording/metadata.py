"""Read the file metadata.yaml of a rosbag2 folder.

Files and messages say themselves what they are. So only their names, the counts, and what the files do not know are
taken from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from osprey_ros.errors import StorageError
from osprey_ros.recording.sqlite_file import profiles_of
from osprey_ros.recording.topics import Topic

METADATA = "metadata.yaml"


@dataclass(frozen=True)
class Metadata:
    """Content of metadata.yaml.

    Attributes:
        files: Names of the files in the folder, in the order of their messages.
        count: Number of messages in all files, None if it is not recorded.
        counts: Number of messages by the name of the file. Recorders up to Galactic did not record it.
        topics: Topics, without their definitions.
        custom_data: Notes of the recorder.
        compresses_messages: Whether each message was compressed by itself.
    """

    files: tuple[str, ...] = ()
    count: int | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    topics: tuple[Topic, ...] = ()
    custom_data: Mapping[str, str] = field(default_factory=dict)
    compresses_messages: bool = False


def read_metadata(folder: Path) -> Metadata | None:
    """Return the metadata of a folder, None if it has no metadata.yaml.

    Raises:
        StorageError: The file cannot be read.
    """
    path = folder / METADATA
    if not path.is_file():
        return None
    try:
        content = YAML(typ="safe").load(path.read_text("utf-8"))
        return _metadata(content["rosbag2_bagfile_information"])
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror or error}") from error
    except (YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise StorageError(
            f"{path} is not the metadata of a recording; remove it, or write it again with `ros2 bag reindex`"
        ) from error


def _metadata(content: Mapping[str, Any]) -> Metadata:
    # Up to version 3, paths began with the name of the folder.
    files = tuple(PurePath(path).name for path in content["relative_file_paths"])
    counts = {PurePath(entry["path"]).name: int(entry["message_count"]) for entry in content.get("files") or ()}
    topics = tuple(_topic(entry["topic_metadata"]) for entry in content.get("topics_with_message_count") or ())
    count = content.get("message_count")
    custom = {str(key): str(value) for key, value in (content.get("custom_data") or {}).items()}
    by_message = str(content.get("compression_mode") or "").lower() == "message"
    return Metadata(files, None if count is None else int(count), counts, topics, custom, by_message)


def _topic(content: Mapping[str, Any]) -> Topic:
    qos = profiles_of(content.get("offered_qos_profiles"))
    encoding, type_hash = content.get("serialization_format", "cdr"), content.get("type_description_hash", "")
    return Topic(content["name"], content["type"], qos, encoding, type_hash=type_hash)
