"""Read the SQLite files (.db3) of rosbag2, with the journal that a killed recorder leaves behind."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rosbags.interfaces import Qos
from rosbags.rosbag2.errors import ReaderError
from rosbags.rosbag2.metadata import parse_qos

from osprey_ros.errors import StorageError
from osprey_ros.recording.topics import Topic

_JOURNAL_SUFFIXES = ("-wal", "-journal")


class SqliteFile:
    """One open .db3 file. Nothing is written, and no file is created beside it.

    Attributes:
        topics: As of `StorageFile`; definitions are "" in files of Humble and older.
        count: Number of messages in the table.
        notes: Whether a journal exists, which a recorder removes when it ends.
        cut_off: False.

    Raises:
        StorageError: The file is not of rosbag2.
        sqlite3.DatabaseError: The file is damaged.
    """

    cut_off = False

    def __init__(self, path: Path) -> None:
        self.path = path
        wal, rollback = (path.with_name(path.name + suffix) for suffix in _JOURNAL_SUFFIXES)
        self.notes: tuple[str, ...] = ()
        address = f"file:{quote(str(path))}?mode=ro"
        # Without the journal, a file that nobody writes: no locks, and no files beside it.
        address += "&vfs=unix-none" if _has_content(wal) else "&immutable=1"
        self._database = sqlite3.connect(address, uri=True)
        try:
            if _has_content(wal):
                # Without this lock, SQLite would create a shared index of the journal beside the file.
                self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
                self.notes = (
                    f"{path.name} has a journal ({wal.name}), so its recorder was killed or is still running; the "
                    "messages in the journal were read as well, later ones may be missing",
                )
            elif _has_content(rollback):
                self.notes = (
                    f"{path.name} has an unfinished change ({rollback.name}), so its recorder was killed; the latest "
                    f"messages may be missing or damaged; run `sqlite3 {path.name} 'PRAGMA user_version'` on a copy "
                    "of both files to undo the change",
                )
            self._open()
        except BaseException:
            self._database.close()
            raise

    def _open(self) -> None:
        tables = {name for (name,) in self._query("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not {"messages", "topics"} <= tables:
            raise StorageError(
                f"{self.path} is an SQLite file without the tables of rosbag2 (messages and topics); give a recording"
            )
        definitions = {}
        if "message_definitions" in tables:
            query = "SELECT topic_type, encoded_message_definition FROM message_definitions ORDER BY id DESC"
            definitions = dict(self._query(query))
        columns = {row[1] for row in self._query("PRAGMA table_info(topics)")}
        wanted = ("id", "name", "type", "serialization_format", "offered_qos_profiles", "type_description_hash")
        # Older releases recorded neither QoS profiles nor hashes.
        selected = ", ".join(column if column in columns else "''" for column in wanted)
        self.topics = {
            number: Topic(name, kind, profiles_of(qos), encoding, definitions.get(kind, ""), type_hash)
            for number, name, kind, encoding, qos, type_hash in self._query(
                f"SELECT {selected} FROM topics ORDER BY id"
            )
        }
        ((self.count,),) = self._query("SELECT count(*) FROM messages")

    def _query(self, text: str) -> list[Any]:
        return self._database.execute(text).fetchall()

    def read(self) -> Iterator[tuple[int, int, bytes]]:
        """Yield topic number, time in nanoseconds and data of all messages by time.

        Raises:
            sqlite3.DatabaseError: The file is damaged.
        """
        for number, time, data in self._database.execute(
            "SELECT topic_id, timestamp, data FROM messages ORDER BY timestamp"
        ):
            if number in self.topics:
                yield number, time, data

    def close(self) -> None:
        """Close the file."""
        self._database.close()


def profiles_of(text: Any) -> tuple[Qos, ...]:
    """Return recorded QoS profiles; none if they are damaged, because messages can be read without them."""
    try:
        return tuple(parse_qos(text)) if text else ()
    except (ReaderError, AttributeError, KeyError, TypeError, ValueError):
        return ()


def _has_content(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0
