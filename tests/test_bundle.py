"""Bundles: what was written is read back, and whatever is wrong with one is named together with the remedy."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from osprey_ros import bundle as bundles
from osprey_ros.bundle import (
    MANIFEST,
    REQUIRED_FILES,
    Bundle,
    BundleError,
    Manifest,
    ModelSpec,
    find_bundle,
    write_manifest,
)


@pytest.fixture
def folder(tmp_path: Path, spec: ModelSpec) -> Path:
    """A sealed bundle folder. The files of engines are only bytes here: opening a bundle does not load them."""
    root = tmp_path / "small"
    root.mkdir()
    for name in REQUIRED_FILES:
        (root / name).write_bytes(name.encode() * 100)
    np.save(root / "embeddings.npy", np.arange(40, dtype=np.float16).reshape(10, 4))
    (root / "README.md").write_text("a card")
    write_manifest(
        root,
        name="small",
        model=spec,
        template="osprey_v1",
        precisions={"decoder": "int4"},
        verification={"verified": True, "category": 0.9},
    )
    return root


def _edit_manifest(root: Path, change: Callable[[dict[str, Any]], object]) -> None:
    data = json.loads((root / MANIFEST).read_text())
    change(data)
    (root / MANIFEST).write_text(json.dumps(data))


def test_manifest_is_read_back_as_it_was_written(folder: Path, spec: ModelSpec) -> None:
    opened = Bundle.open(folder)
    assert opened.manifest.model == spec
    assert opened.manifest.name == "small"
    assert opened.manifest.verified
    assert opened.manifest.verification["category"] == 0.9
    assert Manifest.from_json(opened.manifest.to_json()) == opened.manifest
    assert spec.feature_sizes == ((16, 16), (8, 8), (4, 4), (2, 2))


def test_embeddings_are_mapped_from_disk(folder: Path) -> None:
    table = Bundle.open(folder).embeddings()
    assert isinstance(table, np.memmap)
    np.testing.assert_array_equal(table[3], np.arange(12, 16, dtype=np.float16))


def test_card_may_be_edited_but_no_engine(folder: Path) -> None:
    (folder / "README.md").write_text("another card")
    Bundle.open(folder)
    engine = folder / "decoder.onnx"
    data = bytearray(engine.read_bytes())
    data[17] ^= 1
    engine.write_bytes(bytes(data))
    with pytest.raises(BundleError, match=r"decoder\.onnx was changed.*build_engines"):
        Bundle.open(folder)
    Bundle.open(folder, verify=False)


def test_missing_and_cut_files_are_named(folder: Path) -> None:
    engine = folder / "vision.onnx"
    data = engine.read_bytes()
    engine.write_bytes(data[:-1])
    with pytest.raises(BundleError, match=rf"vision\.onnx has {len(data) - 1} bytes, the manifest says {len(data)}"):
        Bundle.open(folder, verify=False)
    engine.unlink()
    with pytest.raises(BundleError, match=r"vision\.onnx is missing"):
        Bundle.open(folder)


def test_missing_folder_lists_where_it_was_looked_for() -> None:
    with pytest.raises(BundleError, match=r"no engine bundle 'nonesuch' \(looked for .*engines"):
        Bundle.open("nonesuch")


def test_folder_without_manifest(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no manifest\.json"):
        Bundle.open(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(format_version=2), "format_version 2, this osprey_ros reads 1"),
        (lambda m: m.pop("template"), "lacks template"),
        (lambda m: m["model"].pop("num_heads"), "model lacks num_heads"),
        (lambda m: m["files"].pop("tokenizer.json"), "does not list tokenizer.json"),
        (lambda m: m["files"].update({"../x": {"bytes": 1, "sha256": "0"}}), "not a plain file name"),
        (lambda m: m.update(files={"vision.onnx": 3}), "cannot be read"),
    ],
)
def test_manifests_that_cannot_be_used(folder: Path, change: Callable[[dict[str, Any]], object], message: str) -> None:
    _edit_manifest(folder, change)
    with pytest.raises(BundleError, match=message):
        Bundle.open(folder)


def test_manifest_that_is_no_json(folder: Path) -> None:
    (folder / MANIFEST).write_text("{")
    with pytest.raises(BundleError, match="not valid JSON"):
        Bundle.open(folder)


def test_embeddings_of_another_shape(folder: Path) -> None:
    _edit_manifest(folder, lambda m: m["model"].update(vocab_size=11))
    with pytest.raises(BundleError, match=r"shape \(10, 4\), the manifest says \(11, 4\)"):
        Bundle.open(folder).embeddings()


def test_manifest_is_not_written_for_half_a_bundle(folder: Path, spec: ModelSpec) -> None:
    (folder / "decoder.onnx").unlink()
    with pytest.raises(BundleError, match=r"decoder\.onnx missing"):
        write_manifest(folder, name="x", model=spec, template="osprey_v1", precisions={}, verification={})


def test_name_is_found_in_an_install_space(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engines = tmp_path / "install" / "share" / "osprey_ros" / "engines"
    engines.mkdir(parents=True)
    folder.rename(engines / "small")
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"/nowhere:{tmp_path / 'install'}")
    assert find_bundle("small") == engines / "small"
    assert bundles.Bundle.open("small").manifest.name == "small"
