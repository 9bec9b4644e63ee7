"""The scene in a file, so that a robot that starts again knows what it knew: SQLite, written once a second.

A thread of its own writes, so that a slow disk never holds up a frame. What is committed survives the end of the
process at any moment, by SIGKILL too; after a power failure the file opens, and may lack the latest commits.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from osprey_ros.errors import StorageError
from osprey_ros.scene.association import cosine_distance
from osprey_ros.scene.types import Attribute, Caption, SceneObject, State

if TYPE_CHECKING:
    from osprey_ros.bundle.manifest import Manifest

MIB = 1 << 20
INTERVAL = 1.0  # seconds from one commit to the next
_APPLICATION = 0x4F535052  # says what kind of SQLite file this is: "OSPR"
_VERSION = 1  # of the tables below
_PAGE = 4096  # bytes
_LOG_PAGES = 256  # of the write-ahead log beside the file, before it is worked into it
_ROW_OVERHEAD = 200  # bytes of the numbers and keys of an object, at most
_MOVED = 0.02  # cosine distance from which an appearance is written again: below, it is the noise of one frame

_TABLES = """
CREATE TABLE about (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE objects (
    track_id INTEGER PRIMARY KEY,
    state TEXT NOT NULL, reason TEXT NOT NULL,
    first_seen INTEGER NOT NULL, last_seen INTEGER NOT NULL,
    instance_id INTEGER NOT NULL, box TEXT NOT NULL, area INTEGER NOT NULL,
    position TEXT, size TEXT,
    label TEXT NOT NULL, score REAL NOT NULL,
    category TEXT, description TEXT, confidence REAL, described_at INTEGER, attributes TEXT
);
CREATE TABLE appearances (track_id INTEGER PRIMARY KEY, vector BLOB NOT NULL);
"""
_COLUMNS = (
    "track_id, state, reason, first_seen, last_seen, instance_id, box, area, position, size, label, score, "
    "category, description, confidence, described_at, attributes"
)
_INSERT = f"INSERT OR REPLACE INTO objects ({_COLUMNS}) VALUES ({', '.join('?' * 17)})"


@dataclass(frozen=True)
class StoredScene:
    """Content of a scene file.

    Attributes:
        objects: None of them is visible.
        next_id: Track id of the next new object.
        questions: Identifies the questions of the captions; "" if that is not known.
    """

    objects: Sequence[SceneObject]
    next_id: int
    questions: str = ""


@dataclass(frozen=True)
class _Written:
    row: tuple[Any, ...]
    appearance: np.ndarray


def model_of(manifest: Manifest) -> str:
    """What appearances depend on: the bundle's name, and the files of the engines that make them."""
    files = [manifest.files[manifest.engines[role].file].sha256 for role in ("vision", "mask_extractor")]
    return f"{manifest.name} (engines {hashlib.sha256(''.join(files).encode()).hexdigest()[:12]})"


class SceneStore:
    """A scene file, opened; made where there is none. One process at a time can have it open.

    Args:
        path: of the file; folders that are not there are made. ``~`` is the home folder.
        model: the bundle whose words and appearances these are (`model_of`): a file with objects of another one is
            refused.
        max_bytes: upper bound on the file's size. Objects that would lie beyond are left out; a file that was larger
            shrinks when it is written. Beside it lies a log of 1 MiB or little more.
        interval: least seconds from one commit to the next.

    Raises StorageError.
    """

    def __init__(
        self, path: str | os.PathLike[str], model: str, max_bytes: int = 64 * MIB, interval: float = INTERVAL
    ) -> None:
        try:
            self.path = Path(path).expanduser()
        except RuntimeError as error:
            raise StorageError(
                f"the scene file {path} is in a home folder that there is not ({error}): name another scene_file"
            ) from error
        self._model, self._max_bytes, self._interval = model, max_bytes, interval
        self._written: dict[int, _Written] = {}
        self._next_id, self._questions = 1, ""
        self._problem = ""
        self._waiting: Callable[[], StoredScene] | None = None
        self._busy = self._hurried = self._closed = False
        self._changed = threading.Condition()
        self._database = self._open()
        try:
            self._stored = self._read()
        except BaseException:
            self._database.close()
            raise
        self._thread = threading.Thread(target=self._run, name="osprey-scene-file", daemon=True)
        self._thread.start()

    @property
    def problem(self) -> str:
        """Why the scene could not be written lately, "" where it could."""
        return self._problem

    def load(self) -> StoredScene:
        """What the file held when it was opened."""
        return self._stored

    def save(self, source: Callable[[], StoredScene]) -> None:
        """Write what ``source`` returns when the next commit is due; return at once.

        The thread of the store calls it, at most once for each commit. If not all objects fit the file, the first ones
        are kept: those seen last, from `Scene.persistent_objects`.
        """
        with self._changed:
            self._waiting = source
            self._changed.notify_all()

    def flush(self) -> None:
        """Returns when all that was saved is written, or cannot be (see `problem`)."""
        with self._changed:
            self._hurried = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._waiting is None and not self._busy)
            self._hurried = False

    def close(self) -> None:
        """Writes what was saved and closes the file."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
        with suppress(sqlite3.Error):  # nothing is lost by it: the log is read when the file is opened again
            self._database.close()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting is not None or self._closed)
                if self._waiting is None:
                    return
                source, self._waiting = self._waiting, None
                self._busy = True
            try:
                self._write(source())
                self._shrink()
                self._problem = ""
            except Exception as error:  # whatever it was, the next scene gets its try, and `flush` its end
                self._problem = f"the scene cannot be written to {self.path} ({error}): is the disk full?"
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._hurried or self._closed, self._interval)

    def _write(self, scene: StoredScene) -> None:
        kept = self._that_fit(scene.objects)
        rows, appearances = [], []
        written: dict[int, _Written] = {}
        for known in kept:
            row, before = _row(known), self._written.get(known.track_id)
            if before is None or before.row != row:
                rows.append(row)
            appearance = known.appearance if before is None else before.appearance
            if before is None or _moved(before.appearance, known.appearance):
                appearance = known.appearance
                appearances.append((known.track_id, appearance.astype("<f2").tobytes()))
            written[known.track_id] = _Written(row, appearance)
        gone = [(track_id,) for track_id in self._written.keys() - written.keys()]
        about = {"next_id": str(scene.next_id), "asked": scene.questions}
        if not (rows or appearances or gone) and (scene.next_id, scene.questions) == (self._next_id, self._questions):
            return
        database = self._database
        try:
            database.execute("BEGIN IMMEDIATE")
            for table in ("objects", "appearances"):
                database.executemany(f"DELETE FROM {table} WHERE track_id = ?", gone)
            database.executemany(_INSERT, rows)
            database.executemany("INSERT OR REPLACE INTO appearances VALUES (?, ?)", appearances)
            database.executemany("INSERT OR REPLACE INTO about VALUES (?, ?)", about.items())
            database.execute("COMMIT")
        except sqlite3.Error:
            with suppress(sqlite3.Error):  # where SQLite has rolled back already
                database.execute("ROLLBACK")
            raise
        self._written, self._next_id, self._questions = written, scene.next_id, scene.questions

    def _shrink(self) -> None:
        """Gives back room that is free in a file beyond its bound: such a file was made with a larger one."""
        pages, free = (
            self._database.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count")
        )
        if free and pages * _PAGE > self._max_bytes:
            self._database.execute("VACUUM")
            self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _that_fit(self, objects: Iterable[SceneObject]) -> list[SceneObject]:
        """As many as the bound on the file's size allows, the first ones."""
        room = self._max_bytes - 8 * _PAGE
        kept = []
        for known in objects:
            room -= _size(known)
            if room < 0:
                break
            kept.append(known)
        return kept

    def _open(self) -> sqlite3.Connection:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"the folder of the scene file {self.path} cannot be made ({error.strerror}): name another scene_file"
            ) from error
        database = None
        try:
            # Transactions are begun and committed in words. It is used by this thread, then by the one that writes.
            database = sqlite3.connect(self.path, timeout=0.0, isolation_level=None, check_same_thread=False)
            database.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._prepare(database)
        except BaseException as error:
            if database is not None:
                database.close()
            if isinstance(error, sqlite3.Error):
                raise self._refused(error) from error
            raise
        return database

    def _prepare(self, database: sqlite3.Connection) -> None:
        database.execute(f"PRAGMA page_size = {_PAGE}")
        # The first to touch the file: takes the lock, and fails where it is no SQLite file.
        database.execute("BEGIN EXCLUSIVE")
        kind, version = (
            database.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
        )
        tables = database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if not kind and not version and not tables:
            for statement in _TABLES.split(";\n"):
                database.execute(statement)
            about = {"model": self._model, "next_id": "1", "asked": ""}
            database.executemany("INSERT INTO about VALUES (?, ?)", about.items())
            database.execute(f"PRAGMA application_id = {_APPLICATION}")
            database.execute(f"PRAGMA user_version = {_VERSION}")
        elif kind != _APPLICATION:
            raise StorageError(f"{self.path} is a database, and not a scene file: name another scene_file")
        elif version != _VERSION:
            raise StorageError(
                f"the scene file {self.path} is of version {version}, this osprey_ros writes {_VERSION}: name another "
                "scene_file, or delete this one to begin anew"
            )
        database.execute("COMMIT")
        # NORMAL: no commit waits for the disk, and the file is whole whatever happens.
        for setting in ("journal_mode = WAL", "synchronous = NORMAL", f"wal_autocheckpoint = {_LOG_PAGES}"):
            database.execute(f"PRAGMA {setting}").fetchall()
        database.execute(f"PRAGMA journal_size_limit = {_LOG_PAGES * _PAGE}")

    def _refused(self, error: sqlite3.Error) -> StorageError:
        # The codes of SQLite have names since Python 3.11 only.
        if "locked" in str(error):
            return StorageError(
                f"the scene file {self.path} is in use by another process: give each node a scene_file of its own"
            )
        if "unable to open" in str(error) or "readonly" in str(error):
            return StorageError(f"the scene file {self.path} cannot be written ({error}): name another scene_file")
        if "is full" in str(error):
            return StorageError(
                f"the scene file {self.path} cannot be written, for the disk is full ({error}): make room, or name "
                "another scene_file"
            )
        if "I/O" in str(error):
            return StorageError(
                f"the disk fails to read or write the scene file {self.path} ({error}): see to the disk, or name "
                "another scene_file; the file may be good"
            )
        return StorageError(
            f"the scene file {self.path} is damaged, or no scene file ({error}): move it away to begin anew, or name "
            "another scene_file"
        )

    def _read(self) -> StoredScene:
        database = self._database
        try:
            fault = database.execute("PRAGMA quick_check(1)").fetchone()[0]
            if fault != "ok":
                raise sqlite3.DatabaseError(fault)
            about = dict(database.execute("SELECT key, value FROM about"))
            vectors = dict(database.execute("SELECT track_id, vector FROM appearances"))
            objects = tuple(
                _object(row, vectors[row[0]])
                for row in database.execute(f"SELECT {_COLUMNS} FROM objects ORDER BY track_id")
            )
            next_id, model = int(about["next_id"]), about["model"]
            if not objects:  # as where this file was made, and no engines were loaded then
                database.execute("UPDATE about SET value = ? WHERE key = 'model'", (self._model,))
        except sqlite3.Error as error:
            raise self._refused(error) from error
        except (KeyError, ValueError, TypeError) as error:
            raise self._refused(sqlite3.DatabaseError(f"{type(error).__name__}: {error}")) from error
        if model != self._model and objects:
            raise StorageError(
                f"the scene file {self.path} is of the bundle {model!r}, and this is {self._model!r}: objects look "
                "different to it, so name another scene_file, or delete this one to begin anew"
            )
        self._written = {known.track_id: _Written(_row(known), known.appearance) for known in objects}
        self._next_id, self._questions = next_id, about.get("asked", "")
        return StoredScene(objects, next_id, self._questions)


