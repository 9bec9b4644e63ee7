"""The contents of a bundle's ``manifest.json`` and the names of the files of a describer's bundle."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, TypeVar

from osprey_ros.bundle.spec import REBUILD, ModelSpec
from osprey_ros.errors import BundleError
from osprey_ros.file_errors import wrong_value
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
    return graphs((*ONNX_FILES, *OPTIONAL_FILES) if crops else tuple(ONNX_FILES), device)


def graphs(roles: Iterable[str], device: str) -> dict[str, EngineEntry]:
    """Return an entry with the ONNX graph of each role."""
    return {role: EngineEntry(f"{role}.onnx", "onnxruntime", device) for role in roles}


M = TypeVar("M", bound="EngineManifest")


@dataclass(frozen=True, kw_only=True)
class EngineManifest:
    """What the ``manifest.json`` of every kind of bundle has. A subclass names the kind and adds its ``model``.

    Attributes:
        name: Name of the bundle.
        precisions: Format of the weights of each engine ("fp32", "int4 ...").
        engines: One entry for each of ``roles``, and for those of ``optional_roles`` that the bundle has.
        files: Size and hash of each file.
        verification: Comparison with the PyTorch model: ``{"verified": bool, ...figures}``.
    """

    kind_of_bundle: ClassVar[str]  # what the engines are for, in the manifest and in messages
    readable_version: ClassVar[int]
    roles: ClassVar[tuple[str, ...]]
    optional_roles: ClassVar[tuple[str, ...]] = ()
    tables: ClassVar[tuple[str, ...]] = ()  # files that every bundle has besides its engines
    fields_of_kind: ClassVar[tuple[str, ...]]  # required, besides those of every kind
    rebuild: ClassVar[str]  # remedy for a bundle that cannot be used

    name: str
    precisions: dict[str, str]
    engines: dict[str, EngineEntry]
    files: dict[str, FileEntry]
    verification: dict[str, Any] = field(default_factory=lambda: {"verified": False})

    @property
    def verified(self) -> bool:
        """True if the engines were compared with the PyTorch model when the bundle was built."""
        return bool(self.verification.get("verified", False))

    def needed_files(self) -> tuple[str, ...]:
        """Return the names of the files that the bundle must have."""
        return (*(entry.file for entry in self.engines.values()), *self.tables)

    def to_json(self) -> str:
        """Return the text of ``manifest.json``."""
        return to_json(asdict(self), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls: type[M], text: str) -> M:
        """Read the text of a ``manifest.json``. Unknown fields are ignored, such as the ``sha256`` of version 0.1.

        Raises BundleError if the text is invalid, of another kind of bundle, or has another format version.
        """
        try:
            data = json.loads(text)
        except ValueError as error:
            raise BundleError(f"{MANIFEST} is not valid JSON; copy the bundle again, or {cls.rebuild}") from error
        if not isinstance(data, dict):
            raise BundleError(f"{MANIFEST} must hold a JSON object; {cls.rebuild}")
        kind = kind_of(data)
        if kind != cls.kind_of_bundle:
            raise BundleError(f"it is the bundle of a {kind}; give the bundle of a {cls.kind_of_bundle}")
        version = data.get("format_version")
        if version != cls.readable_version:
            raise BundleError(
                f"{MANIFEST} has format_version {version!r}, this osprey_ros reads {cls.readable_version}: "
                f"update osprey_ros, or {cls.rebuild}"
            )
        required = {"name", "engines", "precisions", "files", "verification", *cls.fields_of_kind}
        missing = sorted(required - set(data))
        if missing:
            raise BundleError(f"{MANIFEST} lacks {', '.join(missing)}; {cls.rebuild}")
        try:
            return cls(
                name=str(data["name"]),
                engines=cls._engines_from_json(data["engines"]),
                precisions=dict(data["precisions"]),
                files={n: FileEntry(int(e["bytes"]), str(e["sha256"])) for n, e in data["files"].items()},
                verification=dict(data["verification"]),
                **cls._of_kind(data),
            )
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise BundleError(f"{MANIFEST} cannot be read ({wrong_value(error)}); {cls.rebuild}") from error

    @classmethod
    def _of_kind(cls, data: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments for the fields of this kind of bundle."""
        raise NotImplementedError

    @classmethod
    def _engines_from_json(cls, data: Mapping[str, Any]) -> dict[str, EngineEntry]:
        missing = sorted(set(cls.roles) - set(data))
        if missing:
            raise BundleError(f"{MANIFEST} lists no engine for {', '.join(missing)}; {cls.rebuild}")
        return {
            role: EngineEntry(
                file=str(data[role]["file"]),
                runtime=str(data[role]["runtime"]),
                device=str(data[role]["device"]),
                fingerprint={name: str(value) for name, value in data[role]["fingerprint"].items()},
            )
            for role in (*cls.roles, *cls.optional_roles)
            if role in data
        }


@dataclass(frozen=True, kw_only=True)
class Manifest(EngineManifest):
    """The contents of the ``manifest.json`` of a describer's bundle.

    Attributes:
        model: Sizes and token ids of the model.
        template: Name of the prompt template.
    """

    kind_of_bundle = "describer"
    readable_version = FORMAT_VERSION
    roles = tuple(ONNX_FILES)
    optional_roles = tuple(OPTIONAL_FILES)
    tables = TABLES
    fields_of_kind = ("model", "template")
    rebuild = REBUILD

    model: ModelSpec
    template: str
    engines: dict[str, EngineEntry] = field(default_factory=onnx_engines)
    format_version: int = FORMAT_VERSION

    @classmethod
    def _of_kind(cls, data: Mapping[str, Any]) -> dict[str, Any]:
        model = ModelSpec.from_json(data["model"])
        if "crop" in data["engines"] and not model.crop_size:
            raise BundleError(f"{MANIFEST} lists an engine for crops, but its model has no crop_size; {REBUILD}")
        return {"model": model, "template": str(data["template"])}


def kind_of(data: Mapping[str, Any]) -> str:
    """Return the kind of the bundle with a manifest. The manifests of describers do not name it."""
    return str(data.get("kind", Manifest.kind_of_bundle))
