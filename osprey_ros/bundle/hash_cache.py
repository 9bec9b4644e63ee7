"""A cache of file hashes, so that a large bundle is not read again at every start."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from osprey_ros.bundle.places import cache_folder

# A file that is younger than this when it is hashed is not cached: clocks of file systems are too coarse to show that
# it was changed right afterwards.
MIN_AGE_SECONDS = 2.0
_PIECE = 1 << 20  # bytes read at a time


def sha256_of(path: Path, on_read: Callable[[int], object] | None = None) -> str:
    """Return the SHA-256 of a file, hexadecimal. ``on_read`` is called with the size of each piece that was read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
            if on_read is not None:
                on_read(len(piece))
    return digest.hexdigest()


def cached_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal. It is read again only if its size, time or inode has changed.

    The cache has one small file for each hash, in ``osprey_ros/hashes`` of ``$XDG_CACHE_HOME`` or ``~/.cache``. If it
    cannot be used, the file is read. Raises OSError if the file cannot be read.
    """
    started, state = time.time(), _state(path)
    try:
        folder = cache_folder() / "hashes"
    except RuntimeError:  # there is no home directory
        return sha256_of(path)
    entry = folder / hashlib.sha256(state.encode("utf-8", "surrogateescape")).hexdigest()
    with suppress(OSError, ValueError):
        if len(known := entry.read_text(encoding="ascii")) == len(entry.name):
            return known
    digest = sha256_of(path)
    if _state(path) == state and started - path.stat().st_mtime > MIN_AGE_SECONDS:
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            partial = entry.with_name(f"{entry.name}.{os.getpid()}.partial")
            partial.write_text(digest, encoding="ascii")
            partial.replace(entry)
    return digest


def _state(path: Path) -> str:
    stat = path.stat()
    return f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns} {stat.st_ino}"
