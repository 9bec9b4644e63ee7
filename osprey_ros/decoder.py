"""Greedy generation of many short answers behind one shared prefix, all branches packed in one sequence.

The graph (see ``export/graph_decoder.py``) has no batch axis: its rows are (branch, position) pairs. Every row sees the
whole prefix; which rows of the branches it sees is said by a mask. The keys and values of the prefix are computed once
and passed by reference; the graph returns those of the new rows only, which are kept here behind one another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from osprey_ros.bundle import ModelSpec
from osprey_ros.engines import Engine
from osprey_ros.errors import OspreyError

HIDDEN = np.float32(-1e9)  # finite: a row that sees nothing must not become NaN
MAX_ROWS = 2048  # of one run over branches: scores and mask grow with its square

Embed = Callable[[np.ndarray], np.ndarray]


class DecoderError(OspreyError):
    """A request that the decoder cannot serve; the message says which bound it passes."""


@dataclass(frozen=True)
class Prefix:
    """Keys and values of the rows that all branches share: one float32 [heads, length, head_dim] per layer."""

    keys: list[np.ndarray]
    values: list[np.ndarray]

    @property
    def length(self) -> int:
        """Number of rows."""
        return self.keys[0].shape[1]

    def head(self, length: int) -> Prefix:
        """The first ``length`` rows: they do not depend on what follows them."""
        if length == self.length:
            return self
        return Prefix(
            [np.ascontiguousarray(k[:, :length]) for k in self.keys],
            [np.ascontiguousarray(v[:, :length]) for v in self.values],
        )


@dataclass(frozen=True)
class Generation:
    """One answer: token ids, int32 [n], the end-of-sequence id included if it was reached; log-probability of each."""

    tokens: np.ndarray
    logprobs: np.ndarray  # float32 [n], natural logarithm


class Decoder:
    """Runs the decoder engine.

    ``max_parallel`` bounds how many branches are decoded together, and so the memory; there are fewer where questions
    are so long that they would pass MAX_ROWS together.
    """

    def __init__(self, engine: Engine, spec: ModelSpec, max_parallel: int = 64) -> None:
        if max_parallel < 1:
            raise DecoderError(f"max_parallel is {max_parallel}: it must be at least 1")
        self._engine = engine
        self._spec = spec
        self.max_parallel = max_parallel
        layers = range(spec.num_layers)
        self._prefix_names = [(f"prefix_key.{i}", f"prefix_value.{i}") for i in layers]
        self._branch_names = [(f"branch_key.{i}", f"branch_value.{i}") for i in layers]
        self._new_names = [(f"new_key.{i}", f"new_value.{i}") for i in layers]
        empty = np.zeros((spec.num_heads, 0, spec.head_dim), dtype=np.float32)
        self._empty = Prefix([empty] * spec.num_layers, [empty] * spec.num_layers)

    def prefill(self, embeds: np.ndarray, behind: Prefix | None = None) -> Prefix:
        """Computes a prefix from float32 [P, hidden] rows, or extends the prefix ``behind`` which they follow.

        Raises DecoderError if there are more rows than the model has positions.
        """
        past = self._empty if behind is None else behind
        rows = len(embeds)
        if rows == 0:
            return past
        self._check_positions(past.length + rows, f"a prefix of {past.length + rows} tokens")
        causal = np.triu(np.full((rows, rows), HIDDEN, dtype=np.float32), k=1)
        positions = np.arange(past.length, past.length + rows)
        _, new = self.run(embeds, positions, causal, np.array([rows - 1]), past)
        if past.length == 0:
            return new
        return Prefix(
            [np.concatenate(pair, axis=1) for pair in zip(past.keys, new.keys, strict=True)],
            [np.concatenate(pair, axis=1) for pair in zip(past.values, new.values, strict=True)],
        )

    def room(self, prefix: Prefix, branches: Sequence[np.ndarray]) -> int:
        """How many tokens every branch can be given before the model runs out of positions."""
        return self._spec.max_positions - prefix.length - max(len(b) for b in branches) + 1

    def generate(
        self, prefix: Prefix, branches: Sequence[np.ndarray], embed: Embed, max_new_tokens: int, eos_id: int
    ) -> list[Generation]:
        """Continues every branch, float32 [T_i, hidden] with T_i at least 1, greedily behind the prefix.

        ``embed`` gives the rows float32 [n, hidden] of token ids [n]. A branch ends with ``eos_id`` or after
        ``max_new_tokens``. Raises DecoderError if the model has too few positions for that.
        """
        if max_new_tokens < 1:
            raise DecoderError(f"max_new_tokens is {max_new_tokens}: it must be at least 1")
        if not branches:
            return []
        longest = max(len(b) for b in branches)
        # The last token is not fed back, so it takes no position.
        self._check_positions(
            prefix.length + longest + max_new_tokens - 1,
            f"a prefix of {prefix.length}, a question of {longest} and an answer of {max_new_tokens} tokens",
        )
        answers: list[Generation] = []
        for wave in self._waves(branches):
            answers += self._generate_wave(prefix, branches[wave], embed, max_new_tokens, eos_id)
        return answers

    def steps(self, branches: Sequence[np.ndarray], answers: Sequence[Generation]) -> int:
        """How many times the engine ran to answer these branches: once for each token of the longest of a wave."""
        return sum(max(len(answer.tokens) for answer in answers[wave]) for wave in self._waves(branches))

    def _waves(self, branches: Sequence[np.ndarray]) -> list[slice]:
        """Which branches are decoded together: as many as both bounds allow, at least one."""
        waves, start, rows = [], 0, 0
        for index, branch in enumerate(branches):
            if index > start and (index - start == self.max_parallel or rows + len(branch) > MAX_ROWS):
                waves.append(slice(start, index))
                start, rows = index, 0
            rows += len(branch)
        return [*waves, slice(start, len(branches))]

    def _generate_wave(
        self, prefix: Prefix, branches: Sequence[np.ndarray], embed: Embed, max_new_tokens: int, eos_id: int
    ) -> list[Generation]:
        count = len(branches)
        lengths = np.array([len(b) for b in branches])
        tokens = np.zeros((count, max_new_tokens), dtype=np.int32)
        logprobs = np.zeros((count, max_new_tokens), dtype=np.float32)
        produced = np.zeros(count, dtype=np.intp)
        cache = _BranchCache(self._spec, int(lengths.sum()) + count * min(max_new_tokens - 1, 16))

        # First step: all rows of all questions. A row sees its own branch up to itself.
        owners = np.repeat(np.arange(count), lengths)
        offsets = np.concatenate([np.arange(n) for n in lengths])
        visible = (owners[:, None] == owners) & (offsets <= offsets[:, None])
        mask = np.where(visible, np.float32(0), HIDDEN)
        active = np.arange(count)
        rows = np.concatenate(branches)
        positions = prefix.length + offsets
        logit_rows = np.cumsum(lengths) - 1
        past = None
        for step in range(max_new_tokens):
            logits, new = self.run(rows, positions, mask, logit_rows, prefix, past)
            chosen, chosen_logprobs = _greedy(logits)
            tokens[active, step] = chosen
            logprobs[active, step] = chosen_logprobs
            produced[active] += 1
            going_on = chosen != eos_id
            if step + 1 == max_new_tokens or not going_on.any():
                break
            cache.append(new, owners)

            # Later steps: one row for each branch that goes on. It sees the rows of its branch so far, and itself.
            active, chosen = active[going_on], chosen[going_on]
            owners = active
            rows = embed(chosen)
            positions = prefix.length + lengths[active] + step
            mask = np.concatenate([cache.mask(active), _diagonal_mask(len(active))], axis=1)
            logit_rows = np.arange(len(active))
            past = cache.rows
        return [Generation(tokens[b, :n].copy(), logprobs[b, :n].copy()) for b, n in enumerate(produced)]

    def run(
        self,
        embeds: np.ndarray,
        positions: np.ndarray,
        mask: np.ndarray,
        logit_rows: np.ndarray,
        prefix: Prefix | None = None,
        past: Prefix | None = None,
    ) -> tuple[np.ndarray, Prefix]:
        """One run of the engine over S new rows; the names and shapes are those of ``export/graph_decoder.py``.

        Args:
            embeds: [S, hidden]; positions: integers [S]; logit_rows: integers [R], the rows whose logits are wanted.
            mask: float32 [S, B + S], 0 where a row sees one of the B rows of ``past`` or of the new ones, else HIDDEN.
            prefix: rows that every new one sees; past: earlier rows of branches. Both are empty by default.

        Returns:
            logits float32 [R, vocab] and the keys and values of the new rows.
        """
        feeds: dict[str, np.ndarray] = {
            "inputs_embeds": np.ascontiguousarray(embeds, dtype=np.float32),
            "position_ids": positions.astype(np.int64),
            "mask": mask,
            "logit_rows": logit_rows.astype(np.int64),
        }
        for names, rows in ((self._prefix_names, prefix or self._empty), (self._branch_names, past or self._empty)):
            for (key_name, value_name), key, value in zip(names, rows.keys, rows.values, strict=True):
                feeds[key_name] = key
                feeds[value_name] = value
        outputs = self._engine.run(feeds)
        keys = [outputs[key_name] for key_name, _ in self._new_names]
        values = [outputs[value_name] for _, value_name in self._new_names]
        return outputs["logits"], Prefix(keys, values)

    def _check_positions(self, needed: int, what: str) -> None:
        if needed > self._spec.max_positions:
            raise DecoderError(
                f"{what} need {needed} positions, the model has {self._spec.max_positions}: "
                "shorten the question or lower max_new_tokens"
            )


class _BranchCache:
    """Keys and values of the rows of all branches, in the order they were computed, and which branch owns each row.

    The buffers start at ``capacity`` rows and double when full. What is not yet written is zero, because even a hidden
    row enters the products, and owned by nobody.
    """

    def __init__(self, spec: ModelSpec, capacity: int) -> None:
        self._used = 0
        self._owners = np.full(capacity, -1, dtype=np.intp)
        shape = (spec.num_heads, capacity, spec.head_dim)
        layers = range(spec.num_layers)
        self.rows = Prefix([np.zeros(shape, np.float32) for _ in layers], [np.zeros(shape, np.float32) for _ in layers])

    def append(self, new: Prefix, owners: np.ndarray) -> None:
        """Copies new rows, ``owners`` saying the branch of each, behind those that are there."""
        end = self._used + len(owners)
        if end > len(self._owners):
            self._grow(max(end, 2 * len(self._owners)))
        for buffers, fresh in ((self.rows.keys, new.keys), (self.rows.values, new.values)):
            for buffer, rows in zip(buffers, fresh, strict=True):
                buffer[:, self._used : end] = rows
        self._owners[self._used : end] = owners
        self._used = end

    def mask(self, branches: np.ndarray) -> np.ndarray:
        """float32 [len(branches), capacity]: 0 where a row belongs to the branch, HIDDEN elsewhere."""
        return np.where(branches[:, None] == self._owners, np.float32(0), HIDDEN)

    def _grow(self, capacity: int) -> None:
        self._owners = np.concatenate([self._owners, np.full(capacity - len(self._owners), -1, dtype=np.intp)])
        self.rows = Prefix(
            [_padded(k, capacity) for k in self.rows.keys], [_padded(v, capacity) for v in self.rows.values]
        )


def _padded(rows: np.ndarray, capacity: int) -> np.ndarray:
    larger = np.zeros((rows.shape[0], capacity, rows.shape[2]), dtype=rows.dtype)
    larger[:, : rows.shape[1]] = rows
    return larger


def _diagonal_mask(size: int) -> np.ndarray:
    mask = np.full((size, size), HIDDEN, dtype=np.float32)
    np.fill_diagonal(mask, 0)
    return mask


def _greedy(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Most likely token of each row of logits [R, vocab], and its log-probability (float32)."""
    chosen = logits.argmax(axis=1)
    best = logits[np.arange(len(logits)), chosen]
    # log softmax of the largest entry: -log sum exp(x - max)
    logprobs = -np.log(np.exp(logits - best[:, None]).sum(axis=1, dtype=np.float64))
    return chosen, logprobs.astype(np.float32)
