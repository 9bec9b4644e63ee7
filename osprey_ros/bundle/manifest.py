"""The contents of a bundle's ``manifest.json`` and the names of its files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from osprey_ros.bundle.spec import REBUILD, ModelSpec
from osprey_ros.errors import BundleError

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
            raise BundleError(f"{MANIFEST} is not valid JSON ({error}); {REBUILD}") from error
        if not isinstance(data, dict):
            raise BundleError(f"{MANIFEST} must hold a JSON object; {REBUILD}")
        version = data.get("format_version")
        if version != FORMAT_VERSION:
            raise BundleError(
                f"{MANIFEST} has format_version {version!r}, this osprey_ros reads {FORMAT_VERSION}: "
                f"update osprey_ros, or {REBUILD}"
            )
        required = {"name", "engines", "model", "template", "precisions", "files", "verification", "sha256"}
        missing = sorted(required - set(data))
        if missing:
            raise BundleError(f"{MANIFEST} lacks {', '.join(missing)}; {REBUILD}")
        if data["sha256"] != manifest_sha256(data):
            raise BundleError(
                f"{MANIFEST} was changed after it was written (its SHA-256 is not the one in it); "
                f"copy the bundle again, or {REBUILD}"
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
            raise BundleError(f"{MANIFEST} cannot be read ({type(error).__name__}: {error}); {REBUILD}") from error


def manifest_sha256(data: Mapping[str, Any]) -> str:
    """SHA-256 (hexadecimal) over the fields of a manifest but ``sha256``, as JSON with sorted keys and no spaces."""
    fields_but_seal = {name: value for name, value in data.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(fields_but_seal, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _engines_from_json(data: Mapping[str, Any]) -> dict[str, EngineEntry]:
    missing = sorted(set(ONNX_FILES) - set(data))
    if missing:
        raise BundleError(f"{MANIFEST} lists no engine for {', '.join(missing)}; {REBUILD}")
    return {
        role: EngineEntry(
            file=str(data[role]["file"]),
            runtime=str(data[role]["runtime"]),
            device=str(data[role]["device"]),
            fingerprint={name: str(value) for name, value in data[role]["fingerprint"].items()},
        )
        for role in ONNX_FILES
    }


def needed_files(engines: Mapping[str, EngineEntry]) -> tuple[str, ...]:
    return (*(entry.file for entry in engines.values()), *TABLES)
