"""The vision and mask-extractor graphs against PyTorch, odd masks included."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import TinyModel
from onnx.reference import ReferenceEvaluator
from torch.nn import functional

from export.graph_mask_extractor import LEVELS, build_mask_extractor
from export.graph_vision import build_vision
from osprey_ros.bundle.bundle import Bundle
from osprey_ros.bundle.manifest import MASK_EXTRACTOR
from osprey_ros.engines.base import load_engine
from osprey_ros.errors import InputError
from osprey_ros.regions.regions import regions_from_masks
from osprey_torch.checkpoint import load_checkpoint
from osprey_torch.config import OspreyConfig
from osprey_torch.model import Osprey
from osprey_torch.onnx_graph import GraphBuilder

CONFIG = OspreyConfig(
    image_size=64,
    vision_depths=(1, 2, 1, 1),
    vision_channels=(8, 16, 24, 32),
    vision_layer_scale=0.5,
    mask_channels=20,
    position_size=6,
    hidden_size=32,
    intermediate_size=48,
    num_layers=1,
    num_heads=2,
    vocab_size=40,
    max_positions=128,
    mask_id=40,
    pos_id=41,
)


@pytest.fixture(scope="module")
def model() -> Osprey:
    torch.manual_seed(0)
    model = Osprey(CONFIG).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # Fresh norms and biases are ones and zeros: a graph that forgot them would pass.
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


@pytest.fixture(scope="module")
def read(model: Osprey) -> Callable[[str], np.ndarray]:
    state = model.state_dict()
    return lambda name: state[name].numpy()


def _session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def _exact(path: Path, inputs: dict[str, np.ndarray], outputs: list[str] | None = None) -> list[np.ndarray]:
    """Runs a graph in the very types that it is written in. onnxruntime's CPU kernels leave float16 roundings out."""
    return ReferenceEvaluator(os.fspath(path)).run(outputs, inputs)


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.ravel().astype(np.float64), b.ravel().astype(np.float64)
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def _pixels() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((1, 3, 64, 64)).astype(np.float32)


def _features() -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    shapes = zip(CONFIG.vision_channels, CONFIG.feature_sizes, strict=True)
    return [rng.standard_normal((1, c, h, w)).astype(np.float32) for c, (h, w) in shapes]


@pytest.mark.parametrize(("half", "tolerance"), [(False, 1e-5), (True, 5e-3)])
def test_vision_equals_torch(model: Osprey, read: Callable, tmp_path: Path, half: bool, tolerance: float) -> None:
    build_vision(CONFIG, read, tmp_path / "vision.onnx", half=half)
    session = _session(tmp_path / "vision.onnx")
    assert [output.name for output in session.get_outputs()] == [*LEVELS, "image_tokens"]
    outputs = session.run(None, {"pixels": _pixels()})
    with torch.inference_mode():
        features, image_tokens = model.encode_image(torch.from_numpy(_pixels()))
    for name, output, reference in zip((*LEVELS, "tokens"), outputs, (*features, image_tokens[0]), strict=True):
        scale = float(reference.abs().max())
        np.testing.assert_allclose(output, reference.numpy(), atol=tolerance * scale, err_msg=name)


def test_vision_in_float16_is_near_torch(model: Osprey, read: Callable, tmp_path: Path) -> None:
    build_vision(CONFIG, read, tmp_path / "vision.onnx", half_compute=True)
    inputs = {"pixels": _pixels()}
    with torch.inference_mode():
        features, image_tokens = model.encode_image(torch.from_numpy(_pixels()))
    references = [r.numpy() for r in (*features, image_tokens[0])]
    session = _session(tmp_path / "vision.onnx")
    for outputs in (_exact(tmp_path / "vision.onnx", inputs), session.run(None, inputs)):
        for name, output, reference in zip((*LEVELS, "tokens"), outputs, references, strict=True):
            assert output.dtype == np.float32, name
            assert _cosine(output, reference) > 0.99999, name
            np.testing.assert_allclose(output, reference, atol=3e-3 * np.abs(reference).max(), err_msg=name)


