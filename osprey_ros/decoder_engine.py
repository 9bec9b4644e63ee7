"""The decoder engine together with the rows it has written: prefix and branches, in buffers on its device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np

from osprey_ros.branches import HIDDEN, BranchRows
from osprey_ros.bundle import ModelSpec
from osprey_ros.engines import Buffer, Engine
from osprey_ros.key_values import KeyValueRows

# Of one run over a prefix: longer ones are computed piece by piece, because scores take memory with the square.
PREFILL_ROWS = 512


@dataclass
class Meter:
    """Adds up what decoding costs: seconds inside engines, and wall seconds of each decode step."""

    engine_seconds: float = 0.0
    step_seconds: list[float] = field(default_factory=list)


class DecoderEngine:
    """Runs the engine over new rows, which see the first rows of the prefix and some of the branches' rows.

    The names of inputs and outputs are those of ``export/graph_decoder.py``. All ``embeds`` are [S, hidden], all
    ``positions`` integers [S], all ``logit_rows`` integers [R]: the rows whose logits, float32 [R, vocab], are wanted.
    """

    def __init__(self, engine: Engine, spec: ModelSpec) -> None:
        self._engine = engine
        self._prefix_names, self._branch_names, self._new_names = (
            tuple(f"{part}_{kind}.{layer}" for layer in range(spec.num_layers) for kind in ("key", "value"))
            for part in ("prefix", "branch", "new")
        )
        self._dtype = engine.input_dtypes["inputs_embeds"]
        row_shape = (spec.num_heads, spec.head_dim)
        names = self._prefix_names
        dtype = engine.input_dtypes[names[0]]
        self.prefix = KeyValueRows(engine, len(names), row_shape, dtype)
        self.branches = BranchRows(KeyValueRows(engine, len(names), row_shape, dtype))

    def prefill(self, embeds: np.ndarray, start: int, meter: Meter) -> None:
        """Writes prefix rows from row ``start`` on; those that were there from there on are lost."""
        self.prefix.length = start
        self.prefix.reserve(start + len(embeds))
        for at in range(0, len(embeds), PREFILL_ROWS):
            piece = embeds[at : at + PREFILL_ROWS]
            count, length = len(piece), self.prefix.length
            self._run(
                piece,
                np.arange(length, length + count),
                np.triu(np.full((count, count), HIDDEN), k=1),
                np.array([count - 1]),
                {**self.prefix_views(length), **self.branches.none(self._branch_names)},
                self.prefix.views(self._new_names, length, length + count),
                meter,
            )
            self.prefix.length += count

    def extend(
        self,
        embeds: np.ndarray,
        positions: np.ndarray,
        owners: np.ndarray,
        logit_rows: np.ndarray,
        prefix: dict[str, Buffer],
        meter: Meter,
    ) -> np.ndarray:
        """Runs rows of branches and keeps them. ``owners``: see `BranchRows.mask`. Returns logits."""
        stored = self.branches
        stored.reserve(len(owners))
        mask = stored.mask(owners)
        past = {**prefix, **stored.past(self._branch_names)}
        tail = stored.tail(self._new_names, len(owners))
        outputs = self._run(embeds, positions, mask, logit_rows, past, tail, meter)
        stored.append(owners)
        return outputs["logits"]

    def probe(
        self,
        embeds: np.ndarray,
        positions: np.ndarray,
        owners: np.ndarray,
        own: np.ndarray,
        prefix: dict[str, Buffer],
        meter: Meter,
    ) -> np.ndarray:
        """Logits of all rows, which are not kept. ``owners`` and ``own``: see `BranchRows.mask`."""
        mask = self.branches.mask(owners, own)
        past = {**prefix, **self.branches.past(self._branch_names)}
        return self._run(embeds, positions, mask, np.arange(len(owners)), past, {}, meter, ["logits"])["logits"]

    def run(
        self, embeds: np.ndarray, positions: np.ndarray, mask: np.ndarray, logit_rows: np.ndarray, prefix: int
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """Logits, and keys and values of the new rows in turn for each layer; nothing is kept."""
        past = {**self.prefix_views(prefix), **self.branches.none(self._branch_names)}
        outputs = self._run(embeds, positions, mask, logit_rows, past, {}, Meter())
        return outputs["logits"], [outputs[name] for name in self._new_names]

    def prefix_views(self, length: int) -> dict[str, Buffer]:
        """The first rows of the prefix, by the names of the engine's inputs."""
        return self.prefix.views(self._prefix_names, 0, length)

    def _run(
        self,
        embeds: np.ndarray,
        positions: np.ndarray,
        mask: np.ndarray,
        logit_rows: np.ndarray,
        past: dict[str, Buffer],
        into: dict[str, Buffer],
        meter: Meter,
        outputs: Sequence[str] | None = None,
    ) -> dict[str, np.ndarray]:
        inputs: dict[str, np.ndarray | Buffer] = {
            "inputs_embeds": np.ascontiguousarray(embeds, dtype=self._dtype),
            "position_ids": positions.astype(np.int64, copy=False),
            "mask": mask,
            "logit_rows": logit_rows.astype(np.int64, copy=False),
            **past,
        }
        start = perf_counter()
        result = self._engine.run(inputs, outputs, into)
        meter.engine_seconds += perf_counter() - start
        return result
