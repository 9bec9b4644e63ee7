"""The decoder engine together with the rows it has written: prefix and branches, in buffers on its device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from time import perf_counter

import numpy as np

from osprey_ros.bundle.spec import ModelSpec
from osprey_ros.decoding.branches import HIDDEN, BranchRows
from osprey_ros.decoding.kv_cache import KeyValueRows
from osprey_ros.decoding.logits import Prediction
from osprey_ros.engines.base import UNBOUNDED, Buffer, Engine
from osprey_ros.errors import EngineError
from osprey_ros.timing import Meter

# Of one run over a prefix: longer ones are computed piece by piece, because scores take memory with the square.
PREFILL_ROWS = 512
KEPT_RUNS = 256  # of about 4 KB for each layer
_LARGE = 1 << 20  # items: so many grow by what is needed only
_OUTPUTS = ("best_token", "best_logprob", "logits")  # for the rows whose logits are wanted


class DecoderEngine:
    """Runs the engine over new rows, which see the first rows of the prefix and some of the branches' rows.

    The names of inputs and outputs are those of ``export/graph_decoder.py``. All ``embeds`` are [S, hidden], all
    ``positions`` integers [S], all ``logit_rows`` integers [R]: the rows whose logits, float32 [R, vocab], are wanted.
    ``prefix`` is how many rows of the prefix are seen.
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
        if self._in_place and engine.device != "cpu":
            # Elsewhere onnxruntime may run an operator on the CPU, on a copy made before the new rows were written.
            raise EngineError(f"this decoder was built for the CPU, not for {engine.device!r}: build the bundle for it")
        # A graph that attends in place takes rows flat, as a batch of one.
        row_shape = (spec.num_heads * spec.head_dim,) if self._in_place else (spec.num_heads, spec.head_dim)
        dtype = engine.input_dtypes[self._all_names[0] if self._in_place else self._prefix_names[0]]
        self._bound: dict[tuple[int, ...], _BoundRun] = {}
        self._rows = KeyValueRows(engine, len(self._new_names), row_shape, dtype, self._in_place, self._bound.clear)
        self.most_rows = UNBOUNDED if self._in_place else engine.most_rows(self._branch_names[0])
        self.most_logits = engine.most_rows("logit_rows")
        self.branches = BranchRows(self._rows, self.most_rows)
        self._inputs = {
            "inputs_embeds": _Memory(engine.input_dtypes["inputs_embeds"], self._bound.clear),
            "position_ids": _Memory(np.int64, self._bound.clear),
            "mask": _Memory(np.float32, self._bound.clear),
            "logit_rows": _Memory(np.int64, self._bound.clear),
        }
        self._hidden_size, self.vocabulary = spec.hidden_size, spec.vocab_size
        self._outputs: dict[str, Buffer] = {}
        self._reserve_outputs(1)

    def prefill(self, embeds: np.ndarray, start: int, meter: Meter) -> None:
        """Writes prefix rows from row ``start`` on; those that were there from there on are lost."""
        self.branches.follow(start)
        self._rows.reserve(start + len(embeds))
        for at in range(0, len(embeds), PREFILL_ROWS):
            piece = embeds[at : at + PREFILL_ROWS]
            count, length = len(piece), self._rows.length
            mask = _mask_behind(length if self._in_place else 0, count)
            positions = np.arange(length, length + count)
            self._run(piece, positions, mask, np.array([count - 1]), length, length, meter)
            self.branches.follow(length + count)

    def extend(
        self,
        embeds: np.ndarray,
        positions: np.ndarray,
        owners: np.ndarray,
        logit_rows: np.ndarray,
        prefix: int,
        meter: Meter,
    ) -> Prediction:
        """Runs rows of branches and keeps them. ``owners``: see `BranchRows.mask`. Returns what comes behind."""
        prediction = self._behind(embeds, positions, owners, None, logit_rows, prefix, meter)
        self.branches.append(owners)
        return prediction

    def probe(
        self,
        embeds: np.ndarray,
        positions: np.ndarray,
        owners: np.ndarray,
        own: np.ndarray,
        prefix: int,
        meter: Meter,
    ) -> Prediction:
        """What comes behind all rows, which are not kept. ``owners`` and ``own``: see `BranchRows.mask`."""
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
        prediction = self._run(embeds, positions, mask, logit_rows, prefix, self._rows.length, Meter())
        return prediction.logits.copy()

    def _behind(
        self,
        embeds: np.ndarray,
        positions: np.ndarray,
        owners: np.ndarray,
        own: np.ndarray | None,
        logit_rows: np.ndarray,
        prefix: int,
        meter: Meter,
    ) -> Prediction:
        """Runs rows behind those there are; their keys and values are written there and not counted in."""
        stored = self.branches
        stored.reserve(len(owners))
        mask = stored.mask(owners, own, prefix if self._in_place else None)
        return self._run(embeds, positions, mask, logit_rows, prefix, stored.first, meter)

    def _run(
        self,
        embeds: np.ndarray,
        positions: np.ndarray,
        mask: np.ndarray,
        logit_rows: np.ndarray,
        prefix: int,
        first: int,
        meter: Meter,
    ) -> Prediction:
        """Runs rows that see the first ``prefix`` ones and those from ``first`` on, where they are read apart."""
        bound = self._bound_run(len(embeds), len(logit_rows), prefix, first)
        for array, place in zip((embeds, positions, mask, logit_rows), bound.inputs, strict=True):
            place[...] = array
        start = perf_counter()
        bound.start()
        meter.engine_seconds += perf_counter() - start
        tokens, logprobs, logits = bound.outputs
        return Prediction(tokens.read(), logprobs.read(), logits)

    def _bound_run(self, count: int, logit_rows: int, prefix: int, first: int) -> _BoundRun:
        """A run of ``count`` rows behind those there are. Frame after frame is like the one before: it may be kept."""
        key = (self._rows.length, count, logit_rows, prefix, first)
        bound = self._bound.get(key)
        if bound is None:
            while len(self._bound) >= KEPT_RUNS:
                self._bound.pop(next(iter(self._bound)))
            bound = self._bound[key] = self._bind(count, logit_rows, prefix, first)
        return bound

    def _bind(self, count: int, logit_rows: int, prefix: int, first: int) -> _BoundRun:
        rows, length = self._rows, self._rows.length
        end = length + count
        seen = end if self._in_place else end - first
        shapes = ((count, self._hidden_size), (count,), (count, seen), (logit_rows,))
        inputs = [memory.array(shape) for memory, shape in zip(self._inputs.values(), shapes, strict=True)]
        if logit_rows > self._outputs["logits"].shape[0]:
            self._bound.clear()
            self._reserve_outputs(logit_rows)
        outputs = tuple(self._outputs[name].rows(0, logit_rows) for name in _OUTPUTS)
        if self._in_place:
            past = rows.views(self._all_names, 0, end)
        else:
            past = {**rows.views(self._prefix_names, 0, prefix), **rows.views(self._branch_names, first, length)}
        into = {**dict(zip(_OUTPUTS, outputs, strict=True)), **rows.views(self._new_names, length, end)}
        start = self._engine.bind({**dict(zip(self._inputs, inputs, strict=True)), **past}, into)
        return _BoundRun(tuple(inputs), outputs, start)

    def _reserve_outputs(self, rows: int) -> None:
        """Makes room for what is said of so many rows."""
        self._outputs["best_token"] = self._engine.buffer((rows,), np.int64)
        self._outputs["best_logprob"] = self._engine.buffer((rows,), np.float32)
        # Last of all: by its length it is known how many rows there is room for, even if one of these has failed.
        self._outputs["logits"] = self._engine.buffer((rows, self.vocabulary), np.float32)


