"""Generation and scoring of many short answers behind one shared prefix, all branches packed in one sequence.

The graph (see ``export/graph_decoder.py``) reads one sequence, whose rows are (branch, position) pairs. Every row sees
the whole prefix; which rows of the branches it sees is said by a mask. The engine writes keys and values of new rows
straight behind the earlier ones, in buffers on its device that are allocated once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from osprey_ros.bundle.spec import ModelSpec
from osprey_ros.decoding.branches import MAX_ROWS, Branches, parts
from osprey_ros.decoding.loop import Embed, Generation, Request, collect, decode
from osprey_ros.decoding.runner import DecoderEngine
from osprey_ros.decoding.sampling import Chooser, Sampling
from osprey_ros.decoding.scoring import score
from osprey_ros.engines.base import Engine
from osprey_ros.errors import InputError
from osprey_ros.timing import Meter


@dataclass(frozen=True)
class Prefix:
    """The first ``length`` rows of the decoder's prefix buffers.

    A decoder stores one sequence of prefix rows: a prefix is good until another one is computed over its rows.
    """

    length: int
    marks: tuple[tuple[int, int], ...] = field(repr=False)  # (which call wrote these rows, up to which row), ...

    def head(self, length: int) -> Prefix:
        """The first ``length`` rows: they do not depend on what follows them."""
        length = min(length, self.length)
        return Prefix(length, _up_to(self.marks, length))


@dataclass(frozen=True)
class Token:
    """One token of a stream: of which branch, its id and log-probability, and whether it ends the answer."""

    branch: int
    id: int
    logprob: float
    last: bool


class Decoder:
    """Runs the decoder engine. Use it from one thread at a time.

    ``max_parallel`` bounds how many branches are decoded together, and so the memory; others wait until one has ended.
    There are fewer where questions are so long that they would pass MAX_ROWS together, or questions and answers what
    the engine takes.
    """

    def __init__(self, engine: Engine, spec: ModelSpec, max_parallel: int = 64) -> None:
        if max_parallel < 1:
            raise InputError(f"max_parallel is {max_parallel}: it must be at least 1")
        self._engine = DecoderEngine(engine, spec)
        self._spec = spec
        self.max_parallel = min(max_parallel, self._engine.most_logits)
        self._marks: tuple[tuple[int, int], ...] = ()
        self._call = 0  # number of the last call that has written rows

    def prefill(self, embeds: np.ndarray, behind: Prefix | None = None, meter: Meter | None = None) -> Prefix:
        """Computes a prefix from float32 [P, hidden] rows, or extends the prefix ``behind`` which they follow.

        Rows that were stored behind ``behind`` are written over, and prefixes that have them are void. Raises
        InputError if there are more rows than the model has positions, and for a void ``behind``.
        """
        behind = Prefix(0, ()) if behind is None else behind
        self._check_prefix(behind)
        if len(embeds) == 0:
            return behind
        end = behind.length + len(embeds)
        self._check_positions(end, f"a prefix of {end} tokens")
        self._begin()
        self._marks = behind.marks
        self._engine.prefill(embeds, behind.length, meter or Meter())
        self._marks = (*behind.marks, (self._call, end))
        return Prefix(end, self._marks)

    def room(self, prefix: Prefix, branches: Branches | Sequence[np.ndarray]) -> int:
        """How many tokens every branch can be given before the model runs out of positions."""
        return self._spec.max_positions - prefix.length - _as_branches(branches).longest + 1

    def generate(
        self,
        prefix: Prefix,
        branches: Branches | Sequence[np.ndarray],
        embed: Embed,
        max_new_tokens: int | np.ndarray,
        eos_id: int,
        sampling: Sampling | None = None,
        keys: Sequence[Sequence[int]] | None = None,
        should_stop: Callable[[], bool] | None = None,
        meter: Meter | None = None,
    ) -> list[Generation]:
        """Continues every branch behind the prefix.

        Args:
            branches: what each begins with; plain rows float32 [T_i, hidden], or with stems.
            embed: gives the rows float32 [n, hidden] of token ids [n].
            max_new_tokens: where answers are cut, for all or for each branch; before, they end with ``eos_id``.
            sampling: draw tokens at random; by default the most likely one is taken. keys: numbers that tell a branch
                apart from others wherever it stands, for its random generator (default: its index).
            should_stop: asked before each run of the engine; what was decoded when it says yes is returned.
            meter: is added to.

        Raises InputError if the model has too few positions, and for a prefix that is void.
        """
        branches = _as_branches(branches)
        if not len(branches):
            return []
        request = self._request(prefix, branches, embed, max_new_tokens, eos_id, sampling, keys)
        return collect(decode(self._engine, request, meter or Meter()), request.limits, should_stop)

    def stream(
        self,
        prefix: Prefix,
        branches: Branches | Sequence[np.ndarray],
        embed: Embed,
        max_new_tokens: int | np.ndarray,
        eos_id: int,
        sampling: Sampling | None = None,
        keys: Sequence[Sequence[int]] | None = None,
        meter: Meter | None = None,
    ) -> Iterator[Token]:
        """As `generate`, token by token as they come; errors of the call are raised at once.

        Closing the iterator stops the decoding.
        """
        branches = _as_branches(branches)
        if not len(branches):
            return iter(())
        request = self._request(prefix, branches, embed, max_new_tokens, eos_id, sampling, keys)
        steps = decode(self._engine, request, meter or Meter())
        return (
            Token(branch, token, logprob, last)
            for step in steps
            for branch, token, logprob, last in zip(
                step.branches.tolist(), step.tokens.tolist(), step.logprobs.tolist(), step.last.tolist(), strict=True
            )
        )

    def abandon(self) -> None:
        """Ends answers that are still being streamed: going on with them raises InputError."""
        self._call += 1

    def score(
        self,
        prefix: Prefix,
        branches: Branches | Sequence[np.ndarray],
        phrases: Sequence[Sequence[int]],
        embed: Embed,
        meter: Meter | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> list[list[np.ndarray]]:
        """How likely each phrase is as the answer of each branch: natural-log probability of its every token.

        The rows of a branch are computed once for all phrases, the phrases of many branches together. Memory is
        bounded as in `generate`.

        Args:
            branches: as for `generate`; phrases: token ids, at least one each.
            should_stop: asked before each run of the engine.

        Returns float32 arrays [branch][phrase][tokens of the phrase]. Raises InputError as `generate` does, and
        StoppedError where it was told to stop.
        """
        branches = _as_branches(branches)
        if not len(branches) or not phrases:
            return [[] for _ in range(len(branches))]
        if not all(len(phrase) for phrase in phrases):
            raise InputError("a phrase is empty: it must have at least one token to be scored")
        self._check_request(prefix, branches, max(len(phrase) for phrase in phrases))
        ids = [np.asarray(phrase, dtype=np.intp) for phrase in phrases]
        self._begin()
        meter = meter or Meter()
        result: list[list[np.ndarray]] = []
        most = min(MAX_ROWS, self._engine.most_rows)
        for part in parts(branches.lengths.tolist(), self.max_parallel, branches.stem_rows, most):
            result += score(self._engine, prefix.length, branches.part(part), ids, embed, meter, should_stop)
        return result

    def run(
        self,
        embeds: np.ndarray,
        positions: np.ndarray,
        mask: np.ndarray,
        logit_rows: np.ndarray,
        prefix: Prefix | None = None,
    ) -> np.ndarray:
        """One run of the engine over S new rows behind a prefix, of which nothing is stored.

        Args:
            embeds: [S, hidden]; positions: integers [S]; logit_rows: integers [R], the rows whose logits are wanted.
            mask: float32 [S, S], 0 where a row sees another of them, else HIDDEN.
            prefix: rows that every new one sees, none by default.

        Returns logits float32 [R, vocab].
        """
        prefix = Prefix(0, ()) if prefix is None else prefix
        self._check_prefix(prefix)
        return self._engine.run(embeds, positions, mask, logit_rows, prefix.length)

    def _request(
        self,
        prefix: Prefix,
        branches: Branches,
        embed: Embed,
        max_new_tokens: int | np.ndarray,
        eos_id: int,
        sampling: Sampling | None,
        keys: Sequence[Sequence[int]] | None,
    ) -> Request:
        """Begins a call that decodes, its arguments checked; see `generate`."""
        limits = self._checked_limits(prefix, branches, max_new_tokens)
        choose = Chooser(sampling, keys or [(index,) for index in range(len(branches))])
        return Request(prefix.length, branches, embed, limits, eos_id, choose, self.max_parallel, self._begin())

    def _begin(self) -> Callable[[], None]:
        """Begins a call; those before it cannot go on. Returns what raises InputError once another has begun."""
        self._call += 1
        call = self._call

        def check() -> None:
            if call != self._call:
                raise InputError("the decoder was called for something else meanwhile: this answer cannot go on")

        return check

    def _checked_limits(self, prefix: Prefix, branches: Branches, max_new_tokens: int | np.ndarray) -> np.ndarray:
        """Integers [N], the most tokens of each answer."""
        limits = np.empty(len(branches), dtype=np.intp)
        limits[:] = max_new_tokens
        if limits.min() < 1:
            raise InputError(f"max_new_tokens is {limits.min()}: it must be at least 1")
        self._check_request(prefix, branches, int(limits.max()))
        return limits

    def _check_request(self, prefix: Prefix, branches: Branches, new_tokens: int) -> None:
        self._check_prefix(prefix)
        if branches.lengths.min() == 0:
            raise InputError("a question is empty: each branch needs at least one row")
        longest = branches.longest
        # The last token is not fed back, so it takes no position.
        self._check_positions(
            prefix.length + longest + new_tokens - 1,
            f"a prefix of {prefix.length}, a question of {longest} and an answer of {new_tokens} tokens",
        )

    def _check_prefix(self, prefix: Prefix) -> None:
        if prefix.marks != _up_to(self._marks, prefix.length):
            raise InputError(f"this prefix of {prefix.length} tokens was written over by another: compute it again")

    def _check_positions(self, needed: int, what: str) -> None:
        if needed > self._spec.max_positions:
            raise InputError(
                f"{what} need {needed} positions, the model has {self._spec.max_positions}: "
                "shorten the question or lower max_new_tokens"
            )


def _as_branches(branches: Branches | Sequence[np.ndarray]) -> Branches:
    return branches if isinstance(branches, Branches) else Branches(branches)


def _up_to(marks: Sequence[tuple[int, int]], length: int) -> tuple[tuple[int, int], ...]:
    """The marks of the first ``length`` rows."""
    kept: list[tuple[int, int]] = []
    for call, end in marks:
        if (kept[-1][1] if kept else 0) >= length:
            break
        kept.append((call, min(end, length)))
    return tuple(kept)
