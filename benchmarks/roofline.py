"""Estimates what one decode step reads and computes, a lower bound of its time on any runtime."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.baselines.weights import LlamaWeights
from osprey_torch.quantize import QuantizedLinear


@dataclass(frozen=True)
class StepCost:
    """Bytes read once each, and operations (a multiplication and an addition are two), of one decode step."""

    weight_bytes: int
    cache_bytes: int  # keys and values: the shared prefix once, every branch's own rows
    operations: float


def decode_step(weights: LlamaWeights, branches: int, prefix_rows: int, branch_rows: int, cache_item: int) -> StepCost:
    """Return the step that adds one token to each of `branches`, which have `branch_rows` rows each behind the prefix.

    cache_item: bytes of one number of the cache.
    """
    config = weights.config
    weight_bytes, products = 0, 0
    for weight in weights.linears.values():
        if isinstance(weight, QuantizedLinear):
            products += weight.out_features * weight.in_features
            weight_bytes += weight.levels.size * weight.bits // 8 + weight.scales.size * 4
        else:
            products += weight.size
            weight_bytes += weight.size * 4  # fp16 is widened when the engine is loaded
    weight_bytes += sum(norm.nbytes for norm in weights.norms.values())
    per_row = 2 * config.num_layers * config.hidden_size  # numbers of keys and values
    rows = prefix_rows + branches * branch_rows
    seen = branches * (prefix_rows + branch_rows)
    return StepCost(
        weight_bytes=int(weight_bytes),
        cache_bytes=rows * per_row * cache_item,
        operations=2.0 * products * branches + 2.0 * seen * per_row,
    )
