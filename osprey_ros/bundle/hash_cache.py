"""A cache of file hashes, so that a large bundle is not read again at every start."""

from __future__ import annotations

import hashlib
import json
import os
import time
from contextlib import suppress
from pathlib import Path

from osprey_ros.strict_json import to_json

# A file that is younger than this when it is hashed is not cached: clocks of file systems are too coarse to show that
# it was changed right afterwards.
MIN_AGE_SECONDS = 2.0


class HashCache:
    """SHA-256 hashes of files, kept in a file of the user until the size, time or inode of a file changes.

    Every file is hashed if the cache cannot be read or written.

    Args:
        path: File of the cache; by default ``osprey_ros/hashes.json`` in ``$XDG_CACHE_HOME`` or ``~/.cache``.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path or _default_path()
        self._known = self._load()
        self._changed = False

    def sha256(self, path: Path) -> str:
        """Return the SHA-256 of a file, hexadecimal. Raises OSError if it cannot be read."""
        key = str(path.resolve())
        state = _state(path)
        known = self._known.get(key)
        if known is not None and known[:-1] == state:
            return str(known[-1])
        started = time.time()
        digest = sha256_of(path)
        if _state(path) == state and started - path.stat().st_mtime > MIN_AGE_SECONDS:
            self._known[key] = [*state, digest]
            self._changed = True
        return digest

    def save(self) -> None:
        """Write the cache, without files that no longer exist. Failures are ignored."""
        if self._path is None or not self._changed:
            return
        kept = {key: value for key, value in self._known.items() if os.path.exists(key)}
        partial = self._path.with_name(f"{self._path.name}.{os.getpid()}.partial")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(to_json(kept), encoding="utf-8")
            partial.replace(self._path)
        except OSError:
            with suppress(OSError):
                partial.unlink()
        self._changed = False

    def _load(self) -> dict[str, list[object]]:
        try:
            data = json.loads(self._path.read_text(encoding="utf-8")) if self._path else {}
        except (OSError, ValueError):
            return {}
        return {key: value for key, value in data.items() if isinstance(value, list)} if isinstance(data, dict) else {}


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _state(path: Path) -> list[object]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ino]


def _default_path() -> Path | None:
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # there is no home directory
        return None
    return folder / "osprey_ros" / "hashes.json"
