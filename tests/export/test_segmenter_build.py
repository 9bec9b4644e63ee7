"""Bundles of segmenters: engines that equal PyTorch for every layout, and options that do not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from segmenter_checkpoints import FAMILIES, SIDE, sample_images, tiny_model, write_tiny

from export.build_engines import main
from export.segmenter_build import SegmenterOptions, build_segmenter
from osprey_ros.engines.base import load_engine
from osprey_ros.segmenter.bundle import SegmenterBundle
from osprey_ros.segmenter.spec import DECODER, ENCODER


def _engines(folder: Path) -> tuple[Any, Any]:
    bundle = SegmenterBundle.open(folder)
    return load_engine(bundle.path(bundle.engine(ENCODER).file)), load_engine(bundle.path(bundle.engine(DECODER).file))


@pytest.mark.parametrize("family", FAMILIES)
def test_engines_equal_pytorch(family: str, tmp_path: Path) -> None:
    model = tiny_model(family)
    manifest = build_segmenter(write_tiny(tmp_path / "checkpoint", model), tmp_path / "bundle", samples=sample_images())
    assert manifest.verified
    assert manifest.verification["masks"]["least_iou"] > 0.999
    assert {"image_embeddings", "mask_logits", "iou_scores"} <= manifest.verification["stages"].keys()
    assert "**Verified**" in (tmp_path / "bundle" / "report.md").read_text()

    encoder, decoder = _engines(tmp_path / "bundle")
    image = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    features = encoder.run({"image": image.numpy()})
    for prompts, points in ((1, 1), (5, 3)):  # any number of both
        coords = torch.rand(prompts, points, 2, generator=torch.Generator().manual_seed(2)) * SIDE
        labels = torch.ones(prompts, points, dtype=torch.int64)
        found = decoder.run({**features, "point_coords": coords.numpy(), "point_labels": labels.numpy()})
        with torch.no_grad():
            reference = model(pixel_values=image, input_points=coords[None], input_labels=labels[None])
        np.testing.assert_allclose(found["mask_logits"], reference.pred_masks[0].numpy(), rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(found["iou_scores"], reference.iou_scores[0].numpy(), rtol=1e-3, atol=1e-3)


def test_half_weights_halve_the_files_for_the_cpu(tmp_path: Path) -> None:
    checkpoint = write_tiny(tmp_path / "checkpoint", tiny_model("sam"))
    sizes = {}
    for precision in ("fp32", "fp16"):
        options = SegmenterOptions(precision)
        manifest = build_segmenter(checkpoint, tmp_path / precision, options=options, samples=sample_images())
        sizes[precision] = sum(entry.bytes for entry in manifest.files.values())
        assert manifest.verified
    assert manifest.precisions[ENCODER] == "fp16 weights, computes in fp32"
    assert sizes["fp16"] < 0.8 * sizes["fp32"]


def test_the_command_builds_without_a_comparison(tmp_path: Path) -> None:
    checkpoint = write_tiny(tmp_path / "checkpoint", tiny_model("sam"))
    output = tmp_path / "bundle"
    assert main(["--segmenter", str(checkpoint), "--output", str(output), "--no-verify"]) == 0
    manifest = json.loads((output / "manifest.json").read_text())
    assert manifest["verification"] == {"verified": False}
    assert manifest["model"]["family"] == "sam"
    assert "**Not verified**" in (output / "report.md").read_text()


def test_options_of_the_other_kind_of_bundle_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for source, option in (("--segmenter", ["--llm", "fp16"]), ("--checkpoint", ["--max-points", "4"])):
        with pytest.raises(SystemExit) as status:
            main([source, "org/name", "--output", str(tmp_path / "bundle"), *option])
        assert status.value.code == 2
        assert f"{option[0]} cannot be given with {source}" in capsys.readouterr().err
    assert main(["--segmenter", "no such", "--output", str(tmp_path / "bundle")]) == 2
    assert "no such is not a folder" in capsys.readouterr().err
