"""Straight-through int4 rounding of weights while training, so that the int4 engine computes what was trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from osprey_torch.model import Osprey
from osprey_torch.quantize import BLOCK


def round_to_int4(weight: torch.Tensor) -> torch.Tensor:
    """Round to symmetric int4 in blocks along the input, the weight format of the decoder engine."""
    blocks = weight.unflatten(1, (-1, BLOCK))  # type: ignore[no-untyped-call]
    # Engines keep scales in float16; below its normal range a block's weights are as good as zero.
    scale = (blocks.abs().amax(-1, keepdim=True) / 7).clamp(min=2.0**-14).half().float()
    result: torch.Tensor = ((blocks / scale).round().clamp(-8, 7) * scale).flatten(1)
    return result


@contextmanager
@torch.no_grad()
def int4_weights(model: Osprey, enabled: bool) -> Iterator[None]:
    """Let the linear layers of the language model compute with int4-rounded weights in the `with` block.

    Run forward and backward inside and the optimizer step outside: the gradient at the rounded weights moves the exact
    ones (the straight-through estimator).
    """
    linears = _linears(model) if enabled else []
    exact = [linear.weight.data for linear in linears]
    for linear, weight in zip(linears, exact, strict=True):
        linear.weight.data = round_to_int4(weight)
    try:
        with torch.enable_grad():
            yield
    finally:
        for linear, weight in zip(linears, exact, strict=True):
            linear.weight.data = weight


@torch.no_grad()
def settle_on_int4(model: Osprey) -> None:
    """Replace the weights by their rounded values: int4 quantization of the result then loses nothing."""
    for linear in _linears(model):
        linear.weight.copy_(round_to_int4(linear.weight))


def _linears(model: Osprey) -> list[nn.Linear]:
    return [m for m in model.model.layers.modules() if isinstance(m, nn.Linear)]