def test_small_layer_scales_survive_float16(read: Callable, tmp_path: Path) -> None:
    """A layer scale of 1e-6, as a fresh ConvNeXt has, must not vanish with the float16 weights of its block."""

    def scaled(name: str) -> np.ndarray:
        # The stem gives little, so that what the blocks add is seen at all.
        factor = 1e-6 if name.endswith(".gamma") else 1e-7 if ".stem.1." in name else 1.0
        return read(name) * np.float32(factor)

    for compute in (False, True):
        build_vision(CONFIG, scaled, tmp_path / f"{compute}.onnx", half_compute=compute)
    full, half = (_exact(tmp_path / f"{c}.onnx", {"pixels": _pixels()}, ["res2"])[0] for c in (False, True))
    assert _cosine(full, half) > 0.9999


@pytest.mark.parametrize("fill", [1.0, 60.0])
def test_mask_extractor_in_float16_sums_large_masks(model: Osprey, read: Callable, tmp_path: Path, fill: float) -> None:
    """At 60 the sum over a whole map is beyond float16 (65504): the mean must not be."""
    rng = np.random.default_rng(3)
    config = replace(CONFIG, image_size=512)
    shapes = zip(config.vision_channels, config.feature_sizes, strict=True)
    features = [
        (fill * (1 + rng.standard_normal((1, c, h, w)) / 10)).astype(np.float32)
        for c, h, w in ((c, *size) for c, size in shapes)
    ]
    masks = [np.ones((2, *size), np.float32) for size in config.feature_sizes]
    for mask in masks:
        mask[1, : mask.shape[1] // 2] = 0
    inputs = dict(zip(LEVELS, features, strict=True)) | {"position": rng.random((2, 6, 6)).astype(np.float32)}
    inputs |= {f"mask_{level}": mask for level, mask in zip(LEVELS, masks, strict=True)}
    build_mask_extractor(config, read, tmp_path / "half.onnx", half_compute=True)
    with torch.inference_mode():
        references = model.encode_regions(
            [torch.from_numpy(f) for f in features],
            [torch.from_numpy(m) for m in masks],
            torch.from_numpy(inputs["position"]),
        )
    session = _session(tmp_path / "half.onnx")
    for outputs in (_exact(tmp_path / "half.onnx", inputs), session.run(None, inputs)):
        for output, reference in zip(outputs, references, strict=True):
            assert output.dtype == np.float32
            assert _cosine(output, reference.numpy()) > 0.99999


@pytest.mark.parametrize("half_compute", [False, True])
def test_weights_beside_the_graph_are_the_same_weights(read: Callable, tmp_path: Path, half_compute: bool) -> None:
    (tmp_path / "beside").mkdir()
    inside, beside = tmp_path / "vision.onnx", tmp_path / "beside" / "vision.onnx"
    build_vision(CONFIG, read, inside, half_compute=half_compute)
    build_vision(CONFIG, read, beside, half_compute=half_compute, external=tmp_path / "beside" / "vision.onnx.data")
    assert beside.stat().st_size < inside.stat().st_size
    loaded = [{w.name: onnx.numpy_helper.to_array(w) for w in onnx.load(p).graph.initializer} for p in (inside, beside)]
    assert loaded[0].keys() == loaded[1].keys()
    for key, value in loaded[0].items():
        np.testing.assert_array_equal(value, loaded[1][key])


def test_half_storage_halves_the_file(read: Callable, tmp_path: Path) -> None:
    build_vision(CONFIG, read, tmp_path / "full.onnx")
    build_vision(CONFIG, read, tmp_path / "half.onnx", half=True)
    build_vision(CONFIG, read, tmp_path / "empty.onnx", external=tmp_path / "empty.onnx.data")
    nodes = (tmp_path / "empty.onnx").stat().st_size
    weights = (tmp_path / "full.onnx").stat().st_size - nodes
    assert (tmp_path / "half.onnx").stat().st_size - nodes < 0.7 * weights


@pytest.mark.parametrize("regions", [1, 5])
def test_mask_extractor_equals_torch_for_odd_masks(model: Osprey, read: Callable, tmp_path: Path, regions: int) -> None:
    """One pixel, one row, the whole image, nothing at all, and a random mask."""
    build_mask_extractor(CONFIG, read, tmp_path / "mask_extractor.onnx")
    rng = np.random.default_rng(2)
    masks = []
    for height, width in CONFIG.feature_sizes:
        mask = np.zeros((5, height, width), np.float32)
        mask[0, height // 2, width - 1] = 1
        mask[1, 0] = 1
        mask[2] = 1
        mask[4] = rng.random((height, width)) > 0.5
        masks.append(mask[-regions:])
    positions = rng.random((regions, 6, 6)).astype(np.float32)
    inputs = dict(zip(LEVELS, _features(), strict=True))
    inputs |= {f"mask_{level}": mask for level, mask in zip(LEVELS, masks, strict=True)}
    session = _session(tmp_path / "mask_extractor.onnx")
    outputs = session.run(["mask_tokens", "position_tokens"], {**inputs, "position": positions})
    with torch.inference_mode():
        references = model.encode_regions(
            [torch.from_numpy(f) for f in _features()],
            [torch.from_numpy(m) for m in masks],
            torch.from_numpy(positions),
        )
    for output, reference in zip(outputs, references, strict=True):
        assert output.shape == (regions, CONFIG.hidden_size)
        np.testing.assert_allclose(output, reference.numpy(), atol=2e-5, rtol=1e-4)


@torch.inference_mode()
def test_mask_extractors_are_the_published_formula(tiny_model: TinyModel) -> None:
    """Written out from full-size binary masks: one pixel, one row, the whole image, an odd blob, and an empty mask."""
    height, width = 60, 80
    masks = np.zeros((5, height, width), bool)
    masks[0, 31, 37] = True  # res2 and the position grid skip neither this pixel nor the row
    masks[1, 23] = True
    masks[2] = True
    y, x = np.mgrid[:height, :width]
    masks[3] = ((x - 50) ** 2 + 3 * (y - 20) ** 2 < 500) ^ ((x + y) % 17 < 4)
    model, _ = load_checkpoint(tiny_model.checkpoint)
    bundle = Bundle.open(tiny_model.bundle)
    spec = bundle.manifest.model
    rng = np.random.default_rng(4)
    shapes = zip(spec.feature_channels, spec.feature_sizes, strict=True)
    features = [rng.standard_normal((1, c, h, w)).astype(np.float32) for c, (h, w) in shapes]

    weights = {name.removeprefix("mask_extractor."): value for name, value in model.state_dict().items()}

    def linear(name: str, rows: torch.Tensor) -> torch.Tensor:
        return rows @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    whole = torch.from_numpy(masks.astype(np.float32))[:, None]
    summed = torch.zeros(())
    for level, feature in zip(LEVELS, map(torch.from_numpy, features), strict=True):
        inside = (functional.interpolate(whole, feature.shape[2:], mode="bilinear", align_corners=False) > 0).float()
        pooled = (feature * inside).sum((2, 3)) / (inside.sum((2, 3)) + 1e-8)
        summed = summed + linear(level, pooled)
    grid = (spec.position_size, spec.position_size)
    position = functional.interpolate(whole, grid, mode="bilinear", align_corners=False).flatten(1)
    for layer in (0, 1):
        position = torch.relu(linear(f"mask_linear.layers.{layer}", position))
    published = (linear("feat_linear", summed), linear("mask_linear.layers.2", position))
    for expected in published:  # the masks differ enough for a mix-up to show
        assert torch.pdist(expected / expected.abs().max()).min() > 1e-3

    regions = regions_from_masks(masks)
    pooling, positions = regions.pooling_masks(spec.feature_sizes), regions.position_grids(spec.position_size)
    inputs = dict(zip(LEVELS, features, strict=True)) | {"position": positions}
    inputs |= {f"mask_{level}": mask for level, mask in zip(LEVELS, pooling, strict=True)}
    engine = load_engine(bundle.path(MASK_EXTRACTOR), threads=1).run(inputs, ["mask_tokens", "position_tokens"])
    torch_model = model.encode_regions(
        [torch.from_numpy(f) for f in features], [torch.from_numpy(m) for m in pooling], torch.from_numpy(positions)
    )
    for expected, ours, exported in zip(published, torch_model, engine.values(), strict=True):
        tolerance = 1e-5 * float(expected.abs().max())
        np.testing.assert_allclose(ours.numpy(), expected.numpy(), rtol=0, atol=tolerance)
        np.testing.assert_allclose(exported, expected.numpy(), rtol=0, atol=tolerance)


def test_graphs_keep_to_standard_operators(read: Callable, tmp_path: Path) -> None:
    build_vision(CONFIG, read, tmp_path / "vision.onnx")
    build_mask_extractor(CONFIG, read, tmp_path / "mask_extractor.onnx")
    for name in ("vision.onnx", "mask_extractor.onnx"):
        model = onnx.load(tmp_path / name)
        assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 17)]


def test_weights_beyond_float16_are_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"fc1\.weight.*float16"):
        GraphBuilder("x").weight("fc1.weight", np.array([7e4], np.float32), half=True)
