"""Simulated rooms as views: models of real things on tables and floors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from osprey_sim.colors import BASIC_COLORS
from osprey_sim.object_sets import HOME, TABLETOP, SceneSource
from osprey_sim.render import Renderer
from training.home.kinds import Kinds, load_kinds
from training.home.views import Photograph, Thing, View, ViewSource

ROOMS = "home_models"  # name of the set in names.yaml
_LEAST_PIXELS = 60
_SIZE = (640, 480)
_SETS_SEED = 3


class RoomSource:
    """Renders views of rooms, and of tabletops among them.

    Args:
        kinds: The tree.
        models: Folders of models; those that ship with the simulator are used where none is present.
        tabletops: Share of views that show the primitives of the tabletops.
        split: Of the simulator.
    """

    def __init__(self, kinds: Kinds, models: Sequence[Path], tabletops: float = 0.0, split: str = "train") -> None:
        self.kinds, self.split, self.tabletops = kinds, split, tabletops
        present = [folder for folder in models if folder.is_dir()]
        self._homes = [SceneSource(HOME, folder) for folder in present] or [SceneSource(HOME)]
        self._tabletop = SceneSource(TABLETOP)
        self._renderers: dict[SceneSource, Renderer] = {}

    def view(self, number: int) -> View:
        """Return a view by number, from 0 on."""
        rng = np.random.default_rng([_SETS_SEED, number])
        simple = rng.random() < self.tabletops
        source = self._tabletop if simple else self._homes[int(rng.integers(len(self._homes)))]
        if source not in self._renderers:
            self._renderers[source] = Renderer(*_SIZE)
            source.preload(self._renderers[source])
        scene, frame = source.render(self._renderers[source], source.sample(number, self.split), depth=False)
        things = []
        for one in scene.objects:
            kind = self.kinds.kind_of(one.category, "tabletops" if simple else ROOMS)
            mask = frame.instance_ids == one.instance_id
            if kind is not None and kind not in self.kinds.held_out and mask.sum() >= _LEAST_PIXELS:
                color = one.color if one.color in BASIC_COLORS else ""  # tabletops have others, too
                things.append(Thing(kind, mask, color))
        return View(frame.rgb, tuple(things))


@dataclass(frozen=True)
class Rooms:
    """Gives the views of rooms in a process of its own."""

    kinds: Path
    models: tuple[Path, ...]
    tabletops: float

    def __call__(self) -> Callable[[int], View]:
        return RoomSource(load_kinds(self.kinds), self.models, self.tabletops).view


@dataclass(frozen=True)
class Composed:
    """Gives the views of photographs in a process of its own."""

    scenes: tuple[Photograph, ...]
    single: tuple[Photograph, ...]
    cap: int
    seed: int

    def __call__(self) -> Callable[[int], View]:
        return ViewSource(self.scenes, self.single, self.cap, self.seed).view


@dataclass(frozen=True)
class AsTheyAre:
    """Gives the photographs themselves, one after another."""

    photographs: tuple[Photograph, ...]

    def __call__(self) -> Callable[[int], View]:
        return lambda number: self.photographs[number].load()
