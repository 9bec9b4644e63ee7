"""The vision and mask-extractor graphs against PyTorch, odd masks included."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import TinyModel
from torch.nn import functional

from export.graph_mask_extractor import LEVELS, build_mask_extractor
from export.graph_vision import build_vision
from export.onnx_graph import GraphBuilder
from osprey_ros.bundle import MASK_EXTRACTOR, Bundle
from osprey_ros.engines import load_engine
from osprey_ros.regions import regions_from_masks
from osprey_torch.checkpoint import load_checkpoint
from osprey_torch.config import OspreyConfig
from osprey_torch.model import Osprey

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
    with pytest.raises(ValueError, match=r"fc1\.weight.*float16"):
        GraphBuilder("x").weight("fc1.weight", np.array([7e4], np.float32), half=True)
