"""Estimate what one decode step reads and computes: a lower bound of its time in any runtime."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.baselines.weights import LlamaWeights
from osprey_torch.quantize import QuantizedLinear


@dataclass(frozen=True)
class StepCost:
    """Bytes that one decode step reads, and its operations; a multiplication and an addition are two."""

    weight_bytes: int
    cache_bytes: int  # keys and values: the shared prefix once, and the rows of each branch
    operations: float


def decode_step(weights: LlamaWeights, branches: int, prefix_rows: int, branch_rows: int, cache_item: int) -> StepCost:
    """Return the cost of a step that adds one token to each branch.

    Args:
        weights: The language model.
        branches: Number of branches.
        prefix_rows: Rows of the shared prefix.
        branch_rows: Rows of each branch after the prefix.
        cache_item: Bytes of one value of the cache.
    """
    config = weights.config
    weight_bytes, products = 0, 0
    for weight in weights.linears.values():
        if isinstance(weight, QuantizedLinear):
            products += weight.out_features * weight.in_features
            weight_bytes += weight.levels.size * weight.bits // 8 + weight.scales.size * 4
        else:
            products += weight.size
            weight_bytes += weight.size * 4  # fp16 is converted to fp32 when the engine is loaded
    weight_bytes += sum(norm.nbytes for norm in weights.norms.values())
    per_row = 2 * config.num_layers * config.hidden_size  # values of keys and values
    rows = prefix_rows + branches * branch_rows
    attended = branches * (prefix_rows + branch_rows)
    return StepCost(
        weight_bytes=int(weight_bytes),
        cache_bytes=rows * per_row * cache_item,
        operations=2.0 * products * branches + 2.0 * attended * per_row,
    )
