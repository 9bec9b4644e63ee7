"""Engine bundles: folders of engines that belong together, described by ``manifest.json``.

Opening a bundle checks that every listed file is present and complete. Writing the manifest is the last step of
``osprey build``.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import stat
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from osprey_ros.bundle.calibration import Calibration
from osprey_ros.bundle.hash_cache import cached_sha256, sha256_of
from osprey_ros.bundle.manifest import (
    CALIBRATION,
    EMBEDDINGS,
    KINDS,
    MANIFEST,
    TOKENIZER,
    UNLIKE_TRAINING,
    EngineEntry,
    FileEntry,
    Manifest,
    needed_files,
    onnx_engines,
)
from osprey_ros.bundle.spec import REBUILD, ModelSpec
from osprey_ros.bundle.unlike_training import UnlikeTraining
from osprey_ros.errors import BundleError
from osprey_ros.file_errors import LFS_POINTER, is_lfs_pointer, os_reason, read_text
from osprey_ros.kinds.tree import KindTree

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_LOGGER = logging.getLogger(__name__)

_AGAIN = f"copy the bundle again, or {REBUILD}"


class Bundle:
    """An opened bundle: its manifest and the paths of its files. It loads no engine.

    Attributes:
        root: Folder of the bundle.
        manifest: Contents of its ``manifest.json``.
    """

    def __init__(self, root: Path, manifest: Manifest) -> None:
        self.root = root
        self.manifest = manifest

    @classmethod
    def open(cls, path: str | os.PathLike[str], verify: bool = True) -> Bundle:
        """Open a bundle by folder or by name (see `find_bundle`).

        The presence and the size of every file are always checked; ``verify`` also calls `verify`.

        Raises BundleError if there is no bundle, or if a file is missing, incomplete, changed or unreadable.
        """
        root = find_bundle(path)
        manifest_path = root / MANIFEST
        if not manifest_path.exists():
            raise BundleError(f"{root} has no {MANIFEST}: it is not an engine bundle; {REBUILD}")
        text = read_text(manifest_path, BundleError, _AGAIN)
        try:
            manifest = Manifest.from_json(text)
        except BundleError as error:
            raise BundleError(f"bundle {root}: {error}") from error
        unlisted = [name for name in needed_files(manifest.engines) if name not in manifest.files]
        if unlisted:
            raise BundleError(f"bundle {root}: {MANIFEST} does not list {', '.join(unlisted)}; {REBUILD}")
        for name, entry in manifest.files.items():
            try:
                _check_size(root, name, entry)
            except OSError as error:
                raise BundleError(f"bundle {root}: {_unreadable(name, error)}") from error
        bundle = cls(root, manifest)
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
                raise BundleError(f"bundle {self.root}: {_unreadable(name, error)}") from error
            if digest != entry.sha256:
                raise BundleError(
                    f"bundle {self.root}: {name} was changed (its SHA-256 differs from the manifest's); {_AGAIN}"
                )

    def on_device(self, device: str | None) -> Bundle:
        """Return this bundle with its ONNX graphs run on another device, whatever its manifest says.

        Args:
            device: "cpu" or "cuda"; None to keep the engines of the manifest.

        Raises:
            BundleError: The bundle has no ONNX graphs.
        """
        if device is None:
            return self
        engines = onnx_engines(device, crops="crop" in self.manifest.engines)
        absent = [entry.file for entry in engines.values() if entry.file not in self.manifest.files]
        if absent:
            raise BundleError(
                f"bundle {self.root} has no {', '.join(absent)} to run on {device}; leave out the device, or {REBUILD}"
            )
        return Bundle(self.root, replace(self.manifest, engines=engines))

    def path(self, name: str) -> Path:
        """Return the path of a file that the manifest lists. Raises BundleError for another name."""
        if name not in self.manifest.files:
            raise BundleError(
                f"bundle {self.root} has no file {name!r}; it has {', '.join(sorted(self.manifest.files))}"
            )
        return self.root / name

    def engine(self, role: str) -> EngineEntry:
        """Return the engine of a role: "vision", "mask_extractor", "decoder", or "crop" if the bundle has it."""
        return self.manifest.engines[role]

    def tokenizer(self) -> Tokenizer:
        """Load the tokenizer of the bundle. Raises BundleError if its file is invalid."""
        from tokenizers import Tokenizer

        path = self.path(TOKENIZER)
        text = read_text(path, BundleError, _AGAIN)
        try:
            tokenizer = Tokenizer.from_str(text)
        except Exception as error:  # tokenizers raises a bare Exception
            raise BundleError(f"{path} is not a tokenizer of the library tokenizers; {_AGAIN}") from error
        tokenizer.no_truncation()  # bundles of 0.1 may keep what another program left in the file
        tokenizer.no_padding()
        return tokenizer

    def embeddings(self) -> np.ndarray:
        """Return the embedding table, float16 [vocab_size, hidden_size], mapped from disk.

        Raises BundleError if the file is unreadable or has another shape or type.
        """
        path = self.path(EMBEDDINGS)
        try:
            table = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise BundleError(f"{path} is not a plain numpy array; {_AGAIN}") from error
        except OSError as error:
            raise BundleError(_unreadable(path, error)) from error
        expected = (self.manifest.model.vocab_size, self.manifest.model.hidden_size)
        if table.shape != expected:
            raise BundleError(f"{path} has shape {table.shape}, the manifest expects {expected}; {REBUILD}")
        if table.dtype != np.float16:
            raise BundleError(f"{path} holds {table.dtype}, it must be float16; {REBUILD}")
        result: np.ndarray = table
        return result

    def calibration(self) -> Calibration:
        """Load the calibration of confidences. A bundle without one gets a calibration that changes nothing.

        Raises BundleError if its file is invalid.
        """
        if CALIBRATION not in self.manifest.files:
            return Calibration()
        path = self.path(CALIBRATION)
        text = read_text(path, BundleError, _AGAIN)
        try:
            return Calibration.from_json(text)
        except BundleError as error:
            raise BundleError(
                f"{path} cannot be used ({error}); fit it again with `osprey eval calibration`"
            ) from error

    def kinds(self) -> KindTree | None:
        """Load the tree of kinds. Return None if the bundle has none. Raises BundleError if its file is invalid."""
        if KINDS not in self.manifest.files:
            return None
        path = self.path(KINDS)
        text = read_text(path, BundleError, _AGAIN)
        try:
            return KindTree.from_json(text)
        except BundleError as error:
            raise BundleError(f"{path} is not a tree of kinds: {error}") from error

    def unlike_training(self) -> UnlikeTraining | None:
        """Load the score of what is unlike training. Return None if the bundle has none.

        Raises BundleError if its file is invalid, or of a model of other sizes.
        """
        if UNLIKE_TRAINING not in self.manifest.files:
            return None
        path, model = self.path(UNLIKE_TRAINING), self.manifest.model
        try:
            found = UnlikeTraining.from_bytes(path.read_bytes())
            found.check(model.hidden_size, model.feature_channels)
        except OSError as error:
            raise BundleError(_unreadable(path, error)) from error
        except BundleError as error:
            raise BundleError(
                f"{path} cannot be used ({error}); fit it again with `osprey eval unlike_training --write`"
            ) from error
        return found


def write_calibration(directory: str | os.PathLike[str], calibration: Calibration) -> Manifest:
    """Write a calibration into a bundle, with its entry in the manifest, which is returned.

    Raises BundleError if a file of the bundle is missing or changed, or if writing fails. The bundle is then unchanged.
    """
    return _write_listed(directory, CALIBRATION, calibration.to_json().encode())


def write_kinds(directory: str | os.PathLike[str], tree: KindTree) -> Manifest:
    """Write a tree of kinds into a bundle, as `write_calibration` writes a calibration."""
    return _write_listed(directory, KINDS, tree.to_json().encode())


def write_unlike_training(directory: str | os.PathLike[str], unlike_training: UnlikeTraining) -> Manifest:
    """Write the score of what is unlike training into a bundle, with its entry in the manifest, which is returned.

    Raises BundleError as `write_calibration` does, and if the score is of a model of other sizes.
    """
    model = Bundle.open(directory, verify=False).manifest.model
    unlike_training.check(model.hidden_size, model.feature_channels)
    return _write_listed(directory, UNLIKE_TRAINING, unlike_training.to_bytes())


def write_manifest(
    directory: str | os.PathLike[str],
    *,
    name: str,
    model: ModelSpec,
    template: str,
    precisions: Mapping[str, str],
    verification: Mapping[str, Any],
    engines: Mapping[str, EngineEntry] | None = None,
) -> Manifest:
    """Write the ``manifest.json`` of a complete bundle folder, with the sizes and hashes of its files.

    All files are listed except the manifest itself, hidden files and Markdown, which may be edited later.

    Args:
        directory: Folder of the bundle.
        name, model, template, precisions, verification: As in `Manifest`.
        engines: The engine of each role; by default three ONNX graphs for the CPU.

    Raises BundleError if a file is missing that every bundle needs.
    """
    root = Path(directory)
    entries = onnx_engines() if engines is None else dict(engines)
    listed = sorted(
        p for p in root.iterdir() if p.is_file() and p.name != MANIFEST and p.suffix != ".md" and p.name[0] != "."
    )
    missing = sorted(set(needed_files(entries)) - {p.name for p in listed})
    if missing:
        raise BundleError(f"{root} is not a complete bundle: {', '.join(missing)} missing; {REBUILD}")
    manifest = Manifest(
        name=name,
        model=model,
        template=template,
        precisions=dict(precisions),
        files={p.name: FileEntry(p.stat().st_size, sha256_of(p)) for p in listed},
        verification=dict(verification),
        engines=entries,
    )
    _write_atomically({root / MANIFEST: manifest.to_json().encode()})
    return manifest


def find_bundle(name_or_path: str | os.PathLike[str]) -> Path:
    """Return the folder of a bundle.

    A path (with a separator in it) is that folder. For a bare name, it is the first folder with a manifest among
    ``NAME`` in the working directory, ``engines/NAME`` in the source checkout, and ``engines/NAME`` in an install
    space. Raises BundleError, with the places that were searched, if there is none.
    """
    # os.path, because pathlib raises OSError if a name is too long.
    given = os.path.expanduser(name_or_path)
    if os.path.dirname(given):
        tried = [Path(given)]
        found = tried if _is_folder(given) else []
    else:
        tried = [Path(given), *(engines / given for engines in _engine_folders())]
        found = [folder for folder in tried if os.path.isfile(folder / MANIFEST)]
    if found:
        return found[0]
    places = ", ".join(str(p) for p in tried)
    raise BundleError(f"no engine bundle {str(name_or_path)!r} (searched {places}): give its folder, or {REBUILD}")


def _is_folder(path: str) -> bool:
    """Return whether a path is a folder. Raises BundleError if it is a file or may not be read."""
    try:
        is_folder = stat.S_ISDIR(os.stat(path).st_mode)
    except (FileNotFoundError, ValueError):
        return False
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return False
        raise BundleError(f"bundle {path} cannot be read: {os_reason(error)}") from error
    if not is_folder:
        raise BundleError(f"{path} is a file and not an engine bundle; give the folder of the bundle")
    return is_folder


def _write_listed(directory: str | os.PathLike[str], name: str, data: bytes) -> Manifest:
    """Write a file into a bundle, with its entry in the manifest. Raises as `write_calibration` does."""
    bundle = Bundle.open(directory)
    entry = FileEntry(len(data), hashlib.sha256(data).hexdigest())
    manifest = replace(bundle.manifest, files={**bundle.manifest.files, name: entry})
    try:
        _write_atomically({bundle.root / name: data, bundle.root / MANIFEST: manifest.to_json().encode()})
    except OSError as error:
        raise BundleError(f"bundle {bundle.root}: cannot write {name}: {os_reason(error)}") from error
    return manifest


def _write_atomically(contents: Mapping[Path, bytes]) -> None:
    """Write files under temporary names and rename them. If one fails, all keep their old contents."""
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


def _engine_folders() -> list[Path]:
    here = Path(__file__).resolve()
    prefixes = [Path(p) for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    # An installed package is in <prefix>/lib/pythonX.Y/site-packages/osprey_ros (Debian: <prefix>/local/lib/...).
    prefixes += [*here.parents[4:7], Path(sys.prefix)]
    folders = [here.parents[2] / "engines"] + [p / "share" / "osprey_ros" / "engines" for p in prefixes]
    return list(dict.fromkeys(folders))


def _unreadable(name: str | Path, error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return f"{name} is missing; {_AGAIN}"
    return f"{name} cannot be read: {os_reason(error)}"


def _check_size(root: Path, name: str, entry: FileEntry) -> None:
    """Raise BundleError for a file of another size than in the manifest, OSError for one that cannot be read."""
    if Path(name).name != name:
        raise BundleError(f"bundle {root}: {MANIFEST} lists {name!r}, which is not a plain file name; {REBUILD}")
    path = root / name
    size = path.stat().st_size
    if size != entry.bytes:
        if is_lfs_pointer(path):
            raise BundleError(f"bundle {root}: {name} {LFS_POINTER}")
        raise BundleError(
            f"bundle {root}: {name} has {size} bytes, the manifest says {entry.bytes}: it is incomplete or was "
            f"changed; {_AGAIN}"
        )
