"""The journal of a run: one line for each finished item, so that a run that was ended goes on where it was."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from osprey_ros.errors import StorageError
from osprey_ros.file_errors import os_reason
from osprey_ros.strict_json import to_json

NAME = "journal.jsonl"
_BEGINNING = b'{"settings"'


class Journal:
    """Keep the outcome of each item in a file of one JSON object a line. Use it in a ``with`` statement.

    One process at a time has the journal of a folder. A line reaches the disk before `add` returns. A line that was
    cut off is removed, and its item counts as unfinished. Of several lines of an item the last one counts.

    Args:
        folder: Output of the run; it is created.
        settings: What the outcomes depend on, plain data. A journal with other settings is refused.

    Raises:
        StorageError: The file cannot be used, has other settings, or another process has it.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.path = folder / NAME
        self._places: dict[str, tuple[int, bool]] = {}  # of each key, the last line and whether the item failed
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a+b")
        except OSError as error:
            raise StorageError(f"{self.path} cannot be written: {os_reason(error)}") from error
        try:
            self._open(json.loads(to_json(settings)))
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def failed(self, key: str) -> bool:
        """Return whether the item was set aside."""
        return self._places[key][1]

    def add(self, key: str, outcome: Mapping[str, Any]) -> None:
        """Add the outcome of an item: its "record", or the "reason" why it was set aside. Raises StorageError."""
        place = self._file.seek(0, os.SEEK_END)
        self._write({"item": key, **outcome})
        self._places[key] = place, "reason" in outcome

    def outcome(self, key: str) -> dict[str, Any]:
        """Return the outcome of a finished item. Raises KeyError for other items."""
        self._file.seek(self._places[key][0])
        found: dict[str, Any] = json.loads(self._file.readline())
        return found

    def _open(self, settings: Any) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StorageError(f"another process writes into {self.path.parent}; wait for its end") from error
        self._file.seek(0)
        first = self._file.readline()
        if not first.endswith(b"\n") and _BEGINNING.startswith(first[: len(_BEGINNING)]):  # empty, or cut off
            self._file.truncate(0)
            self._write({"settings": settings})
            return
        before = self._parsed(first).get("settings")
        if before != settings:
            known = before if isinstance(before, dict) else {}
            changed = [name for name in settings if known.get(name) != settings[name]]
            raise StorageError(
                f"{self.path.parent} was begun with other settings ({', '.join(changed)}); give the same ones or "
                "another --output"
            )
        place = len(first)
        for line in self._file:
            if not line.endswith(b"\n"):
                break
            entry = self._parsed(line)
            self._places[str(entry["item"])] = place, "reason" in entry
            place += len(line)
        self._file.truncate(place)

    def _parsed(self, line: bytes) -> dict[str, Any]:
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise StorageError(f"{self.path} is damaged; move it away to begin again") from error
        if not isinstance(entry, dict) or not entry.keys() & {"settings", "item"}:
            raise StorageError(f"{self.path} is not a journal of osprey annotate; give another --output")
        return entry

    def _write(self, entry: Mapping[str, Any]) -> None:
        try:
            self._file.write(to_json(entry).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise StorageError(f"{self.path} cannot be written: {os_reason(error)}") from error
