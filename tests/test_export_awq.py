"""Activation-aware scaling: it changes no function, it makes outputs more exact, it reads one layer at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Picture, TinyModel

from export.awq import (
    GroupScales,
    LayerScales,
    calibrate,
    calibration_sequences,
    fold_layer,
    folded,
    load_scales,
    save_scales,
    search_layer,
    settled,
)
from export.quantize import quantize_linear
from export.samples import VerificationSample
from export.streamed import LAYER_TENSORS, LINEAR_GROUPS, PackedRows, StreamedDecoder
from osprey_torch.checkpoint import Checkpoint


@pytest.fixture(scope="module")
def checkpoint(tiny_model: TinyModel) -> Checkpoint:
    return Checkpoint.open(tiny_model.checkpoint)


@pytest.fixture(scope="module")
def samples(picture: Picture) -> list[VerificationSample]:
    words = {7: "Please give me a short description"}
    return [
        VerificationSample("one", picture.rgb, picture.ids, words),
        VerificationSample("nothing", picture.rgb, np.zeros_like(picture.ids)),
        VerificationSample("two", picture.rgb[::-1].copy(), picture.ids[::-1].copy()),
    ]


def _random_scales(checkpoint: Checkpoint, bits: int = 4) -> list[LayerScales]:
    rng = np.random.default_rng(0)
    config = checkpoint.config

    def group(width: int) -> GroupScales:
        moments = np.broadcast_to(np.eye(32, dtype=np.float32), (width // 32, 32, 32))
        return GroupScales(np.exp(rng.normal(0, 1.0, width)).astype(np.float32), moments)

    widths = [config.hidden_size] * 3 + [config.intermediate_size]
    return [LayerScales(*map(group, widths), bits) for _ in range(config.num_layers)]


def test_folding_leaves_the_function_of_the_model_as_it_was(checkpoint: Checkpoint) -> None:
    rows = PackedRows.pack(torch.randn(12, checkpoint.config.hidden_size, generator=torch.Generator().manual_seed(0)))
    scales = _random_scales(checkpoint)
    exact, scaled = (
        StreamedDecoder(checkpoint.config, read) for read in (checkpoint.read, folded(checkpoint.read, scales))
    )
    expected, found = (decoder.logits(decoder.run([rows]))[0] for decoder in (exact, scaled))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))
    # And every tensor of a layer was changed: nothing is folded on one side only.
    layer = {name: checkpoint.read(f"model.layers.1.{name}") for name in LAYER_TENSORS}
    for name, tensor in fold_layer(layer, scales[1]).items():
        assert not np.allclose(tensor, layer[name]), name
        np.testing.assert_array_equal(tensor, folded(checkpoint.read, scales)(f"model.layers.1.{name}"))


@pytest.mark.parametrize("bits", [4, 8])
def test_settled_weights_are_found_again_by_the_quantizer_alone(checkpoint: Checkpoint, bits: int) -> None:
    read = settled(checkpoint.read, _random_scales(checkpoint, bits))
    side_by_side = np.concatenate([read(f"model.layers.0.mlp.{part}_proj.weight") for part in ("gate", "up")])
    np.testing.assert_array_equal(quantize_linear(side_by_side, bits, "awq").dequantize(), side_by_side)
    for name in ("lm_head.weight", "model.norm.weight"):
        np.testing.assert_array_equal(read(name), checkpoint.read(name))


def _output_error(weights: dict[str, torch.Tensor], quantized: dict[str, np.ndarray], rows: torch.Tensor) -> float:
    exact = rows @ weights["self_attn.q_proj.weight"].T
    return float((rows @ torch.from_numpy(quantized["self_attn.q_proj.weight"]).T - exact).square().mean())


def _layer(seed: int = 0) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """A layer of width 64 (MLP 96), and activations of which every 9th channel is 30 times as large as the others."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"input_layernorm.weight": (64,), "post_attention_layernorm.weight": (64,)}
    shapes |= {f"self_attn.{part}_proj.weight": (64, 64) for part in "qkvo"}
    shapes |= {"mlp.gate_proj.weight": (96, 64), "mlp.up_proj.weight": (96, 64), "mlp.down_proj.weight": (64, 96)}
    weights = {name: torch.randn(shape, generator=generator) * 0.1 for name, shape in shapes.items()}
    widths = {"qkv": 64, "output": 64, "gate_up": 64, "down": 96}
    activations = {name: torch.randn(200, width, generator=generator) for name, width in widths.items()}
    for rows in activations.values():
        rows[:, ::9] *= 30
    return weights, activations


