"""Intervals of figures, figures of parts of the data, and whether two sets of answers differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evaluation.figures import SEED, Bootstrap, Figure
from evaluation.published.items import Item, Measure, Scored

SIZES = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, np.inf)}  # pixels, as COCO has them
CROWDS = {"1 region": (1, 2), "2 to 5 regions": (2, 6), "6 to 15 regions": (6, 16), "16 or more": (16, np.inf)}
HIDDEN = {"not hidden": (0, 1e-9), "up to a quarter": (1e-9, 0.25), "up to a half": (0.25, 0.5), "more": (0.5, 1.01)}
FLIPS = 10_000


def figures(scored: Scored, resamples: int) -> dict[str, Figure]:
    """Return each measure of a set of answers with its interval, by its name."""
    return {one.name: _figure(one, resamples, np.ones(len(one.groups), bool)) for one in scored.measures}


def parts(scored: Scored, items: Mapping[str, Item], resamples: int) -> dict[str, dict[str, dict[str, Figure]]]:
    """Return the measures of items by the size of their region, the crowd around it and the share of it that is hidden.

    Args:
        scored: The scores. Measures whose rows are not items have no parts.
        items: The items by their ids.
        resamples: Draws for the intervals.

    Returns: figures by kind of part, part and measure. Parts without an item or with all are left out.
    """
    measures = [one for one in scored.measures if one.rows]
    ids = list(dict.fromkeys(row for one in measures for row in one.rows))
    sizes = {one: _area(items[one]) for one in ids}
    crowds = {one: float(items[one].crowd) for one in ids}
    hidden = {one: np.nan if items[one].hidden is None else float(items[one].hidden or 0) for one in ids}
    result: dict[str, dict[str, dict[str, Figure]]] = {}
    for kind, values, limits in (("size", sizes, SIZES), ("crowd", crowds, CROWDS), ("hidden", hidden, HIDDEN)):
        for part, (least, most) in limits.items():
            for measure in measures:
                among = np.array([least <= values[row] < most for row in measure.rows], bool)
                if among.any() and not among.all():
                    own = result.setdefault(kind, {}).setdefault(part, {})
                    own[measure.name] = _figure(measure, resamples, among)
    return result


def differences(first: Scored, second: Scored, resamples: int) -> dict[str, dict[str, float]]:
    """Return for each measure the paired difference, second minus first, its interval, and its p-value.

    Measures that are means of items are tested by flipping the signs of the differences of whole images at random
    (10,000 flips); others by the share of paired bootstrap draws beyond 0, times 2. Rows of one set only do
    not count.
    """
    others = {one.name: one for one in second.measures}
    return {one.name: _difference(one, others[one.name], resamples) for one in first.measures if one.name in others}


def _difference(first: Measure, second: Measure, resamples: int) -> dict[str, float]:
    a, b = _common(first, second)
    groups = [first.groups[row] for row in a]
    bootstrap = Bootstrap(groups, resamples)
    everything = np.ones(len(groups), bool)

    def gap(rows: np.ndarray) -> float:
        return second.compute(b[rows]) - first.compute(a[rows])

    if first.values is not None and second.values is not None:
        apart = second.values[b] - first.values[a]
        figure = bootstrap.mean(apart, everything)
        p = _flip_test(apart, groups)
    else:
        draws: list[float] = []

        def kept(rows: np.ndarray) -> float:
            draws.append(gap(rows))
            return draws[-1]

        figure = bootstrap.statistic(kept, everything)
        drawn = np.array(draws[:-1])  # the last call is the figure itself
        valid = drawn[~np.isnan(drawn)]
        beyond = min((valid <= 0).mean(), (valid >= 0).mean()) if len(valid) else np.nan
        p = float(min(1.0, 2 * max(beyond, 1 / max(len(valid), 1))))
    return {**figure.to_json(), "p": p}  # type: ignore[dict-item]


def _common(first: Measure, second: Measure) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of both measures that are about the same item, or about the same image."""
    keys = [list(one.rows or one.groups) for one in (first, second)]
    place = {key: row for row, key in enumerate(keys[1])}
    pairs = [(row, place[key]) for row, key in enumerate(keys[0]) if key in place]
    array = np.array(pairs, np.intp).reshape(-1, 2)
    return array[:, 0], array[:, 1]


def _flip_test(apart: np.ndarray, groups: Sequence[str]) -> float:
    """Return the two-sided p-value of a mean difference, by flips of the signs of whole groups."""
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    sums = np.bincount([numbers[group] for group in groups], weights=apart, minlength=len(numbers))
    rng = np.random.default_rng(SEED)
    observed = abs(sums.sum())
    extreme = 0
    for _ in range(FLIPS // 100):
        signs = rng.integers(0, 2, (100, len(sums))) * 2 - 1
        extreme += int((np.abs(signs @ sums) >= observed - 1e-12 * max(1.0, observed)).sum())
    return (extreme + 1) / (FLIPS + 1)


def _figure(measure: Measure, resamples: int, among: np.ndarray) -> Figure:
    bootstrap = Bootstrap(measure.groups, resamples)
    if measure.values is not None:
        return bootstrap.mean(measure.values, among)
    return bootstrap.statistic(measure.compute, among)


def _area(item: Item) -> float:
    """Return the pixels of a region, NaN for a whole image."""
    if item.mask is None:
        return np.nan
    area: Any = getattr(item.mask, "area", None)
    return float(item.mask.decode().sum() if area is None else area)
