"""What an engine bundle is: a folder of engines that belong together, described and sealed by ``manifest.json``.

Opening a bundle checks that every listed file is there and unchanged, and says in one line what is wrong and how to
mend it. Writing the manifest is the last step of ``export/build_engines.py``.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from osprey_ros.bundle.calibration import Calibration
from osprey_ros.bundle.manifest import (
    CALIBRATION,
    EMBEDDINGS,
    MANIFEST,
    TOKENIZER,
    EngineEntry,
    FileEntry,
    Manifest,
    needed_files,
    onnx_engines,
)
from osprey_ros.bundle.spec import REBUILD, ModelSpec
from osprey_ros.errors import BundleError

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class Bundle:
    """An opened bundle: its manifest and the paths of its files. Engines are loaded by those who run them."""

    def __init__(self, root: Path, manifest: Manifest) -> None:
        self.root = root
        self.manifest = manifest

    @classmethod
    def open(cls, path: str | os.PathLike[str], verify: bool = True) -> Bundle:
        """Opens a bundle by folder or by name (see `find_bundle`).

        Presence and size of every file are always checked; ``verify`` also reads each file and compares its SHA-256.
        Raises BundleError.
        """
        root = find_bundle(path)
        manifest_path = root / MANIFEST
        try:
            manifest = Manifest.from_json(manifest_path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise BundleError(f"{root} has no {MANIFEST}: it is not an engine bundle; {REBUILD}") from error
        except OSError as error:
            raise BundleError(f"bundle {root}: {_unreadable(MANIFEST, error)}") from error
        except UnicodeDecodeError as error:
            raise BundleError(f"{manifest_path} is not UTF-8 text; {REBUILD}") from error
        except BundleError as error:
            raise BundleError(f"bundle {root}: {error}") from error
        unlisted = [name for name in needed_files(manifest.engines) if name not in manifest.files]
        if unlisted:
            raise BundleError(f"bundle {root}: {MANIFEST} does not list {', '.join(unlisted)}; {REBUILD}")
        for name, entry in manifest.files.items():
            try:
                _check_file(root, name, entry, verify)
            except OSError as error:
                raise BundleError(f"bundle {root}: {_unreadable(name, error)}") from error
        return cls(root, manifest)

    def path(self, name: str) -> Path:
        """Path of a file that the manifest lists. Raises BundleError for another name."""
        if name not in self.manifest.files:
            raise BundleError(
                f"bundle {self.root} has no file {name!r}; it has {', '.join(sorted(self.manifest.files))}"
            )
        return self.root / name

    def engine(self, role: str) -> EngineEntry:
        """The engine of a role: "vision", "mask_extractor" or "decoder"."""
        return self.manifest.engines[role]

    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the bundle. Raises BundleError for a file that is none."""
        from tokenizers import Tokenizer

        path = self.path(TOKENIZER)
        try:
            return Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises nothing narrower
            raise BundleError(f"{path} is not a tokenizer ({error}); {REBUILD}") from error

    def embeddings(self) -> np.ndarray:
        """The embedding table, [vocab_size, hidden_size] float16, mapped from disk.

        Raises BundleError for another shape or type.
        """
        path = self.path(EMBEDDINGS)
        try:
            table = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise BundleError(f"{path} is not a plain numpy array ({error}); {REBUILD}") from error
        except OSError as error:
            raise BundleError(_unreadable(path, error)) from error
        expected = (self.manifest.model.vocab_size, self.manifest.model.hidden_size)
        if table.shape != expected:
            raise BundleError(f"{path} has shape {table.shape}, the manifest says {expected}; {REBUILD}")
        if table.dtype != np.float16:
            raise BundleError(f"{path} holds {table.dtype}, it must be float16; {REBUILD}")
        return table

    def calibration(self) -> Calibration:
        """How sure answers are; of a bundle without a calibration one that leaves confidences as they are.

        Raises BundleError for a file that is none.
        """
        if CALIBRATION not in self.manifest.files:
            return Calibration()
        path = self.path(CALIBRATION)
        try:
            return Calibration.from_json(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise BundleError(_unreadable(path, error)) from error
        except (BundleError, UnicodeDecodeError) as error:
            raise BundleError(
                f"{path} cannot be used ({error}); fit it again with `python -m evaluation.calibration`"
            ) from error


def write_calibration(directory: str | os.PathLike[str], calibration: Calibration) -> Manifest:
    """Puts a calibration into a bundle, whose files are checked before, and seals the manifest anew.

    Raises BundleError for a bundle that is not whole, and where it cannot be written, which leaves it as it was.
    """
    bundle = Bundle.open(directory)
    text = calibration.to_json()
    entry = FileEntry(len(text.encode()), hashlib.sha256(text.encode()).hexdigest())
    manifest = replace(bundle.manifest, files={**bundle.manifest.files, CALIBRATION: entry})
    try:
        _write_whole({bundle.root / CALIBRATION: text, bundle.root / MANIFEST: manifest.to_json()})
    except OSError as error:
        raise BundleError(f"bundle {bundle.root}: cannot write {CALIBRATION} ({error.strerror or error})") from error
    return manifest


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
    """Hashes the files of a finished bundle folder and writes its ``manifest.json``.

    Every file except the manifest itself, hidden files and Markdown (cards may be edited) is listed. ``engines`` are by
    default three ONNX graphs for the CPU. Raises BundleError if an engine is missing.
    """
    root = Path(directory)
    entries = onnx_engines() if engines is None else dict(engines)
    listed = sorted(
        p for p in root.iterdir() if p.is_file() and p.name != MANIFEST and p.suffix != ".md" and p.name[0] != "."
    )
    missing = sorted(set(needed_files(entries)) - {p.name for p in listed})
    if missing:
        raise BundleError(f"{root} is not a whole bundle: {', '.join(missing)} missing")
    manifest = Manifest(
        name=name,
        model=model,
        template=template,
        precisions=dict(precisions),
        files={p.name: FileEntry(p.stat().st_size, sha256_of(p)) for p in listed},
        verification=dict(verification),
        engines=entries,
    )
    _write_whole({root / MANIFEST: manifest.to_json()})
    return manifest


def find_bundle(name_or_path: str | os.PathLike[str]) -> Path:
    """The folder of a bundle.

    A path (anything with a separator in it) is that folder. A bare name is the first folder with a manifest among
    ``NAME`` here, ``engines/NAME`` of the source checkout and ``engines/NAME`` of an install space: a folder that
    merely has the name does not hide the bundle. Raises BundleError listing the places where it was looked for.
    """
    # os.path, because pathlib raises OSError for names that are too long.
    given = os.path.expanduser(name_or_path)
    if os.path.dirname(given):
        tried = [Path(given)]
        found = [folder for folder in tried if os.path.isdir(folder)]
    else:
        tried = [Path(given), *(engines / given for engines in _engine_folders())]
        found = [folder for folder in tried if os.path.isfile(folder / MANIFEST)]
    if found:
        return found[0]
    places = ", ".join(str(p) for p in tried)
    raise BundleError(f"no engine bundle {str(name_or_path)!r} (looked for {places}): give its folder, or {REBUILD}")


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, hexadecimal, read in pieces of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _write_whole(texts: Mapping[Path, str]) -> None:
    """Writes files beside and renames them, so that whoever is interrupted leaves no half file behind.

    They belong together: where one cannot be written or renamed, all are what they were.
    """
    partials = {path: path.with_name(path.name + ".partial") for path in texts}
    before = {path: path.read_bytes() if path.is_file() else None for path in texts}
    try:
        for path, text in texts.items():
            partials[path].write_text(text, encoding="utf-8")
        for path in texts:
            partials[path].replace(path)
    except OSError:
        for path, data in before.items():
            if data is None:
                path.unlink(missing_ok=True)
            elif path.read_bytes() != data:
                path.write_bytes(data)
        raise
    finally:
        for partial in partials.values():
            partial.unlink(missing_ok=True)


def _engine_folders() -> list[Path]:
    here = Path(__file__).resolve()
    prefixes = [Path(p) for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    # An installed package lies in <prefix>/lib/pythonX.Y/site-packages/osprey_ros (Debian: <prefix>/local/lib/...).
    prefixes += [*here.parents[4:7], Path(sys.prefix)]
    folders = [here.parents[2] / "engines"] + [p / "share" / "osprey_ros" / "engines" for p in prefixes]
    return list(dict.fromkeys(folders))


def _unreadable(name: str | Path, error: OSError) -> str:
    return f"{name} cannot be read ({error.strerror or error}); copy the bundle again, or {REBUILD}"


def _check_file(root: Path, name: str, entry: FileEntry, verify: bool) -> None:
    if Path(name).name != name:
        raise BundleError(f"bundle {root}: {MANIFEST} lists {name!r}, which is not a plain file name; {REBUILD}")
    path = root / name
    if not path.is_file():
        raise BundleError(f"bundle {root}: {name} is missing; copy the bundle again, or {REBUILD}")
    size = path.stat().st_size
    if size != entry.bytes:
        raise BundleError(
            f"bundle {root}: {name} has {size} bytes, the manifest says {entry.bytes}: it is cut off or was changed; "
            f"copy the bundle again, or {REBUILD}"
        )
    if verify and sha256_of(path) != entry.sha256:
        raise BundleError(
            f"bundle {root}: {name} was changed (its SHA-256 is not the manifest's); "
            f"copy the bundle again, or {REBUILD}"
        )