def test_channels_that_speak_loudly_are_rounded_more_finely() -> None:
    weights, activations = _layer()
    scales = search_layer(weights, activations)
    loud = scales.qkv.factors[::9]
    quiet = np.delete(scales.qkv.factors, np.s_[::9])
    assert loud.min() > 1.5 * quiet.max()
    plain = {name: quantize_linear(weight.numpy()).dequantize() for name, weight in weights.items() if weight.ndim == 2}
    name = "self_attn.q_proj.weight"
    quantized = settled(lambda _: weights[name].numpy(), [scales])(f"model.layers.0.{name}") / scales.qkv.factors
    ours = _output_error(weights, {name: quantized}, activations["qkv"])
    assert ours < 0.5 * _output_error(weights, plain, activations["qkv"])


def test_moments_make_outputs_more_exact_where_activations_go_together() -> None:
    rng = np.random.default_rng(0)
    weight = rng.normal(0, 0.05, (64, 96)).astype(np.float32)
    rows = (rng.normal(0, 1, (300, 3)) @ rng.normal(0, 1, (3, 96)) + rng.normal(0, 0.1, (300, 96))).astype(np.float32)
    blocks = rows.reshape(300, 3, 32).transpose(1, 0, 2)
    moments = blocks.transpose(0, 2, 1) @ blocks / np.float32(300)

    def error(**options: np.ndarray) -> float:
        difference = quantize_linear(weight, **options).dequantize() - weight
        # Of every block's contribution on its own: what the search can see.
        return float(np.square(np.einsum("btk,obk->bto", blocks, difference.reshape(64, 3, 32))).mean())

    assert error(moments=moments) < 0.7 * error()
    once = quantize_linear(weight, moments=moments)
    again = quantize_linear(weight, moments=moments, threads=3)
    np.testing.assert_array_equal(once.levels, again.levels)
    np.testing.assert_array_equal(quantize_linear(once.dequantize()).dequantize(), once.dequantize())


def test_prompts_hold_the_picture_every_region_and_what_is_known_of_it(
    checkpoint: Checkpoint, samples: list[VerificationSample]
) -> None:
    sequences = calibration_sequences(checkpoint, samples, checkpoint.config)
    assert len(sequences) == 2
    # Five regions, three questions each.
    assert [int(sequence.branches.max()) for sequence in sequences] == [15, 15]
    lengths = [np.bincount(sequence.branches.numpy()) for sequence in sequences]
    assert lengths[0][0] == lengths[1][0] > checkpoint.config.image_tokens
    longer = np.flatnonzero(lengths[0] != lengths[1])
    assert len(longer) == 1, "only the region whose words are known has an answer behind its question"
    with pytest.raises(ValueError, match="no region"):
        calibration_sequences(checkpoint, samples[1:2], checkpoint.config)


def test_calibration_goes_layer_by_layer_and_its_file_gives_it_back(
    checkpoint: Checkpoint, samples: list[VerificationSample], tmp_path: Path
) -> None:
    done: list[tuple[int, int]] = []
    scales = calibrate(checkpoint, samples, bits=8, progress=lambda layer, layers: done.append((layer, layers)))
    assert done == [(1, 2), (2, 2)]
    assert len(scales) == 2
    save_scales(tmp_path / "scales.npz", scales)
    save_scales(tmp_path / "again.npz", calibrate(checkpoint, samples, bits=8))
    assert (tmp_path / "scales.npz").read_bytes() == (tmp_path / "again.npz").read_bytes()
    for layer, loaded in zip(scales, load_scales(tmp_path / "scales.npz"), strict=True):
        assert layer.bits == loaded.bits == 8
        for group in LINEAR_GROUPS:
            own, other = getattr(layer, group), getattr(loaded, group)
            assert (own.factors > 0).all()
            assert own.factors.dtype == own.moments.dtype == np.float32
            np.testing.assert_array_equal(own.factors, other.factors)
            np.testing.assert_array_equal(own.moments, other.moments)
