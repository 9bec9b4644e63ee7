"""Towers of timm from a checkpoint to engines, family by family, against PyTorch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx_session import open_session
from tiny import TINY

from benchmarks.make_checkpoint import make_tokenizer
from export import graph_backbone
from export.build import Precisions, Targets, build_bundle
from export.graph_crop import build_crop
from export.graph_vision import build_vision
from export.samples import VerificationSample
from osprey_ros.bundle.bundle import Bundle
from osprey_ros.bundle.manifest import VISION
from osprey_ros.errors import BundleError, InputError
from osprey_torch.backbone import with_backbone
from osprey_torch.checkpoint import Checkpoint, save_checkpoint
from osprey_torch.model import Osprey
from osprey_torch.readback import model_from_bundle

PIXELS = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
# Each has operators that the others lack.
FAMILIES = (
    "tf_efficientnet_lite0",  # padding at one side, ReLU6
    "test_resnet",  # pooling, average pooling in shortcuts
    "mobilenetv3_small_050",  # squeeze and excitation, hard sigmoid and swish
    "test_convnext",  # layer norms, linears, GELU
)


def random_model(name: str, crop_size: int = 0) -> Osprey:
    """A model whose norms and biases are not what they start with, so that leaving one out would show."""
    torch.manual_seed(0)
    model = Osprey(replace(with_backbone(TINY.with_vocabulary(400), name), crop_size=crop_size)).eval()
    if crop_size:
        torch.nn.init.normal_(model.mask_extractor.crop.feat_linear.weight)
    for key, tensor in model.state_dict().items():
        if tensor.ndim == 1 and "vision_tower" in key:
            tensor.mul_(torch.empty_like(tensor).uniform_(0.8, 1.2)).add_(0.1 * torch.rand_like(tensor))
    model.lm_head.weight.data *= 60
    return model


def run(graph: Path) -> list[np.ndarray]:
    return open_session(graph).run(None, {"pixels": PIXELS.numpy()})


def expected(model: Osprey) -> list[np.ndarray]:
    with torch.inference_mode():
        features, tokens = model.encode_image(PIXELS)
    return [one.numpy() for one in (*features, tokens[0])]


def assert_near(found: list[np.ndarray], reference: list[np.ndarray], tolerance: float) -> None:
    for own, other in zip(found, reference, strict=True):
        assert own.shape == other.shape
        assert np.abs(own - other).max() <= tolerance * np.abs(other).max()


@pytest.mark.parametrize("name", FAMILIES)
def test_the_graph_computes_what_pytorch_computes(name: str, tmp_path: Path) -> None:
    model = random_model(name)
    save_checkpoint(model, make_tokenizer(model.config), tmp_path / "checkpoint")
    checkpoint = Checkpoint.open(tmp_path / "checkpoint")
    build_vision(checkpoint.config, checkpoint.read, tmp_path / "exact.onnx")
    assert_near(run(tmp_path / "exact.onnx"), expected(model), 1e-5)
    build_vision(checkpoint.config, checkpoint.read, tmp_path / "half.onnx", half=True, half_compute=True)
    assert_near(run(tmp_path / "half.onnx"), expected(model), 2e-2)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_graph_of_crops_takes_any_number_of_them(name: str, tmp_path: Path) -> None:
    model = random_model(name, crop_size=64)
    state = model.state_dict()
    build_crop(model.config, lambda key: state[key].numpy(), tmp_path / "crop.onnx")
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(3, 3, 64, 64, generator=generator)
    masks = [(torch.rand(3, h, w, generator=generator) > 0.5).float() for h, w in model.config.crop_feature_sizes]
    with torch.inference_mode():
        expected = model.encode_crops(pixels, masks).numpy()
    assert np.abs(expected).max() > 0
    session = open_session(tmp_path / "crop.onnx")
    for count in (1, 3):
        inputs = {f"mask_res{level}": mask[:count].numpy() for level, mask in enumerate(masks, start=2)}
        assert_near(session.run(None, {"pixels": pixels[:count].numpy(), **inputs}), [expected[:count]], 1e-5)


def test_towers_that_float16_holds_exactly_are_stored_in_half_the_bytes(tmp_path: Path) -> None:
    model = random_model("tf_efficientnet_lite0", crop_size=64)
    build_vision(model.config, lambda key: model.state_dict()[key].numpy(), tmp_path / "whole.onnx")
    for key, tensor in model.state_dict().items():
        if "vision_tower" in key:
            tensor.copy_(tensor.half().float())
    save_checkpoint(model, make_tokenizer(model.config), tmp_path / "checkpoint")
    build_bundle(tmp_path / "checkpoint", tmp_path / "bundle", verify=False)
    bundle = Bundle.open(tmp_path / "bundle")
    assert bundle.path(VISION).stat().st_size < 0.55 * (tmp_path / "whole.onnx").stat().st_size
    # The kernels are exact, and so are the sums: no more than the rounding of a product with the factors of norms.
    assert_near(run(bundle.path(VISION)), expected(model), 1e-5)
    assert_near(expected(model_from_bundle(bundle)), expected(model), 1e-5)
    read_back = model_from_bundle(bundle)
    for key, tensor in read_back.mask_extractor.state_dict().items():
        assert torch.equal(tensor, model.mask_extractor.state_dict()[key]), key


def test_a_bundle_is_verified_stage_by_stage_and_its_weights_are_read_back(tmp_path: Path) -> None:
    model = random_model("mobilenetv3_small_050")
    save_checkpoint(model, make_tokenizer(model.config), tmp_path / "checkpoint")
    ids = np.zeros((48, 60), np.uint16)
    ids[5:20, 3:30], ids[22:40, 20:50] = 1, 2
    rgb = np.random.default_rng(0).integers(0, 256, (48, 60, 3), dtype=np.uint8)
    precisions = Precisions(llm="fp32", lm_head="fp32")
    samples = [VerificationSample("noise", rgb, ids)]
    manifest = build_bundle(tmp_path / "checkpoint", tmp_path / "bundle", precisions=precisions, samples=samples)
    assert manifest.verification["verified"]
    assert manifest.model.feature_channels == model.config.vision_channels == (8, 16, 24, 288)
    assert manifest.model.image_mean == model.config.image_mean
    found = model_from_bundle(Bundle.open(tmp_path / "bundle"))
    assert found.config == model.config
    assert_near(expected(found), expected(model), 1e-5)
    assert_near(run(tmp_path / "bundle" / VISION), expected(model), 1e-5)


def test_weights_that_the_graph_computes_with_are_not_read_back_wrongly(tmp_path: Path) -> None:
    model = random_model("test_nfnet")  # normalizes its kernels
    save_checkpoint(model, make_tokenizer(model.config), tmp_path / "checkpoint")
    build_bundle(tmp_path / "checkpoint", tmp_path / "bundle", verify=False, targets=Targets())
    assert_near(run(tmp_path / "bundle" / VISION), expected(model), 1e-4)
    with pytest.raises(BundleError, match="cannot be read back: use the checkpoint"):
        model_from_bundle(Bundle.open(tmp_path / "bundle"))


def test_an_operation_without_a_counterpart_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model("test_resnet")
    state = model.state_dict()
    monkeypatch.delitem(graph_backbone.OPERATORS, "max_pool2d_with_indices", raising=False)
    monkeypatch.delitem(graph_backbone.ELEMENTWISE, "relu")
    with pytest.raises(InputError, match="'test_resnet' computes 'relu', for which the export has no ONNX operator"):
        build_vision(model.config, lambda name: state[name].numpy(), tmp_path / "x.onnx")
