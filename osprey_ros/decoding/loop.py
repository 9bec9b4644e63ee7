"""The decode loop: branches join, get one token with every run of the engine, and leave when they have ended."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from osprey_ros.decoding.branches import MAX_ROWS, Branches, RowsOfBranches
from osprey_ros.decoding.runner import DecoderEngine
from osprey_ros.decoding.sampling import Chooser
from osprey_ros.engines.base import UNBOUNDED
from osprey_ros.timing import Meter

Embed = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Generation:
    """One answer: token ids, int32 [n], the end-of-sequence id included if it was reached; log-probability of each.

    ``ended`` is False where decoding was stopped before the answer was at its end or its limit.
    """

    tokens: np.ndarray
    logprobs: np.ndarray  # float32 [n], natural logarithm
    ended: bool = True


@dataclass(slots=True)
class Step:
    """What one run over the branches has given: for some of them a token each, and whether it is their last."""

    branches: np.ndarray
    tokens: np.ndarray
    logprobs: np.ndarray
    last: np.ndarray


@dataclass(frozen=True)
class Request:
    """Branches to continue behind the first ``prefix`` rows of the prefix.

    ``embed`` gives the rows float32 [n, hidden] of token ids [n]. ``limits``: integers [N], the most tokens of each
    answer; ``max_parallel``: how many branches may be under way at once. ``check`` is called before each run and raises
    where the request is void.
    """

    prefix: int
    branches: Branches
    embed: Embed
    limits: np.ndarray
    eos_id: int
    choose: Chooser
    max_parallel: int
    check: Callable[[], None]


def decode(engine: DecoderEngine, request: Request, meter: Meter) -> Iterator[Step]:
    """Runs the engine until all branches have ended."""
    request.check()  # first of all: what follows forgets the rows of the call under way
    branches, limits = request.branches, request.limits
    engine.branches.begin(branches)
    lengths = branches.lengths
    starts = request.prefix + branches.stem_lengths
    most = lengths + limits - 1  # rows of each at its end: the last token is not fed back
    room = engine.most_rows - branches.stem_rows
    waiting = deque(range(len(branches)))
    # Of the branches that have begun and not ended: which, position of the next token, the latest token, and the step
    # that gives each its last one, if no other does before.
    active = positions = chosen = finals = np.zeros(0, dtype=np.intp)
    number = next_final = 0
    done = False
    numbers = np.arange(len(branches))
    new = RowsOfBranches()
    new.add_stems(branches, request.prefix)
    while not done:
        request.check()
        start = perf_counter()
        if len(active):
            new.add(request.embed(chosen), active, positions)
            positions = positions + 1
        logit_rows = numbers[: len(active)]  # they come first: stems are in the first run only
        if waiting:
            free = room - int(most[active].sum())
            joining = _joining(waiting, lengths, most, len(active), new.count, free, request.max_parallel)
            logit_rows = np.concatenate([logit_rows, new.count + np.cumsum(lengths[joining]) - 1])
            if len(joining):
                new.add_questions(branches, joining, starts[joining])
            active = np.concatenate([active, joining])
            positions = np.concatenate([positions, starts[joining] + lengths[joining]])
            finals = np.concatenate([finals, number + limits[joining] - 1])
            next_final = int(finals.min())
        chosen, logprobs = request.choose(engine.extend(*new.take(), logit_rows, request.prefix, meter), active)
        last = chosen == request.eos_id
        if number == next_final:
            last |= finals == number
        step = Step(active, chosen, logprobs, last)
        ended = np.count_nonzero(last)
        done = ended == len(last) and not waiting
        if done:
            engine.branches.forget()
        elif ended:
            engine.branches.drop(active[last])
            active, chosen, positions, finals = active[~last], chosen[~last], positions[~last], finals[~last]
            next_final = int(finals.min(initial=UNBOUNDED))
        number += 1
        meter.step_seconds.append(perf_counter() - start)
        yield step


def collect(steps: Iterator[Step], limits: np.ndarray, should_stop: Callable[[], bool] | None) -> list[Generation]:
    """The answers, [N]: after all steps, or as far as they were when ``should_stop`` said so."""
    done: list[Step] = []
    while should_stop is None or not should_stop():
        step = next(steps, None)
        if step is None:
            break
        done.append(step)
    branches = np.concatenate([np.zeros(0, np.intp), *(step.branches for step in done)])
    tokens = np.concatenate([np.zeros(0, np.int32), *(step.tokens for step in done)], dtype=np.int32)
    logprobs = np.concatenate([np.zeros(0, np.float32), *(step.logprobs for step in done)], dtype=np.float32)
    ended = np.zeros(len(limits), dtype=bool)
    ended[branches[np.concatenate([np.zeros(0, bool), *(step.last for step in done)])]] = True
    order = np.argsort(branches, kind="stable")  # those of a branch one behind the other, in the order they came
    tokens, logprobs = tokens[order], logprobs[order]
    ends = np.cumsum(np.bincount(branches, minlength=len(limits))).tolist()
    parts = [slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    return [Generation(tokens[part], logprobs[part], whole) for part, whole in zip(parts, ended.tolist(), strict=True)]


def _joining(
    waiting: deque[int], lengths: np.ndarray, most: np.ndarray, active: int, rows: int, free: int, max_parallel: int
) -> np.ndarray:
    """Takes from ``waiting`` those that may join ``active`` branches in a run that has ``rows`` rows already.

    There is room for ``free`` rows that are kept, of which each needs its ``most`` in the end. At least one where there
    are none.
    """
    joining: list[int] = []
    while waiting and active + len(joining) < max_parallel:
        rows += int(lengths[waiting[0]])
        free -= int(most[waiting[0]])
        if (rows > MAX_ROWS or free < 0) and (active or joining):
            break
        joining.append(waiting.popleft())
    return np.array(joining, dtype=np.intp)
