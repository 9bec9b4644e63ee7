"""Vision towers out of timm: their levels, their weight files in every naming, and what cannot be a tower."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny import TINY

from benchmarks.make_checkpoint import make_tokenizer
from osprey_ros.errors import InputError
from osprey_torch import timm_models
from osprey_torch.backbone import BackboneTower, with_backbone
from osprey_torch.backbone_weights import load_backbone, with_pixel_range
from osprey_torch.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from osprey_torch.config import OspreyConfig
from osprey_torch.model import Osprey
from osprey_torch.timm_models import create_timm_model
from training.stages import freeze_all_but, level_parameters

LITE = "tf_efficientnet_lite0"
SMALL = "test_resnet"


@pytest.fixture(scope="module")
def lite() -> OspreyConfig:
    return with_backbone(TINY, LITE)


@pytest.fixture(scope="module")
def small() -> OspreyConfig:
    return with_backbone(TINY.with_vocabulary(400), SMALL)


def whole_state(name: str) -> dict[str, torch.Tensor]:
    """The random weights of a whole timm model, statistics of norms included."""
    torch.manual_seed(0)
    model = create_timm_model(name)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5)
    return dict(model.state_dict())


def lite_names() -> list[str]:
    """The names in a file of efficientnet-lite-pytorch, in its order, which is the order of the layers."""
    modules = ["_conv_stem", "_bn0"]
    for block in range(16):
        widen = ["_expand_conv", "_bn0"] if block else []
        parts = [*widen, "_depthwise_conv", "_bn1", "_project_conv", "_bn2"]
        modules += [f"_blocks.{block}.{part}" for part in parts]
    names = []
    for module in [*modules, "_conv_head", "_bn1"]:
        norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        names += [f"{module}.{leaf}" for leaf in (norm if "_bn" in module else ("weight",))]
    return [*names, "_fc.weight", "_fc.bias"]


def test_levels_and_pixels_come_from_timm(lite: OspreyConfig) -> None:
    assert lite.vision_channels == (24, 40, 112, 320)
    assert lite.image_mean == (0.5, 0.5, 0.5)
    with torch.device("meta"):
        maps = BackboneTower(lite).eval()(torch.empty(2, 3, 64, 64))
    assert [tuple(one.shape) for one in maps] == [(2, 24, 16, 16), (2, 40, 8, 8), (2, 112, 4, 4), (2, 320, 2, 2)]
    assert OspreyConfig.from_json(json.loads(json.dumps(lite.to_json()))) == lite
    assert "vision_backbone" not in TINY.to_json()["osprey"]


def test_efficientnet_lite_s_own_names_give_the_weights_of_timm_s(lite: OspreyConfig, tmp_path: Path) -> None:
    whole = whole_state(LITE)
    save_file(whole, tmp_path / "timm.safetensors")
    renamed = dict(zip(lite_names(), whole.values(), strict=True))
    torch.save(renamed, tmp_path / "lite.pth", _use_new_zipfile_serialization=False)  # as that package stores it
    states = []
    for name in ("timm.safetensors", "lite.pth"):
        tower = BackboneTower(lite)
        load_backbone(tower, lite, tmp_path / name)
        states.append(tower.state_dict())
    prefix = "vision_tower.visual.trunk."
    assert states[0].keys() == states[1].keys()
    for name, tensor in states[1].items():
        assert torch.equal(tensor, whole[name.removeprefix(prefix)]), name
    assert with_pixel_range(lite, tmp_path / "timm.safetensors") == lite
    found = with_pixel_range(lite, tmp_path / "lite.pth")
    assert [round(255 * v, 6) for v in (*found.image_mean, *found.image_std)] == [127] * 3 + [128] * 3


def test_open_clip_s_prefix_is_understood(small: OspreyConfig, tmp_path: Path) -> None:
    whole = whole_state(SMALL)
    named = {f"visual.trunk.{name}": tensor for name, tensor in whole.items() if not name.startswith("fc.")}
    extra = {"visual.head.proj.weight": torch.ones(2), "text.positional": torch.ones(2)}
    torch.save(named | extra, tmp_path / "open_clip.bin")
    tower = BackboneTower(small)
    load_backbone(tower, small, tmp_path / "open_clip.bin")
    assert torch.equal(tower.state_dict()["vision_tower.visual.trunk.conv1.0.weight"], whole["conv1.0.weight"])


def test_checkpoints_keep_the_tower_and_take_another_file_s(small: OspreyConfig, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Osprey(small).eval()
    save_checkpoint(model, make_tokenizer(small), tmp_path / "checkpoint")
    loaded, _ = load_checkpoint(tmp_path / "checkpoint")
    assert loaded.config.vision_backbone == SMALL
    assert all(torch.equal(t, model.state_dict()[name]) for name, t in loaded.state_dict().items())
    whole = whole_state(SMALL)
    save_file(whole, tmp_path / "timm.safetensors")
    given = Checkpoint.open(tmp_path / "checkpoint", vision_weights=tmp_path / "timm.safetensors")
    name = "model.vision_tower.vision_tower.visual.trunk.bn1.running_var"
    assert torch.equal(given.read_tensor(name), whole["bn1.running_var"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tf_efficientnet_lite_0", "has no model of this name; did you mean tf_efficientnet_lite0"),
        ("test_vit", "strides 16, .*: it must have levels at strides 4, 8, 16, 32"),
        ("test_maxvit", "has attention layers"),
        ("resnetblur18", "constants that its weight files lack"),
    ],
)
def test_what_cannot_be_a_tower_is_said_in_a_line(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        with_backbone(TINY, name)
    assert "\n" not in str(caught.value)


def test_weights_that_do_not_fit_are_said_in_a_line(small: OspreyConfig, tmp_path: Path) -> None:
    whole = whole_state(SMALL)
    path = tmp_path / "w.safetensors"
    for change, message in (
        ({"bn1.bias": None}, "lacks bn1.bias;"),
        ({"bn1.bias": torch.ones(3)}, r"has other shapes for bn1.bias \(3,\), expected \(32,\)"),
        ({"extra.weight": torch.ones(3), "more": torch.ones(1)}, "has unknown extra.weight and 1 more"),
        (dict.fromkeys(whole) | {"x": torch.ones(1)}, "lacks conv1.0.weight and .* more; has unknown x;"),
    ):
        changed = {name: tensor for name, tensor in (whole | change).items() if tensor is not None}
        save_file(changed, path)
        with pytest.raises(InputError, match=f"w.safetensors does not fit the vision tower '{SMALL}': it {message}"):
            load_backbone(BackboneTower(small), small, path)
    with pytest.raises(InputError, match=r"nowhere\.bin cannot be read"):
        load_backbone(BackboneTower(small), small, tmp_path / "nowhere.bin")
    with pytest.raises(InputError, match="timm version"):
        BackboneTower(replace(small, vision_channels=(1, 2, 3, 4)))


def test_without_timm_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    timm_models.import_timm.cache_clear()
    monkeypatch.setitem(sys.modules, "timm", None)
    try:
        with pytest.raises(InputError, match=r"timm is not installed; .*requirements/timm\.txt"):
            with_backbone(TINY, SMALL)
    finally:
        monkeypatch.undo()
        timm_models.import_timm.cache_clear()


def test_frozen_levels_neither_learn_nor_count_statistics(small: OspreyConfig) -> None:
    model = Osprey(small)
    tower = model.model.vision_tower
    names = {id(p): name for name, p in tower.named_parameters()}
    levels = [{names[id(p)] for p in level} for level in level_parameters(model)]
    assert set.union(*levels) == set(names.values())
    assert {name.split(".")[1] for name in levels[0]} == {"conv1", "bn1", "layer1"}
    assert [{name.split(".")[1] for name in level} for level in levels[1:]] == [{"layer2"}, {"layer3"}, {"layer4"}]

    learning = list(freeze_all_but(model, ("vision",), frozen_levels=2))
    assert {names[id(p)] for p in learning} == levels[2] | levels[3]
    model.train()
    before = {name: buffer.clone() for name, buffer in tower.named_buffers()}
    with torch.no_grad():
        tower(torch.randn(2, 3, 64, 64))
    moved = {name.split(".")[1] for name, buffer in tower.named_buffers() if not torch.equal(buffer, before[name])}
    assert moved == {"layer3", "layer4"}

    tower.fixed_statistics = True
    assert not any(m.training for m in tower.train().modules() if isinstance(m, torch.nn.BatchNorm2d))
    list(freeze_all_but(model, ("projector",)))
    tower.fixed_statistics = False
    assert not any(m.training for m in tower.train().modules())
