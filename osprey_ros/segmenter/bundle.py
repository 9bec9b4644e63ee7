"""The bundle of a segmenter: two engines, the settings of their input, and what writes the manifest."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from osprey_ros.bundle.engine_bundle import EngineBundle, write_with_files
from osprey_ros.bundle.manifest import MANIFEST, EngineEntry, EngineManifest, Manifest, graphs, kind_of
from osprey_ros.bundle.places import find_bundle
from osprey_ros.segmenter.spec import DECODER, ENCODER, REBUILD, SegmenterSpec

if TYPE_CHECKING:
    from osprey_ros.bundle.bundle import Bundle

FORMAT_VERSION = 1
ROLES = (ENCODER, DECODER)
KIND = "segmenter"


def segmenter_graphs(device: str = "cpu") -> dict[str, EngineEntry]:
    """Return the ``engines`` of a bundle whose engines are ONNX graphs, ROLE.onnx each."""
    return graphs(ROLES, device)


@dataclass(frozen=True, kw_only=True)
class SegmenterManifest(EngineManifest):
    """The contents of the ``manifest.json`` of a segmenter's bundle.

    Attributes:
        model: Settings of the segmenter.
    """

    kind_of_bundle = KIND
    readable_version = FORMAT_VERSION
    roles = ROLES
    fields_of_kind = ("model",)
    rebuild = REBUILD

    model: SegmenterSpec
    engines: dict[str, EngineEntry] = field(default_factory=segmenter_graphs)
    kind: str = KIND
    format_version: int = FORMAT_VERSION

    @classmethod
    def _of_kind(cls, data: Mapping[str, Any]) -> dict[str, Any]:
        return {"model": SegmenterSpec.from_json(data["model"])}


def manifest_type(data: Any) -> type[EngineManifest]:
    """Return the type of the manifest with this content, whatever its faults."""
    is_segmenter = isinstance(data, dict) and kind_of(data) == SegmenterManifest.kind_of_bundle
    return SegmenterManifest if is_segmenter else Manifest


class SegmenterBundle(EngineBundle[SegmenterManifest]):
    """An opened bundle of a segmenter."""

    manifest_type = SegmenterManifest


def open_any_bundle(path: str | os.PathLike[str]) -> Bundle | SegmenterBundle:
    """Open a bundle of either kind by folder or name, without verifying its files. Raises BundleError."""
    from osprey_ros.bundle.bundle import Bundle  # with numpy

    root = find_bundle(path)
    kind: type[EngineManifest] = Manifest
    with suppress(OSError, ValueError, RecursionError):  # the bundle says what is wrong with its manifest
        kind = manifest_type(json.loads((root / MANIFEST).read_bytes()))
    return (SegmenterBundle if kind is SegmenterManifest else Bundle).open(root, verify=False)


def write_segmenter_manifest(
    directory: str | os.PathLike[str],
    *,
    name: str,
    model: SegmenterSpec,
    precisions: Mapping[str, str],
    verification: Mapping[str, Any],
    engines: Mapping[str, EngineEntry] | None = None,
) -> SegmenterManifest:
    """Write the ``manifest.json`` of a segmenter's complete bundle folder as `write_with_files` does, and return it.

    Args:
        directory: Folder of the bundle.
        name, precisions, verification: As in `EngineManifest`; ``precisions`` also says which blocks stay in fp32.
        model: Settings of the segmenter.
        engines: The engine of each role; by default two ONNX graphs for the CPU.
    """
    manifest = SegmenterManifest(
        name=name,
        model=model,
        precisions=dict(precisions),
        files={},
        verification=dict(verification),
        engines=segmenter_graphs() if engines is None else dict(engines),
    )
    return write_with_files(directory, manifest)
