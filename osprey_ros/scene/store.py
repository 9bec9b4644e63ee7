"""Keep the scene in a file, so that a robot that starts again knows its objects.

A thread of its own writes, so that a slow disk never delays a frame.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

from osprey_ros.bundle.manifest import Manifest
from osprey_ros.errors import StorageError
from osprey_ros.file_errors import os_reason
from osprey_ros.scene.scene_file import SceneFile, StoredScene

MIB = 1 << 20
INTERVAL = 1.0  # seconds from one commit to the next


def model_of(manifest: Manifest) -> str:
    """Return what appearances depend on: the name of the bundle, and a hash of the engines that compute them."""
    return f"{manifest.name} (engines {token_engines(manifest)})"


def token_engines(manifest: Manifest) -> str:
    """Return a hash of the engines that compute the mask tokens. Tokens of one hash can be compared."""
    files = [manifest.files[manifest.engines[role].file].sha256 for role in ("vision", "mask_extractor")]
    return hashlib.sha256("".join(files).encode()).hexdigest()[:12]


class SceneStore:
    """An open scene file and the thread that writes it.

    Args:
        path: Of the file; ``~`` is the home folder. File and folders are created if they do not exist. One process can
            open it at a time.
        model: From `model_of`. A file with objects of another one is refused.
        max_bytes: Upper bound on the size of the file. Objects that do not fit are left out; a larger file shrinks.
            Beside it is a log of little more than 1 MiB.
        interval: Least seconds from one commit to the next.

    Raises StorageError.
    """

    def __init__(
        self, path: str | os.PathLike[str], model: str, max_bytes: int = 64 * MIB, interval: float = INTERVAL
    ) -> None:
        try:
            self.path = Path(path).expanduser()
        except RuntimeError as error:
            raise StorageError(
                f"the home folder in the scene file {path} does not exist ({error}): name another scene_file"
            ) from error
        self._interval = interval
        self._problem = ""
        self._pending: Callable[[], StoredScene] | None = None
        self._busy = self._hurried = self._closed = False
        self._changed = threading.Condition()
        self._file = SceneFile(self.path, model, max_bytes)
        self._thread = threading.Thread(target=self._run, name="osprey-scene-file", daemon=True)
        self._thread.start()

    @property
    def problem(self) -> str:
        """Why the latest commit failed, "" if it did not."""
        return self._problem

    def load(self) -> StoredScene:
        """Return what the file held when it was opened."""
        return self._file.content

    def save(self, source: Callable[[], StoredScene]) -> None:
        """Write what ``source`` returns when the next commit is due; return at once.

        The thread of the store calls it, at most once for each commit. If not all objects fit the file, the first ones
        are kept: those seen last, from `Scene.persistent_objects`.
        """
        with self._changed:
            self._pending = source
            self._changed.notify_all()

    def flush(self) -> None:
        """Return when everything is written, or cannot be written (see `problem`)."""
        with self._changed:
            self._hurried = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._pending is None and not self._busy)
            self._hurried = False

    def close(self) -> None:
        """Write everything and close the file."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
        self._file.close()

    def _reason(self, error: Exception) -> str:
        """Return why the scene was not written, in plain words."""
        if isinstance(error, sqlite3.Error):
            reason = str(self._file.refusal(error))
        else:
            reason = os_reason(error) if isinstance(error, OSError) else str(error)
        return f"the scene cannot be written to {self.path}: {reason}"

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending is not None or self._closed)
                if self._pending is None:
                    return
                source, self._pending = self._pending, None
                self._busy = True
            try:
                self._file.write(source())
                self._problem = ""
            except Exception as error:  # the next scene is tried again, and `flush` must return
                self._problem = self._reason(error)
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._hurried or self._closed, self._interval)
