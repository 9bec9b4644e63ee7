"""What an engine bundle is: a folder of engines that belong together, described and sealed by ``manifest.json``.

Opening a bundle checks that every listed file is there and unchanged, and says in one line what is wrong and how to
mend it. Writing the manifest is the last step of ``export/build_engines.py``.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from osprey_ros.calibration import Calibration, CalibrationError
from osprey_ros.errors import OspreyError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FORMAT_VERSION = 4
MANIFEST = "manifest.json"
VISION = "vision.onnx"
MASK_EXTRACTOR = "mask_extractor.onnx"
DECODER = "decoder.onnx"
EMBEDDINGS = "embeddings.npy"
TOKENIZER = "tokenizer.json"
CALIBRATION = "calibration.json"
# What the engines of a bundle do, and the file of each where it is an ONNX graph.
ONNX_FILES = {"vision": VISION, "mask_extractor": MASK_EXTRACTOR, "decoder": DECODER}
# Besides its engines every bundle has these; a calibration it may have.
TABLES = (EMBEDDINGS, TOKENIZER)

_REBUILD = "rebuild it with `python export/build_engines.py --checkpoint DIR --output BUNDLE`"


class BundleError(OspreyError):
    """A bundle that cannot be used; the message names the file, what is wrong with it and the remedy."""


@dataclass(frozen=True)
class ModelSpec:
    """The numbers that the runtime must know about a model. Sizes in pixels or rows, ids are token ids.

    ``mask_id`` and ``pos_id`` are ids of the tokenizer at or above ``vocab_size``: they mark where a region is named
    and are never looked up in the embedding table.
    """

    image_size: int  # the square side the picture is resized to
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]
    feature_channels: tuple[int, int, int, int]
    image_tokens: int
    position_size: int  # side of the grid from which a position token is made
    hidden_size: int
    num_layers: int
    num_heads: int
    head_dim: int
    vocab_size: int  # rows of the embedding table
    max_positions: int
    bos_id: int
    eos_id: int
    mask_id: int
    pos_id: int
    feature_strides: tuple[int, int, int, int] = (4, 8, 16, 32)

    @property
    def feature_sizes(self) -> tuple[tuple[int, int], ...]:
        """(height, width) of the four feature maps res2 to res5."""
        return tuple((self.image_size // stride, self.image_size // stride) for stride in self.feature_strides)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ModelSpec:
        """Reads the ``model`` part of a manifest. Raises BundleError naming fields that are missing."""
        names = {f.name for f in fields(cls)}
        missing = sorted(names - set(data) - {"feature_strides"})
        if missing:
            raise BundleError(f"{MANIFEST}: model lacks {', '.join(missing)}; {_REBUILD}")
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items() if k in names}
        return cls(**values)


@dataclass(frozen=True)
class FileEntry:
    """Size in bytes and SHA-256 (hexadecimal) of one file of a bundle."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class EngineEntry:
    """One engine of a bundle: its file, what runs it ("onnxruntime" or "tensorrt") and where ("cpu" or "cuda").

    ``fingerprint`` says on what a TensorRT plan was built, field by field; ONNX graphs are portable and have none.
    """

    file: str
    runtime: str = "onnxruntime"
    device: str = "cpu"
    fingerprint: dict[str, str] = field(default_factory=dict)


def onnx_engines(device: str = "cpu") -> dict[str, EngineEntry]:
    """The ``engines`` of a bundle whose three engines are ONNX graphs."""
    return {role: EngineEntry(file, "onnxruntime", device) for role, file in ONNX_FILES.items()}


