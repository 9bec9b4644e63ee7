"""Builds the crop graph: from the crops of N regions to what they add to the regions' mask tokens.

pixels [N, 3, c, c], mask_res2..mask_res5 [N, h, w] of 0 and 1 -> crop_tokens [N, H]; N is free at run time. The tower
is that of the vision graph, at the size of crops. Types are as in the graphs of vision and mask extractor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from export.graph_mask_extractor import COUNT_EPS, LEVELS, add_region_token
from export.graph_vision import add_tower
from osprey_torch.config import OspreyConfig
from osprey_torch.onnx_graph import GraphBuilder, linear
from osprey_torch.weight_layout import CROP


def build_crop(
    config: OspreyConfig,
    read: Callable[[str], np.ndarray],
    path: Path,
    half: bool = False,
    external: Path | None = None,
    half_compute: bool = False,
    compact: bool = False,
) -> None:
    """Write the crop graph of a model with crops to `path`. Arguments and errors are those of `build_vision`."""
    graph = GraphBuilder("crop", external, half_compute, compact)
    pixels = graph.input("pixels", ["N", 3, config.crop_size, config.crop_size])
    for level, size in zip(LEVELS, config.crop_feature_sizes, strict=True):
        graph.input(f"mask_{level}", ["N", *size])

    def layer(states: str, name: str) -> str:
        name = f"{CROP}{name}"
        return linear(graph, states, name, read(f"{name}.weight"), read(f"{name}.bias"), half)

    maps = add_tower(graph, replace(config, image_size=config.crop_size), read, pixels, half)
    levels = zip(LEVELS, maps, config.vision_channels, config.crop_feature_sizes, strict=True)
    means = [_masked_mean(graph, level, states, channels, h * w) for level, states, channels, (h, w) in levels]
    graph.node("Identity", [add_region_token(graph, means, layer)], "crop_tokens")
    graph.output("crop_tokens", ["N", config.hidden_size])
    graph.save(path)


def _masked_mean(graph: GraphBuilder, level: str, states: str, channels: int, pixels: int) -> str:
    """Add the mean of the feature map of each crop over the mask in the crop, [N, C]."""
    features = graph.node("Reshape", [states, graph.constant([-1, channels, pixels])], f"{level}.rows")
    masks = graph.node("Reshape", [f"mask_{level}", graph.constant([-1, pixels, 1])], f"{level}.mask")
    total = graph.node("MatMul", [features, masks], f"{level}.total")
    total = graph.node("Reshape", [total, graph.constant([-1, channels])], f"{level}.total_rows")
    count = graph.node("ReduceSum", [masks, graph.constant([1])], f"{level}.count", keepdims=0)
    count = graph.node("Add", [count, graph.constant(COUNT_EPS, np.float32)], f"{level}.guarded_count")
    return graph.node("Div", [total, count], f"{level}.mean")