@lru_cache(4)  # frame after frame has the same prefixes
def _mask_behind(before: int, count: int) -> np.ndarray:
    """Float32 [count, before + count], read-only: each of ``count`` rows sees ``before`` ones and all up to itself."""
    mask = np.zeros((count, before + count), np.float32)
    np.copyto(mask[:, before:], HIDDEN, where=~np.tri(count, dtype=bool))
    mask.flags.writeable = False
    return mask


@dataclass(frozen=True)
class _BoundRun:
    """A run that is ready but for what is written to its inputs: embeddings, positions, mask and logit rows."""

    inputs: tuple[np.ndarray, ...]
    outputs: tuple[Buffer, ...]  # as in _OUTPUTS
    start: Callable[[], object]


class _Memory:
    """Memory for arrays of one type, one after another: as much as was ever needed.

    ``before_moving`` is called before it gives way to more.
    """

    def __init__(self, dtype: np.dtype | type, before_moving: Callable[[], None]) -> None:
        self._items = np.empty(0, dtype)
        self._before_moving = before_moving

    def array(self, shape: tuple[int, ...]) -> np.ndarray:
        """An array of this shape with anything in it."""
        size = prod(shape)
        if size > self._items.size:
            self._before_moving()
            dtype = self._items.dtype
            self._items = np.empty(0, dtype)  # two at once may be too much
            self._items = np.empty(size * 3 // 2 if size < _LARGE else size, dtype)
        return self._items[:size].reshape(shape)
