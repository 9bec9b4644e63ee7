"""The convolutional vision tower: transformers' ConvNeXt under the published parameter names."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn
from transformers import ConvNextConfig, ConvNextModel

from osprey_torch.config import OspreyConfig

# (transformers name, published name): open_clip's trunk is timm's ConvNeXt, whose arithmetic is the same.
_NAMES = (
    (r"embeddings\.patch_embeddings\.", "stem.0."),
    (r"embeddings\.layernorm\.", "stem.1."),
    (r"encoder\.(stages\.\d+)\.downsampling_layer\.", r"\1.downsample."),
    (r"encoder\.(stages\.\d+)\.layers\.(\d+)\.layer_scale_parameter", r"\1.blocks.\2.gamma"),
    (r"encoder\.(stages\.\d+)\.layers\.(\d+)\.dwconv\.", r"\1.blocks.\2.conv_dw."),
    (r"encoder\.(stages\.\d+)\.layers\.(\d+)\.layernorm\.", r"\1.blocks.\2.norm."),
    (r"encoder\.(stages\.\d+)\.layers\.(\d+)\.pwconv([12])\.", r"\1.blocks.\2.mlp.fc\3."),
)
_TRUNK = "vision_tower.visual.trunk."


def published_name(name: str) -> str:
    """Return the name in the published checkpoint of a parameter that transformers' ConvNeXt calls `name`."""
    for pattern, replacement in _NAMES:
        if re.match(pattern, name):
            return re.sub(pattern, replacement, name, count=1)
    raise KeyError(f"no published name is known for the ConvNeXt parameter {name!r}")


class VisionTower(nn.Module):
    """ConvNeXt trunk that returns the four stage outputs, before any final norm."""

    def __init__(self, config: OspreyConfig):
        super().__init__()
        trunk = ConvNextModel(
            ConvNextConfig(
                hidden_sizes=list(config.vision_channels),
                depths=list(config.vision_depths),
                layer_scale_init_value=config.vision_layer_scale,
            )
        )
        trunk.layernorm = nn.Identity()  # type: ignore[assignment]  # the classifier's norm: Osprey reads the stages before it
        self.trunk = trunk
        self._published = {name: published_name(name) for name, _ in trunk.named_parameters()}
        self.register_state_dict_post_hook(_to_published)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_from_published)  # type: ignore[no-untyped-call]

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Encode normalized pixels [B, 3, S, S]: res2 to res5 [B, C, S/stride, S/stride] at strides 4, 8, 16, 32."""
        x = self.trunk.embeddings(pixels)
        features = []
        for stage in self.trunk.encoder.stages:
            x = stage(x)
            features.append(x)
        return tuple(features)


def _rename(state: dict[str, Any], pairs: list[tuple[str, str]]) -> None:
    for old, new in pairs:
        if old in state:
            state[new] = state.pop(old)


def _to_published(module: VisionTower, state: dict[str, Any], prefix: str, _metadata: Any) -> None:
    _rename(state, [(f"{prefix}trunk.{own}", f"{prefix}{_TRUNK}{name}") for own, name in module._published.items()])


def _from_published(module: VisionTower, state: dict[str, Any], prefix: str, *_: Any) -> None:
    _rename(state, [(f"{prefix}{_TRUNK}{name}", f"{prefix}trunk.{own}") for own, name in module._published.items()])
