"""Curves from confidence to the share of right answers: fit them, and measure how far confidences are off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from osprey_ros.bundle.calibration import Calibration, Curve
from osprey_ros.errors import InputError

BINS = 15
_BLOCK = 30  # least number of answers of a point of a curve; fewer give a noisy share


@dataclass(frozen=True)
class Answers:
    """Answers of one kind: raw confidences float64 [n], and bool [n] whether they are right."""

    confidences: np.ndarray
    right: np.ndarray

    @classmethod
    def of(cls, pairs: Sequence[tuple[float, bool]]) -> Answers:
        """Return the answers of pairs of a confidence and whether the answer is right."""
        return cls(np.array([confidence for confidence, _ in pairs]), np.array([right for _, right in pairs], bool))

    def calibrated(self, calibration: Calibration, kind: str) -> Answers:
        """Return these answers with calibrated confidences."""
        return Answers(np.array([calibration.apply(kind, float(c)) for c in self.confidences]), self.right)


@dataclass(frozen=True)
class Bin:
    """Answers with similar confidences: their number, mean confidence and share of right ones."""

    count: int
    confidence: float
    share: float


def fit(answers: Answers) -> Curve:
    """Return the isotonic regression of right answers on confidence (pool adjacent violators).

    A pool of n answers, k of them right, has the share (k + 1) / (n + 2), which is never 0 or 1. Answers with equal
    confidence are in one pool.

    Raises:
        BundleError: There are no answers.
    """
    order = np.argsort(answers.confidences, kind="stable")
    confidences, right = answers.confidences[order], answers.right[order]
    pools: list[tuple[float, int, int]] = []  # sum of confidences, right ones, all
    start = 0
    while start < len(order):
        last = min(start + _BLOCK, len(order)) - 1
        end = int(np.searchsorted(confidences, confidences[last], side="right"))  # include equal confidences
        pools.append((float(confidences[start:end].sum()), int(right[start:end].sum()), end - start))
        start = end
        # Merge pools of equal mean as well: confidences must ascend.
        while len(pools) > 1 and (
            _share(pools[-2]) >= _share(pools[-1]) or _mean(pools[-2]) >= _mean(pools[-1]) or pools[-1][2] < _BLOCK
        ):
            (a, b, c), (d, e, f) = pools[-2:]
            pools[-2:] = [(a + d, b + e, c + f)]
    return Curve(tuple(_mean(pool) for pool in pools), tuple(_share(pool) for pool in pools))


def reliability(answers: Answers, bins: int = BINS) -> list[Bin]:
    """Return the bins of equal width that are not empty, by ascending confidence."""
    number = np.minimum((answers.confidences * bins).astype(int), bins - 1)
    return [
        Bin(int(inside.sum()), float(answers.confidences[inside].mean()), float(answers.right[inside].mean()))
        for inside in (number == n for n in range(bins))
        if inside.any()
    ]


def expected_calibration_error(answers: Answers, bins: int = BINS) -> float:
    """Return the mean distance between confidence and share over the bins, weighted by their answers.

    Raises:
        ValueError: There are no answers.
    """
    if not len(answers.right):
        raise InputError("no answers to judge; use more scenes or questions")
    parts = reliability(answers, bins)
    return sum(part.count * abs(part.confidence - part.share) for part in parts) / sum(part.count for part in parts)


def _mean(pool: tuple[float, int, int]) -> float:
    total, _, count = pool
    return total / count


def _share(pool: tuple[float, int, int]) -> float:
    _, right, count = pool
    return (right + 1) / (count + 2)
