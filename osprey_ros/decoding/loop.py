"""Decode loop: branches join, get one token with each run of the engine, and leave when their answer ends."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from osprey_ros.decoding.config import Sampling
from osprey_ros.decoding.constraints import CompiledConstraint
from osprey_ros.decoding.embeddings import Embed
from osprey_ros.decoding.kv_cache import Prefix
from osprey_ros.decoding.prompt_batch import MAX_ROWS, Branches, RowPacker
from osprey_ros.decoding.runner import DecoderRunner
from osprey_ros.decoding.sampling import TokenSelector
from osprey_ros.engines.base import UNBOUNDED
from osprey_ros.errors import InputError, StoppedError
from osprey_ros.system.call import Call


@dataclass(frozen=True)
class Generation:
    """One answer.

    Attributes:
        tokens: int32 [n], token ids, including the end-of-sequence id if it was reached.
        logprobs: float32 [n], natural logarithm of the probability of each.
        ended: False if decoding was canceled before the answer reached its end or its limit.
    """

    tokens: np.ndarray
    logprobs: np.ndarray
    ended: bool = True


@dataclass(frozen=True)
class DecodeRequest:
    """What to decode.

    Attributes:
        prefix: The shared rows, in the cache of the decoder.
        branches: What each branch begins with, with or without stems.
        embed: Returns the rows of token ids.
        max_new_tokens: Longest answer in tokens, for all branches or integers [N] for each.
        eos_id: The token that ends an answer.
        extra_eos_ids: Other tokens that end an answer.
        sampling: How tokens are drawn; None for the most likely token.
        keys: Integers that identify each branch, for its random generator; by default its index.
        constraints: One or None for each branch; empty for none at all.
    """

    prefix: Prefix
    branches: Branches
    embed: Embed
    max_new_tokens: int | np.ndarray
    eos_id: int
    sampling: Sampling | None = None
    keys: Sequence[Sequence[int]] = ()
    constraints: Sequence[CompiledConstraint | None] = ()
    extra_eos_ids: Sequence[int] = ()


@dataclass
class Turn:
    """One use of the decoder. ``superseded`` becomes True with the next one: the rows of this one are lost then."""

    superseded: bool = False


@dataclass(slots=True)
class Step:
    """The tokens of one run: branches [n], token ids [n], log-probabilities [n], and whether each is the last."""

    branches: np.ndarray
    tokens: np.ndarray
    logprobs: np.ndarray
    last: np.ndarray


def decode(runner: DecoderRunner, request: DecodeRequest, max_parallel: int, turn: Turn, call: Call) -> Iterator[Step]:
    """Run the engine until all branches have ended.

    Args:
        runner: The engine with its cache.
        request: What to decode.
        max_parallel: The most branches in one run.
        turn: Checked before each run.
        call: Gets the time of the steps, and can end a run, with StoppedError.

    Raises InputError if the turn is superseded.
    """
    branches = request.branches
    limits = np.broadcast_to(request.max_new_tokens, branches.count)
    selector = TokenSelector(
        request.sampling, request.keys or [(branch,) for branch in range(branches.count)], request.constraints
    )
    prefix = request.prefix.length
    lengths = branches.lengths
    starts = prefix + branches.stem_lengths
    final_rows = lengths + limits - 1  # rows of each branch at its end: the last token is not fed back
    room = runner.most_rows - branches.stem_rows
    waiting = deque(range(branches.count))
    # Of the branches that have joined and not ended: index, position of the next token, latest token, and the step
    # with their last token if no end comes before.
    active = positions = tokens = final_steps = np.zeros(0, dtype=np.intp)
    number = next_final = 0
    done = False
    numbers = np.arange(branches.count)
    packer = RowPacker()
    packer.add_stems(branches, prefix)
    while not done:
        if turn.superseded:
            raise InputError("the decoder was used for another call meanwhile: this answer cannot be continued")
        start = perf_counter()
        if len(active):
            packer.add(request.embed(tokens), active, positions)
            positions = positions + 1
        logit_rows = numbers[: len(active)]  # they come first: stems are in the first run only
        if waiting:
            free = room - int(final_rows[active].sum())
            joining = _take_joining(waiting, lengths, final_rows, len(active), packer.count, free, max_parallel)
            logit_rows = np.concatenate([logit_rows, packer.count + np.cumsum(lengths[joining]) - 1])
            if len(joining):
                packer.add_questions(branches, joining, starts[joining])
            active = np.concatenate([active, joining])
            positions = np.concatenate([positions, starts[joining] + lengths[joining]])
            final_steps = np.concatenate([final_steps, number + limits[joining] - 1])
            next_final = int(final_steps.min())
        stem_owners = branches.stem_owners if number == 0 else None
        scores = runner.extend(packer.take(), logit_rows, prefix, call, stem_owners)
        tokens, logprobs = selector.select(scores, active)
        last = tokens == request.eos_id
        for extra in request.extra_eos_ids:
            last |= tokens == extra
        if number == next_final:
            last |= final_steps == number
        step = Step(active, tokens, logprobs, last)
        ended = np.count_nonzero(last)
        done = ended == len(last) and not waiting
        if ended and not done:
            runner.branches.drop(active[last])
            active, tokens, positions, final_steps = active[~last], tokens[~last], positions[~last], final_steps[~last]
            next_final = int(final_steps.min(initial=UNBOUNDED))
        number += 1
        call.step_seconds.append(perf_counter() - start)
        yield step


def collect(steps: Iterator[Step], count: int, call: Call) -> list[Generation]:
    """Return the answers of ``count`` branches: after all steps, or as far as they are when the call is canceled."""
    done: list[Step] = []
    while call.cancel is None or not call.cancel.canceled:
        try:
            step = next(steps, None)
        except StoppedError:
            break
        if step is None:
            break
        done.append(step)
    branches = np.concatenate([np.zeros(0, np.intp), *(step.branches for step in done)])
    tokens = np.concatenate([np.zeros(0, np.int32), *(step.tokens for step in done)], dtype=np.int32)
    logprobs = np.concatenate([np.zeros(0, np.float32), *(step.logprobs for step in done)], dtype=np.float32)
    ended = np.zeros(count, dtype=bool)
    ended[branches[np.concatenate([np.zeros(0, bool), *(step.last for step in done)])]] = True
    order = np.argsort(branches, kind="stable")  # by branch, and by step within each
    tokens, logprobs = tokens[order], logprobs[order]
    ends = np.cumsum(np.bincount(branches, minlength=count)).tolist()
    parts = [slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    return [Generation(tokens[part], logprobs[part], whole) for part, whole in zip(parts, ended.tolist(), strict=True)]


def _take_joining(
    waiting: deque[int],
    lengths: np.ndarray,
    final_rows: np.ndarray,
    active: int,
    rows: int,
    free: int,
    max_parallel: int,
) -> np.ndarray:
    """Take from ``waiting`` the branches that can join the next run, at least one if no branch is active.

    ``active`` branches have ``rows`` rows in that run already. ``free`` cached rows are left, and each branch needs
    its ``final_rows`` of them in the end.
    """
    joining: list[int] = []
    while waiting and active + len(joining) < max_parallel:
        rows += int(lengths[waiting[0]])
        free -= int(final_rows[waiting[0]])
        if (rows > MAX_ROWS or free < 0) and (active or joining):
            break
        joining.append(waiting.popleft())
    return np.array(joining, dtype=np.intp)
