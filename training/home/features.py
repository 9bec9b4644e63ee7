"""Features of views on disk: what the frozen tower gives for the objects of each view, with their facts.

Training of the other parts reads them in place of images, hundreds of times as fast.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from osprey_ros.errors import OspreyError
from osprey_ros.files import write_file
from osprey_ros.strict_json import to_json
from osprey_torch.config import OspreyConfig
from training.chunks import Chunk, missing_chunks, run_in_processes
from training.home.tower import FrozenTower
from training.home.views import View

CHUNK = 100  # views in a file: what a stop can lose
MAX_REGIONS = 12  # of a view


@dataclass(frozen=True)
class ObjectFacts:
    """What is known about an object of a view.

    Attributes:
        kind: A kind of the tree.
        color: A basic color, or "".
        box: Left, top, right and bottom as shares of the image, 0 to 1.
        share: Area as a share of the image's.
    """

    kind: str
    color: str
    box: tuple[float, float, float, float]
    share: float

    @classmethod
    def of(cls, view: View, row: int) -> ObjectFacts:
        """Return the facts of the object in a row of a view."""
        thing = view.things[row]
        height, width = thing.mask.shape
        rows, columns = np.flatnonzero(thing.mask.any(1)), np.flatnonzero(thing.mask.any(0))
        box = (columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height)
        rounded = tuple(round(float(value), 4) for value in box)
        return cls(thing.kind, view.color(thing), rounded, round(float(thing.mask.mean()), 6))  # type: ignore[arg-type]


@dataclass(frozen=True)
class ViewFeatures:
    """The objects of one view; the arrays are those of `tower.Regions`."""

    facts: tuple[ObjectFacts, ...]
    pooled: np.ndarray
    crops: np.ndarray
    positions: np.ndarray
    level: np.ndarray


class FeatureStore:
    """Features of views, read back one view at a time.

    Args:
        folder: Where `compute_features` has written them.
        config: Of the model.
    """

    def __init__(self, folder: Path, config: OspreyConfig) -> None:
        self.config = config
        self._views: list[ViewFeatures] = []
        for path in sorted(folder.glob("*.json")):
            self._views.extend(_read(path, config))

    def __len__(self) -> int:
        return len(self._views)

    def __getitem__(self, index: int) -> ViewFeatures:
        return self._views[index]


def _read(path: Path, config: OspreyConfig) -> list[ViewFeatures]:
    facts = [
        tuple(ObjectFacts(**{**one, "box": tuple(one["box"])}) for one in view) for view in json.loads(path.read_text())
    ]
    if not facts:
        return []
    arrays = np.load(path.with_suffix(".npz"))
    ends = np.cumsum([len(view) for view in facts])[:-1]
    side = config.position_size
    grids = np.unpackbits(arrays["positions"], axis=1, count=side * side).reshape(-1, side, side)
    parts = (np.split(part, ends) for part in (arrays["pooled"], arrays["crops"], grids))
    return [ViewFeatures(*one) for one in zip(facts, *parts, arrays["level"], strict=True)]


def compute_features(
    folder: Path,
    tower: Path,
    config: OspreyConfig,
    source: Callable[[], Callable[[int], View]],
    count: int,
    workers: int,
    progress: Callable[[int], None],
) -> None:
    """Compute the features of views 0 .. count-1 into `folder`; files that are there are kept.

    Args:
        folder: Gets a file pair for every CHUNK views.
        tower: Folder of `tower.write_tower`.
        config: Of the model.
        source: Called once in each process; what it returns gives a view by its number.
        count: Number of views.
        workers: Number of processes.
        progress: Called with the number of views that became ready; what it raises ends the computation.
    """
    folder.mkdir(parents=True, exist_ok=True)
    chunks = missing_chunks(count, CHUNK, lambda start, stop: _file(folder, start, stop).is_file(), progress)
    if chunks and min(workers, len(chunks)) == 1:
        state = _State(FrozenTower(tower, config), source())
        for chunk in chunks:
            progress(_compute(folder, chunk, state))
        return
    run_in_processes(partial(_compute, folder), chunks, workers, progress, partial(_start, tower, config, source))


def _file(folder: Path, start: int, stop: int) -> Path:
    return folder / f"{start:07d}-{stop:07d}.json"


class _State(NamedTuple):
    tower: FrozenTower
    view_of: Callable[[int], View]


_STATE: list[_State] = []  # of a worker process


def _start(tower: Path, config: OspreyConfig, source: Callable[[], Callable[[int], View]]) -> None:
    cv2.setNumThreads(1)
    _STATE.append(_State(FrozenTower(tower, config), source()))


def _compute(folder: Path, chunk: Chunk, state: _State | None = None) -> int:
    tower, view_of = state or _STATE[0]
    start, stop = chunk
    found = [one for number in range(start, stop) if (one := _features(tower, view_of(number), number)) is not None]
    path = _file(folder, start, stop)
    if found:
        grids = np.concatenate([one.positions for one in found])
        partial_file = path.with_name(f".{path.stem}.npz")
        np.savez(
            partial_file,
            pooled=np.concatenate([one.pooled for one in found]),
            crops=np.concatenate([one.crops for one in found]),
            positions=np.packbits(grids.reshape(len(grids), -1), axis=1),
            level=np.stack([one.level for one in found]),
        )
        partial_file.replace(path.with_suffix(".npz"))
    write_file(path, to_json([[asdict(fact) for fact in one.facts] for one in found]) + "\n")
    return stop - start


def _features(tower: FrozenTower, view: View, number: int) -> ViewFeatures | None:
    things: Sequence[int] = range(len(view.things))
    if len(things) > MAX_REGIONS:
        things = sorted(np.random.default_rng([len(things), number]).permutation(len(things))[:MAX_REGIONS].tolist())
    if not things:
        return None
    try:
        found = tower(view.image, np.stack([view.things[row].mask for row in things]))
    except OspreyError:  # such as an image that is too thin
        return None
    if found is None:
        return None
    facts = tuple(ObjectFacts.of(view, things[row]) for row in found.left)
    return ViewFeatures(facts, found.pooled, found.crops, found.positions, found.level)
