"""Likelihood of given phrases as answers: one run over the questions, then one over all phrases behind them."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter

import numpy as np

from osprey_ros.decoding.embeddings import Embed
from osprey_ros.decoding.prompt_batch import MAX_ROWS, Branches, RowPacker, RunRows, causal_mask, split_rows
from osprey_ros.decoding.runner import DecoderRunner
from osprey_ros.system.call import Call

LOGIT_BYTES = 32 << 20  # of one run over phrases: every row has logits over the whole vocabulary


def score(
    runner: DecoderRunner,
    prefix: int,
    branches: Branches,
    phrases: Sequence[np.ndarray],
    embed: Embed,
    call: Call,
) -> list[list[np.ndarray]]:
    """Return log-probabilities, float32 [branch][phrase][token], of phrases as answers.

    Args:
        runner: The engine with its cache.
        prefix: Number of rows of the prefix that the branches attend to.
        branches: The questions.
        phrases: Token ids [n] of each phrase, n at least 1.
        embed: Returns the rows of token ids.
        call: Gets the time of the steps, and can end a run.

    Raises StoppedError when canceled.
    """
    # The questions: their last rows give the probability of the first token of each phrase.
    start = perf_counter()
    lengths = branches.lengths
    starts = prefix + branches.stem_lengths
    packer = RowPacker()
    packer.add_stems(branches, prefix)
    ends = packer.count + np.cumsum(lengths) - 1
    packer.add_questions(branches, np.arange(branches.count), starts)
    first_tokens = np.array([phrase[0] for phrase in phrases])
    logits = runner.extend(packer.take(), ends, prefix, call, branches.stem_owners)
    firsts = logits.logprobs(np.arange(branches.count)[:, None], first_tokens)
    del logits  # its memory may have to be replaced by more
    scores = [[row[p : p + 1] for p in range(len(phrases))] for row in firsts]
    call.step_seconds.append(perf_counter() - start)

    # The phrases without their last token, whose row gives nothing about the phrase. They attend to their question,
    # not to one another, and are not kept in the cache.
    pairs = [(b, p) for b in range(branches.count) for p, phrase in enumerate(phrases) if len(phrase) > 1]
    most = min(MAX_ROWS, LOGIT_BYTES // (4 * runner.vocabulary), runner.most_logits)
    for part in split_rows([len(phrases[p]) - 1 for _, p in pairs], len(pairs), 0, most):
        start = perf_counter()
        sizes = np.array([len(phrases[p]) - 1 for _, p in pairs[part]])
        owners = np.repeat([b for b, _ in pairs[part]], sizes)
        rows = embed(np.concatenate([phrases[p][:-1] for _, p in pairs[part]]))
        positions = (starts + lengths)[owners] + np.concatenate([np.arange(size) for size in sizes])
        own = causal_mask(np.repeat(np.arange(len(sizes)), sizes))
        logits = runner.run_uncached(RunRows(rows, positions, owners), own, prefix, call)
        targets = np.concatenate([phrases[p][1:] for _, p in pairs[part]])
        found = logits.logprobs(np.arange(len(targets)), targets)
        del logits
        for (b, p), rest in zip(pairs[part], np.split(found, np.cumsum(sizes)[:-1]), strict=True):
            scores[b][p] = np.concatenate([scores[b][p], rest])
        call.step_seconds.append(perf_counter() - start)
    return scores
