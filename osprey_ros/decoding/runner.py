"""Runs of the decoder engine over new rows, with the cache of the rows before them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from time import perf_counter

import numpy as np

from osprey_ros.bundle.spec import ModelSpec
from osprey_ros.decoding.kv_cache import HIDDEN, BranchCache, KVCache
from osprey_ros.decoding.logits import NextTokenLogits
from osprey_ros.decoding.prompt_batch import RunRows
from osprey_ros.engines.base import UNBOUNDED, BoundRun, Buffer, Engine, check_finite
from osprey_ros.errors import EngineError
from osprey_ros.system.call import Call

# Rows of one run over a prefix. Attention scores take memory with the square, and cancellation waits for the end of a
# run where the engine cannot be interrupted.
PREFILL_ROWS = 512
PREFILL_ROWS_UNINTERRUPTIBLE = 256
# Bound runs, of about 4 KB for each layer. A frame like the one before needs the same: with nano 8 for short and 19 for
# detailed descriptions. With 32 all are found again, as with 256; with 16 those of detailed descriptions are not.
KEPT_RUNS = 32
_LARGE = 1 << 20  # items; memory beyond this size grows without reserve
_OUTPUTS = ("best_token", "best_logprob", "logits")  # of the rows whose logits are wanted


class DecoderRunner:
    """The decoder engine and its cache of prefix and branches.

    The names of inputs and outputs are those of ``export/graph_decoder.py``. In all methods ``embeds`` is float32
    [S, hidden size], ``positions`` integers [S], ``logit_rows`` integers [R], the rows whose logits are wanted, and
    ``prefix`` the number of prefix rows that the new rows attend to. Each run raises StoppedError if ``call`` is
    canceled before it or, where the engine can be interrupted, during it; the cache is valid afterwards.

    Rows of branches are in the same buffers as the prefix, behind it. Some engines read both as one input, others as
    two.

    Attributes:
        branches: The cached rows of branches.
        most_rows: The most rows of branches in the cache: plans have limits.
        most_logits: The most rows with logits of one run.
        vocabulary: Number of tokens with logits.

    Raises EngineError if the engine cannot run on its device. Runs raise it if the probabilities are not finite.
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
        row_shape = (spec.kv_heads * spec.head_dim,) if self._in_place else (spec.kv_heads, spec.head_dim)
        dtype = engine.input_dtypes[self._all_names[0] if self._in_place else self._prefix_names[0]]
        self._bound: dict[tuple[int, ...], _BoundRun] = {}
        self._cache = KVCache(engine, len(self._new_names), row_shape, dtype, self._in_place, self._bound.clear)
        self.most_rows = UNBOUNDED if self._in_place else engine.most_rows(self._branch_names[0])
        self.most_logits = engine.most_rows("logit_rows")
        self.branches = BranchCache(self._cache, self.most_rows)
        self._inputs = {
            "inputs_embeds": _Memory(engine.input_dtypes["inputs_embeds"], self._bound.clear),
            "position_ids": _Memory(np.int64, self._bound.clear),
            "mask": _Memory(np.float32, self._bound.clear),
            "logit_rows": _Memory(np.int64, self._bound.clear),
        }
        self._hidden_size, self.vocabulary = spec.hidden_size, spec.vocab_size
        self._outputs: dict[str, Buffer] = {}
        self._reserve_outputs(1)

    def prefill(self, embeds: np.ndarray, start: int, call: Call) -> None:
        """Compute rows of the prefix from row ``start`` on. The cached rows from there on are lost."""
        self.branches.reset(start)
        self._cache.reserve(start + len(embeds))
        most = PREFILL_ROWS if self._engine.interruptible else min(PREFILL_ROWS, PREFILL_ROWS_UNINTERRUPTIBLE)
        for at in range(0, len(embeds), most):
            chunk = embeds[at : at + most]
            count, length = len(chunk), self._cache.length
            mask = _causal_mask(length if self._in_place else 0, count)
            positions = np.arange(length, length + count)
            self._execute((chunk, positions, mask, np.array([count - 1])), length, length, call)
            self.branches.first = self._cache.length = length + count

    def extend(
        self, rows: RunRows, logit_rows: np.ndarray, prefix: int, call: Call, stem_owners: np.ndarray | None = None
    ) -> NextTokenLogits:
        """Run new rows of branches and keep them in the cache.

        ``stem_owners`` (see `BranchCache.start`) are given if all branches are new.
        """
        if stem_owners is not None:
            self.branches.start(stem_owners)
        logits = self._run_branches(rows, None, logit_rows, prefix, call)
        self.branches.append(rows.owners)
        return logits

    def run_uncached(self, rows: RunRows, own: np.ndarray, prefix: int, call: Call) -> NextTokenLogits:
        """Run rows behind the cached ones without keeping them. ``own``: see `BranchCache.mask`.

        The logits of all rows are returned.
        """
        return self._run_branches(rows, own, np.arange(len(rows.owners)), prefix, call)

    def run_alone(
        self, embeds: np.ndarray, positions: np.ndarray, mask: np.ndarray, logit_rows: np.ndarray, prefix: int
    ) -> np.ndarray:
        """Run rows behind the prefix without branches and without keeping them.

        ``mask``: float32 [S, S]. Returns logits, float32 [R, vocabulary size].
        """
        count = len(embeds)
        self.branches.reserve(count)
        if self._in_place:
            hidden = np.full((count, self._cache.length), HIDDEN)
            hidden[:, :prefix] = 0
            mask = np.concatenate([hidden, mask], axis=1)
        logits = self._execute((embeds, positions, mask, logit_rows), prefix, self._cache.length, Call())
        result: np.ndarray = logits.logits.copy()
        return result

    def _run_branches(
        self, rows: RunRows, own: np.ndarray | None, logit_rows: np.ndarray, prefix: int, call: Call
    ) -> NextTokenLogits:
        """Run rows of branches. Their keys and values are written behind the cached rows but not counted."""
        self.branches.reserve(len(rows.owners))
        mask = self.branches.mask(rows.owners, own, prefix if self._in_place else None)
        logits = self._execute((rows.embeds, rows.positions, mask, logit_rows), prefix, self.branches.first, call)
        check_finite(logits.best_logprobs, "decoder")
        return logits

    def _execute(self, inputs: tuple[np.ndarray, ...], prefix: int, first: int, call: Call) -> NextTokenLogits:
        """Run rows behind the cached ones.

        ``inputs``: embeddings, positions, mask and logit rows. ``first``: the first cached row that is passed as a row
        of a branch, where the engine takes those apart.
        """
        if call.cancel is not None:
            call.cancel.check("the decoder")
        bound = self._bound_run(len(inputs[0]), len(inputs[-1]), prefix, first)
        for array, place in zip(inputs, bound.inputs, strict=True):
            place[...] = array
        start = perf_counter()
        bound.run(call.cancel)
        call.engine_seconds += perf_counter() - start
        tokens, logprobs, logits = bound.outputs
        return NextTokenLogits(tokens.read(), logprobs.read(), logits)

    def _bound_run(self, count: int, logit_rows: int, prefix: int, first: int) -> _BoundRun:
        """Return a run of ``count`` rows behind the cached ones, bound now or earlier: frames repeat their shapes."""
        key = (self._cache.length, count, logit_rows, prefix, first)
        bound = self._bound.pop(key, None)
        if bound is None:
            while len(self._bound) >= KEPT_RUNS:
                self._bound.pop(next(iter(self._bound)))  # the one that was not used for the longest time
            bound = self._bind(count, logit_rows, prefix, first)
        self._bound[key] = bound
        return bound

    def _bind(self, count: int, logit_rows: int, prefix: int, first: int) -> _BoundRun:
        """Bind the engine to memory for this number of rows and to views of the cache."""
        length = self._cache.length
        end = length + count
        if self._in_place:
            cached = self._cache.views((self._all_names, 0, end))
        else:
            cached = self._cache.views((self._prefix_names, 0, prefix), (self._branch_names, first, length))
        new = self._cache.views((self._new_names, length, end))
        attended = end if self._in_place else end - first
        shapes = ((count, self._hidden_size), (count,), (count, attended), (logit_rows,))
        inputs = [memory.array(shape) for memory, shape in zip(self._inputs.values(), shapes, strict=True)]
        if logit_rows > self._outputs["logits"].shape[0]:
            self._bound.clear()
            self._reserve_outputs(logit_rows)
        outputs = tuple(self._outputs[name].rows(0, logit_rows) for name in _OUTPUTS)
        run = self._engine.bind(
            {**dict(zip(self._inputs, inputs, strict=True)), **cached},
            {**dict(zip(_OUTPUTS, outputs, strict=True)), **new},
        )
        return _BoundRun(tuple(inputs), outputs, run)

    def _reserve_outputs(self, rows: int) -> None:
        """Allocate the outputs for this number of rows with logits."""
        self._outputs["best_token"] = self._engine.buffer((rows,), np.int64)
        self._outputs["best_logprob"] = self._engine.buffer((rows,), np.float32)
        # Last: its length says how many rows there is room for, also after a failed allocation.
        self._outputs["logits"] = self._engine.buffer((rows, self.vocabulary), np.float32)


