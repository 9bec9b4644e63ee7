"""Read recordings of rosbag2: MCAP and SQLite files, or folders with them, compressed or not.

The bytes of files and messages decide how they are read, not their names or metadata.yaml.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from io import BytesIO
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

import zstandard

from osprey_ros.errors import StorageError
from osprey_ros.recording.mcap_file import McapFile
from osprey_ros.recording.metadata import METADATA, Metadata, read_metadata
from osprey_ros.recording.sqlite_file import SqliteFile
from osprey_ros.recording.topics import RecordedMessage, StorageFile, Topic
from osprey_ros.recording.types import MessageTypes

ZSTD = b"\x28\xb5\x2f\xfd"  # magic number of compressed files and messages
# By magic number.
_FORMATS: dict[bytes, Callable[[Path], StorageFile]] = {
    b"\x89MCAP0\r\n": McapFile,
    b"SQLite format 3\0": SqliteFile,
}
_OTHERS = {
    b"#ROSBAG V2.0": "is a recording of ROS 1; convert it with `rosbags-convert`",
    b"version https://git-lfs": "is a pointer of Git LFS, not the recording itself; run `git lfs pull`",
    b"\x37\x7f\x06\x82": "is the journal of a .db3 file; give that file, its journal is read with it",
    b"\x37\x7f\x06\x83": "is the journal of a .db3 file; give that file, its journal is read with it",
}
_SUFFIXES = {".mcap": "an MCAP file", ".db3": "an SQLite file"}
_REMEDIES: dict[object, str] = {McapFile: "`mcap recover`", SqliteFile: "`sqlite3 FILE .recover`"}
_LOGGER = logging.getLogger(__name__)


class Recording:
    """An open recording. Use it in a ``with`` statement.

    Args:
        path: A .mcap or .db3 file, or a folder with such files. Without metadata.yaml, a folder may have one file, or
            the numbered files of one recorder.
        types: Definitions for topics that were recorded without one.

    Attributes:
        topics: All topics, with and without messages.
        message_count: Number of messages according to the index of each file.
        custom_data: Notes of the recorder in metadata.yaml.
        notes: What may be missing, one sentence each.

    Raises:
        StorageError: The path is not a recording, or it is damaged.
    """

    def __init__(self, path: Path, types: MessageTypes) -> None:
        self.path, self._count, self._remedy = path, 0, "`mcap recover`"
        if not path.exists():
            raise StorageError(f"{path} does not exist")
        if path.name == METADATA:
            path = path.parent
        self._stack = ExitStack()
        try:
            with self._errors():
                files, metadata, self.notes = _files_of(path)
                self._promised = _promised(path, metadata)
                self._compressed = metadata is not None and metadata.compresses_messages
                self._files = [self._open(file) for file in self._with_content(files)]
        except BaseException:
            self._stack.close()
            raise
        known = metadata if metadata is not None and path.is_dir() else Metadata()
        self._topics = [
            {number: _complete(topic, types, known) for number, topic in file.topics.items()} for file in self._files
        ]
        found = list(chain.from_iterable(topics.values() for topics in self._topics))
        names = {topic.name for topic in found}
        found += [_complete(topic, types, known) for topic in known.topics if topic.name not in names]
        self.topics = tuple(dict.fromkeys(found))
        self.message_count = sum(file.count for file in self._files)
        self.custom_data = dict(known.custom_data)
        self.notes += tuple(chain.from_iterable(file.notes for file in self._files))

    def __enter__(self) -> Recording:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def cut_off(self) -> bool:
        """Whether a file ends in the middle of a record."""
        return any(file.cut_off for file in self._files)

    def read(self) -> Iterator[RecordedMessage]:
        """Yield all messages, file by file: by time, those of a file without an index as they were written.

        Raises:
            StorageError: The recording is damaged.
        """
        self._count = 0
        with self._errors():
            for file, topics in zip(self._files, self._topics, strict=True):
                for number, time, data in file.read():
                    self._count += 1
                    yield RecordedMessage(topics[number], time, self._payload(topics[number], data))

    def missing(self, count: int) -> list[str]:
        """Return a sentence for each number of messages that was written down and differs from ``count``."""
        promised = [*self._promised, (self.message_count, "its index")]
        return [
            f"{self.path} should have {number} messages according to {source}, but {count} could be read"
            for number, source in promised
            if number != count
        ]

    def _with_content(self, files: list[Path]) -> list[Path]:
        """Return the files of a folder without empty ones, which a killed recorder may leave; a single one is kept."""
        empty = [file for file in files if not file.stat().st_size]
        if not empty or len(files) == len(empty):
            return files
        self.notes += (f"{', '.join(str(file) for file in empty)}: no messages, the file is empty",)
        return [file for file in files if file not in empty]

    def _open(self, path: Path) -> StorageFile:
        opened = path
        if _head(path).startswith(ZSTD):
            folder = self._stack.enter_context(TemporaryDirectory(prefix="osprey-"))
            opened = Path(folder, path.name.removesuffix(".zstd"))
            with path.open("rb") as stream, opened.open("wb") as target:
                _decompress(stream, target)
        head = _head(opened)
        kind = next((kind for magic, kind in _FORMATS.items() if head.startswith(magic)), None)
        if kind is None:
            raise StorageError(f"{path} {_refusal(path, head)}")
        self._remedy = _REMEDIES[kind]
        file = kind(opened)
        self._stack.callback(file.close)
        return file

    def _payload(self, topic: Topic, data: bytes) -> bytes:
        """Return a message without its compression."""
        is_cdr = topic.encoding != "cdr" or data[:1] in (b"", b"\0")  # each message in CDR begins with 0
        if is_cdr and not self._compressed:
            return data
        if data.startswith(ZSTD):
            content = BytesIO()
            _decompress(BytesIO(data), content)
            return content.getvalue()
        raise StorageError(
            f"{self.path}: message {self._count} (topic {topic.name}) is neither serialized as CDR nor compressed with "
            f"zstd, it begins with the bytes {data[:4].hex(' ')}; record it without compression or with zstd"
        )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except StorageError:
            raise
        except OSError as error:
            raise StorageError(f"{self.path} cannot be read: {error.strerror or error}") from error
        except Exception as error:  # of the libraries that read the formats
            _LOGGER.debug("reading %s failed", self.path, exc_info=True)
            raise StorageError(
                f"{self.path} is damaged after {self._count} messages; copy it again, or try {self._remedy}"
            ) from error


def _files_of(path: Path) -> tuple[list[Path], Metadata | None, tuple[str, ...]]:
    """Return the files of a recording, the metadata beside them if it can be read, and notes about both."""
    notes: list[str] = []
    metadata = None
    folder = path if path.is_dir() else path.parent
    try:
        metadata = read_metadata(folder)
    except StorageError as error:
        if path.is_dir():
            notes.append(f"{error}; the files of the folder were read without it")
    if not path.is_dir():
        return [path], metadata if metadata and path.name in metadata.files else None, ()
    present = sorted(
        (file for file in path.iterdir() if _is_storage(file)),
        key=lambda file: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", file.name)],
    )
    if metadata is not None and metadata.files:
        files = [_listed(path, name) for name in metadata.files]
        others = ", ".join(file.name for file in present if file not in files)
        if others:
            notes.append(f"{path}: {METADATA} does not list {others}, which was not read; run `ros2 bag reindex`")
        return files, metadata, tuple(notes)
    names = ", ".join(file.name for file in present)
    if not present:
        raise StorageError(f"{path} has no recording: no .mcap or .db3 file and no {METADATA}; give another folder")
    if len({re.sub(r"_\d+(?=\.)", "", file.name) for file in present}) > 1:
        raise StorageError(f"{path} has no {METADATA} and several recordings: {names}; give one of these files")
    return present, metadata, tuple(notes)


def _listed(folder: Path, name: str) -> Path:
    """Return a file that the metadata lists, compressed or not."""
    for candidate in (name, f"{name}.zstd", name.removesuffix(".zstd")):
        if (folder / candidate).is_file():
            return folder / candidate
    raise StorageError(
        f"{folder / name} is missing, but {METADATA} lists it; copy it, or remove {METADATA} to read the other files"
    )


def _is_storage(path: Path) -> bool:
    name = path.name.removesuffix(".zstd")
    return path.is_file() and not name.startswith(".") and Path(name).suffix in _SUFFIXES


def _promised(path: Path, metadata: Metadata | None) -> list[tuple[int, str]]:
    """Return the number of messages according to the metadata of a folder, or beside a single file."""
    if metadata is None:
        return []
    if not path.is_dir():
        # The only file of a recording, whose metadata may be of a version without the counts of files.
        alone = metadata.count if metadata.files == (path.name,) else None
        number = metadata.counts.get(path.name, alone)
    else:
        number = metadata.count
    return [] if number is None else [(number, METADATA)]


def _complete(topic: Topic, types: MessageTypes, metadata: Metadata) -> Topic:
    """Return a topic with its definition, and with what only the metadata knows."""
    listed = next((found for found in metadata.topics if (found.name, found.type) == (topic.name, topic.type)), topic)
    return replace(
        topic,
        qos=topic.qos or listed.qos,
        definition=topic.definition or types.definition(topic.type),
        type_hash=topic.type_hash or listed.type_hash,
    )


def _head(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(32)


def _refusal(path: Path, head: bytes) -> str:
    for magic, reason in _OTHERS.items():
        if head.startswith(magic):
            return reason
    if not head:
        return "is empty; its recorder was killed before it wrote a message, or the copy is incomplete"
    suffix = Path(path.name.removesuffix(".zstd")).suffix
    if suffix in _SUFFIXES:
        return f"is not {_SUFFIXES[suffix]}; copy it again, or give another file"
    return f"is not a recording of ROS 2; give a .mcap or .db3 file, or the folder with {METADATA}"


def _decompress(source: BinaryIO, target: BinaryIO) -> None:
    """Write the content of a compressed file or message. Raises ZstdError if it is damaged or ends early."""
    unpack = zstandard.ZstdDecompressor().decompressobj()
    while data := source.read(1 << 20):
        while data:
            target.write(unpack.decompress(data))
            data = unpack.unused_data
            if data:
                unpack = zstandard.ZstdDecompressor().decompressobj()
    if not unpack.eof:
        raise zstandard.ZstdError("ends in the middle of a frame")
