"""Bundles: what was written is read back, and whatever is wrong with one is named together with the remedy."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from osprey_ros.bundle import hash_cache
from osprey_ros.bundle.bundle import Bundle, write_manifest
from osprey_ros.bundle.manifest import (
    CROP,
    MANIFEST,
    ONNX_FILES,
    TABLES,
    EngineEntry,
    Manifest,
    onnx_engines,
)
from osprey_ros.bundle.places import find_bundle
from osprey_ros.bundle.spec import ModelSpec
from osprey_ros.errors import BundleError


@pytest.fixture
def folder(tmp_path: Path, spec: ModelSpec) -> Path:
    """A bundle folder. The files of engines are only bytes here: opening a bundle does not load them."""
    root = tmp_path / "small"
    root.mkdir()
    for name in (*ONNX_FILES.values(), *TABLES):
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


def test_engines_are_onnx_graphs_on_the_cpu_by_default(folder: Path) -> None:
    opened = Bundle.open(folder)
    assert opened.engine("decoder") == EngineEntry("decoder.onnx", "onnxruntime", "cpu", {})
    assert opened.path(opened.engine("vision").file) == folder / "vision.onnx"


def test_a_bundle_runs_its_graphs_on_another_device(folder: Path) -> None:
    opened = Bundle.open(folder)
    assert opened.on_device(None) is opened
    assert opened.on_device("cuda").engine("vision") == EngineEntry("vision.onnx", "onnxruntime", "cuda", {})
    assert opened.engine("vision").device == "cpu"
    (folder / "vision.onnx").rename(folder / "vision.plan")
    engines = {**onnx_engines("cuda"), "vision": EngineEntry("vision.plan", "tensorrt", "cuda", {})}
    manifest = opened.manifest
    write_manifest(
        folder,
        name="small",
        model=manifest.model,
        template=manifest.template,
        precisions={},
        verification={},
        engines=engines,
    )
    with pytest.raises(BundleError, match=r"has no vision\.onnx to run on cpu; leave out the device, or rebuild it"):
        Bundle.open(folder).on_device("cpu")


def test_plans_take_the_place_of_graphs(folder: Path, spec: ModelSpec) -> None:
    entry = EngineEntry("vision.0a1b2c3d.plan", "tensorrt", "cuda", {"gpu": "Orin", "tensorrt": "10.3.0"})
    engines = onnx_engines("cuda") | {"vision": entry}
    arguments = {"name": "x", "model": spec, "template": "osprey_v1", "precisions": {}, "verification": {}}
    (folder / "vision.onnx").unlink()
    with pytest.raises(BundleError, match=r"vision\.0a1b2c3d\.plan missing"):
        write_manifest(folder, **arguments, engines=engines)
    (folder / entry.file).write_bytes(b"plan")
    (folder / f"{entry.file}.json").write_text("{}")
    write_manifest(folder, **arguments, engines=engines)
    opened = Bundle.open(folder)
    assert opened.engine("vision") == entry
    assert opened.engine("decoder").device == "cuda"
    assert opened.path(f"{entry.file}.json").exists()
    (folder / entry.file).unlink()
    with pytest.raises(BundleError, match=r"vision\.0a1b2c3d\.plan is missing"):
        Bundle.open(folder)


def test_embeddings_are_mapped_from_disk(folder: Path) -> None:
    table = Bundle.open(folder).embeddings()
    assert isinstance(table, np.memmap)
    np.testing.assert_array_equal(table[3], np.arange(12, 16, dtype=np.float16))


def test_card_may_be_edited(folder: Path) -> None:
    (folder / "README.md").write_text("another card")
    Bundle.open(folder)


def test_the_engine_for_crops_is_optional(folder: Path, spec: ModelSpec) -> None:
    assert "crop" not in Bundle.open(folder).manifest.engines
    (folder / CROP).write_bytes(b"crop")
    write_manifest(
        folder,
        name="small",
        model=replace(spec, crop_size=64),
        template="osprey_v1",
        precisions={},
        verification={},
        engines=onnx_engines(crops=True),
    )
    bundle = Bundle.open(folder)
    assert bundle.engine("crop") == EngineEntry(CROP)
    assert bundle.on_device("cuda").engine("crop") == EngineEntry(CROP, device="cuda")
    assert (bundle.manifest.model.crop_size, bundle.manifest.model.crop_margin) == (64, 1.3)
    (folder / CROP).unlink()
    with pytest.raises(BundleError, match=r"crop\.onnx is missing"):
        Bundle.open(folder)
    with pytest.raises(BundleError, match="lists an engine for crops, but its model has no crop_size"):
        Manifest.from_json(replace(bundle.manifest, model=spec).to_json())


@pytest.mark.parametrize("name", [*ONNX_FILES.values(), *TABLES])
def test_a_changed_byte_of_a_file_is_found(folder: Path, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    data[17] ^= 1
    (folder / name).write_bytes(bytes(data))
    with pytest.raises(BundleError, match=rf"{re.escape(name)} was changed.*osprey build"):
        Bundle.open(folder)
    Bundle.open(folder, verify=False)


def test_a_corrected_manifest_is_accepted(folder: Path) -> None:
    _edit_manifest(folder, lambda m: m["engines"]["decoder"].update(device="cuda"))
    assert Bundle.open(folder).engine("decoder").device == "cuda"


def test_a_manifest_of_version_0_1_with_a_hash_of_its_own_is_accepted(folder: Path) -> None:
    assert "sha256" not in json.loads((folder / MANIFEST).read_text())
    _edit_manifest(folder, lambda m: m.update(sha256="0" * 64))
    assert Bundle.open(folder).manifest.name == "small"


def test_layout_of_a_manifest_does_not_matter(folder: Path) -> None:
    data = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(dict(reversed(data.items()))))
    Bundle.open(folder)


def test_missing_and_cut_files_are_named(folder: Path) -> None:
    engine = folder / "vision.onnx"
    data = engine.read_bytes()
    engine.write_bytes(data[:-1])
    with pytest.raises(BundleError, match=rf"vision\.onnx has {len(data) - 1} bytes, the manifest says {len(data)}"):
        Bundle.open(folder)
    engine.unlink()
    with pytest.raises(BundleError, match=r"vision\.onnx is missing"):
        Bundle.open(folder)


def test_what_lies_in_place_of_a_file_is_named(folder: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:12ab\nsize 14000000000\n"
    for name in ("decoder.onnx", MANIFEST):
        (folder / name).write_text(pointer)
        with pytest.raises(BundleError, match=rf"{name} is a Git LFS pointer instead of the file: run `git lfs pull`"):
            Bundle.open(folder)
    with pytest.raises(BundleError, match=r"decoder\.onnx is a file and not an engine bundle; give the folder"):
        Bundle.open(folder / "decoder.onnx")


def test_missing_folder_lists_where_it_was_looked_for() -> None:
    with pytest.raises(BundleError, match=r"no engine bundle 'nonesuch' \(searched .*engines"):
        Bundle.open("nonesuch")


def test_folder_without_manifest(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no manifest\.json"):
        Bundle.open(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(format_version=1), "format_version 1, this osprey_ros reads 4"),
        (lambda m: m.update(format_version=3), "format_version 3, this osprey_ros reads 4"),
        (lambda m: m.pop("template"), "lacks template"),
        (lambda m: m["model"].pop("num_heads"), "model lacks num_heads"),
        (lambda m: m["files"].pop("tokenizer.json"), "does not list tokenizer.json"),
        (lambda m: m["files"].pop("mask_extractor.onnx"), r"does not list mask_extractor\.onnx"),
        (lambda m: m["engines"].pop("vision"), "lists no engine for vision"),
        (lambda m: m["engines"]["vision"].pop("runtime"), "cannot be read"),
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
    with pytest.raises(BundleError, match=r"shape \(10, 4\), the manifest expects \(11, 4\)"):
        Bundle.open(folder).embeddings()


def test_embeddings_of_another_type(folder: Path, spec: ModelSpec) -> None:
    np.save(folder / "embeddings.npy", np.zeros((10, 4), np.float32))
    write_manifest(folder, name="x", model=spec, template="osprey_v1", precisions={}, verification={})
    with pytest.raises(BundleError, match="holds float32, it must be float16"):
        Bundle.open(folder).embeddings()


def test_tables_that_cannot_be_read_are_named(folder: Path, spec: ModelSpec) -> None:
    (folder / "embeddings.npy").write_bytes(b"")
    write_manifest(folder, name="x", model=spec, template="osprey_v1", precisions={}, verification={})
    opened = Bundle.open(folder)
    with pytest.raises(BundleError, match=r"embeddings\.npy is not a plain numpy array"):
        opened.embeddings()
    with pytest.raises(BundleError, match=r"tokenizer\.json is not a tokenizer"):
        opened.tokenizer()
    (folder / "embeddings.npy").unlink()
    with pytest.raises(BundleError, match=r"embeddings\.npy is missing"):
        opened.embeddings()


def test_files_that_the_system_does_not_read_are_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BundleError, match="no engine bundle"):
        Bundle.open("x" * 5000)

    def refuse(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(hash_cache, "sha256_of", refuse)
    with pytest.raises(BundleError, match=r"decoder\.onnx cannot be read: permission denied; change the permissions"):
        Bundle.open(folder)
    (folder / MANIFEST).unlink()
    (folder / MANIFEST).mkdir()
    with pytest.raises(BundleError, match=r"manifest\.json cannot be read: it is a folder"):
        Bundle.open(folder)


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
    assert Bundle.open("small").manifest.name == "small"

    # A folder that happens to have the name does not hide it; a bundle of that name, or a written path, does.
    (tmp_path / "here" / "small").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    assert find_bundle("small") == engines / "small"
    assert find_bundle("./small") == Path("small")
    shutil.copy(engines / "small" / MANIFEST, "small")
    assert find_bundle("small") == Path("small")
