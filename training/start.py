"""The model that training starts from: random weights, an earlier checkpoint, or a LLaMA with a CLIP tower."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer

from osprey_ros.errors import InputError
from osprey_torch.checkpoint import check_finite, config_from_json, ids_given, load_checkpoint
from osprey_torch.json_files import read_json
from osprey_torch.model import Osprey
from osprey_torch.tensor_files import read_stored
from osprey_torch.tokenizer_files import read_vocabulary
from osprey_torch.weight_layout import CONFIG, check_shapes, list_vision_weights, list_weights, without_spare_rows
from training.recipe import ModelStart

# Parts that neither a LLaMA nor a CLIP tower has: they begin with random weights.
_NEW = ("model.mm_projector.", "mask_extractor.")


def starting_model(start: ModelStart) -> tuple[Osprey, Tokenizer]:
    """Return the model and tokenizer of a checkpoint or of an LLM folder. Raises InputError."""
    if start.checkpoint is not None:
        return load_checkpoint(Path(start.checkpoint), Path(start.vision_weights) if start.vision_weights else None)
    if start.llm is None or start.vision_weights is None:
        raise InputError("model: a preset has no weights to start from")
    return model_from_llm(Path(start.llm), Path(start.vision_weights))


def model_from_llm(folder: Path, vision_weights: Path) -> tuple[Osprey, Tokenizer]:
    """Build a model from a LLaMA folder (such as Vicuna-7B v1.5) and an open_clip file, other parts random.

    The tower is open_clip's convnext_large_d_320, unless the folder's config.json has an "osprey" part that says
    otherwise. Raises InputError for files that are missing or do not fit.
    """
    data = read_json(folder / CONFIG)
    if data.get("model_type") != "llama":
        raise InputError(f"{folder / CONFIG}: model_type is {data.get('model_type')!r}, it must be 'llama'")
    config = config_from_json({**data, "model_type": "osprey"}, folder / CONFIG)
    tokenizer, config = read_vocabulary(folder, config, ids_given(data))
    stored = without_spare_rows(list_weights(folder) | list_vision_weights(folder, None, vision_weights), config)
    check_shapes(folder, config, stored, optional=_NEW)
    model = Osprey(config)
    state = {name: read_stored(tensor, torch.float32) for name, tensor in stored.items()}
    for name, weight in state.items():
        check_finite(name, weight.numpy(), stored[name].path)
    model.load_state_dict(state, strict=False)
    return model, tokenizer
