"""The model that training starts from: random weights, an earlier checkpoint, or a LLaMA with a CLIP tower."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from osprey_ros.bundle.bundle import Bundle
from osprey_ros.bundle.manifest import MANIFEST
from osprey_ros.errors import InputError
from osprey_torch.backbone import BackboneTower, with_backbone
from osprey_torch.backbone_weights import load_backbone, with_pixel_range
from osprey_torch.checkpoint import check_finite, config_from_json, ids_given, load_checkpoint
from osprey_torch.config import OspreyConfig
from osprey_torch.json_files import read_json
from osprey_torch.language_models import FAMILIES
from osprey_torch.model import Osprey
from osprey_torch.readback import model_from_bundle
from osprey_torch.tensor_files import read_stored
from osprey_torch.tokenizer_files import read_vocabulary
from osprey_torch.weight_layout import (
    CONFIG,
    TOWER,
    check_shapes,
    list_vision_weights,
    list_weights,
    with_tied_embeddings,
    without_spare_rows,
)
from training.recipe import ModelStart, TowerStart

# Parts that neither a LLaMA nor a CLIP tower has: they begin with random weights.
_NEW = ("model.mm_projector.", "mask_extractor.")


def starting_model(start: ModelStart) -> tuple[Osprey, Tokenizer]:
    """Return the model and tokenizer of a checkpoint, a bundle or an LLM folder. Raises InputError and BundleError."""
    if start.checkpoint is not None:
        folder = Path(start.checkpoint)
        if not (folder / MANIFEST).is_file():
            return load_checkpoint(folder, Path(start.vision_weights) if start.vision_weights else None)
        if start.vision_weights is not None:
            raise InputError(f"model: {folder} is a bundle, which has a tower; leave out vision_weights")
        bundle = Bundle.open(folder.absolute())
        return model_from_bundle(bundle), bundle.tokenizer()
    if start.llm is None:
        raise InputError("model: a preset has no weights to start from")
    return model_from_llm(Path(start.llm), Path(start.vision_weights) if start.vision_weights else None, start.tower)


def with_tower(config: OspreyConfig, tower: TowerStart | None, shape: Mapping[str, Any]) -> OspreyConfig:
    """Return a configuration with other fields (`shape`) and with a tower of timm, if one is given.

    The tower gives the channels and, unless `shape` has them, the mean and deviation of pixels. Raises InputError.
    """
    fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in shape.items()}
    try:
        config = replace(config, **fields)
    except (TypeError, ValueError) as error:
        raise InputError(f"model.shape: {error}") from error
    if tower is None:
        return config
    of_towers = sorted(name for name in shape if name.startswith("vision_"))
    if of_towers:
        raise InputError(f"model.shape: {', '.join(of_towers)} cannot be set beside model.tower; leave it out")
    config = with_backbone(config, tower.name)
    if tower.weights is not None:
        config = with_pixel_range(config, Path(tower.weights))
    return replace(config, **{name: fields[name] for name in ("image_mean", "image_std") if name in fields})


def load_tower(model: Osprey, tower: TowerStart | None) -> None:
    """Give the vision tower of a model the weights of a recipe's tower, if it has any. Raises InputError."""
    if tower is not None and tower.weights is not None:
        own = model.model.vision_tower
        assert isinstance(own, BackboneTower)
        load_backbone(own, model.config, Path(tower.weights))
        for name, weight in own.state_dict().items():
            check_finite(name, weight.numpy(), Path(tower.weights))


def model_from_llm(
    folder: Path, vision_weights: Path | None, tower: TowerStart | None = None
) -> tuple[Osprey, Tokenizer]:
    """Build a model from a LLaMA folder (such as Vicuna-7B v1.5) and a vision tower, other parts random.

    The tower is a backbone of timm, or the file `vision_weights`: open_clip's convnext_large_d_320, unless the
    folder's config.json has an "osprey" part that says otherwise. Raises InputError for files that are missing or do
    not fit.
    """
    data = read_json(folder / CONFIG)
    family = data.get("model_type")
    if family not in FAMILIES:
        raise InputError(f"{folder / CONFIG}: model_type is {family!r}, it must be one of {', '.join(FAMILIES)}")
    own = {**(data.get("osprey") or {}), "language_model": family}
    config = config_from_json({**data, "model_type": "osprey", "osprey": own}, folder / CONFIG)
    tokenizer, config = read_vocabulary(folder, config, ids_given(data))
    config = with_tower(config, tower, {})
    stored = list_weights(folder)
    if tower is None:
        stored |= list_vision_weights(folder, config, None, vision_weights)
    stored = with_tied_embeddings(without_spare_rows(stored, config), config)
    check_shapes(folder, config, stored, optional=_NEW if tower is None else (*_NEW, TOWER))
    model = Osprey(config)
    state = {name: read_stored(tensor, torch.float32) for name, tensor in stored.items()}
    for name, weight in state.items():
        check_finite(name, weight.numpy(), stored[name].path)
    model.load_state_dict(state, strict=False)
    load_tower(model, tower)
    return model, tokenizer
