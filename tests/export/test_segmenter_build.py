"""Bundles of segmenters: engines that equal PyTorch for every layout, and options that do not fit."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorrt_stand_in
import torch
from segmenter_checkpoints import FAMILIES, SIDE, sample_images, tiny_model, write_tiny

from export.build_engines import main
from export.segmenter_build import SegmenterOptions, build_segmenter
from export.tensorrt_plan import Profile, profile_shapes
from osprey_ros.bundle import fingerprint
from osprey_ros.bundle.manifest import EngineEntry
from osprey_ros.engines import cuda, machine
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


def test_plans_take_a_fixed_number_of_points_and_batches_of_prompts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorRT is played by onnxruntime: the profiles, the settings and the comparison are real."""
    monkeypatch.setattr(cuda, "LIBRARY", str(tensorrt_stand_in.compile_driver(tmp_path)))
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt_stand_in.make_module())
    shapes = {}

    def build_plan(
        graph: Path, folder: Path, profiles: Sequence[Profile] = (), timing_cache: Path | None = None
    ) -> EngineEntry:
        shapes[graph.stem] = [profile_shapes(graph, profile) for profile in profiles or ({},)]
        plan = folder / f"{graph.stem}.0123.plan"
        plan.write_bytes(tensorrt_stand_in.plan_bytes(graph, shapes[graph.stem]))
        fingerprint.write_fingerprint(plan, machine.current())
        return EngineEntry(plan.name, "tensorrt", "cuda", machine.current())

    monkeypatch.setattr("export.plans.build_plan", build_plan)
    options = SegmenterOptions(runtime="tensorrt", device="cuda", max_prompts=4, max_points=5)
    checkpoint = write_tiny(tmp_path / "checkpoint", tiny_model("sam"))
    manifest = build_segmenter(checkpoint, tmp_path / "bundle", options=options, samples=sample_images())
    assert shapes[ENCODER] == [{}]
    assert [one["point_coords"] for one in shapes[DECODER]] == [((1, 5, 2),) * 3, ((2, 5, 2), (4, 5, 2), (4, 5, 2))]
    assert (manifest.model.max_prompts, manifest.model.max_points) == (4, 5)
    assert manifest.verified
    plans = {f"{role}.0123.plan{end}" for role in (ENCODER, DECODER) for end in ("", ".json")}
    assert set(manifest.files) == plans


def test_weights_of_large_graphs_lie_beside_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.traced_segmenter._EXTERNAL_FROM", 10_000)
    checkpoint = write_tiny(tmp_path / "checkpoint", tiny_model("sam"))
    manifest = build_segmenter(checkpoint, tmp_path / "bundle", samples=sample_images())
    assert manifest.verified
    assert {f"{ENCODER}.data", f"{DECODER}.data"} <= set(manifest.files)


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
