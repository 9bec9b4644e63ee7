"""Activation-aware quantization of the language model (AWQ, Lin et al., 2023).

A few input channels of a linear layer carry much larger activations than the others, so that errors of their weights
weigh more. Multiplied by a factor above one such weights are rounded more finely; whatever produces the channel is
divided by the same factor, and the function of the layer stays what it was. The factor of a channel is the mean
magnitude of its activations to a power between 0 and 1: the power whose quantized outputs are nearest to the exact ones
on prompts about real pictures. Then scales of blocks are searched for the least error of outputs, not of weights.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from export.quantize import BLOCK, quantize_linear
from export.samples import VerificationSample
from export.streamed import LAYER_TENSORS, LINEAR_GROUPS, Observe, PackedRows, Read, StreamedDecoder, run_layer
from export.verify_encoders import EncoderInputs, encode_with_torch
from osprey_ros.prompt import QUESTIONS, PromptBuilder, common_prefix
from osprey_torch.checkpoint import Checkpoint
from osprey_torch.config import OspreyConfig

# Powers that are tried; 0 leaves the weights as they are.
_POWERS = tuple(n / 20 for n in range(0, 21, 2))
# The error is measured on so many rows of activations and outputs of a group at most: more change it little.
ROWS = 2048
_OUTPUTS = 512
# Of a picture, so many regions (the largest) are asked about.
REGIONS = 6
# Share of a block's mean square that is added to every channel's: one that was silent here may speak elsewhere.
_DAMPING = np.float32(0.01)
_GROUP_OF = {f"{part}.weight": group for group, parts in LINEAR_GROUPS.items() for part in parts}
_LAYER_NAME = re.compile(r"model\.layers\.(\d+)\.(.+)")


@dataclass(frozen=True)
class GroupScales:
    """What is known of the rows that a group of linears reads.

    factors: float32 [in_features], all > 0, of the channels. moments: float32 [blocks, block, block], the mean of x x^T
    within blocks of rows x that are divided by the factors, see `quantize_linear`.
    """

    factors: np.ndarray
    moments: np.ndarray


@dataclass(frozen=True)
class LayerScales:
    """The scales of one layer by group of linears (LINEAR_GROUPS), for weights of so many bits."""

    qkv: GroupScales
    output: GroupScales
    gate_up: GroupScales
    down: GroupScales
    bits: int = 4

    def fold(self, name: str, tensor: np.ndarray) -> np.ndarray:
        """One tensor of the layer, by its name within the layer, with the factors folded in."""
        group = _GROUP_OF.get(name)
        if group is not None:
            tensor = tensor * getattr(self, group).factors
        # What makes the channels: a norm, the values (attention only mixes their rows), the upper half of the MLP.
        made = {
            "input_layernorm.weight": self.qkv.factors,
            "self_attn.v_proj.weight": self.output.factors[:, None],
            "post_attention_layernorm.weight": self.gate_up.factors,
            "mlp.up_proj.weight": self.down.factors[:, None],
        }
        return tensor / made[name] if name in made else tensor


def fold_layer(weights: Mapping[str, np.ndarray], scales: LayerScales) -> dict[str, np.ndarray]:
    """All tensors of a layer, by their names within it (LAYER_TENSORS), with the factors folded in."""
    return {name: scales.fold(name, weights[name]) for name in LAYER_TENSORS}


def folded(read: Read, scales: Sequence[LayerScales]) -> Read:
    """Reads tensors as `read` does, those of the decoder's layers with their factors folded in."""

    def read_folded(name: str) -> np.ndarray:
        tensor = read(name)
        found = _LAYER_NAME.fullmatch(name)
        return scales[int(found[1])].fold(found[2], tensor) if found else tensor

    return read_folded


def settled(read: Read, scales: Sequence[LayerScales]) -> Read:
    """Reads tensors as `read` does, those of the decoder's layers folded and already quantized.

    They come back dequantized: on such weights `quantize_linear` with the same bits finds the very same levels and
    scales, so that who writes graphs need not know how they were found.
    """

    read_folded = folded(read, scales)

    def read_settled(name: str) -> np.ndarray:
        tensor = read_folded(name)
        found = _LAYER_NAME.fullmatch(name)
        if found is None or found[2] not in _GROUP_OF:
            return tensor
        layer = scales[int(found[1])]
        moments = getattr(layer, _GROUP_OF[found[2]]).moments
        return quantize_linear(tensor, layer.bits, "clip", name, moments=moments, block=moments.shape[-1]).dequantize()

    return read_settled


def save_scales(path: Path, scales: Sequence[LayerScales]) -> None:
    """Writes the scales of all layers as .npz; about 3 MB a layer at 7B."""
    arrays = {"bits": np.array([layer.bits for layer in scales])}
    for n, layer in enumerate(scales):
        for group in LINEAR_GROUPS:
            arrays[f"{n}.{group}.factors"] = getattr(layer, group).factors
            arrays[f"{n}.{group}.moments"] = getattr(layer, group).moments
    np.savez(path, **arrays)


def load_scales(path: Path) -> list[LayerScales]:
    """Reads what `save_scales` has written."""
    with np.load(path, allow_pickle=False) as arrays:

        def group(n: int, name: str) -> GroupScales:
            return GroupScales(arrays[f"{n}.{name}.factors"], arrays[f"{n}.{name}.moments"])

        return [
            LayerScales(**{name: group(n, name) for name in LINEAR_GROUPS}, bits=int(bits))
            for n, bits in enumerate(arrays["bits"])
        ]