def _row(known: SceneObject) -> tuple[Any, ...]:
    """The columns of an object. Whether it is visible is not among them: after a start nothing is yet."""
    words = known.caption
    said: tuple[Any, ...] = (None,) * 5
    if words is not None:
        attributes = json.dumps([[a.name, a.value, float(a.confidence)] for a in words.attributes])
        said = (words.category, words.description, float(words.confidence), int(words.described_at), attributes)
    return (
        int(known.track_id),
        known.state.value,
        known.reason,
        int(known.first_seen),
        int(known.last_seen),
        int(known.instance_id),
        json.dumps([int(v) for v in known.box]),
        int(known.area),
        _place(known.position),
        _place(known.size),
        known.label,
        float(known.score),
        *said,
    )


def _place(values: tuple[float, float, float] | None) -> str | None:
    return None if values is None else json.dumps([float(v) for v in values])


def _object(row: tuple[Any, ...], vector: bytes) -> SceneObject:
    words = None
    if row[12] is not None:
        attributes = tuple(Attribute(*values) for values in json.loads(row[16]))
        words = Caption(row[12], row[13], row[14], row[15], attributes)
    return SceneObject(
        track_id=row[0],
        state=State(row[1]),
        reason=row[2],
        caption=words,
        first_seen=row[3],
        last_seen=row[4],
        visible=False,
        instance_id=row[5],
        box=_numbers(row[6], 4),
        area=row[7],
        appearance=np.frombuffer(vector, "<f2").astype(np.float32),
        position=None if row[8] is None else _numbers(row[8], 3),
        size=None if row[9] is None else _numbers(row[9], 3),
        label=row[10],
        score=row[11],
    )


def _numbers(text: str, count: int) -> Any:
    numbers = tuple(json.loads(text))
    if len(numbers) != count:
        raise ValueError(f"{text} is not a list of {count}")
    return numbers


def _size(known: SceneObject) -> int:
    """Bytes of the file that an object takes at most: pages may be half empty."""
    texts = sum(len(value.encode()) for value in _row(known) if isinstance(value, str))
    return 2 * (_ROW_OVERHEAD + texts + 2 * len(known.appearance))


def _moved(before: np.ndarray, after: np.ndarray) -> bool:
    """Return whether an appearance differs from the written one by more than the noise of one frame."""
    return not before.any() or cosine_distance(before, after) > _MOVED
