"""Builds the vision graph: from pixels to the four feature maps of the tower and the image tokens.

pixels [1, 3, S, S] -> res2..res5 [1, C, S/stride, S/stride] at strides 4, 8, 16, 32, and image_tokens [T, H]: res4 row
by row through the two-layer projector. ConvNeXt: Liu et al., arXiv 2201.03545, in timm's arithmetic. Towers that timm
defines: `export.graph_backbone`.

In a float16 graph convolutions, linears and GELU are float16. Layer norms and the residual stream, which has the large
values, stay float32. All casts are nodes of the graph, for runtimes that follow its types. Inputs and outputs are
always float32.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from export.graph_backbone import add_backbone
from export.graph_mask_extractor import LEVELS
from osprey_torch.config import STRIDES, OspreyConfig
from osprey_torch.onnx_graph import GraphBuilder, gelu, linear

TRUNK = "model.vision_tower.vision_tower.visual.trunk"
PROJECTOR = "model.mm_projector"

_NORM_EPS = 1e-6


def build_vision(
    config: OspreyConfig,
    read: Callable[[str], np.ndarray],
    path: Path,
    half: bool = False,
    external: Path | None = None,
    half_compute: bool = False,
    compact: bool = False,
) -> None:
    """Write the vision graph to `path`.

    Args:
        read: returns one tensor of the checkpoint as float32.
        half: store the weights of convolutions and linears as float16 and compute with them in float32.
        external: file for the weights, beside `path`; by default they are in the graph.
        half_compute: compute convolutions and linears in float16.
        compact: store weights as float16 that it holds exactly. It changes no result, and onnxruntime widens them when
            it loads the graph; TensorRT wants kernels as they are.

    Raises:
        InputError: a weight does not fit float16.
    """
    graph = GraphBuilder("vision", external, half_compute, compact)
    pixels = graph.input("pixels", [1, 3, config.image_size, config.image_size])
    maps = add_tower(graph, config, read, pixels, half)
    for level, states, channels, size in zip(LEVELS, maps, config.vision_channels, config.feature_sizes, strict=True):
        graph.node("Identity", [states], level)
        graph.output(level, [1, channels, *size])
    _add_projector(graph, config, read, LEVELS[config.image_token_level], half)
    graph.output("image_tokens", [config.image_tokens, config.hidden_size])
    graph.save(path)


def add_tower(
    graph: GraphBuilder, config: OspreyConfig, read: Callable[[str], np.ndarray], pixels: str, half: bool
) -> list[str]:
    """Add the vision tower behind the graph's input `pixels`, [N, 3, S, S]; return the names of res2 to res5, float32.

    read, half: as in `build_vision`.
    """
    if config.vision_backbone is not None:
        return add_backbone(graph, config, read, pixels, half)
    return _ConvNext(config, read, half, graph).maps(pixels)


def _add_projector(
    graph: GraphBuilder, config: OspreyConfig, read: Callable[[str], np.ndarray], features: str, half: bool
) -> None:
    """Add image_tokens, from the map that is called `features`."""

    def layer(rows: str, name: str) -> str:
        return linear(graph, rows, name, read(f"{name}.weight"), read(f"{name}.bias"), half)

    channels = config.vision_channels[config.image_token_level]
    rows = graph.node("Reshape", [features, graph.constant([channels, config.image_tokens])], "projector.columns")
    rows = graph.node("Transpose", [rows], "projector.rows", perm=[1, 0])
    rows = gelu(graph, layer(graph.narrow(rows), f"{PROJECTOR}.0"), f"{PROJECTOR}.1")
    graph.node("Identity", [graph.wide(layer(rows, f"{PROJECTOR}.2"))], "image_tokens")


class _ConvNext:
    """The tower whose blocks `OspreyConfig.vision_depths` counts."""

    def __init__(
        self,
        config: OspreyConfig,
        read: Callable[[str], np.ndarray],
        half: bool,
        graph: GraphBuilder,
    ) -> None:
        self.config = config
        self.read = read
        self.half = half
        self.graph = graph

    def maps(self, pixels: str) -> list[str]:
        """Add the tower and return the names of its four feature maps."""
        states = self.graph.wide(self._convolution(pixels, f"{TRUNK}.stem.0", stride=STRIDES[0]))
        states = self._channel_norm(states, f"{TRUNK}.stem.1")
        maps = []
        for stage, depth in enumerate(self.config.vision_depths):
            name = f"{TRUNK}.stages.{stage}"
            if stage > 0:
                states = self._channel_norm(states, f"{name}.downsample.0")
                states = self.graph.wide(self._convolution(states, f"{name}.downsample.1", stride=2))
            for block in range(depth):
                states = self._block(states, f"{name}.blocks.{block}")
            maps.append(states)
        return maps

    def _block(self, states: str, name: str) -> str:
        channels = self.read(f"{name}.norm.weight").shape[0]
        mixed = self._convolution(states, f"{name}.conv_dw", stride=1, padding=3, groups=channels)
        mixed = self.graph.node("Transpose", [mixed], f"{name}.channels_last", perm=[0, 2, 3, 1])
        mixed = self._norm(self.graph.wide(mixed), f"{name}.norm")
        mixed = self._linear(self.graph.narrow(mixed), f"{name}.mlp.fc1")
        mixed = gelu(self.graph, mixed, f"{name}.mlp.act")
        # The layer scale is a factor of each output channel of fc2. In float32 fc2 carries it; a small one would push
        # float16 weights below what they resolve, so there it is a product of its own, in float32.
        gamma = self.read(f"{name}.gamma").reshape(-1)
        folded = self.graph.dtype == np.float32
        mixed = self._linear(mixed, f"{name}.mlp.fc2", scale=gamma if folded else None)
        mixed = self.graph.node("Transpose", [mixed], f"{name}.channels_first", perm=[0, 3, 1, 2])
        if not folded:
            scale = self.graph.weight(f"{name}.gamma", gamma.reshape(-1, 1, 1), dtype=np.float32)
            mixed = self.graph.node("Mul", [self.graph.wide(mixed), scale], f"{name}.scaled")
        return self.graph.node("Add", [states, mixed], f"{name}.output")

    def _convolution(self, states: str, name: str, stride: int, padding: int = 0, groups: int = 1) -> str:
        kernel = self.read(f"{name}.weight")
        weight = self.graph.weight(f"{name}.weight", kernel, self.half)
        bias = self.graph.weight(f"{name}.bias", self.read(f"{name}.bias"))
        return self.graph.node(
            "Conv",
            [self.graph.narrow(states), weight, bias],
            name,
            kernel_shape=list(kernel.shape[2:]),
            strides=[stride, stride],
            pads=[padding] * 4,
            group=groups,
        )

    def _linear(self, states: str, name: str, scale: np.ndarray | None = None) -> str:
        weight, bias = self.read(f"{name}.weight"), self.read(f"{name}.bias")
        if scale is not None:
            weight, bias = weight * scale[:, None], bias * scale
        return linear(self.graph, states, name, weight, bias, self.half)

    def _norm(self, states: str, name: str) -> str:
        weight = self.graph.weight(f"{name}.weight", self.read(f"{name}.weight"), dtype=np.float32)
        bias = self.graph.weight(f"{name}.bias", self.read(f"{name}.bias"), dtype=np.float32)
        return self.graph.node("LayerNormalization", [states, weight, bias], name, axis=-1, epsilon=_NORM_EPS)

    def _channel_norm(self, states: str, name: str) -> str:
        """Add a layer norm over the channels of [1, C, h, w]."""
        states = self.graph.node("Transpose", [states], f"{name}.channels_last", perm=[0, 2, 3, 1])
        states = self._norm(states, name)
        return self.graph.node("Transpose", [states], f"{name}.channels_first", perm=[0, 3, 1, 2])
