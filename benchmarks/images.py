"""Render the benchmark's frame: a simulated image with up to 64 similar regions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from osprey_ros.errors import InputError
from osprey_ros.regions.regions import Regions, regions_from_id_image
from osprey_sim.render import render_scenes
from osprey_sim.scene import MAX_OBJECTS

PIECES = 4  # regions per object, because a scene has at most MAX_OBJECTS
MAX_REGIONS = PIECES * MAX_OBJECTS


@dataclass(frozen=True)
class Frame:
    """An image, uint8 [H, W, 3], and its id image, int32 [H, W] with ids 1..MAX_REGIONS."""

    rgb: np.ndarray
    ids: np.ndarray

    def regions(self, count: int) -> Regions:
        """Return the first `count` regions. Raise InputError if `count` is not in 1..MAX_REGIONS."""
        if not 1 <= count <= MAX_REGIONS:
            raise InputError(f"the number of regions is {count}; use 1 to {MAX_REGIONS}")
        return regions_from_id_image(self.ids, only=range(1, count + 1), masks_anyway=True)


def crowded_frame(width: int = 640, height: int = 480) -> Frame:
    """Return the first test scene with MAX_OBJECTS visible objects, each cut into PIECES regions.

    An object is cut at its median column and each half at its median row, so that no piece is empty. The first
    MAX_OBJECTS regions belong to different objects.
    """
    for _, frame in render_scenes("test", range(200), (width, height), objects=(MAX_OBJECTS, MAX_OBJECTS)):
        found = frame.objects(99)
        if len(found) == MAX_OBJECTS:
            return Frame(frame.rgb, _cut(frame.instance_ids, found))
    raise InputError(f"none of 200 simulated scenes has {MAX_OBJECTS} visible objects")


def _cut(objects: np.ndarray, found: Sequence[int]) -> np.ndarray:
    ids = np.zeros(objects.shape, np.int32)
    for n, number in enumerate(found):
        y, x = np.nonzero(objects == number)
        right = x > np.median(x)
        low = np.where(right, y > np.median(y[right]), y > np.median(y[~right]))
        ids[y, x] = 1 + n + len(found) * (2 * right + low)
    return ids
