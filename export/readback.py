"""The way back: the PyTorch model that a bundle computes, its int4 weights dequantized.

For comparisons in which both sides must have the same weights, when the checkpoint is not at hand.
"""

from __future__ import annotations

import json

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from export.build import CONFIG
from export.quantize import BLOCK, QuantizedLinear
from osprey_ros.bundle import DECODER, EMBEDDINGS, MASK_EXTRACTOR, VISION, Bundle
from osprey_torch.config import OspreyConfig
from osprey_torch.model import Osprey


def model_from_bundle(bundle: Bundle) -> Osprey:
    """An fp32 model in evaluation mode with the weights of the bundle's engines."""
    config = OspreyConfig.from_json(json.loads(bundle.path(CONFIG).read_text()))
    model = Osprey(config)
    state = {name: torch.tensor(array) for name, array in _state(bundle, config, model.state_dict()).items()}
    model.load_state_dict(state)
    return model.eval()


def _state(bundle: Bundle, config: OspreyConfig, expected: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    encoders = _initializers(bundle, VISION) | _initializers(bundle, MASK_EXTRACTOR)
    decoder = _initializers(bundle, DECODER)
    state = {"model.embed_tokens.weight": np.load(bundle.path(EMBEDDINGS)).astype(np.float32)}
    state["lm_head.weight"] = _linear(decoder, "logits")
    for layer in range(config.num_layers):
        source, target = f"layers.{layer}", f"model.layers.{layer}"
        query, key, value = np.split(_linear(decoder, f"{source}.qkv"), 3)
        gate, up = np.split(_linear(decoder, f"{source}.gate_up"), 2)
        for part, weight in (
            ("self_attn.q_proj", query),
            ("self_attn.k_proj", key),
            ("self_attn.v_proj", value),
            ("self_attn.o_proj", _linear(decoder, f"{source}.attention_output")),
            ("mlp.gate_proj", gate),
            ("mlp.up_proj", up),
            ("mlp.down_proj", _linear(decoder, f"{source}.down")),
        ):
            state[f"{target}.{part}.weight"] = weight
    for name, tensor in expected.items():
        if name in state:
            continue
        if name.endswith(".gamma"):
            state[name] = np.ones(tensor.shape, np.float32)  # the graph carries it inside fc2
            continue
        array = decoder[name] if name in decoder else encoders[name]
        # Graphs hold the matrices of linear layers transposed; convolutions have four dimensions.
        state[name] = np.ascontiguousarray(array.T if array.ndim == 2 else array)
    return state


def _initializers(bundle: Bundle, file: str) -> dict[str, np.ndarray]:
    """Weights of a graph by name, float16 ones widened."""
    weights = {}
    for tensor in onnx.load(bundle.path(file)).graph.initializer:
        array = numpy_helper.to_array(tensor)
        half = array.dtype == np.float16
        weights[tensor.name.removesuffix(".half")] = array.astype(np.float32) if half else array
    return weights


def _linear(weights: dict[str, np.ndarray], name: str) -> np.ndarray:
    """Weight of a bias-free linear layer, float32 [out, in], whatever it is stored as."""
    if f"{name}.weight" in weights:
        return np.ascontiguousarray(weights[f"{name}.weight"].T)
    packed, scales = weights[f"{name}.weight_packed"], weights[f"{name}.weight_scales"]
    rows, blocks, width = packed.shape
    bits = 8 * width // BLOCK
    return QuantizedLinear.from_packed(packed, scales.reshape(rows, blocks), blocks * BLOCK, bits).dequantize()
