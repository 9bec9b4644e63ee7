"""The scene in an SQLite file: open, check, read and write it. `osprey_ros.scene.store` does so in a thread.

What is committed survives the end of the process at any moment, by SIGKILL too. After a power failure the file opens
and may lack the latest commits.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from osprey_ros.errors import StorageError
from osprey_ros.file_errors import LFS_POINTER, is_lfs_pointer, os_reason
from osprey_ros.kinds.back_off import KindProbability
from osprey_ros.scene.change import cosine_distance
from osprey_ros.scene.pose import ObjectPose
from osprey_ros.scene.types import Attribute, Caption, SceneObject, State
from osprey_ros.strict_json import to_json

_APPLICATION = 0x4F535052  # application id of a scene file: "OSPR"
_VERSION = 1  # of the tables below
_PAGE = 4096  # bytes
_LOG_PAGES = 256  # of the write-ahead log, before it is merged into the file
_ROW_OVERHEAD = 200  # bytes of the numbers and keys of an object, at most
_MOVED = 0.02  # cosine distance from which an appearance is written again; less is the noise of one frame

_COLUMNS = {
    "track_id": "INTEGER PRIMARY KEY",
    "state": "TEXT NOT NULL",
    "reason": "TEXT NOT NULL",
    "first_seen": "INTEGER NOT NULL",
    "last_seen": "INTEGER NOT NULL",
    "instance_id": "INTEGER NOT NULL",
    "box": "TEXT NOT NULL",
    "area": "INTEGER NOT NULL",
    "position": "TEXT",
    "size": "TEXT",
    "label": "TEXT NOT NULL",
    "score": "REAL NOT NULL",
    "category": "TEXT",
    "description": "TEXT",
    "confidence": "REAL",
    "described_at": "INTEGER",
    "attributes": "TEXT",
    "raw_confidence": "REAL",
    "kinds": "TEXT",
    "unlike_training": "REAL",
    "pose": "TEXT",
}
_CAPTION = slice(12, 20)  # the columns of a caption
_ADDED = ("raw_confidence", "kinds", "unlike_training", "pose")  # columns that files of 0.1 lack
_TABLES = (
    "about (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    f"objects ({', '.join(f'{name} {kind}' for name, kind in _COLUMNS.items())})",
    "appearances (track_id INTEGER PRIMARY KEY, vector BLOB NOT NULL)",
)
# Names of SQLite's error codes, or what its messages contain before Python 3.11, and what to tell the user.
_REFUSALS = (
    (
        ("SQLITE_BUSY", "SQLITE_LOCKED"),
        ("locked",),
        "the scene file {path} is in use by another process: give each node a scene_file of its own",
    ),
    (
        ("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_PERM"),
        ("unable to open", "readonly"),
        "the scene file {path} cannot be written because {why}: name another scene_file",
    ),
    (
        ("SQLITE_FULL",),
        ("is full",),
        "the scene file {path} cannot be written because the disk is full: free some space, or name another scene_file",
    ),
    (
        ("SQLITE_IOERR",),
        ("I/O",),
        "the disk fails to read or write the scene file {path}: check the disk, or name another scene_file; "
        "the file may be intact",
    ),
)
_DAMAGED = (
    "the scene file {path} is damaged, or not a scene file: move it away to start with an empty scene, or name another "
    "scene_file"
)


@dataclass(frozen=True)
class StoredScene:
    """Content of a scene file.

    Attributes:
        objects: None of them is visible.
        next_id: Track id of the next new object.
        questions: Identifies the questions of the captions; "" if that is not known.
        model: The bundle that the appearances come from; "": the one before.
    """

    objects: Sequence[SceneObject]
    next_id: int
    questions: str = ""
    model: str = ""


@dataclass(frozen=True)
class _Written:
    row: tuple[Any, ...]
    appearance: np.ndarray


class SceneFile:
    """An open scene file, created if it does not exist. One process can open it at a time.

    Args:
        path: Of the file. Missing folders are created.
        model: The bundle that the appearances come from. A file with objects of another one is refused.
        max_bytes: Upper bound on the size of the file.

    Attributes:
        content: What the file held when it was opened, objects by ascending track id.

    Raises StorageError.
    """

    def __init__(self, path: Path, model: str, max_bytes: int) -> None:
        self._path, self._model, self._max_bytes = path, model, max_bytes
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"the folder of the scene file {path} cannot be created ({os_reason(error)}): name another scene_file"
            ) from error
        database = None
        try:
            # Transactions begin and end explicitly. This thread uses it, then the one that writes.
            database = sqlite3.connect(path, timeout=0.0, isolation_level=None, check_same_thread=False)
            self._database = database
            self._prepare()
            self.content = self._read()
        except BaseException as error:
            if database is not None:
                database.close()
            if isinstance(error, UnicodeDecodeError):  # of a text that SQLite took from a damaged page
                raise StorageError(_DAMAGED.format(path=path)) from error
            if isinstance(error, sqlite3.Error):
                raise self.refusal(error) from error
            raise
        self._written = {obj.track_id: _Written(_row(obj), obj.appearance) for obj in self.content.objects}
        self._about = (self.content.next_id, self.content.questions, model)

    def write(self, scene: StoredScene) -> None:
        """Replace the content of the file; write what differs. Raises sqlite3.Error.

        If not all objects fit the file, the first ones are kept. A file that is larger than its bound shrinks.
        """
        rows, appearances = [], []
        written: dict[int, _Written] = {}
        about = (scene.next_id, scene.questions, scene.model or self._about[2])
        comparable = about[2] == self._about[2]
        for obj in self._fitting(scene.objects):
            row, before = _row(obj), self._written.get(obj.track_id)
            appearance = obj.appearance if before is None else before.appearance
            if before is None or before.row != row:
                rows.append(row)
            if before is None or not comparable or _differs(before.appearance, obj.appearance):
                appearance = obj.appearance
                appearances.append((obj.track_id, appearance.astype("<f2").tobytes()))
            written[obj.track_id] = _Written(row, appearance)
        gone = [(track_id,) for track_id in self._written.keys() - written.keys()]
        if rows or appearances or gone or about != self._about:
            self._commit(rows, appearances, gone, about)
            self._written, self._about = written, about
        self._shrink()

    def close(self) -> None:
        """Close the file."""
        with suppress(sqlite3.Error):  # nothing is lost: the log is read when the file is opened again
            self._database.close()

    def _commit(self, rows: list[Any], appearances: list[Any], gone: list[Any], about: tuple[int, str, str]) -> None:
        database = self._database
        try:
            database.execute("BEGIN IMMEDIATE")
            for table in ("objects", "appearances"):
                database.executemany(f"DELETE FROM {table} WHERE track_id = ?", gone)
            names, places = ", ".join(_COLUMNS), ", ".join("?" * len(_COLUMNS))
            database.executemany(f"INSERT OR REPLACE INTO objects ({names}) VALUES ({places})", rows)
            database.executemany("INSERT OR REPLACE INTO appearances VALUES (?, ?)", appearances)
            values = [("next_id", str(about[0])), ("asked", about[1]), ("model", about[2])]
            database.executemany("INSERT OR REPLACE INTO about VALUES (?, ?)", values)
            database.execute("COMMIT")
        except sqlite3.Error:
            with suppress(sqlite3.Error):  # SQLite may have rolled back already
                database.execute("ROLLBACK")
            raise

    def _shrink(self) -> None:
        """Return free pages of a file that was written with a larger bound."""
        if self._pragma("freelist_count") and self._pragma("page_count") * _PAGE > self._max_bytes:
            self._database.execute("VACUUM")
            self._pragma("wal_checkpoint(TRUNCATE)")

    def _fitting(self, objects: Iterable[SceneObject]) -> list[SceneObject]:
        """Return the first objects, as many as fit the bound on the size."""
        room = self._max_bytes - 8 * _PAGE
        kept = []
        for obj in objects:
            room -= _size(obj)
            if room < 0:
                break
            kept.append(obj)
        return kept

    def _pragma(self, text: str) -> Any:
        row = self._database.execute(f"PRAGMA {text}").fetchone()
        return row[0] if row else None

    def _prepare(self) -> None:
        """Lock the file, create the tables in an empty one, and check that it is a scene file."""
        database = self._database
        self._pragma("locking_mode = EXCLUSIVE")
        self._pragma(f"page_size = {_PAGE}")
        database.execute("BEGIN EXCLUSIVE")  # fails if the file is locked or not an SQLite file
        kind, version = self._pragma("application_id"), self._pragma("user_version")
        tables = database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if not kind and not version and not tables:
            for table in _TABLES:
                database.execute(f"CREATE TABLE {table}")
            about = [("model", self._model), ("next_id", "1"), ("asked", "")]
            database.executemany("INSERT INTO about VALUES (?, ?)", about)
            self._pragma(f"application_id = {_APPLICATION}")
            self._pragma(f"user_version = {_VERSION}")
        elif kind != _APPLICATION:
            raise StorageError(f"{self._path} is a database, and not a scene file: name another scene_file")
        elif version != _VERSION:
            raise StorageError(
                f"the scene file {self._path} has version {version}, this osprey_ros writes {_VERSION}: name another "
                "scene_file, or delete this one to start with an empty scene"
            )
        else:
            known = [row[1] for row in database.execute("PRAGMA table_info(objects)")]
            for name in _ADDED:
                if name not in known:
                    database.execute(f"ALTER TABLE objects ADD COLUMN {name} {_COLUMNS[name]}")
        database.execute("COMMIT")
        # NORMAL: commits do not wait for the disk, and the file stays intact.
        for setting in ("journal_mode = WAL", "synchronous = NORMAL", f"wal_autocheckpoint = {_LOG_PAGES}"):
            self._pragma(setting)
        self._pragma(f"journal_size_limit = {_LOG_PAGES * _PAGE}")

    def _read(self) -> StoredScene:
        database = self._database
        fault = self._pragma("quick_check(1)")
        if fault != "ok":
            raise sqlite3.DatabaseError(fault)
        try:
            about = dict(database.execute("SELECT key, value FROM about"))
            vectors = dict(database.execute("SELECT track_id, vector FROM appearances"))
            rows = database.execute(f"SELECT {', '.join(_COLUMNS)} FROM objects ORDER BY track_id")
            objects = tuple(_object(row, vectors[row[0]]) for row in rows)
            next_id, model = int(about["next_id"]), about["model"]
        except (KeyError, ValueError, TypeError) as error:
            raise sqlite3.DatabaseError(f"{type(error).__name__}: {error}") from error
        if not objects:  # the bundle may have been unknown when the file was created
            database.execute("UPDATE about SET value = ? WHERE key = 'model'", (self._model,))
        elif model != self._model:
            raise StorageError(
                f"the scene file {self._path} is of the bundle {model!r}, and this is {self._model!r}, which has other "
                "mask tokens: name another scene_file, or delete this one to start with an empty scene"
            )
        return StoredScene(objects, next_id, about.get("asked", ""))

    def refusal(self, error: sqlite3.Error) -> StorageError:
        """Return the cause of an error of SQLite in plain words, with its remedy."""
        name = getattr(error, "sqlite_errorname", None) or ""  # since Python 3.11, for errors of SQLite itself
        for names, phrases, text in _REFUSALS:
            if name.startswith(names) or (not name and any(phrase in str(error) for phrase in phrases)):
                return StorageError(text.format(path=self._path, why=_why_not_writable(self._path)))
        with suppress(OSError):
            if is_lfs_pointer(self._path):
                return StorageError(f"the scene file {self._path} {LFS_POINTER}")
        return StorageError(_DAMAGED.format(path=self._path))


def _why_not_writable(path: Path) -> str:
    if path.is_dir():
        return "it is a folder"
    if path.exists() and not os.access(path, os.R_OK | os.W_OK):
        return "permission is denied (chmod or chown it)"
    if not os.access(path.parent, os.R_OK | os.W_OK | os.X_OK):
        return f"the folder {path.parent} is not writable"
    return "SQLite cannot open or change it"


def _row(obj: SceneObject) -> tuple[Any, ...]:
    """Return the values of _COLUMNS. Visibility is not among them: no object is visible after a start."""
    caption: tuple[Any, ...] = (None,) * 8
    if obj.caption is not None:
        attributes = to_json([[a.name, a.value, float(a.confidence)] for a in obj.caption.attributes])
        said = obj.caption
        caption = (said.category, said.description, float(said.confidence), int(said.described_at), attributes)
        kinds = to_json([[kind.name, float(kind.probability)] for kind in said.kinds])
        caption = (*caption, float(said.raw_confidence), kinds, float(said.unlike_training))
    return (
        int(obj.track_id),
        obj.state.value,
        obj.reason,
        int(obj.first_seen),
        int(obj.last_seen),
        int(obj.instance_id),
        to_json([int(v) for v in obj.box]),
        int(obj.area),
        obj.position and to_json([float(v) for v in obj.position]),
        obj.size and to_json([float(v) for v in obj.size]),
        obj.label,
        float(obj.score),
        *caption,
        obj.pose and to_json(asdict(obj.pose)),
    )


def _object(row: tuple[Any, ...], vector: bytes) -> SceneObject:
    """Return the object of a row. Raises ValueError or TypeError for invalid values."""
    values = dict(zip(_COLUMNS, row, strict=True))
    category, description, confidence, described_at, attributes, raw, kinds, unlike = (
        values.pop(name) for name in list(_COLUMNS)[_CAPTION]
    )
    caption = None
    if category is not None:
        parts = tuple(Attribute(*part) for part in json.loads(attributes))
        reason = values["reason"] if values["state"] == State.FRESH.value else ""
        chain = tuple(KindProbability(*kind) for kind in json.loads(kinds or "[]"))
        caption = Caption(
            category, description, confidence, described_at, parts, raw or 0.0, reason, chain, unlike or 0.0
        )
    values["state"] = State(values["state"])
    for name, count in (("box", 4), ("position", 3), ("size", 3)):
        values[name] = _numbers(values[name], count)
    values["pose"] = _pose(values["pose"])
    appearance = np.frombuffer(vector, "<f2").astype(np.float32)
    return SceneObject(caption=caption, visible=False, appearance=appearance, **values)


def _pose(text: str | None) -> ObjectPose | None:
    if text is None:
        return None
    values = json.loads(text)
    for name in ("low", "high", "size", "variances", "eye"):
        values[name] = _numbers(to_json(values[name]), 3)
    return ObjectPose(**values)


def _numbers(text: str | None, count: int) -> Any:
    if text is None:
        return None
    numbers = tuple(json.loads(text))
    if len(numbers) != count:
        raise ValueError(f"{text} is not a list of {count}")
    return numbers


def _size(obj: SceneObject) -> int:
    """Return an upper bound on the bytes of an object in the file: pages may be half empty."""
    texts = sum(len(value.encode()) for value in _row(obj) if isinstance(value, str))
    return 2 * (_ROW_OVERHEAD + texts + 2 * len(obj.appearance))


def _differs(before: np.ndarray, after: np.ndarray) -> bool:
    """Return whether an appearance differs from the written one by more than the noise of one frame."""
    return not before.any() or cosine_distance(before, after) > _MOVED
