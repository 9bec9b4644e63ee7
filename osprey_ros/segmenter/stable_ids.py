"""Ids of regions that stay with the same object from one image to the next."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from osprey_ros.regions.geometry import box_overlap
from osprey_ros.regions.masks import MaskCrop
from osprey_ros.regions.regions import Regions, regions_from_crops

MIN_OVERLAP = 0.3  # IoU of the masks of one object in two images
MIN_BOX_OVERLAP = 0.1  # IoU of boxes below which masks are not compared
MEMORY = 10  # images after which an object that was not found is forgotten


@dataclass
class _Known:
    """An object: its latest mask, and how many images ago that was."""

    id: int
    crop: MaskCrop
    box: np.ndarray
    area: int
    missed: int = 0


class StableIds:
    """Gives regions the ids of the regions of earlier images that they overlap most, and others new ids.

    The assignment maximizes the sum of the IoU. An object that is not found keeps its id for MEMORY images. No id is
    used twice, so that a consumer never mistakes one object for another.

    Args:
        first: The first id.
    """

    def __init__(self, first: int = 1) -> None:
        self._known: list[_Known] = []
        self._next = first
        self._shape: tuple[int, int] | None = None

    def update(self, regions: Regions) -> Regions:
        """Return the regions of the next image with stable ids, in the same order."""
        if regions.shape != self._shape:
            self._known, self._shape = [], regions.shape
        crops = crops_of(regions)
        overlaps = self._overlaps(regions, crops)
        rows, columns = linear_sum_assignment(np.where(overlaps >= MIN_OVERLAP, overlaps, 0), maximize=True)
        owners = {int(n): int(k) for k, n in zip(rows, columns, strict=True) if overlaps[k, n] >= MIN_OVERLAP}
        for known in self._known:
            known.missed += 1
        ids = []
        for row, crop in enumerate(crops):
            if row in owners:
                found = self._known[owners[row]]
                found.crop, found.box, found.area, found.missed = crop, regions.boxes[row], int(regions.areas[row]), 0
            else:
                found = _Known(self.new_id(), crop, regions.boxes[row], int(regions.areas[row]))
                self._known.append(found)
            ids.append(found.id)
        self._known = [known for known in self._known if known.missed <= MEMORY]
        return regions_from_crops(crops, ids, *regions.shape)

    def new_id(self) -> int:
        """Return an id that no region had before."""
        self._next += 1
        return self._next - 1

    def _overlaps(self, regions: Regions, crops: list[MaskCrop]) -> np.ndarray:
        """Return the IoU of each known object and each region, float64 [K, N]; 0 where it is small."""
        overlaps = np.zeros((len(self._known), len(crops)))
        if not overlaps.size:
            return overlaps
        boxes = np.stack([known.box for known in self._known])
        near = box_overlap(boxes[:, None], regions.boxes[None]) >= MIN_BOX_OVERLAP
        for k, n in np.argwhere(near):
            known = self._known[k]
            common = common_area(known.crop, crops[n])
            overlaps[k, n] = common / (known.area + int(regions.areas[n]) - common)
        return overlaps


def crops_of(regions: Regions) -> list[MaskCrop]:
    """Return the mask of each region inside its box."""
    return [MaskCrop(int(x), int(y), regions.crop(row)) for row, (x, y) in enumerate(regions.boxes[:, :2])]


def common_area(a: MaskCrop, b: MaskCrop) -> int:
    """Return the number of pixels that are in both masks."""
    left, top = max(a.left, b.left), max(a.top, b.top)
    right = min(a.left + a.mask.shape[1], b.left + b.mask.shape[1])
    bottom = min(a.top + a.mask.shape[0], b.top + b.mask.shape[0])
    if right <= left or bottom <= top:
        return 0
    parts = [one.mask[top - one.top : bottom - one.top, left - one.left : right - one.left] for one in (a, b)]
    return int(np.count_nonzero(parts[0] & parts[1]))
