"""Recipes with a vision tower out of timm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny import TINY

from benchmarks.make_checkpoint import make_tokenizer
from osprey_ros.errors import InputError
from osprey_torch.model import Osprey
from osprey_torch.timm_models import create_timm_model
from training.recipe import ModelStart, TowerStart, recipe_from_mapping
from training.start import starting_model, with_tower

TOWER = {"name": "test_resnet"}
CONFIG = TINY.with_vocabulary(400)


def recipe(model: dict[str, Any], **stage: Any) -> dict[str, Any]:
    trained = {
        "name": "s",
        "trains": ["vision"],
        "selection": {"max_regions": 2},
        "batch_size": 2,
        "learning_rate": 1,
        "steps": 2,
    }
    return {"name": "r", "model": model, "data": {"scenes": 8}, "stages": [trained | stage]}


def test_a_recipe_names_a_tower_its_weights_and_the_levels_that_stay() -> None:
    tower = TOWER | {"weights": "w.bin"}
    read = recipe_from_mapping(recipe({"preset": "nano", "tower": tower}, frozen_levels=3, fixed_statistics=True))
    assert read.model.tower == TowerStart("test_resnet", "w.bin")
    assert (read.stages[0].frozen_levels, read.stages[0].fixed_statistics) == (3, True)
    for model, stage, message in (
        ({"checkpoint": "x", "tower": TOWER}, {}, "tower goes with preset or llm"),
        ({"llm": "x", "vision_weights": "y", "tower": TOWER}, {}, "without vision_weights"),
        ({"preset": "nano", "tower": {"file": "x"}}, {}, "model: tower: unknown keys file; known are name, weights"),
        ({"preset": "nano", "tower": TOWER}, {"frozen_levels": 5}, "frozen_levels is 5: .* 0 to 4"),
    ):
        with pytest.raises((InputError, ValueError), match=message):
            recipe_from_mapping(recipe(model, **stage))


def test_a_tower_changes_channels_and_pixels_and_the_shape_has_the_last_word() -> None:
    config = with_tower(TINY, TowerStart("test_resnet"), {"image_size": 96, "image_mean": [0.1, 0.2, 0.3]})
    assert (config.image_size, config.vision_channels) == (96, (32, 48, 192, 96))
    assert (config.image_mean, config.image_std) == ((0.1, 0.2, 0.3), (0.5, 0.5, 0.5))
    with pytest.raises(InputError, match=r"vision_channels cannot be set beside model\.tower"):
        with_tower(TINY, TowerStart("test_resnet"), {"vision_channels": [1, 2, 3, 4]})


def test_a_language_model_starts_with_a_tower_of_timm(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = Osprey(CONFIG).state_dict()
    own = {name: t for name, t in state.items() if not name.startswith(("model.vision", "mask_", "model.mm_"))}
    save_file(own, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG.to_json(), "model_type": "llama"}))
    make_tokenizer(CONFIG).save(str(tmp_path / "tokenizer.json"))
    whole = dict(create_timm_model("test_resnet").state_dict())
    save_file(whole, tmp_path / "w.safetensors")
    tower = TowerStart("test_resnet", str(tmp_path / "w.safetensors"))
    model, _ = starting_model(ModelStart(llm=str(tmp_path), tower=tower))
    assert model.config.vision_backbone == "test_resnet"
    found = model.state_dict()
    name = "layer4.0.conv2.weight"
    assert torch.equal(found[f"model.vision_tower.vision_tower.visual.trunk.{name}"], whole[name])
    assert torch.equal(found["lm_head.weight"], state["lm_head.weight"])
    whole["bn1.weight"][3] = torch.nan
    save_file(whole, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match="not finite"):
        starting_model(ModelStart(llm=str(tmp_path), tower=tower))
