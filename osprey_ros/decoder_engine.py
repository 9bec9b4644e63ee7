"""The decoder engine together with the rows it has written: prefix and branches, in buffers on its device."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import perf_counter

import numpy as np

from osprey_ros.branches import HIDDEN, BranchRows
from osprey_ros.bundle import ModelSpec
from osprey_ros.engines import UNBOUNDED, Buffer, Engine, EngineError
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
    ``prefix`` is how many rows of the prefix are seen.
    Logits that are returned lie in memory that the next run writes to.
    Rows of prefix and branches lie in the same buffers, those of the branches behind those of the prefix. Some engines
    read both in one piece, the new rows with them, others apart. ``most_rows`` of branches may be there for a run, and
    ``most_logits`` be wanted of it: plans have bounds.
    """

    def __init__(self, engine: Engine, spec: ModelSpec) -> None:
        self._engine = engine
        self._all_names, self._prefix_names, self._branch_names, self._new_names = (
            tuple(f"{part}{kind}.{layer}" for layer in range(spec.num_layers) for kind in ("key", "value"))
            for part in ("", "prefix_", "branch_", "new_")
        )
        self._in_place = self._all_names[0] in engine.input_names
        self._dtype = engine.input_dtypes["inputs_embeds"]
        if self._in_place and engine.device != "cpu":
            # Elsewhere onnxruntime may run an operator on the CPU, on a copy made before the new rows were written.
            raise EngineError(f"this decoder was built for the CPU, not for {engine.device!r}: build the bundle for it")
        # A graph that attends in place takes rows flat, as a batch of one.
        row_shape = (spec.num_heads * spec.head_dim,) if self._in_place else (spec.num_heads, spec.head_dim)
        dtype = engine.input_dtypes[self._all_names[0] if self._in_place else self._prefix_names[0]]
        self._rows = KeyValueRows(engine, len(self._new_names), row_shape, dtype, batch=self._in_place)
        self.most_rows = UNBOUNDED if self._in_place else engine.most_rows(self._branch_names[0])
        self.most_logits = engine.most_rows("logit_rows")
        self.branches = BranchRows(self._rows, self.most_rows)
        self._vocabulary = spec.vocab_size
        self._logits = engine.buffer((1, spec.vocab_size), engine.output_dtypes["logits"])

    def prefill(self, embeds: np.ndarray, start: int, meter: Meter) -> None:
        """Writes prefix rows from row ``start`` on; those that were there from there on are lost."""
        self.branches.follow(start)
        self._rows.reserve(start + len(embeds))
        for at in range(0, len(embeds), PREFILL_ROWS):
            piece = embeds[at : at + PREFILL_ROWS]
            count, length = len(piece), self._rows.length
            mask = np.triu(np.full((count, count), HIDDEN), k=1)
            if self._in_place:
                mask = np.concatenate([np.zeros((count, length), np.float32), mask], axis=1)
                past = self.branches.everything(self._all_names, count)
            else:
                past = {**self._rows.head(self._prefix_names, length), **self.branches.none(self._branch_names)}
            into = self.branches.tail(self._new_names, count)
            positions = np.arange(length, length + count)
            self._run(piece, positions, mask, np.array([count - 1]), past, into, meter)
            self.branches.follow(length + count)

    def extend(
        self,
        embeds: np.ndarray,
        positions: np.ndarray,
        owners: np.ndarray,
        logit_rows: np.ndarray,
        prefix: int,
        meter: Meter,
    ) -> np.ndarray:
        """Runs rows of branches and keeps them. ``owners``: see `BranchRows.mask`. Returns logits."""
        logits = self._behind(embeds, positions, owners, None, logit_rows, prefix, meter)
        self.branches.append(owners)
        return logits

    def probe(
        self,
        embeds: np.ndarray,
        positions: np.ndarray,
        owners: np.ndarray,
        own: np.ndarray,
        prefix: int,
        meter: Meter,
    ) -> np.ndarray:
        """Logits of all rows, which are not kept. ``owners`` and ``own``: see `BranchRows.mask`."""
        return self._behind(embeds, positions, owners, own, np.arange(len(owners)), prefix, meter)

    def run(
        self, embeds: np.ndarray, positions: np.ndarray, mask: np.ndarray, logit_rows: np.ndarray, prefix: int
    ) -> np.ndarray:
        """Logits; nothing is kept."""
        count = len(embeds)
        self.branches.reserve(count)
        if self._in_place:
            hidden = np.full((count, self._rows.length), HIDDEN)
            hidden[:, :prefix] = 0
            mask = np.concatenate([hidden, mask], axis=1)
            past = self.branches.everything(self._all_names, count)
        else:
            past = {**self._rows.head(self._prefix_names, prefix), **self.branches.none(self._branch_names)}
        new = self.branches.tail(self._new_names, count)
        return self._run(embeds, positions, mask, logit_rows, past, new, Meter()).copy()

    def _behind(
        self,
        embeds: np.ndarray,
        positions: np.ndarray,
        owners: np.ndarray,
        own: np.ndarray | None,
        logit_rows: np.ndarray,
        prefix: int,
        meter: Meter,
    ) -> np.ndarray:
        """Runs rows behind those there are; their keys and values are written there and not counted in."""
        stored, count = self.branches, len(owners)
        stored.reserve(count)
        if self._in_place:
            mask = stored.mask(owners, own, prefix)
            past = stored.everything(self._all_names, count)
        else:
            mask = stored.mask(owners, own)
            past = {**self._rows.head(self._prefix_names, prefix), **stored.past(self._branch_names)}
        return self._run(embeds, positions, mask, logit_rows, past, stored.tail(self._new_names, count), meter)

    def _run(
        self,
        embeds: np.ndarray,
        positions: np.ndarray,
        mask: np.ndarray,
        logit_rows: np.ndarray,
        past: dict[str, Buffer],
        into: dict[str, Buffer],
        meter: Meter,
    ) -> np.ndarray:
        inputs: dict[str, np.ndarray | Buffer] = {
            "inputs_embeds": np.ascontiguousarray(embeds, dtype=self._dtype),
            "position_ids": positions.astype(np.int64, copy=False),
            "mask": mask,
            "logit_rows": logit_rows.astype(np.int64, copy=False),
            **past,
        }
        if len(logit_rows) > self._logits.shape[0]:
            self._logits = self._engine.buffer((len(logit_rows), self._vocabulary), self._logits.dtype)
        logits = self._logits.rows(0, len(logit_rows))
        start = perf_counter()
        self._engine.run(inputs, (), {"logits": logits, **into})
        meter.engine_seconds += perf_counter() - start
        return logits.read()
