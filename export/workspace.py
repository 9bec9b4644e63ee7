"""The working folder of an unfinished build: which parts are complete, and the move of the bundle to its place.

A build writes its parts into `.NAME.partial` beside the bundle: files of the bundle into `bundle/`, others into
`work/`. `record.json` holds the hashes of each complete part, so that an interrupted build continues with the next one.
"""

from __future__ import annotations

import fcntl
import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from tqdm import tqdm

from osprey_ros.bundle.hash_cache import sha256_of
from osprey_ros.errors import BundleError
from osprey_ros.files import write_file
from osprey_ros.strict_json import to_json

log = logging.getLogger(__name__)

# Increase when a part writes other bytes than before: unfinished builds of older versions then start over.
_FORMAT = 5


@dataclass(frozen=True)
class Part:
    """A step of a build.

    Attributes:
        name: name in the record and in log lines.
        make: write the files of the part and return their paths.
        inputs: what the part depends on besides the key of the build.
    """

    name: str
    make: Callable[[], Sequence[Path]]
    inputs: str = ""


def partial_folder(output: Path) -> Path:
    """Return the folder in which a build for `output` works."""
    output = Path(output).resolve()
    return output.with_name(f".{output.name}.partial")


class Workspace:
    """The working folder of one build, locked while the `with` block runs."""

    def __init__(self, output: Path, key: Mapping[str, str]) -> None:
        """Prepare a build for `output`; parts that were made with another `key` are discarded."""
        self.output = output
        self.folder = partial_folder(output)
        self.bundle = self.folder / "bundle"
        self.work = self.folder / "work"
        self._record = self.folder / "record.json"
        self._key = {"format": str(_FORMAT), **key}
        self._parts: dict[str, Any] = {}

    def __enter__(self) -> Workspace:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = (self.folder / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise BundleError(f"another build is writing {self.folder}: wait for it, or stop it") from error
        self._parts = self._recorded_parts()
        recorded = {self.folder / file for part in self._parts.values() for file in part["files"]}
        for folder in (self.bundle, self.work):
            folder.mkdir(exist_ok=True)
            for path in set(folder.iterdir()) - recorded:  # of a part that was interrupted
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        if self._parts:
            log.info("continuing with %s of an unfinished build", tqdm.format_sizeof(self.bytes_present(), "B"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.close()

    def bytes_present(self) -> int:
        """Return the size of the files in the folder."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())

    def make(self, parts: Sequence[Part]) -> None:
        """Make those parts in order that are not complete. A terminal shows a bar with the remaining time."""
        for part in tqdm(parts, desc="build", unit="part", disable=None):
            if self._is_complete(part):
                log.info("%s: kept from before", part.name)
                continue
            started = time.monotonic()
            files = {path.relative_to(self.folder).as_posix(): sha256_of(path) for path in part.make()}
            self._parts[part.name] = {"inputs": part.inputs, "files": files}
            self._write_record()
            log.info("%s: %.1f s", part.name, time.monotonic() - started)

    def install(self) -> None:
        """Move the finished bundle to the output and remove the working folder.

        An older bundle at the output is replaced; its Markdown files are kept.
        """
        old = self.output.with_name(f".{self.output.name}.old")
        for folder in (self.output, old):  # `old` has them if an earlier build was killed between the renames below
            for card in folder.glob("*.md"):
                if not (self.bundle / card.name).exists():
                    shutil.copy2(card, self.bundle / card.name)
        if self.output.exists():
            if old.exists():
                shutil.rmtree(old)
            self.output.rename(old)
        self.bundle.rename(self.output)
        for folder in (old, self.folder):
            if folder.exists():
                shutil.rmtree(folder)

    def _is_complete(self, part: Part) -> bool:
        """Return whether the part was made from the same inputs and its files have their recorded hashes."""
        entry = self._parts.get(part.name)
        if entry is None or entry["inputs"] != part.inputs:
            return False
        for file, digest in entry["files"].items():
            path = self.folder / file
            if not path.is_file() or sha256_of(path) != digest:
                log.warning("%s: made again, %s was changed or removed", part.name, path)
                return False
        return True

    def _recorded_parts(self) -> dict[str, Any]:
        try:
            data = json.loads(self._record.read_text(encoding="utf-8"))
            key, parts = dict(data["key"]), dict(data["parts"])
        except FileNotFoundError:
            return {}
        except (ValueError, KeyError, TypeError):
            log.warning("starting over: %s cannot be read", self._record)
            return {}
        changes = [
            f"{name} was {key.get(name)}, is {value}" for name, value in self._key.items() if key.get(name) != value
        ]
        if changes:
            log.warning("starting over: an unfinished build has other inputs (%s)", ", ".join(changes))
            return {}
        return parts

    def _write_record(self) -> None:
        write_file(self._record, to_json({"key": self._key, "parts": self._parts}, indent=1))
