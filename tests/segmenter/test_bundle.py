"""Bundles of segmenters: their manifest, its settings, and the commands that print and check them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from osprey_ros.bundle.bundle import Bundle
from osprey_ros.bundle.manifest import MANIFEST
from osprey_ros.cli.main import main
from osprey_ros.errors import BundleError
from osprey_ros.segmenter.bundle import ROLES, SegmenterBundle, write_segmenter_manifest
from osprey_ros.segmenter.spec import DECODER, EverythingSpec, SegmenterSpec

SPEC = SegmenterSpec(
    family="sam",
    input_size=(768, 1024),
    resize="pad",
    interpolation="bilinear",
    image_mean=(0.485, 0.456, 0.406),
    image_std=(0.229, 0.224, 0.225),
    pixel_center=0.0,
    everything=EverythingSpec(points_per_side=16, min_area=50),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bundle folder. The files of engines are only bytes here: opening a bundle does not load them."""
    root = tmp_path / "masks"
    root.mkdir()
    for role in ROLES:
        (root / f"{role}.onnx").write_bytes(role.encode() * 100)
    write_segmenter_manifest(
        root, name="masks", model=SPEC, precisions={DECODER: "fp16"}, verification={"verified": True, "mask_iou": 0.998}
    )
    return root


def _edit_manifest(root: Path, change: Callable[[dict[str, Any]], object]) -> None:
    data = json.loads((root / MANIFEST).read_text())
    change(data)
    (root / MANIFEST).write_text(json.dumps(data))


def test_manifest_is_read_back_as_it_was_written(folder: Path) -> None:
    manifest = SegmenterBundle.open(folder).manifest
    assert manifest.model == SPEC
    assert manifest.verified
    assert manifest.precisions == {DECODER: "fp16"}
    assert {role: entry.file for role, entry in manifest.engines.items()} == {role: f"{role}.onnx" for role in ROLES}


def test_settings_of_a_newer_version_are_ignored_and_absent_ones_have_defaults(folder: Path) -> None:
    _edit_manifest(folder, lambda m: m["model"].update(later=1))
    _edit_manifest(folder, lambda m: m["model"].update(everything={"batch": 8, "later": 2}))
    _edit_manifest(folder, lambda m: m["model"].pop("max_points"))
    model = SegmenterBundle.open(folder).manifest.model
    assert model.everything == EverythingSpec(batch=8)
    assert model.max_points == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(format_version=9), "format_version 9, this osprey_ros reads 1"),
        (lambda m: m["model"].pop("resize"), "model lacks resize; rebuild it with `osprey build --segmenter"),
        (lambda m: m["model"].update(resize="crop"), "resize is 'crop'; this osprey_ros knows stretch, pad"),
        (lambda m: m["model"].update(input_size=[1024]), r"input_size is \(1024,\)"),
        (lambda m: m["model"]["everything"].update(batch=0), "everything: batch is too small"),
        (lambda m: m["engines"].pop(DECODER), "lists no engine for segmenter_decoder"),
        (lambda m: m.pop("kind"), "it is the bundle of a describer; give the bundle of a segmenter"),
    ],
)
def test_manifests_that_cannot_be_used(folder: Path, change: Callable[[dict[str, Any]], object], message: str) -> None:
    _edit_manifest(folder, change)
    with pytest.raises(BundleError, match=message):
        SegmenterBundle.open(folder)


def test_a_describer_does_not_take_it(folder: Path) -> None:
    with pytest.raises(BundleError, match="it is the bundle of a segmenter; give the bundle of a describer"):
        Bundle.open(folder)


def test_half_a_bundle_is_not_written(folder: Path) -> None:
    (folder / f"{DECODER}.onnx").unlink()
    with pytest.raises(BundleError, match=r"segmenter_decoder\.onnx missing; rebuild it with `osprey build --segm"):
        write_segmenter_manifest(folder, name="x", model=SPEC, precisions={}, verification={})


def test_no_bundle_of_a_name_says_how_to_build_one() -> None:
    with pytest.raises(BundleError, match=r"no engine bundle 'nonesuch'.* `osprey build --segmenter DIR"):
        SegmenterBundle.open("nonesuch")


def test_show_and_verify(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bundle", "show", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert "1024 x 768 pixels (pad, bilinear)" in shown
    assert ["segmenter_decoder", "segmenter_decoder.onnx", "onnxruntime", "on", "cpu", "fp16"] in [
        line.split() for line in shown.splitlines()
    ]
    assert main(["bundle", "show", "--json", str(folder)]) == 0
    assert json.loads(capsys.readouterr().out)["model"]["family"] == "sam"
    assert main(["bundle", "verify", str(folder)]) == 0
    assert "OK: 2 files" in capsys.readouterr().out
    encoder = folder / "segmenter_encoder.onnx"
    encoder.write_bytes(bytes(len(encoder.read_bytes())))
    assert main(["bundle", "verify", str(folder)]) == 1
    assert "segmenter_encoder.onnx was changed" in capsys.readouterr().out