@dataclass(frozen=True)
class Manifest:
    """The contents of ``manifest.json``.

    ``engines`` has the roles of ONNX_FILES.
    ``precisions`` says for each engine what its weights are ("fp32", "int4 ..."), ``verification`` how the engines were
    checked: ``{"verified": bool, ...figures}``.
    """

    name: str
    model: ModelSpec
    template: str
    precisions: dict[str, str]
    files: dict[str, FileEntry]
    verification: dict[str, Any] = field(default_factory=lambda: {"verified": False})
    engines: dict[str, EngineEntry] = field(default_factory=onnx_engines)
    format_version: int = FORMAT_VERSION

    @property
    def verified(self) -> bool:
        """Whether the engines were compared with the PyTorch model when the bundle was built."""
        return bool(self.verification.get("verified", False))

    def to_json(self) -> str:
        """The text of ``manifest.json``: these fields and, as ``sha256``, their own seal (see `manifest_sha256`)."""
        data = asdict(self)
        data["sha256"] = manifest_sha256(data)
        return json.dumps(data, indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Reads the text of a ``manifest.json``. Raises BundleError saying what in it cannot be used."""
        try:
            data = json.loads(text)
        except ValueError as error:
            raise BundleError(f"{MANIFEST} is not valid JSON ({error}); {_REBUILD}") from error
        if not isinstance(data, dict):
            raise BundleError(f"{MANIFEST} must hold a JSON object; {_REBUILD}")
        version = data.get("format_version")
        if version != FORMAT_VERSION:
            raise BundleError(
                f"{MANIFEST} has format_version {version!r}, this osprey_ros reads {FORMAT_VERSION}: "
                f"update osprey_ros, or {_REBUILD}"
            )
        required = {"name", "engines", "model", "template", "precisions", "files", "verification", "sha256"}
        missing = sorted(required - set(data))
        if missing:
            raise BundleError(f"{MANIFEST} lacks {', '.join(missing)}; {_REBUILD}")
        if data["sha256"] != manifest_sha256(data):
            raise BundleError(
                f"{MANIFEST} was changed after it was written (its SHA-256 is not the one in it); "
                f"copy the bundle again, or {_REBUILD}"
            )
        try:
            return cls(
                format_version=version,
                name=str(data["name"]),
                engines=_engines_from_json(data["engines"]),
                model=ModelSpec.from_json(data["model"]),
                template=str(data["template"]),
                precisions=dict(data["precisions"]),
                files={n: FileEntry(int(e["bytes"]), str(e["sha256"])) for n, e in data["files"].items()},
                verification=dict(data["verification"]),
            )
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise BundleError(f"{MANIFEST} cannot be read ({type(error).__name__}: {error}); {_REBUILD}") from error


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
            raise BundleError(f"{root} has no {MANIFEST}: it is not an engine bundle; {_REBUILD}") from error
        except OSError as error:
            raise BundleError(f"bundle {root}: {_unreadable(MANIFEST, error)}") from error
        except UnicodeDecodeError as error:
            raise BundleError(f"{manifest_path} is not UTF-8 text; {_REBUILD}") from error
        except BundleError as error:
            raise BundleError(f"bundle {root}: {error}") from error
        unlisted = [name for name in _needed_files(manifest.engines) if name not in manifest.files]
        if unlisted:
            raise BundleError(f"bundle {root}: {MANIFEST} does not list {', '.join(unlisted)}; {_REBUILD}")
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
            raise BundleError(f"{path} is not a tokenizer ({error}); {_REBUILD}") from error

    def embeddings(self) -> np.ndarray:
        """The embedding table, [vocab_size, hidden_size] float16, mapped from disk.

        Raises BundleError for another shape or type.
        """
        path = self.path(EMBEDDINGS)
        try:
            table = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise BundleError(f"{path} is not a plain numpy array ({error}); {_REBUILD}") from error
        except OSError as error:
            raise BundleError(_unreadable(path, error)) from error
        expected = (self.manifest.model.vocab_size, self.manifest.model.hidden_size)
        if table.shape != expected:
            raise BundleError(f"{path} has shape {table.shape}, the manifest says {expected}; {_REBUILD}")
        if table.dtype != np.float16:
            raise BundleError(f"{path} holds {table.dtype}, it must be float16; {_REBUILD}")
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
        except (CalibrationError, UnicodeDecodeError) as error:
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
    missing = sorted(set(_needed_files(entries)) - {p.name for p in listed})
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
    raise BundleError(f"no engine bundle {str(name_or_path)!r} (looked for {places}): give its folder, or {_REBUILD}")


def manifest_sha256(data: Mapping[str, Any]) -> str:
    """SHA-256 (hexadecimal) over the fields of a manifest but ``sha256``, as JSON with sorted keys and no spaces."""
    fields_but_seal = {name: value for name, value in data.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(fields_but_seal, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, hexadecimal, read in pieces of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _engines_from_json(data: Mapping[str, Any]) -> dict[str, EngineEntry]:
    missing = sorted(set(ONNX_FILES) - set(data))
    if missing:
        raise BundleError(f"{MANIFEST} lists no engine for {', '.join(missing)}; {_REBUILD}")
    return {
        role: EngineEntry(
            file=str(data[role]["file"]),
            runtime=str(data[role]["runtime"]),
            device=str(data[role]["device"]),
            fingerprint={name: str(value) for name, value in data[role]["fingerprint"].items()},
        )
        for role in ONNX_FILES
    }


def _needed_files(engines: Mapping[str, EngineEntry]) -> tuple[str, ...]:
    return (*(entry.file for entry in engines.values()), *TABLES)


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
    prefixes += [*here.parents[3:6], Path(sys.prefix)]
    folders = [here.parents[1] / "engines"] + [p / "share" / "osprey_ros" / "engines" for p in prefixes]
    return list(dict.fromkeys(folders))


def _unreadable(name: str | Path, error: OSError) -> str:
    return f"{name} cannot be read ({error.strerror or error}); copy the bundle again, or {_REBUILD}"


def _check_file(root: Path, name: str, entry: FileEntry, verify: bool) -> None:
    if Path(name).name != name:
        raise BundleError(f"bundle {root}: {MANIFEST} lists {name!r}, which is not a plain file name; {_REBUILD}")
    path = root / name
    if not path.is_file():
        raise BundleError(f"bundle {root}: {name} is missing; copy the bundle again, or {_REBUILD}")
    size = path.stat().st_size
    if size != entry.bytes:
        raise BundleError(
            f"bundle {root}: {name} has {size} bytes, the manifest says {entry.bytes}: it is cut off or was changed; "
            f"copy the bundle again, or {_REBUILD}"
        )
    if verify and sha256_of(path) != entry.sha256:
        raise BundleError(
            f"bundle {root}: {name} was changed (its SHA-256 is not the manifest's); "
            f"copy the bundle again, or {_REBUILD}"
        )