@lru_cache(4)  # consecutive frames have prefixes of the same length
def _causal_mask(before: int, count: int) -> np.ndarray:
    """Return float32 [count, before + count], read-only: rows attend to ``before`` rows and to all up to themselves."""
    mask = np.zeros((count, before + count), np.float32)
    np.copyto(mask[:, before:], HIDDEN, where=~np.tri(count, dtype=bool))
    mask.flags.writeable = False
    return mask


@dataclass(frozen=True)
class _BoundRun:
    """A run, with its inputs (embeddings, positions, mask, logit rows) and its outputs as in _OUTPUTS."""

    inputs: tuple[np.ndarray, ...]
    outputs: tuple[Buffer, ...]
    run: BoundRun


class _Memory:
    """Memory for one array of a type at a time, as large as it ever had to be.

    ``before_moving`` is called before it is replaced by larger memory.
    """

    def __init__(self, dtype: np.dtype | type, before_moving: Callable[[], None]) -> None:
        self._items = np.empty(0, dtype)
        self._before_moving = before_moving

    def array(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return an array of this shape with arbitrary contents."""
        size = prod(shape)
        if size > self._items.size:
            self._before_moving()
            dtype = self._items.dtype
            self._items = np.empty(0, dtype)  # released first: both may not fit
            self._items = np.empty(size * 3 // 2 if size < _LARGE else size, dtype)
        return self._items[:size].reshape(shape)
