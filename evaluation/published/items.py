"""What a task asks, and what it makes of the answers. Plain data, shared by all tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np


class Mask(Protocol):
    """The mask of a region as a data set stores it."""

    def decode(self) -> np.ndarray:
        """Return the mask, bool [height, width] of the image."""


@dataclass(frozen=True)
class IdMask:
    """A region of an image of ids, integers [H, W]: the pixels with one id."""

    ids: np.ndarray
    id: int

    def decode(self) -> np.ndarray:
        """Return the mask, bool [H, W]."""
        result: np.ndarray = self.ids == self.id
        return result


@dataclass(frozen=True)
class Item:
    """One question about one region, or about a whole image.

    Attributes:
        id: Unique in the task.
        image: The image file.
        question: The question; ``<mask><pos>`` names the region.
        opening: A key of `osprey_ros.decoding.prompt.OPENINGS`.
        mask: The region; None for the whole image.
        truth: What is right, in words, for people.
        crowd: Number of regions that are asked about in the image.
        hidden: Share of the object that other objects hide, 0 to 1; None if it is unknown.
    """

    id: str
    image: Path
    question: str
    opening: str
    mask: Mask | None = None
    truth: str = ""
    crowd: int = 1
    hidden: float | None = None


@dataclass(frozen=True)
class Measure:
    """A figure that can be computed from any choice of images, for intervals and for subsets.

    Attributes:
        name: Its name, as in the totals.
        groups: The group of each row, such as the image of an item. Groups are drawn as wholes.
        compute: Returns the figure of rows, integers [n] that may repeat; NaN if there is none.
        rows: Id of the item of each row; () if the rows are not items.
        values: float64 [n], of a figure that is a mean of rows; None otherwise.
    """

    name: str
    groups: Sequence[str]
    compute: Callable[[np.ndarray], float]
    rows: Sequence[str] = ()
    values: np.ndarray | None = None


def mean_measure(name: str, items: Sequence[Item], values: Mapping[str, float], scale: float = 1.0) -> Measure:
    """Return the measure that is the mean over items of one number each, times ``scale``."""
    kept = [item for item in items if item.id in values]
    numbers = np.array([values[item.id] * scale for item in kept], np.float64)
    groups, ids = [str(item.image) for item in kept], [item.id for item in kept]
    return Measure(name, groups, lambda rows: float(numbers[rows].mean()) if len(rows) else np.nan, ids, numbers)


@dataclass(frozen=True)
class Scored:
    """Scores of one set of answers.

    Attributes:
        items: Fields of each item or image, by its id.
        totals: The figures of the whole, by name; they can be nested.
        shown: Which of the totals people read first, by name, as percentages or as they are published.
        measures: Figures with intervals.
        worst: Score of each item that can be drawn, lowest is worst, by the id of the `Item`.
        extra: Further keys of the results.
        arrays: Arrays of the results, by name.
    """

    items: Mapping[str, Mapping[str, Any]]
    totals: Mapping[str, Any]
    shown: Mapping[str, float]
    measures: Sequence[Measure] = ()
    worst: Mapping[str, float] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return items, totals and the further keys as plain data; numbers that do not exist are None."""
        return {"items": _plain(self.items), "totals": _plain(self.totals), **_plain(self.extra)}


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
