"""The mask-aware extractor: each region becomes two tokens, what it looks like and where it is."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from osprey_torch.config import OspreyConfig


class PositionMLP(nn.Module):
    """Flattened position grid -> position token: three linear layers with ReLU between."""

    def __init__(self, config: OspreyConfig):
        super().__init__()
        width = config.mask_channels
        sizes = [config.position_size**2, width, width, config.hidden_size]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers[:-1]:
            x = torch.relu(layer(x))
        result: torch.Tensor = self.layers[-1](x)
        return result


class CropView(nn.Module):
    """What a region's own crop adds to its mask token. It adds nothing until it is trained: its last layer is zero."""

    def __init__(self, config: OspreyConfig):
        super().__init__()
        self.res2, self.res3, self.res4, self.res5 = (
            nn.Linear(c, config.mask_channels) for c in config.vision_channels
        )
        self.feat_linear = nn.Linear(config.mask_channels, config.hidden_size)
        nn.init.zeros_(self.feat_linear.weight)
        nn.init.zeros_(self.feat_linear.bias)

    def forward(self, pooled: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return [..., H] for the means of four feature maps over a region, [..., C] each."""
        result: torch.Tensor = self.feat_linear(_summed((self.res2, self.res3, self.res4, self.res5), pooled))
        return result


class MaskExtractor(nn.Module):
    """Mask pooling at four scales, summed, and the position of the mask (Osprey, section 3.2; names as published)."""

    def __init__(self, config: OspreyConfig):
        super().__init__()
        self.res2, self.res3, self.res4, self.res5 = (
            nn.Linear(c, config.mask_channels) for c in config.vision_channels
        )
        self.feat_linear = nn.Linear(config.mask_channels, config.hidden_size)
        self.mask_linear = PositionMLP(config)
        if config.crop_size:
            self.crop = CropView(config)

    def pool(self, features: Sequence[torch.Tensor], masks: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return the mean of each feature map over each region.

        Args:
            features: four maps [B, C, h, w].
            masks: four tensors [B, N, h, w] of 0 and 1: the masks resized bilinearly, then `> 0`.

        Returns:
            four tensors [B, N, C]; zeros where a mask vanished at that scale.
        """
        pooled = []
        for feature, mask in zip(features, masks, strict=True):
            weights = mask.to(feature.dtype)
            total = torch.einsum("bchw,bnhw->bnc", feature, weights)
            pooled.append(total / (weights.sum((2, 3)).unsqueeze(-1) + 1e-8))
        return pooled

    def forward(
        self, features: Sequence[torch.Tensor], masks: Sequence[torch.Tensor], positions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """features and masks as in `pool`; positions [B, N, P, P] float -> mask and position tokens, both [B, N, H]."""
        return self.mask_tokens(self.pool(features, masks)), self.mask_linear(positions.flatten(2))

    def mask_tokens(self, pooled: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the mask tokens [..., H] of the means of four feature maps over each region, [..., C]."""
        result: torch.Tensor = self.feat_linear(_summed((self.res2, self.res3, self.res4, self.res5), pooled))
        return result

    def crop_tokens(self, pooled: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return what the crops of regions add to their mask tokens, [..., H]. The model must have crops.

        pooled: means of the four feature maps of each crop over the region in it, [..., C], as `pool` returns them.
        """
        result: torch.Tensor = self.crop(pooled)
        return result


def _summed(linears: Sequence[nn.Module], pooled: Sequence[torch.Tensor]) -> torch.Tensor:
    first, *others = (linear(x) for linear, x in zip(linears, pooled, strict=True))
    for other in others:
        first = first + other
    result: torch.Tensor = first
    return result
