"""The way back: the weights that a bundle's engines compute with, its int4 dequantized, by their checkpoint names.

For comparisons in which both sides must have the same weights, tensor by tensor or as a whole PyTorch model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from osprey_ros.bundle.bundle import Bundle
from osprey_ros.bundle.manifest import CROP, DECODER, EMBEDDINGS, MASK_EXTRACTOR, VISION
from osprey_ros.errors import BundleError
from osprey_torch.backbone import TRUNK
from osprey_torch.config import OspreyConfig
from osprey_torch.model import Osprey
from osprey_torch.stored_linears import quantized_linear, stored_members
from osprey_torch.weight_files import index_of_graph, load

# Reads one tensor of a checkpoint by its published name, float32.
Read = Callable[[str], np.ndarray]

# The checkpoint's configuration goes with the bundle: the runtime does not need it, tools that rebuild the model do.
CONFIG = "config.json"
EMBEDDING_TABLE = "model.embed_tokens.weight"

_TOWER = "model.vision_tower"


def model_from_bundle(bundle: Bundle) -> Osprey:
    """Return an fp32 model in evaluation mode with the weights of the bundle's engines, which must be ONNX graphs."""
    config = OspreyConfig.from_json(json.loads(bundle.path(CONFIG).read_text(encoding="utf-8")))
    model = Osprey(replace(config, tied_embeddings=False))  # the bundle has two roundings of the one table
    crop = _encoder_weights(bundle.path(CROP)) if config.crop_size else {}
    encoders = crop | _encoder_weights(bundle.path(VISION)) | _encoder_weights(bundle.path(MASK_EXTRACTOR))
    if config.vision_backbone is not None:
        encoders |= _folded_weights(model, encoders, bundle.path(VISION))
    decoder = decoder_weights(bundle.path(DECODER), config)
    for name, parameter in model.state_dict().items():  # each shares its memory with the model's own
        if name == EMBEDDING_TABLE:
            array = np.load(bundle.path(EMBEDDINGS)).astype(np.float32)
        elif name.endswith(".gamma"):
            # A float32 graph carries it inside fc2, a float16 one beside it.
            array = encoders.get(name, np.ones(parameter.shape, np.float32)).reshape(parameter.shape)
        elif name in encoders:
            # Graphs hold the matrices of linear layers transposed; convolutions have four dimensions.
            array = (encoders[name].T if encoders[name].ndim == 2 else encoders[name]).reshape(parameter.shape)
        else:
            array = decoder(name)
        parameter.copy_(torch.tensor(np.ascontiguousarray(array)))
    return model.eval()


def decoder_weights(graph: Path, config: OspreyConfig) -> Read:
    """Read the tensors of a decoder graph by their names in the checkpoint, float32, one at a time.

    The graph must be ONNX, as export/linears.py spells it; its weights may lie in files beside it. The returned
    function raises KeyError for a name that the decoder does not have.
    """
    stored = index_of_graph(graph)
    queries, others = (heads * config.head_dim for heads in (config.num_heads, config.num_kv_heads))
    # Where each linear lies: under which name, and which of the outputs side by side are its own.
    linears: dict[str, tuple[str, slice]] = {}
    for name in stored:
        stem, _, part = name.rpartition(".")
        if part in ("levels", "weight"):
            members = stored_members(stem)
            ends = np.cumsum([0, queries, others, others]) if len(members) > 1 else [0, None]
            for number, member in enumerate(members):
                linears[f"{member}.weight"] = (stem, slice(ends[number], ends[number + 1]))

    def read(name: str) -> np.ndarray:
        if name.endswith(".bias"):
            return load(stored[name], graph.parent).astype(np.float32)
        stem, part = linears[name]
        if f"{stem}.levels" in stored:
            parts = {kind: load(stored[f"{stem}.{kind}"], graph.parent) for kind in ("levels", "scales")}
            joined = quantized_linear(parts)
            return replace(joined, levels=joined.levels[part], scales=joined.scales[part]).dequantize()
        data = load(stored[f"{stem}.weight"], graph.parent)
        if data.ndim == 1:
            return data.astype(np.float32)  # a norm's
        return np.ascontiguousarray(data[:, part].T, dtype=np.float32)

    return read


def _folded_weights(model: Osprey, encoders: Mapping[str, np.ndarray], graph: Path) -> dict[str, np.ndarray]:
    """Return what a timm tower's graph has folded into its convolutions, as norms and biases that change nothing.

    Raises BundleError if the graph has weights that were computed from those of the checkpoint.
    """
    computed = [name for name in encoders if name.startswith("trunk.constant")]
    if computed:
        raise BundleError(
            f"{graph}: {computed[0]} was computed from weights of the vision tower, which cannot be read back: use the "
            "checkpoint instead of the bundle"
        )
    folded = {}
    for name, module in model.model.vision_tower.named_modules(prefix=_TOWER):
        published = name.replace(f"{_TOWER}.trunk.", f"{_TOWER}.{TRUNK}", 1)
        if isinstance(module, _BatchNorm) and f"{published}.running_var" not in encoders:
            ones = np.ones(module.num_features, np.float32)
            if f"{published}.weight" not in encoders:  # beside a kernel that is stored as float16
                folded[f"{published}.weight"] = ones
            folded[f"{published}.running_mean"] = 0 * ones
            folded[f"{published}.running_var"] = ones - np.float32(module.eps)
        elif isinstance(module, nn.Conv2d) and module.bias is not None and f"{published}.bias" not in encoders:
            folded[f"{published}.bias"] = np.zeros(module.out_channels, np.float32)
    return folded


def _encoder_weights(graph: Path) -> dict[str, np.ndarray]:
    """Return weights of a graph by name, float16 ones widened."""
    weights = {}
    for tensor in onnx.load(graph).graph.initializer:
        array = numpy_helper.to_array(tensor)
        half = array.dtype == np.float16
        weights[tensor.name.removesuffix(".half")] = array.astype(np.float32) if half else array
    return weights
