"""The PyTorch model with the weights of one part in memory at a time, to verify models of any size."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from osprey_torch.backbone import BackboneTower
from osprey_torch.config import OspreyConfig
from osprey_torch.model import Osprey
from osprey_torch.readback import Read


def streamed_model(config: OspreyConfig, read: Read, layers: int | None = None) -> Osprey:
    """Return a model without weights: each part reads its own when it runs, and frees them afterwards.

    Args:
        config: sizes of the model.
        read: returns a tensor by its published name, float32.
        layers: number of decoder layers, the first ones; by default all of the config.
    """
    with torch.device("meta"):
        model = Osprey(replace(config, num_layers=layers or config.num_layers, tied_embeddings=False)).eval()
    # Without weights, but with a table of its own.
    model.model.rotary_emb = type(model.model.rotary_emb)(model.model.config)
    names = {id(parameter): name for name, parameter in model.state_dict(keep_vars=True).items()}
    tower = model.model.vision_tower
    whole = isinstance(tower, BackboneTower)  # its modules have buffers, and may read the weights of others
    if whole:
        tower.register_forward_pre_hook(partial(_load_tower, read))
        tower.register_forward_hook(_free_tower)
    inside = set(tower.modules()) if whole else set()
    for module in model.modules():
        if module in inside:
            continue
        own = {key: names[id(parameter)] for key, parameter in module.named_parameters(recurse=False)}
        if own:
            module.register_forward_pre_hook(partial(_load, own, read))
            module.register_forward_hook(_free)
    return model


def _load(own: dict[str, str], read: Read, module: nn.Module, _: Any) -> None:
    for key, name in own.items():
        tensor = torch.from_numpy(np.require(read(name), np.float32, "W"))
        setattr(module, key, nn.Parameter(tensor, requires_grad=False))


def _load_tower(read: Read, module: nn.Module, _: Any) -> None:
    prefix = "model.vision_tower."
    state = {name: torch.from_numpy(np.require(read(prefix + name), np.float32, "W")) for name in module.state_dict()}
    module.load_state_dict(state, assign=True)


def _free_tower(module: nn.Module, *_: Any) -> None:
    module.to("meta")


def _free(module: nn.Module, *_: Any) -> None:
    for key, parameter in list(module.named_parameters(recurse=False)):
        setattr(module, key, nn.Parameter(parameter.to("meta"), requires_grad=False))
