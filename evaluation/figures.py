"""Figures of measurements: shares with bootstrap intervals over images, calibration error, separation of two groups."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 1000
SEED = 24
INTERVAL = 0.95
CALIBRATION_BINS = 10  # of equal count


@dataclass(frozen=True)
class Figure:
    """A measured number with its bootstrap interval, and the number of answers that it is made from.

    All three numbers are NaN if there is no answer.
    """

    value: float
    low: float
    high: float
    count: int

    def to_json(self) -> dict[str, float | int | None]:
        """Return the fields; numbers that do not exist are None."""
        values = {"value": self.value, "low": self.low, "high": self.high}
        return {
            **{name: None if np.isnan(value) else round(value, 5) for name, value in values.items()},
            "count": self.count,
        }

    def text(self, percent: bool = True) -> str:
        """Return the number and its interval as one column of a table."""
        if not self.count or np.isnan(self.value):
            return "     -"
        if percent:
            return f"{self.value:6.1%} [{self.low:.1%}, {self.high:.1%}]"
        return f"{self.value:6.3f} [{self.low:.3f}, {self.high:.3f}]"


class Bootstrap:
    """Draws images with replacement, with a fixed seed, and computes a figure on each draw.

    Answers about one image are not independent of each other, so images are drawn and not answers.

    Args:
        images: The image of each answer.
        resamples: Number of draws.
        seed: Seed of the draws.
    """

    def __init__(self, images: Sequence[Hashable], resamples: int = RESAMPLES, seed: int = SEED) -> None:
        numbers = {image: number for number, image in enumerate(dict.fromkeys(images))}
        self._image = np.array([numbers[image] for image in images], dtype=np.intp)
        rng = np.random.default_rng(seed)
        count = len(numbers)
        chances = np.full(count, 1 / max(count, 1))
        # int [resamples, images]: how often each image is drawn
        self._drawn = rng.multinomial(count, chances, size=resamples) if count else np.zeros((resamples, 0), int)

    def mean(self, values: np.ndarray, among: np.ndarray) -> Figure:
        """Return the mean of values, float or bool [n], of the answers that count, bool [n]. Of bools it is a share."""
        images = self._drawn.shape[1]
        sums = np.bincount(self._image[among], weights=values[among], minlength=images)
        counts = np.bincount(self._image[among], minlength=images)
        count = int(counts.sum())
        if not count:
            return _NOTHING
        with np.errstate(invalid="ignore"):  # a draw without any of these images has no mean
            means = (self._drawn @ sums) / (self._drawn @ counts)
        return _figure(sums.sum() / count, means, count)

    def statistic(self, compute: Callable[[np.ndarray], float], among: np.ndarray) -> Figure:
        """Return a statistic of answers, given by their indices; an index can occur several times.

        Args:
            compute: Returns the statistic of these indices, NaN if it does not exist.
            among: Which answers count, bool [n].
        """
        rows = np.flatnonzero(among)
        if not len(rows):
            return _NOTHING
        values = np.array([compute(np.repeat(rows, drawn[self._image[rows]])) for drawn in self._drawn])
        return _figure(compute(rows), values, len(rows))


def calibration_error(confidences: np.ndarray, right: np.ndarray, bins: int = CALIBRATION_BINS) -> float:
    """Return the mean distance of confidence and share of right answers over bins of equal count; NaN for no answer."""
    if not len(right):
        return float("nan")
    order = np.argsort(confidences, kind="stable")
    edges = np.linspace(0, len(order), min(bins, len(order)) + 1).round().astype(np.intp)
    gaps = np.add.reduceat(confidences[order] - right[order], edges[:-1])
    return float(np.abs(gaps).sum() / len(order))


def auroc(low: np.ndarray, high: np.ndarray) -> float:
    """Return the chance that a value of ``high`` is above one of ``low``; equal ones count half. NaN without values."""
    if not len(low) or not len(high):
        return float("nan")
    ordered = np.sort(low)
    below = np.searchsorted(ordered, high, side="left")
    not_above = np.searchsorted(ordered, high, side="right")
    return float((below + not_above).mean() / 2 / len(low))


def _figure(value: float, values: np.ndarray, count: int) -> Figure:
    values = values[~np.isnan(values)]
    tail = (1 - INTERVAL) / 2
    low, high = np.quantile(values, [tail, 1 - tail]) if len(values) else (float("nan"), float("nan"))
    return Figure(float(value), float(low), float(high), count)


_NOTHING = Figure(float("nan"), float("nan"), float("nan"), 0)
