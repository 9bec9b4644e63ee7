"""Download a bundle into the cache: resumable, compared with the hashes of its manifest, there when it is complete."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from osprey_ros.bundle.hash_cache import sha256_of
from osprey_ros.bundle.manifest import MANIFEST, EngineManifest
from osprey_ros.bundle.places import CACHE_NAME, downloads_folder, shipped_bundle
from osprey_ros.errors import BundleError, InputError
from osprey_ros.file_errors import os_reason
from osprey_ros.hub.archive import open_archive
from osprey_ros.hub.source import Source
from osprey_ros.hub.transfer import NotThere, Transfer
from osprey_ros.segmenter.bundle import manifest_type

MAX_BYTES = 64_000_000_000  # of a bundle; the fp16 engines of a 7B model have 15 GB
_MANIFEST_BYTES = 4 << 20  # of a manifest, at most
_MAX_FILES = 1000
_ROOM = 64 << 20  # bytes of the disk that stay free

Progress = Callable[[str, int, int], None]  # file, bytes so far of all files, bytes of all files


@dataclass(frozen=True)
class Downloaded:
    """A bundle in the cache.

    Attributes:
        name: What ``--bundle`` takes.
        folder: Its folder.
        manifest: Its manifest.
        new: Whether it was downloaded now. False: the same bundle was there already.
    """

    name: str
    folder: Path
    manifest: EngineManifest
    new: bool


class BundleDownload:
    """One download, which goes on where an earlier one of the same source stopped.

    Args:
        source: Where the bundle is.
        name: Its name in the cache, NAME or ORG/NAME; that of the source by default.
        max_bytes: Largest size of all its files.
        progress: Called while files are read.
        transfer: How files are read.

    Raises InputError for a name that cannot be used.
    """

    def __init__(
        self,
        source: Source,
        name: str | None = None,
        max_bytes: int = MAX_BYTES,
        progress: Progress | None = None,
        transfer: Transfer | None = None,
    ) -> None:
        self.name = name or source.name
        if not CACHE_NAME.fullmatch(self.name):
            raise InputError(
                f"{self.name!r} cannot be the name of a bundle; give --name NAME or --name ORG/NAME of letters, "
                "digits, '.', '-' and '_'"
            )
        if shipped_bundle(self.name) is not None:
            raise InputError(f"{self.name!r} is the name of a bundle that ships; give another one with --name")
        self._source, self._max_bytes = source, max_bytes
        self._progress = progress or (lambda file, done, total: None)
        self._transfer = transfer or Transfer()
        self._target = downloads_folder() / self.name
        self._work = downloads_folder() / ".partial" / source.key
        self._folder = self._work / "bundle"

    def run(self) -> Downloaded:
        """Download the bundle, check it, and move it into its place in the cache.

        Raises:
            BundleError: It cannot be downloaded or stored, or is not what its manifest says. What was downloaded and
                may be right is kept for the next attempt.
        """
        try:
            with _only_one(self._work):
                fetch = self._fetch_archive if self._source.archive else self._fetch_folder
                manifest = fetch()
                if manifest is None:
                    found = self._parsed((self._target / MANIFEST).read_bytes())
                    return Downloaded(self.name, self._target, found, new=False)
                self._install()
                return Downloaded(self.name, self._target, manifest, new=True)
        except OSError as error:
            raise BundleError(f"{error.filename or self._work} cannot be written: {os_reason(error)}") from error

    def _fetch_folder(self) -> EngineManifest | None:
        """Download the files of a folder. Return its manifest, or None if the cache has this bundle already."""
        try:
            text = self._transfer.read(self._source.file(MANIFEST), _MANIFEST_BYTES)
        except NotThere as error:
            raise BundleError(
                f"there is no engine bundle: {error}. A bundle is a folder with {MANIFEST}; checkpoints become one by "
                "`osprey build`"
            ) from error
        manifest = self._parsed(text)
        if self._is_there(text, manifest):
            return None
        self._begin(text, manifest)
        total, done = sum(entry.bytes for entry in manifest.files.values()), 0
        for name, entry in manifest.files.items():
            self._fetch(name, entry.bytes, entry.sha256, done, total)
            done += entry.bytes
        (self._folder / MANIFEST).write_bytes(text)
        return manifest

    def _fetch(self, name: str, size: int, sha256: str, done: int, total: int) -> None:
        """Download one file. ``done``: bytes of the files before it."""
        path, partial = self._folder / name, self._folder / f"{name}.part"
        if path.is_file() and path.stat().st_size == size and sha256_of(path) == sha256:
            self._progress(name, done + size, total)
            return
        continued = partial.exists()
        for fresh in (not continued, True):
            if fresh:
                partial.unlink(missing_ok=True)
            if not size:
                partial.touch()
            self._transfer.save(
                self._source.file(name), partial, size, size, lambda count: self._progress(name, done + count, total)
            )
            if sha256_of(partial) == sha256:
                partial.replace(path)
                return
            if fresh:
                break
        partial.unlink()
        raise BundleError(
            f"{self._source.file(name)} is not the file of its manifest (its SHA-256 differs); try again later, or "
            "report it to its publisher"
        )

    def _fetch_archive(self) -> EngineManifest | None:
        """Download and unpack an archive. Return its manifest, or None if the cache has this bundle already."""
        label, path = self._source.file(""), self._work / "archive"
        self._transfer.save(
            label, path, self._max_bytes, read=lambda count: self._progress("archive", count, max(count, 1))
        )
        with open_archive(path, label, self._max_bytes) as archive:
            text = archive.manifest(_MANIFEST_BYTES)
            manifest = self._parsed(text)
            if self._is_there(text, manifest):
                return None
            self._begin(text, manifest)
            sizes = {name: entry.bytes for name, entry in manifest.files.items()}
            for name in archive.extract(self._folder, sizes):
                if sha256_of(self._folder / name) != manifest.files[name].sha256:
                    path.unlink()
                    raise BundleError(
                        f"{label}: {name} is not the file of the manifest (its SHA-256 differs); try again later, or "
                        "report it to its publisher"
                    )
        (self._folder / MANIFEST).write_bytes(text)
        return manifest

    def _parsed(self, text: bytes) -> EngineManifest:
        """Return a manifest whose files can be downloaded. Raises BundleError for another one."""
        where = self._source.file(MANIFEST)
        try:
            data = json.loads(text)
            kind = manifest_type(data)
            manifest = kind.from_json(text.decode())
        except (ValueError, RecursionError) as error:
            raise BundleError(f"{where} is not JSON; give the folder of an engine bundle") from error
        except BundleError as error:
            raise BundleError(f"{where}: {error}") from error
        for name, entry in manifest.files.items():
            wrong = Path(name).name != name or not name.isprintable() or name[:1] in ("", ".") or name == MANIFEST
            if wrong or entry.bytes < 0 or name.endswith((".part", ".etag")):
                raise BundleError(f"{where} lists {name!r} with {entry.bytes} bytes, which cannot be part of a bundle")
        missing = sorted(set(manifest.needed_files()) - set(manifest.files))
        if missing:
            raise BundleError(f"{where} does not list {', '.join(missing)}; {kind.rebuild}")
        if len(manifest.files) > _MAX_FILES:
            raise BundleError(f"{where} lists {len(manifest.files)} files, {_MAX_FILES} are allowed")
        total = sum(entry.bytes for entry in manifest.files.values())
        if total > self._max_bytes:
            raise BundleError(
                f"the bundle has {total / 1e6:.0f} MB, {self._max_bytes / 1e6:.0f} MB are allowed; raise --max-size"
            )
        return manifest

    def _is_there(self, text: bytes, manifest: EngineManifest) -> bool:
        """Return whether the cache has this bundle, complete: the sizes are compared, and `verify` the hashes."""
        try:
            if (self._target / MANIFEST).read_bytes() != text:
                return False
            return all(
                (self._target / name).stat().st_size == entry.bytes and sha256_of(self._target / name) == entry.sha256
                for name, entry in manifest.files.items()
            )
        except OSError:
            return False

    def _begin(self, text: bytes, manifest: EngineManifest) -> None:
        """Prepare the folder of the download. Files of another manifest are deleted. Raises BundleError, OSError."""
        mark = self._work / MANIFEST
        if self._folder.exists() and not (mark.is_file() and mark.read_bytes() == text):
            shutil.rmtree(self._folder)
        self._folder.mkdir(exist_ok=True)
        mark.write_bytes(text)
        have = sum(path.stat().st_size for path in self._folder.iterdir())
        need = sum(entry.bytes for entry in manifest.files.values()) - have
        free = shutil.disk_usage(self._work).free
        if need + _ROOM > free:
            raise BundleError(
                f"the bundle needs {need / 1e6:.0f} MB of disk in {self._work}, {free / 1e6:.0f} MB are free; free "
                "some space, or set XDG_CACHE_HOME to another disk"
            )

    def _install(self) -> None:
        """Move the complete bundle into its place. An older one there is deleted. Raises OSError."""
        group = self._target.parent
        if group != downloads_folder() and (group / MANIFEST).is_file():
            raise BundleError(f"{group} is a bundle and cannot have bundles in it; give another --name")
        if self._target.exists() and not (self._target / MANIFEST).is_file():
            raise BundleError(f"{self._target} exists and is not a bundle; give another --name")
        for path in self._folder.glob("*.etag"):
            path.unlink()
        self._target.parent.mkdir(parents=True, exist_ok=True)
        older = self._work / "older"
        shutil.rmtree(older, ignore_errors=True)
        if self._target.exists():
            self._target.rename(older)
        try:
            self._folder.rename(self._target)
        except OSError:
            if older.exists():
                older.rename(self._target)
            raise


@contextmanager
def _only_one(work: Path) -> Iterator[None]:
    """Create a folder and lock it. If the block succeeds, delete it. Raises BundleError if another process has it."""
    work.mkdir(parents=True, exist_ok=True)
    handle = os.open(work, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise BundleError("another osprey bundle get downloads this bundle now; wait for it") from error
        yield
        shutil.rmtree(work, ignore_errors=True)
    except BaseException:
        with suppress(OSError):
            work.rmdir()  # if nothing was downloaded
        raise
    finally:
        os.close(handle)
