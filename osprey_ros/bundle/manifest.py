"""The contents of a bundle's ``manifest.json`` and the names of its files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from osprey_ros.bundle.spec import REBUILD, ModelSpec
from osprey_ros.errors import BundleError
from osprey_ros.strict_json import to_json

FORMAT_VERSION = 4
MANIFEST = "manifest.json"
VISION = "vision.onnx"
MASK_EXTRACTOR = "mask_extractor.onnx"
DECODER = "decoder.onnx"
CROP = "crop.onnx"
EMBEDDINGS = "embeddings.npy"
TOKENIZER = "tokenizer.json"
CALIBRATION = "calibration.json"
KINDS = "kinds.json"
UNLIKE_TRAINING = "unlike_training.npz"
# The roles of engines, and the file of each one that is an ONNX graph.
ONNX_FILES = {"vision": VISION, "mask_extractor": MASK_EXTRACTOR, "decoder": DECODER}
# Engines that a bundle can lack: "crop" reads the crops of regions (`osprey_ros.regions.crops`).
OPTIONAL_FILES = {"crop": CROP}
# Files that every bundle has besides its engines. CALIBRATION, KINDS and UNLIKE_TRAINING are optional.
TABLES = (EMBEDDINGS, TOKENIZER)


@dataclass(frozen=True)
class FileEntry:
    """Size in bytes and SHA-256 (hexadecimal) of one file of a bundle."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class EngineEntry:
    """One engine of a bundle.

    Attributes:
        file: Name of its file.
        runtime: "onnxruntime" or "tensorrt".
        device: "cpu" or "cuda".
        fingerprint: Machine and options that a TensorRT plan was built for. Empty for ONNX graphs, which are portable.
    """

    file: str
    runtime: str = "onnxruntime"
    device: str = "cpu"
    fingerprint: dict[str, str] = field(default_factory=dict)


def onnx_engines(device: str = "cpu", crops: bool = False) -> dict[str, EngineEntry]:
    """Return the ``engines`` of a bundle whose engines are ONNX graphs; ``crops``: with the engine for crops."""
    files = {**ONNX_FILES, **OPTIONAL_FILES} if crops else ONNX_FILES
    return {role: EngineEntry(file, "onnxruntime", device) for role, file in files.items()}


@dataclass(frozen=True)
class Manifest:
    """The contents of ``manifest.json``.

    Attributes:
        name: Name of the bundle.
        model: Sizes and token ids of the model.
        template: Name of the prompt template.
        precisions: Format of the weights of each engine ("fp32", "int4 ...").
        files: Size and hash of each file.
        verification: Comparison with the PyTorch model: ``{"verified": bool, ...figures}``.
        engines: One entry for each role in ONNX_FILES, and for those roles in OPTIONAL_FILES that the bundle has.
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
        """True if the engines were compared with the PyTorch model when the bundle was built."""
        return bool(self.verification.get("verified", False))

    def to_json(self) -> str:
        """Return the text of ``manifest.json``."""
        return to_json(asdict(self), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Read the text of a ``manifest.json``. Unknown fields are ignored, such as the ``sha256`` of version 0.1.

        Raises BundleError if the text is invalid or has another format version.
        """
        try:
            data = json.loads(text)
        except ValueError as error:
            raise BundleError(f"{MANIFEST} is not valid JSON; copy the bundle again, or {REBUILD}") from error
        if not isinstance(data, dict):
            raise BundleError(f"{MANIFEST} must hold a JSON object; {REBUILD}")
        version = data.get("format_version")
        if version != FORMAT_VERSION:
            raise BundleError(
                f"{MANIFEST} has format_version {version!r}, this osprey_ros reads {FORMAT_VERSION}: "
                f"update osprey_ros, or {REBUILD}"
            )
        required = {"name", "engines", "model", "template", "precisions", "files", "verification"}
        missing = sorted(required - set(data))
        if missing:
            raise BundleError(f"{MANIFEST} lacks {', '.join(missing)}; {REBUILD}")
        try:
            manifest = cls(
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
        if "crop" in manifest.engines and not manifest.model.crop_size:
            raise BundleError(f"{MANIFEST} lists an engine for crops, but its model has no crop_size; {REBUILD}")
        return manifest


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
        for role in (*ONNX_FILES, *OPTIONAL_FILES)
        if role in data
    }


def needed_files(engines: Mapping[str, EngineEntry]) -> tuple[str, ...]:
    """Return the names of the files that a bundle with these engines must have."""
    return (*(entry.file for entry in engines.values()), *TABLES)
