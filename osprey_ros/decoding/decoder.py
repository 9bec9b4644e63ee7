"""Generation and scoring of many short answers behind one shared prefix, all branches packed into one sequence.

The graph (``export/graph_decoder.py``) reads one sequence whose rows are pairs of branch and position. Every row
attends to the whole prefix; a mask says to which rows of branches. The engine writes keys and values of new rows
directly behind the earlier ones, in buffers on its device.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from osprey_ros.bundle.spec import ModelSpec
from osprey_ros.decoding.embeddings import Embed
from osprey_ros.decoding.kv_cache import NO_PREFIX, Prefix
from osprey_ros.decoding.loop import DecodeRequest, Generation, Step, Turn, collect, decode
from osprey_ros.decoding.prompt import IMAGE
from osprey_ros.decoding.prompt_batch import MAX_ROWS, Branches, split_rows
from osprey_ros.decoding.runner import DecoderRunner
from osprey_ros.decoding.scoring import score
from osprey_ros.engines.base import Engine
from osprey_ros.errors import InputError
from osprey_ros.system.call import Call


@dataclass(frozen=True)
class Token:
    """One token of a stream: its branch, its id and log-probability, and whether it ends the answer."""

    branch: int
    id: int
    logprob: float
    last: bool


class Decoder:
    """Generates and scores answers. Use it from one thread at a time.

    Args:
        engine: The decoder engine.
        spec: Sizes of the model.
        max_parallel: The most branches that are decoded together, which bounds the memory; others wait. There are
            fewer where long questions would exceed MAX_ROWS rows, or questions and answers the rows of the engine.

    Raises InputError if ``max_parallel`` is below 1.
    """

    def __init__(self, engine: Engine, spec: ModelSpec, max_parallel: int = 64) -> None:
        if max_parallel < 1:
            raise InputError(f"max_parallel is {max_parallel}: it must be at least 1")
        self._runner = DecoderRunner(engine, spec)
        self._spec = spec
        self.max_parallel = min(max_parallel, self._runner.most_logits)
        self._row_generations = np.zeros(0, dtype=np.int64)  # of each row of the prefix: the call that wrote it
        self._generation = 0  # number of the latest call that wrote rows
        self._turn = Turn()

    def prefill(self, embeds: np.ndarray, behind: Prefix = NO_PREFIX, call: Call | None = None) -> Prefix:
        """Compute a prefix, or extend one.

        Cached rows behind ``behind`` are overwritten; prefixes that include them become invalid.

        Args:
            embeds: float32 [P, hidden size], the rows to compute.
            behind: The prefix that the rows follow; by default they begin a new one.
            call: Gets the time in the engine, and can end the computation.

        Raises InputError for more rows than the model has positions and for an invalid ``behind``; StoppedError when
        canceled: ``behind`` is still valid then.
        """
        self._check_prefix(behind)
        if len(embeds) == 0:
            return behind
        end = behind.length + len(embeds)
        self._check_positions(end, f"a prefix of {end} tokens")
        self._begin()
        kept = self._row_generations = self._row_generations[: behind.length]
        self._runner.prefill(embeds, behind.length, call or Call())
        self._row_generations = np.concatenate([kept, np.full(len(embeds), self._generation)])
        return Prefix(end, self._generation)

    def room(self, prefix: Prefix, branches: Branches) -> int:
        """Return how many tokens every branch can get before the model runs out of positions."""
        return self._spec.max_positions - prefix.length - branches.longest + 1

    def generate(self, request: DecodeRequest, call: Call | None = None) -> list[Generation]:
        """Continue every branch behind the prefix, and return the answers in the order of the branches.

        Args:
            request: What to decode.
            call: Gets the time of steps and engine, and can end decoding; the answers so far are returned.

        Raises InputError if the model has too few positions, for an empty question, and for an invalid prefix.
        """
        if not request.branches.count:
            return []
        call = call or Call()
        return collect(self._steps(request, call), request.branches.count, call)

    def stream(self, request: DecodeRequest, call: Call | None = None) -> Iterator[Token]:
        """Return the tokens of `generate` one by one. Errors of the request are raised here, not by the iterator.

        Closing the iterator ends decoding. Another call does so, too: the iterator then raises InputError. When
        ``call`` is canceled, it raises StoppedError.
        """
        if not request.branches.count:
            return iter(())
        steps = self._steps(request, call or Call())
        return (
            Token(branch, token, logprob, last)
            for step in steps
            for branch, token, logprob, last in zip(
                step.branches.tolist(), step.tokens.tolist(), step.logprobs.tolist(), step.last.tolist(), strict=True
            )
        )

    def end_streams(self) -> None:
        """End all streams: their iterators raise InputError from now on."""
        self._begin()

    def score(
        self,
        prefix: Prefix,
        branches: Branches,
        phrases: Sequence[Sequence[int]],
        embed: Embed,
        call: Call | None = None,
    ) -> list[list[np.ndarray]]:
        """Return the natural-log probability of each token of each phrase as the answer of each branch.

        The rows of a branch are computed once for all phrases. Memory is bounded as in `generate`.

        Args:
            prefix: The shared rows.
            branches: What each branch begins with.
            phrases: Token ids, at least one each.
            embed: Returns the rows of token ids.
            call: Gets the time of steps and engine, and can end scoring.

        Returns float32 arrays [branch][phrase][token]. Raises InputError as `generate` does, and StoppedError when
        canceled.
        """
        if not branches.count or not phrases:
            return [[] for _ in range(branches.count)]
        if not all(len(phrase) for phrase in phrases):
            raise InputError("a phrase is empty: it must have at least one token to be scored")
        self._check_request(prefix, branches, max(len(phrase) for phrase in phrases))
        ids = [np.asarray(phrase, dtype=np.intp) for phrase in phrases]
        self._begin()
        call = call or Call()
        result: list[list[np.ndarray]] = []
        most_rows = min(MAX_ROWS, self._runner.most_rows)
        for part in split_rows(branches.lengths.tolist(), self.max_parallel, branches.stem_rows, most_rows):
            result += score(self._runner, prefix.length, branches.part(part), ids, embed, call)
        return result

    def run(
        self,
        embeds: np.ndarray,
        positions: np.ndarray,
        mask: np.ndarray,
        logit_rows: np.ndarray,
        prefix: Prefix = NO_PREFIX,
    ) -> np.ndarray:
        """Run S new rows behind a prefix once, without keeping them.

        Args:
            embeds: float32 [S, hidden size].
            positions: Integers [S].
            mask: float32 [S, S], 0 where a row attends to another of them, else HIDDEN.
            logit_rows: Integers [R], the rows whose logits are returned.
            prefix: Rows that every new one attends to, none by default.

        Returns logits, float32 [R, vocabulary size]. Raises InputError for an invalid prefix.
        """
        self._check_prefix(prefix)
        return self._runner.run_alone(embeds, positions, mask, logit_rows, prefix.length)

    def _steps(self, request: DecodeRequest, call: Call) -> Iterator[Step]:
        """Check a request and begin its decoding."""
        limits = np.asarray(request.max_new_tokens)
        if limits.min() < 1:
            raise InputError(f"max_new_tokens is {limits.min()}: it must be at least 1")
        self._check_request(request.prefix, request.branches, int(limits.max()))
        return decode(self._runner, request, self.max_parallel, self._begin(), call)

    def _begin(self) -> Turn:
        """Begin a turn, which ends streams."""
        self._generation += 1
        self._turn.superseded = True
        self._turn = Turn()
        return self._turn

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
        rows = self._row_generations[: prefix.length]
        # Rows are written in order: if the last one is still there, so are those before it.
        if len(rows) < prefix.length or (len(rows) and rows[-1] > prefix.generation):
            raise InputError(f"this prefix of {prefix.length} tokens was overwritten by another: compute it again")

    def _check_positions(self, needed: int, what: str) -> None:
        if needed > self._spec.max_positions:
            raise InputError(
                f"{what} need {needed} positions, but the model has {self._spec.max_positions}: "
                "shorten the question or lower max_new_tokens"
            )


class PrefixCache:
    """The shared prefix of the latest call. The part that the next call shares with it is not computed again.

    Args:
        decoder: Computes and caches prefixes.
        embed: Returns the rows of token ids.
        opening: Token ids in front of the image, the same for all prompts: computed once.
    """

    def __init__(self, decoder: Decoder, embed: Embed, opening: tuple[int, ...]) -> None:
        self._decoder, self._embed = decoder, embed
        self._opening = opening, decoder.prefill(embed(np.array(opening, dtype=np.intp)))
        self._ids, self._prefix = self._opening

    def reset(self) -> None:
        """Forget all but the opening: another image follows."""
        self._ids, self._prefix = self._opening

    def prefill(self, ids: tuple[int, ...], image_tokens: np.ndarray, call: Call | None = None) -> Prefix:
        """Return the prefix of token ids in which IMAGE stands for ``image_tokens``, float32 [n, hidden size].

        Raises StoppedError when canceled. What is cached stays valid then.
        """
        shared = 0
        for own, known in zip(ids, self._ids, strict=False):
            if own != known:
                break
            shared += 1
        rows = shared + ids[:shared].count(IMAGE) * (len(image_tokens) - 1)
        # Set before the rest is computed: if that fails, this much is still valid.
        self._ids, self._prefix = ids[:shared], Prefix(min(rows, self._prefix.length), self._prefix.generation)
        prefix = self._decoder.prefill(self._rows(ids[shared:], image_tokens), self._prefix, call)
        self._ids, self._prefix = ids, prefix
        return prefix

    def _rows(self, ids: tuple[int, ...], image_tokens: np.ndarray) -> np.ndarray:
        if IMAGE not in ids:
            return self._embed(np.array(ids, dtype=np.intp))
        at = ids.index(IMAGE)
        before, after = (self._embed(np.array(part, dtype=np.intp)) for part in (ids[:at], ids[at + 1 :]))
        return np.concatenate([before, image_tokens, after])
