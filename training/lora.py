"""Low-rank adapters on the language model (Hu et al., arXiv 2106.09685), by `peft`: finetuning with little memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn

from osprey_torch.model import Osprey

_ADAPTER = "default"


# The linear layers of the language model that can have an adapter.
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class LoraSettings:
    """Rank and scale of the adapters, and the linears of each layer that get one."""

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: tuple[str, ...] = TARGETS

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"lora.rank is {self.rank}: it must be at least 1")
        unknown = set(self.targets) - set(TARGETS)
        if unknown or not self.targets:
            raise ValueError(f"lora.targets are {self.targets}: expected names of linears such as q_proj, down_proj")


def add_lora(model: Osprey, settings: LoraSettings) -> None:
    """Put an adapter beside every targeted linear of the language model; at first they change nothing."""
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]
        lora_dropout=settings.dropout,
        target_modules=list(settings.targets),
    )
    inject_adapter_in_model(config, model.model.layers, _ADAPTER)


def freeze_below_adapters(language_model: Iterable[nn.Parameter], model: Osprey) -> None:
    """Freeze the parameters of the language model, all but the adapters' own weights."""
    adapters = {id(p) for name, p in model.model.layers.named_parameters() if ".lora_" in name}
    for parameter in language_model:
        parameter.requires_grad_(parameter.requires_grad and id(parameter) in adapters)


def merged_state(model: Osprey) -> dict[str, torch.Tensor]:
    """Return `state_dict` of the model with the adapters added into the weights beside which they lie."""
    state = {name: tensor for name, tensor in model.state_dict().items() if ".lora_" not in name}
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            weight = state.pop(f"{name}.base_layer.weight")
            if (bias := state.pop(f"{name}.base_layer.bias", None)) is not None:
                state[f"{name}.bias"] = bias
            state[f"{name}.weight"] = weight + module.get_delta_weight(_ADAPTER).to(weight.dtype)  # type: ignore[attr-defined]
    return state
