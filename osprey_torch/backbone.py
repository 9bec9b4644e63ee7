"""Vision towers out of timm: any convolutional backbone with four feature levels at strides 4, 8, 16 and 32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from osprey_ros.errors import InputError
from osprey_torch.config import STRIDES, OspreyConfig
from osprey_torch.timm_models import create_timm_model

# Every tower keeps timm's own parameter names behind this, as open_clip does.
TRUNK = "vision_tower.visual.trunk."
_OWN = "trunk."
COUNTER = "num_batches_tracked"  # of batch norms: counts training steps, read only if the momentum is None


def with_backbone(config: OspreyConfig, name: str) -> OspreyConfig:
    """Return the configuration with timm's model `name` as vision tower: its channels, and its mean and deviation.

    Raises InputError if timm has no such model, or one that cannot be a vision tower at this image size.
    """
    with torch.device("meta"):
        trunk = create_timm_model(name)
    levels = _levels(name, trunk)
    attention = next((type(m).__name__ for m in trunk.modules() if "attention" in type(m).__name__.lower()), None)
    if attention is not None:
        raise InputError(f"vision tower {name!r} has attention layers ({attention}): give a convolutional backbone")
    stored = trunk.state_dict().keys()
    missing = [buffer for buffer, _ in trunk.named_buffers() if buffer not in stored]
    if missing:
        raise InputError(
            f"vision tower {name!r} computes with constants that its weight files lack ({missing[0]}): give another one"
        )
    defaults: dict[str, Any] = getattr(trunk, "default_cfg", None) or getattr(trunk, "pretrained_cfg", {})
    config = replace(
        config,
        vision_backbone=name,
        vision_depths=OspreyConfig.vision_depths,  # of a ConvNeXt only
        vision_layer_scale=OspreyConfig.vision_layer_scale,
        vision_channels=_channels(trunk, levels),
        image_mean=tuple(defaults.get("mean", config.image_mean)),
        image_std=tuple(defaults.get("std", config.image_std)),
    )
    _check_maps(config)
    return config


class BackboneTower(nn.Module):
    """A timm backbone up to its last feature level. `state_dict()` has timm's names behind TRUNK.

    Batch norms whose weights do not learn keep their statistics in training, too. With `fixed_statistics` all do.
    """

    def __init__(self, config: OspreyConfig):
        super().__init__()
        name = config.vision_backbone
        assert name is not None
        self.trunk = create_timm_model(name)
        levels = _levels(name, self.trunk)
        channels = _channels(self.trunk, levels)
        if channels != tuple(config.vision_channels):
            raise InputError(
                f"vision tower {name!r} has feature levels of {channels} channels, the configuration says "
                f"{tuple(config.vision_channels)}: use the timm version with which the checkpoint was made"
            )
        # Removes the classifier and what lies between it and the last level.
        self._levels: Sequence[int] = self.trunk.prune_intermediate_layers(levels, prune_norm=True)  # type: ignore[operator]
        self.fixed_statistics = False
        self.register_state_dict_post_hook(_to_published)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_from_published)  # type: ignore[no-untyped-call]

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Encode normalized pixels [B, 3, S, S]: res2 to res5 [B, C, S/stride, S/stride] at strides 4, 8, 16, 32."""
        return tuple(
            self.trunk.forward_intermediates(  # type: ignore[operator]
                pixels, indices=self._levels, output_fmt="NCHW", intermediates_only=True
            )
        )

    def train(self, mode: bool = True) -> BackboneTower:
        """Set the training mode of the parts that learn; frozen parts stay in evaluation mode."""
        super().train(mode and any(p.requires_grad for p in self.parameters()))
        for module in self.modules():
            if isinstance(module, _BatchNorm):
                frozen = module.weight is not None and not module.weight.requires_grad
                module.train(module.training and not (frozen or self.fixed_statistics))
        return self


def _feature_info(trunk: nn.Module) -> list[dict[str, Any]]:
    """Return timm's description of the feature levels, which is a list or lies in an object."""
    info: Any = getattr(trunk, "feature_info", [])
    return list(getattr(info, "info", info))


def _channels(trunk: nn.Module, levels: Sequence[int]) -> tuple[int, int, int, int]:
    info = _feature_info(trunk)
    res2, res3, res4, res5 = (int(info[level]["num_chs"]) for level in levels)
    return res2, res3, res4, res5


def _levels(name: str, trunk: nn.Module) -> list[int]:
    """Return the indices of the last feature levels at strides 4, 8, 16 and 32. Raises InputError if one is missing."""
    strides = [int(level["reduction"]) for level in _feature_info(trunk)]
    if not hasattr(trunk, "forward_intermediates") or not set(STRIDES) <= set(strides):
        found = ", ".join(map(str, strides)) if strides else "unknown"
        raise InputError(
            f"vision tower {name!r} has feature levels at strides {found}: it must have levels at strides "
            f"{', '.join(map(str, STRIDES))}, as resnet18 or tf_efficientnet_lite0 have"
        )
    return [max(i for i, stride in enumerate(strides) if stride == wanted) for wanted in STRIDES]


def _check_maps(config: OspreyConfig) -> None:
    """Raise InputError if the feature maps have other sizes than their strides imply."""
    size = config.image_size
    with torch.device("meta"), torch.no_grad():
        maps = BackboneTower(config).eval()(torch.empty(1, 3, size, size))
    found = [tuple(one.shape[1:]) for one in maps]
    wanted = [(c, *hw) for c, hw in zip(config.vision_channels, config.feature_sizes, strict=True)]
    if found != wanted:
        raise InputError(
            f"vision tower {config.vision_backbone!r} makes feature maps {found} of an image of {size} pixels, they "
            f"must be {wanted}: give another backbone or image size"
        )


def _to_published(module: BackboneTower, state: dict[str, Any], prefix: str, _metadata: Any) -> None:
    for name in [name for name in state if name.startswith(f"{prefix}{_OWN}")]:
        tensor = state.pop(name)
        if not name.endswith(COUNTER):
            state[f"{prefix}{TRUNK}{name.removeprefix(prefix + _OWN)}"] = tensor


def _from_published(module: BackboneTower, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for name in [name for name in state if name.startswith(f"{prefix}{TRUNK}")]:
        state[f"{prefix}{_OWN}{name.removeprefix(prefix + TRUNK)}"] = state.pop(name)
    for name, _buffer in module.named_buffers(prefix=prefix.removesuffix(".")):
        if name.endswith(COUNTER):
            state.setdefault(name, torch.zeros((), dtype=torch.long))
