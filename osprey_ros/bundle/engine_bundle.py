"""Bundles: folders of engines that belong together, described by ``manifest.json``.

Opening a bundle checks that every listed file is present and complete. Writing the manifest is the last step of
``osprey build``.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from osprey_ros.bundle.hash_cache import cached_sha256, sha256_of
from osprey_ros.bundle.manifest import MANIFEST, EngineEntry, EngineManifest, FileEntry, graphs
from osprey_ros.bundle.places import find_bundle
from osprey_ros.errors import BundleError, one_line
from osprey_ros.file_errors import LFS_POINTER, is_lfs_pointer, os_reason, read_text

_LOGGER = logging.getLogger(__name__)
M = TypeVar("M", bound=EngineManifest)
B = TypeVar("B", bound="EngineBundle[Any]")


class EngineBundle(Generic[M]):
    """An opened bundle of any kind: its manifest and the paths of its files. It loads no engine.

    Attributes:
        root: Folder of the bundle.
        manifest: Contents of its ``manifest.json``.
    """

    manifest_type: ClassVar[type[EngineManifest]]

    def __init__(self, root: Path, manifest: M) -> None:
        self.root = root
        self.manifest = manifest

    @classmethod
    def open(cls: type[B], path: str | os.PathLike[str], verify: bool = True) -> B:
        """Open a bundle by folder or by name (see `find_bundle`).

        The presence and the size of every file are always checked; ``verify`` also calls `verify`.

        Raises BundleError if there is no bundle, or if a file is missing, incomplete, changed or unreadable.
        """
        kind, root = cls.manifest_type, find_bundle(path, cls.manifest_type.rebuild)
        manifest_path = root / MANIFEST
        if not manifest_path.exists():
            raise BundleError(f"{root} has no {MANIFEST}: it is not an engine bundle; {kind.rebuild}")
        text = read_text(manifest_path, BundleError, f"copy the bundle again, or {kind.rebuild}")
        try:
            manifest = kind.from_json(text)
        except BundleError as error:
            raise BundleError(f"bundle {root}: {error}") from error
        unlisted = [name for name in manifest.needed_files() if name not in manifest.files]
        if unlisted:
            raise BundleError(
                f"bundle {root}: {MANIFEST} does not list {one_line(', '.join(unlisted))}; {kind.rebuild}"
            )
        bundle = cls(root, manifest)
        for name, entry in manifest.files.items():
            try:
                bundle._check_size(name, entry)
            except OSError as error:
                raise BundleError(f"bundle {root}: {bundle._unreadable(name, error)}") from error
        if verify:
            bundle.verify()
        _LOGGER.info("opened bundle %s in %s", manifest.name, root)
        return bundle

    def verify(self) -> None:
        """Compare the SHA-256 of every file with the manifest.

        This reads the whole bundle the first time. Later calls trust the hashes of files that have not been modified
        since (see `cached_sha256`); ``osprey bundle verify`` always reads all files. Raises BundleError.
        """
        for name, entry in self.manifest.files.items():
            try:
                digest = cached_sha256(self.root / name)
            except OSError as error:
                raise BundleError(f"bundle {self.root}: {self._unreadable(name, error)}") from error
            if digest != entry.sha256:
                raise BundleError(
                    f"bundle {self.root}: {name} was changed (its SHA-256 differs from the manifest's); {self.again}"
                )

    def on_device(self: B, device: str | None) -> B:
        """Return this bundle with its ONNX graphs run on another device, whatever its manifest says.

        Args:
            device: "cpu" or "cuda"; None to keep the engines of the manifest.

        Raises:
            BundleError: The bundle has no ONNX graphs.
        """
        if device is None:
            return self
        engines = graphs(self.manifest.engines, device)
        absent = [entry.file for entry in engines.values() if entry.file not in self.manifest.files]
        if absent:
            raise BundleError(
                f"bundle {self.root} has no {', '.join(absent)} to run on {device}; leave out the device, or "
                f"{self.manifest.rebuild}"
            )
        return type(self)(self.root, replace(self.manifest, engines=engines))

    def path(self, name: str) -> Path:
        """Return the path of a file that the manifest lists. Raises BundleError for another name."""
        if name not in self.manifest.files:
            raise BundleError(
                f"bundle {self.root} has no file {name!r}; it has {', '.join(sorted(self.manifest.files))}"
            )
        return self.root / name

    def engine(self, role: str) -> EngineEntry:
        """Return the engine of a role. KeyError if the bundle has none."""
        return self.manifest.engines[role]

    @property
    def again(self) -> str:
        """Remedy for a file that is missing or damaged."""
        return f"copy the bundle again, or {self.manifest.rebuild}"

    def _unreadable(self, name: str | Path, error: OSError) -> str:
        if isinstance(error, FileNotFoundError):
            return f"{name} is missing; {self.again}"
        return f"{name} cannot be read: {os_reason(error)}"

    def _check_size(self, name: str, entry: FileEntry) -> None:
        """Raise BundleError for a file of another size than in the manifest, OSError for one that cannot be read."""
        root = self.root
        if Path(name).name != name or name in ("", "..") or "\0" in name:
            raise BundleError(
                f"bundle {root}: {MANIFEST} lists {name!r}, which is not a plain file name; {self.manifest.rebuild}"
            )
        path = root / name
        size = path.stat().st_size
        if size != entry.bytes:
            if is_lfs_pointer(path):
                raise BundleError(f"bundle {root}: {name} {LFS_POINTER}")
            raise BundleError(
                f"bundle {root}: {name} has {size} bytes, the manifest says {entry.bytes}: it is incomplete or was "
                f"changed; {self.again}"
            )


def write_with_files(directory: str | os.PathLike[str], manifest: M) -> M:
    """Write the ``manifest.json`` of a complete bundle folder, with the sizes and hashes of its files; return it.

    All files are listed except the manifest itself, hidden files and Markdown, which may be edited later. Raises
    BundleError if a file is missing that the bundle needs.
    """
    root = Path(directory)
    listed = sorted(
        p for p in root.iterdir() if p.is_file() and p.name != MANIFEST and p.suffix != ".md" and p.name[0] != "."
    )
    missing = sorted(set(manifest.needed_files()) - {p.name for p in listed})
    if missing:
        raise BundleError(f"{root} is not a complete bundle: {', '.join(missing)} missing; {manifest.rebuild}")
    manifest = replace(manifest, files={p.name: FileEntry(p.stat().st_size, sha256_of(p)) for p in listed})
    write_atomically({root / MANIFEST: manifest.to_json().encode()})
    return manifest


def write_atomically(contents: Mapping[Path, bytes]) -> None:
    """Write files under temporary names and rename them. If one fails, all keep their old contents. Raises OSError."""
    partials = {path: path.with_name(path.name + ".partial") for path in contents}
    before = {path: path.read_bytes() if path.is_file() else None for path in contents}
    try:
        for path, data in contents.items():
            partials[path].write_bytes(data)
        for path in contents:
            partials[path].replace(path)
    except OSError:
        for path, earlier in before.items():
            if earlier is None:
                path.unlink(missing_ok=True)
            elif path.read_bytes() != earlier:
                path.write_bytes(earlier)
        raise
    finally:
        for partial in partials.values():
            partial.unlink(missing_ok=True)