def calibrate(
    checkpoint: Checkpoint,
    samples: Sequence[VerificationSample],
    bits: int = 4,
    config: OspreyConfig | None = None,
    progress: Callable[[int, int], None] = lambda layer, layers: None,
    block: int = BLOCK,
) -> list[LayerScales]:
    """Searches the factors of every layer on prompts about the regions of pictures.

    The fp32 model runs over the prompts layer by layer, with one layer's weights in memory at a time. Words that are
    known to be true of a region follow its question. bits, block: what the weights will be quantized to. config: the
    bundle's where it differs from the checkpoint's in picture size. progress is told the layers that are done, and of
    how many.
    """
    config = config or checkpoint.config
    sequences = calibration_sequences(checkpoint, samples, config)
    decoder = StreamedDecoder(config, checkpoint.read)
    states = [sequence.embeds for sequence in sequences]
    kept = [_kept_rows(sequence, ROWS // len(sequences)) for sequence in sequences]
    result = []
    for index in range(decoder.layers):
        weights = decoder.read_layer(index)
        activations: dict[str, list[torch.Tensor]] = {group: [] for group in LINEAR_GROUPS}
        for n, sequence in enumerate(sequences):
            states[n] = run_layer(config, weights, states[n], sequence, _keeper(activations, kept[n]))
        rows_of = {group: torch.cat(rows) for group, rows in activations.items()}
        result.append(search_layer(weights, rows_of, bits, block))
        del weights  # before the next ones are read
        progress(index + 1, decoder.layers)
    return result


def calibration_sequences(
    checkpoint: Checkpoint, samples: Sequence[VerificationSample], config: OspreyConfig
) -> list[PackedRows]:
    """One sequence for each picture: the shared prefix, then the questions about its regions with what is known."""
    samples = [sample for sample in samples if sample.ids.any()]
    if not samples:
        raise ValueError("no region to calibrate with: the pictures have none")
    prompts = PromptBuilder(checkpoint.tokenizer, config.model_spec())
    questions = {style: prompts.prompt(question) for style, question in QUESTIONS.items()}
    shared = common_prefix(list(questions.values()))
    inputs = [EncoderInputs.of(sample, config, REGIONS) for sample in samples]
    encoded = encode_with_torch(inputs, config, checkpoint.read, lambda line: None)
    table = checkpoint.read("model.embed_tokens.weight")
    sequences = []
    for sample, one, out in zip(samples, inputs, encoded, strict=True):
        branches = []
        for n, region in enumerate(one.ids):
            known = prompts.answer(sample.words[region]) if region in sample.words else ()
            for style, question in questions.items():
                ids = (*question[shared:], *(known if style == "short" else ()))
                branches.append(torch.from_numpy(out.tokens.rows(ids, table, n)))
        prefix = out.tokens.rows(questions["short"][:shared], table)
        sequences.append(PackedRows.pack(torch.from_numpy(prefix), branches))
    return sequences


def _keeper(activations: dict[str, list[torch.Tensor]], kept: torch.Tensor) -> Observe:
    """What `run_layer` calls with the rows that linears read: those of `kept` are copied."""
    return lambda group, rows: activations[group].append(rows[kept])


def _kept_rows(sequence: PackedRows, count: int) -> torch.Tensor:
    """Which rows the factors are searched on: half of them picture, half words about regions, evenly spread."""
    branches = sequence.branches.numpy()
    halves = [np.flatnonzero(branches == 0), np.flatnonzero(branches != 0)]
    spread = [half[np.linspace(0, len(half) - 1, min(len(half), max(1, count // 2))).astype(int)] for half in halves]
    return torch.from_numpy(np.concatenate(spread))


def search_layer(
    weights: Mapping[str, torch.Tensor],
    activations: Mapping[str, torch.Tensor],
    bits: int = 4,
    block: int = BLOCK,
) -> LayerScales:
    """The scales of one layer.

    weights: the layer's tensors by their names within it. activations: for each group of LINEAR_GROUPS the rows [T, in]
    that its linears have read.
    """
    found = {}
    for group, parts in LINEAR_GROUPS.items():
        weight = torch.cat([weights[f"{part}.weight"] for part in parts])
        # Every k-th output: all parts are represented, and the error of one output says nothing of its neighbours'.
        step = max(1, len(weight) // _OUTPUTS)
        rows = activations[group].numpy()
        factors = _search_factors(weight[::step].numpy(), rows, bits, block)
        found[group] = GroupScales(factors, _moments(rows / factors, block))
    return LayerScales(**found, bits=bits)


def _search_factors(weight: np.ndarray, rows: np.ndarray, bits: int, block: int) -> np.ndarray:
    """Factors [in] for a weight [out, in] that multiplies rows [T, in]."""
    magnitude = np.maximum(np.abs(rows).mean(axis=0), 1e-8)
    best, least = np.ones_like(magnitude), np.inf
    for power in _POWERS:
        factors = magnitude**power
        factors = factors / np.sqrt(factors.max() * factors.min())
        quantized = quantize_linear(weight * factors, bits, "rtn", block=block).dequantize() / factors
        error = float(np.square(rows @ (quantized - weight).T).sum(dtype=np.float64))
        if error < least:
            best, least = factors, error
    return best


def _moments(rows: np.ndarray, block: int) -> np.ndarray:
    """Mean of x x^T within blocks of rows [T, in], [blocks, block, block], none of it blind to any channel."""
    padded = np.pad(rows, ((0, 0), (0, -rows.shape[1] % block)))
    blocks = padded.reshape(len(rows), -1, block).transpose(1, 0, 2)
    moments = blocks.transpose(0, 2, 1) @ blocks / np.float32(len(rows))
    level = np.trace(moments, axis1=1, axis2=2) / block
    return moments + (_DAMPING * np.maximum(level, 1e-12))[:, None, None] * np.eye(block, dtype=np.float32)
