"""The folder of a build that is under way: what of it is whole, so that a killed build goes on where it stood.

A build is a list of units, each of which writes a few files. They lie in `.NAME.partial` beside the bundle to be: those
of the bundle in `bundle/`, what is needed on the way in `work/`. A unit's files count when the journal names them, and
the journal is written, in one atomic step, after they are safe on disk. So a build may be killed at any moment.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Any

from export.progress import Progress, Step
from osprey_ros.bundle import MANIFEST, FileEntry, Manifest, sha256_of

BUNDLE = "bundle"
WORK = "work"

_JOURNAL = "journal.json"
_LOCK = "lock"
# To be raised when units write other bytes than before: what an older version has left is then not gone on with.
_FORMAT = 3


class JournalError(Exception):
    """A build that cannot begin or go on; the message says why and what to do."""


@dataclass(frozen=True)
class Unit:
    """A part of a build that is made as a whole.

    name: what the journal calls it. title: what its progress is called; neighbours of one title share a bar.
    files: what it writes, "bundle/..." or "work/..." from the folder of the build; "*" stands for what is not known
    before. size: how far `make` advances the step that it gets, in bytes. inputs: what the unit depends on beside the
    key of the build. vouches: the unit is about all others, and made anew when one of them is.
    """

    name: str
    title: str
    files: tuple[str, ...]
    make: Callable[[Step], None]
    size: int = 0
    inputs: str = ""
    vouches: bool = False


class Workspace:
    """The folder of a build for `output`. To be used in a `with` statement: it is one build's alone meanwhile."""

    def __init__(self, output: Path, key: Mapping[str, str], progress: Progress) -> None:
        """key: what decides which bytes are written; what was begun with another key is not gone on with."""
        self.output = output
        self.folder = self.folder_for(output)
        self.bundle = self.folder / BUNDLE
        self.work = self.folder / WORK
        self._key = {"format": str(_FORMAT), **key}
        self._progress = progress
        self._units: dict[str, Any] = {}
        self._sealed = ""

    @staticmethod
    def folder_for(output: Path) -> Path:
        """Where a build for `output` works."""
        return output.with_name(f".{output.name}.partial")

    def __enter__(self) -> Workspace:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = (self.folder / _LOCK).open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise JournalError(f"another build is writing {self.folder}: wait for it, or stop it") from error
        self._read()
        for folder in (self.bundle, self.work):
            folder.mkdir(exist_ok=True)
        self._remove_unknown()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.close()

    @property
    def resumed(self) -> bool:
        """Whether there is anything of an earlier build to go on with."""
        return bool(self._units)

    def whole(self, unit: Unit) -> bool:
        """Whether the unit was made, from the same inputs, and its files have their sizes still."""
        entry = self._units.get(unit.name)
        if entry is None or entry["inputs"] != unit.inputs:
            return False
        sizes = {self.folder / file: found["bytes"] for file, found in entry["files"].items()}
        return all(path.is_file() and path.stat().st_size == size for path, size in sizes.items())

    def bytes_kept(self) -> int:
        """Size of what an earlier build has left and this one keeps."""
        return sum(int(entry["bytes"]) for unit in self._units.values() for entry in unit["files"].values())

    def make(self, units: Sequence[Unit]) -> None:
        """Makes those units that are not whole, in their order."""
        if not all(self.whole(unit) for unit in units if not unit.vouches):
            for unit in units:
                if unit.vouches and self._units.pop(unit.name, None) is not None:
                    self._write()
        for title, group in groupby(units, key=lambda unit: unit.title):
            together = list(group)
            missing = [unit for unit in together if not self.whole(unit)]
            if not missing:
                self._progress.say(f"{title}: kept from before")
                continue
            total = sum(unit.size for unit in together)
            done = total - sum(unit.size for unit in missing)
            with self._progress.step(title, total, "B", done) as step:
                for unit in missing:
                    self._make(unit, step)

    def seal(self, manifest: Manifest) -> None:
        """Moves the finished bundle to its place; an older one is replaced, cards (Markdown) of it are kept.

        Raises JournalError if a file of the bundle is not what its unit has written: that unit is then made again by
        the next build.
        """
        for name, unit in list(self._units.items()):
            for file, entry in unit["files"].items():
                found = manifest.files.get(Path(file).name) if file.startswith(f"{BUNDLE}/") else None
                if found is not None and found != FileEntry(**entry):
                    del self._units[name]
                    self._write()
                    raise JournalError(
                        f"{self.folder / file} was changed after it was written: check the disk and start again"
                    )
        self._sealed = sha256_of(self.bundle / MANIFEST)
        self._write()
        old = self._old
        if self.output.exists():
            if old.exists():
                shutil.rmtree(old)
            # From here on there is no bundle at `output`, but at no time one that is not whole.
            self.output.rename(old)
        if old.exists():
            for card in old.glob("*.md"):
                if not (self.bundle / card.name).exists():
                    shutil.copy2(card, self.bundle / card.name)
        self.bundle.rename(self.output)
        self.remove()

    def finished(self) -> bool:
        """Whether an earlier build came to its end but for removing its folder."""
        manifest = self.output / MANIFEST
        return bool(self._sealed) and manifest.is_file() and sha256_of(manifest) == self._sealed

    def remove(self) -> None:
        """Removes the folder with all that is in it, and what may be left of the bundle that was replaced."""
        if self._old.exists():
            shutil.rmtree(self._old)
        shutil.rmtree(self.folder)

    @property
    def _old(self) -> Path:
        """Where an older bundle lies while it is replaced."""
        return self.output.with_name(f".{self.output.name}.old")

    def _make(self, unit: Unit, step: Step) -> None:
        if self._units.pop(unit.name, None) is not None:
            self._write()
        unit.make(step)
        files = {}
        for path in (path for pattern in unit.files for path in sorted(self.folder.glob(pattern))):
            _to_disk(path)
            name = path.relative_to(self.folder).as_posix()
            files[name] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
        for folder in (self.bundle, self.work):
            _folder_to_disk(folder)
        self._units[unit.name] = {"inputs": unit.inputs, "files": files}
        self._write()

    def _read(self) -> None:
        path = self.folder / _JOURNAL
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            key, units, sealed = dict(data["key"]), dict(data["units"]), str(data["sealed"])
        except FileNotFoundError:
            self._clear()
            return
        except (ValueError, KeyError, TypeError):
            self._progress.say(f"starting anew: {path} cannot be read")
            self._clear()
            return
        if key != self._key:
            different = [name for name in self._key if key.get(name) != self._key[name]]
            changes = ", ".join(f"{name} was {key.get(name)}, is {self._key[name]}" for name in different)
            self._progress.say(f"starting anew: an unfinished build has other inputs ({changes or 'options'})")
            self._clear()
            return
        self._units, self._sealed = units, sealed

    def _clear(self) -> None:
        self._units = {}
        for folder in (self.bundle, self.work):
            if folder.exists():
                shutil.rmtree(folder)
        self._write()

    def _remove_unknown(self) -> None:
        """Removes what was being written when an earlier build was killed."""
        known = {file for unit in self._units.values() for file in unit["files"]}
        for folder in (self.bundle, self.work):
            for path in folder.iterdir():
                if path.relative_to(self.folder).as_posix() not in known:
                    path.unlink()

    def _write(self) -> None:
        data = {"key": self._key, "units": self._units, "sealed": self._sealed}
        path = self.folder / _JOURNAL
        temporary = path.with_suffix(".new")
        temporary.write_text(json.dumps(data, indent=1), encoding="utf-8")
        _to_disk(temporary)
        temporary.replace(path)
        _folder_to_disk(self.folder)


def _to_disk(path: Path) -> None:
    """Waits until the file is on the disk; its pages in memory may go then."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _folder_to_disk(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
