"""Builds the mask-extractor graph: from feature maps and resized masks of N regions to two tokens per region.

res2..res5 [1, C, h, w], mask_res2..mask_res5 [N, h, w] of 0 and 1, position [N, p, p]
 -> mask_tokens [N, H], position_tokens [N, H]. Osprey, arXiv 2312.10032, section 3.2; N is free at run time.

All inputs and outputs are float32. In a float16 graph only the linears are float16: the mean over a mask adds up to
(image_size / 4)^2 values and stays float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from osprey_torch.config import OspreyConfig
from osprey_torch.onnx_graph import GraphBuilder, linear

LEVELS = ("res2", "res3", "res4", "res5")

# The published guard against an empty mask: its mean becomes 0.
COUNT_EPS = 1e-8


def build_mask_extractor(
    config: OspreyConfig,
    read: Callable[[str], np.ndarray],
    path: Path,
    half: bool = False,
    half_compute: bool = False,
) -> None:
    """Write the mask-extractor graph to `path`.

    Args:
        read: returns one tensor of the checkpoint as float32.
        half: store the weights of linears as float16 and compute with them in float32.
        half_compute: compute the linears in float16.

    Raises:
        InputError: a weight does not fit float16.
    """
    graph = GraphBuilder("mask_extractor", half=half_compute)
    for level, channels, (height, width) in zip(LEVELS, config.vision_channels, config.feature_sizes, strict=True):
        graph.input(level, [1, channels, height, width])
    for level, (height, width) in zip(LEVELS, config.feature_sizes, strict=True):
        graph.input(f"mask_{level}", ["N", height, width])
    graph.input("position", ["N", config.position_size, config.position_size])

    def layer(states: str, name: str) -> str:
        name = f"mask_extractor.{name}"
        return linear(graph, states, name, read(f"{name}.weight"), read(f"{name}.bias"), half)

    means = [
        _masked_mean(graph, level, channels, height * width)
        for level, channels, (height, width) in zip(LEVELS, config.vision_channels, config.feature_sizes, strict=True)
    ]
    graph.node("Identity", [add_region_token(graph, means, layer)], "mask_tokens")

    states = graph.node("Reshape", ["position", graph.constant([-1, config.position_size**2])], "position_rows")
    states = graph.node("Relu", [layer(graph.narrow(states), "mask_linear.layers.0")], "position_hidden_0")
    states = graph.node("Relu", [layer(states, "mask_linear.layers.1")], "position_hidden_1")
    graph.node("Identity", [graph.wide(layer(states, "mask_linear.layers.2"))], "position_tokens")

    graph.output("mask_tokens", ["N", config.hidden_size])
    graph.output("position_tokens", ["N", config.hidden_size])
    graph.save(path)


def add_region_token(graph: GraphBuilder, means: Sequence[str], layer: Callable[[str, str], str]) -> str:
    """Add one token for each region and return its name, float32 [N, H].

    means: the mean of each feature map over each region, float32 [N, C].
    layer: adds the linear of a name behind a value.
    """
    levels = [layer(graph.narrow(mean), level) for mean, level in zip(means, LEVELS, strict=True)]
    total = levels[0]
    for index, level in enumerate(levels[1:], 1):
        total = graph.node("Add", [total, level], f"summed_{index}")
    return graph.wide(layer(total, "feat_linear"))


def _masked_mean(graph: GraphBuilder, level: str, channels: int, pixels: int) -> str:
    """Add the mean of a feature map over each mask, [N, C]: one product for all regions, divided by their areas."""
    features = graph.node("Reshape", [level, graph.constant([channels, pixels])], f"{level}.columns")
    features = graph.node("Transpose", [features], f"{level}.rows", perm=[1, 0])
    masks = graph.node("Reshape", [f"mask_{level}", graph.constant([-1, pixels])], f"{level}.masks")
    total = graph.node("MatMul", [masks, features], f"{level}.total")
    count = graph.node("ReduceSum", [masks, graph.constant([1])], f"{level}.count", keepdims=1)
    count = graph.node("Add", [count, graph.constant(COUNT_EPS, np.float32)], f"{level}.guarded_count")
    return graph.node("Div", [total, count], f"{level}.mean")
