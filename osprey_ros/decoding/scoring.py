"""How likely given phrases are as answers: one run over the questions, then one over all phrases behind them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter

import numpy as np

from osprey_ros.decoding.branches import MAX_ROWS, Branches, RowsOfBranches, parts, sees
from osprey_ros.decoding.runner import DecoderEngine
from osprey_ros.errors import StoppedError
from osprey_ros.timing import Meter

# Of one run over phrases: every row has logits over the whole vocabulary, and the engine as many probabilities.
LOGIT_BYTES = 32 << 20


def score(
    engine: DecoderEngine,
    prefix: int,
    branches: Branches,
    phrases: Sequence[np.ndarray],
    embed: Callable[[np.ndarray], np.ndarray],
    meter: Meter,
    should_stop: Callable[[], bool] | None = None,
) -> list[list[np.ndarray]]:
    """Log-probabilities float32 [branch][phrase][token] of token ids [n], n at least 1, as answers.

    ``prefix``: how many of its rows the branches see. ``embed`` gives the rows float32 [n, hidden] of token ids [n].
    ``should_stop`` is asked before each run of the engine; where it says yes, StoppedError is raised.
    """
    engine.branches.begin(branches)
    # The questions: their last rows say how likely each phrase's first token is.
    start = perf_counter()
    lengths = branches.lengths
    starts = prefix + branches.stem_lengths
    new = RowsOfBranches()
    new.add_stems(branches, prefix)
    ends = new.count + np.cumsum(lengths) - 1
    new.add_questions(branches, np.arange(len(branches)), starts)
    _check_stop(should_stop)
    first = np.array([phrase[0] for phrase in phrases])
    behind = engine.extend(*new.take(), ends, prefix, meter)
    firsts = behind.normalised(np.arange(len(branches))[:, None], first)
    del behind  # its memory may have to give way to more
    scores = [[row[p : p + 1] for p in range(len(phrases))] for row in firsts]
    meter.step_seconds.append(perf_counter() - start)

    # Behind them the phrases, all tokens but the last, whose row would say nothing about the phrase. They see their
    # question and not one another, and are not kept.
    pairs = [(b, p) for b in range(len(branches)) for p, phrase in enumerate(phrases) if len(phrase) > 1]
    most = min(MAX_ROWS, LOGIT_BYTES // (4 * engine.vocabulary), engine.most_logits)
    for part in parts([len(phrases[p]) - 1 for _, p in pairs], len(pairs), 0, most):
        _check_stop(should_stop)
        start = perf_counter()
        sizes = np.array([len(phrases[p]) - 1 for _, p in pairs[part]])
        owners = np.repeat([b for b, _ in pairs[part]], sizes)
        behind = engine.probe(
            embed(np.concatenate([phrases[p][:-1] for _, p in pairs[part]])),
            (starts + lengths)[owners] + np.concatenate([np.arange(size) for size in sizes]),
            owners,
            sees(np.repeat(np.arange(len(sizes)), sizes)),
            prefix,
            meter,
        )
        spoken = np.concatenate([phrases[p][1:] for _, p in pairs[part]])
        found = behind.normalised(np.arange(len(spoken)), spoken)
        del behind
        for (b, p), rest in zip(pairs[part], np.split(found, np.cumsum(sizes)[:-1]), strict=True):
            scores[b][p] = np.concatenate([scores[b][p], rest])
        meter.step_seconds.append(perf_counter() - start)
    return scores


def _check_stop(should_stop: Callable[[], bool] | None) -> None:
    if should_stop is not None and should_stop():
        raise StoppedError("the scoring was stopped before all phrases had their scores")
