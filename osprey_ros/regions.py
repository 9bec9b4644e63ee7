"""Regions of a picture in the forms a segmentation gives them, and the masks that the mask extractor takes.

The published extractor resizes each binary mask bilinearly to every feature map and keeps what is above 0, and resizes
it to a small grid whose values are kept. Both are computed here for all regions at once. An id image is never blown up
into full-size masks: each output pixel looks at the ids of its four source pixels, whatever the number of regions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from osprey_ros import bilinear
from osprey_ros.errors import OspreyError

MAX_ID = 2**31 - 1  # ids are kept, and published, as int32


class RegionError(OspreyError):
    """Regions that cannot be used; the message says what is wrong with them."""


class NoRegionError(RegionError):
    """A segmentation in which there is nothing to describe."""


class Regions(ABC):
    """N regions of one picture.

    Attributes:
        shape: (height, width) of the picture in pixels.
        ids: int32 [N], the segmentation's own numbers.
        areas: int64 [N], pixels of each region.
        boxes: int32 [N, 4], the bounding box of each region as x, y, width, height; zeros for an empty mask.
    """

    shape: tuple[int, int]
    ids: np.ndarray
    areas: np.ndarray
    boxes: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def pooling_masks(self, sizes: Sequence[tuple[int, int]]) -> list[np.ndarray]:
        """For each (h, w): float32 [N, h, w] of 0 and 1, the masks resized bilinearly and then thresholded above 0.

        A thin region can vanish at a coarse size: its mask is then all 0, as in the published code.
        """
        return [self._resized(size, binary=True) for size in sizes]

    def position_grids(self, size: int) -> np.ndarray:
        """float32 [N, size, size] in 0..1: the masks resized bilinearly, values kept."""
        return self._resized((size, size), binary=False)

    def select(self, ids: Iterable[int]) -> Regions:
        """The regions with these ids, in this order. Raises RegionError for an id that is not there or comes twice."""
        rows = {int(region): row for row, region in enumerate(self.ids)}
        wanted = [int(region) for region in ids]
        absent = [region for region in wanted if region not in rows]
        if absent:
            raise RegionError(f"no region with id {_listed(absent)}: there are {_listed(self.ids)}")
        if not wanted:
            raise RegionError("no region is selected: give at least one id")
        repeated = [region for region, count in Counter(wanted).items() if count > 1]
        if repeated:
            raise RegionError(f"id {_listed(repeated)} is asked for more than once: give every id once")
        return self._take(np.array([rows[region] for region in wanted], dtype=np.intp))

    @abstractmethod
    def crop(self, row: int) -> np.ndarray:
        """bool [box height, box width]: the mask of region number ``row`` (not its id) inside its bounding box."""

    @abstractmethod
    def _take(self, rows: np.ndarray) -> Regions: ...

    @abstractmethod
    def _resized(self, size: tuple[int, int], binary: bool) -> np.ndarray: ...


def regions_from_id_image(ids: np.ndarray, only: Iterable[int] | None = None, min_area: int = 1) -> Regions:
    """Regions of an id image, integers [H, W]: pixels with the same positive id are one region, 0 and below background.

    ``only`` keeps those of these ids that are there, ``min_area`` those of at least so many pixels; ids ascend.
    Raises RegionError for another type or shape of array, and if no region is left.
    """
    if not isinstance(ids, np.ndarray) or ids.ndim != 2 or ids.dtype.kind not in "iu":
        raise RegionError(f"an id image must be an integer array [height, width], not {_described(ids)}")
    if ids.size == 0:
        raise RegionError(f"the id image has no pixels: its size is {ids.shape[1]}x{ids.shape[0]}")
    runs = _Runs(ids)
    if not len(runs.ids):
        raise NoRegionError("the id image has no region: every pixel is background (0 or below)")
    if runs.ids[-1] > MAX_ID:
        raise RegionError(f"the id {runs.ids[-1]} of the id image does not fit 32 bits: number regions up to {MAX_ID}")
    keep = runs.areas >= min_area
    if only is not None:
        wanted = {int(region) for region in only}
        keep &= np.array([int(region) in wanted for region in runs.ids])
    if not keep.any():
        raise NoRegionError(
            f"no region is left of ids {_listed(runs.ids)}: all are smaller than {min_area} pixels or not asked for"
        )
    return _IdRegions(
        runs.labels, runs.ids.astype(np.int32), runs.areas, runs.boxes, labels_of_rows=np.flatnonzero(keep) + 1
    )


def regions_from_masks(masks: np.ndarray, ids: Iterable[int] | None = None) -> Regions:
    """Regions of binary masks, bool or uint8 [N, H, W] (non-zero is inside); they may overlap. ``ids`` default to 1..N.

    A mask without a pixel is kept, so that N masks give N regions. Raises RegionError for another type or shape of
    array, for ids that are not N different numbers from 1 to MAX_ID, and if all masks are empty.
    """
    if not isinstance(masks, np.ndarray) or masks.ndim != 3 or masks.dtype not in (np.bool_, np.uint8):
        raise RegionError(f"masks must be a bool or uint8 array [regions, height, width], not {_described(masks)}")
    if masks.shape[1] == 0 or masks.shape[2] == 0:
        raise RegionError(f"the masks have no pixels: their size is {masks.shape[2]}x{masks.shape[1]}")
    if not masks.any():
        raise RegionError(f"there is no region: {len(masks)} masks, none with a pixel set")
    numbers = list(range(1, len(masks) + 1)) if ids is None else [int(region) for region in ids]
    if len(numbers) != len(masks) or len(set(numbers)) != len(masks):
        raise RegionError(f"{len(masks)} masks need as many different ids, not {_listed(numbers)}")
    outside = [region for region in numbers if not 1 <= region <= MAX_ID]
    if outside:
        raise RegionError(f"region ids must be 1 to {MAX_ID} (0 is background), not {_listed(outside)}")
    return _MaskRegions(masks != 0, np.array(numbers, dtype=np.int32))


def as_regions(regions: Regions | np.ndarray) -> Regions:
    """Regions as they are, from an id image (integers [H, W]), from one mask (bool [H, W]) or a stack ([N, H, W])."""
    if isinstance(regions, Regions):
        return regions
    if isinstance(regions, np.ndarray) and regions.ndim == 3:
        return regions_from_masks(regions)
    if isinstance(regions, np.ndarray) and regions.ndim == 2 and regions.dtype == np.bool_:
        return regions_from_masks(regions[None])
    return regions_from_id_image(regions)


class _Runs:
    """Areas, boxes and compact labels of an id image, from its horizontal runs of equal ids.

    There are far fewer runs than pixels, so whatever needs sorting or grouping is done on them.
    """

    def __init__(self, image: np.ndarray) -> None:
        height, width = image.shape
        flat = np.ascontiguousarray(image).reshape(-1)
        begins = np.empty(flat.size, dtype=bool)
        np.not_equal(flat[1:], flat[:-1], out=begins[1:])
        begins[::width] = True
        starts = np.flatnonzero(begins)
        lengths = np.diff(starts, append=flat.size)

        values, value_of_run = np.unique(flat[starts], return_inverse=True)
        positive = values > 0
        label_of_value = np.where(positive, np.cumsum(positive), 0)
        label = label_of_value[value_of_run.reshape(-1)]
        count = int(positive.sum())

        self.ids = values[positive]  # ascending, of the image's own type
        smallest = np.uint8 if count < 256 else np.uint16 if count < 65536 else np.int32
        # labels: 0 background, k the k-th id
        self.labels = np.repeat(label.astype(smallest), lengths).reshape(height, width)

        inside = label > 0
        order = np.argsort(label[inside], kind="stable")
        label, starts, lengths = label[inside][order], starts[inside][order], lengths[inside][order]
        self.areas = np.zeros(count, dtype=np.int64)
        self.boxes = np.zeros((count, 4), dtype=np.int32)
        if count:
            first = np.flatnonzero(np.diff(label, prepend=0))
            left, top = starts % width, starts // width
            x, y = np.minimum.reduceat(left, first), np.minimum.reduceat(top, first)
            right, bottom = np.maximum.reduceat(left + lengths, first), np.maximum.reduceat(top, first) + 1
            self.areas = np.add.reduceat(lengths, first).astype(np.int64)
            self.boxes = np.stack([x, y, right - x, bottom - y], axis=1).astype(np.int32)


class _IdRegions(Regions):
    """Regions that do not overlap, kept as one image of labels (0 background, k the k-th id of the picture)."""

    def __init__(
        self, labels: np.ndarray, ids: np.ndarray, areas: np.ndarray, boxes: np.ndarray, labels_of_rows: np.ndarray
    ) -> None:
        self._labels = labels
        self._all = (ids, areas, boxes)
        self._labels_of_rows = labels_of_rows
        rows = labels_of_rows - 1
        self.shape = (labels.shape[0], labels.shape[1])
        self.ids, self.areas, self.boxes = ids[rows], areas[rows], boxes[rows]

    def crop(self, row: int) -> np.ndarray:
        x, y, width, height = self.boxes[row]
        return self._labels[y : y + height, x : x + width] == self._labels_of_rows[row]

    def _take(self, rows: np.ndarray) -> Regions:
        return _IdRegions(self._labels, *self._all, labels_of_rows=self._labels_of_rows[rows])

    def _resized(self, size: tuple[int, int], binary: bool) -> np.ndarray:
        count, (height, width) = len(self), size
        neighbours, y, x = _neighbours(self._labels[None], size)
        # Row of each label in the output; labels that are not wanted share one extra row that is cut off at the end.
        row_of_label = np.full(len(self._all[0]) + 1, count, dtype=np.intp)
        row_of_label[self._labels_of_rows] = np.arange(count)
        output = np.zeros((count + 1, height * width), dtype=np.float32)
        pixels = np.arange(height * width)
        for label in neighbours:
            rows = row_of_label[label.reshape(-1)]
            if binary:
                output[rows, pixels] = 1
            else:
                # What the region of this neighbour gets at each pixel; neighbours of one region all write the same.
                value = _interpolate([other == label for other in neighbours], y, x)
                output[rows, pixels] = value.reshape(-1)
        return output[:count].reshape(count, height, width)


class _MaskRegions(Regions):
    """Regions that may overlap, kept as a stack of binary masks, bool [N, H, W]."""

    def __init__(self, masks: np.ndarray, ids: np.ndarray) -> None:
        self._masks = masks
        self.shape = (masks.shape[1], masks.shape[2])
        self.ids = ids
        self.areas = np.count_nonzero(masks, axis=(1, 2)).astype(np.int64)
        x, width = _extent(np.any(masks, axis=1))
        y, height = _extent(np.any(masks, axis=2))
        self.boxes = np.stack([x, y, width, height], axis=1).astype(np.int32)

    def crop(self, row: int) -> np.ndarray:
        x, y, width, height = self.boxes[row]
        return self._masks[row, y : y + height, x : x + width]

    def _take(self, rows: np.ndarray) -> Regions:
        return _MaskRegions(self._masks[rows], self.ids[rows])

    def _resized(self, size: tuple[int, int], binary: bool) -> np.ndarray:
        neighbours, y, x = _neighbours(self._masks, size)
        if binary:
            return np.logical_or.reduce(neighbours).astype(np.float32)
        return _interpolate(neighbours, y, x)


def _neighbours(source: np.ndarray, size: tuple[int, int]) -> tuple[list[np.ndarray], bilinear.Axis, bilinear.Axis]:
    """The source pixels around each output pixel, [N, h, w] each: above left, above right, below left, below right.

    A neighbour of weight 0 is replaced by its counterpart, which changes no interpolated value: a region that touches
    an output pixel with weight 0 only is then not counted as touching it.
    """
    y, x = bilinear.axis(source.shape[1], size[0]), bilinear.axis(source.shape[2], size[1])
    rows = (np.where(y.low_weight > 0, y.low, y.high), np.where(y.high_weight > 0, y.high, y.low))
    columns = (np.where(x.low_weight > 0, x.low, x.high), np.where(x.high_weight > 0, x.high, x.low))
    return [source[:, row[:, None], column] for row in rows for column in columns], y, x


def _interpolate(corners: Sequence[np.ndarray], y: bilinear.Axis, x: bilinear.Axis) -> np.ndarray:
    """Bilinear interpolation of boolean corners [N, h, w] as given by `_neighbours`, float32 [N, h, w]."""
    above_left, above_right, below_left, below_right = (corner.astype(np.float32) for corner in corners)
    above = bilinear.blend(above_left, x.low_weight, above_right, x.high_weight)
    below = bilinear.blend(below_left, x.low_weight, below_right, x.high_weight)
    return bilinear.blend(above, y.low_weight[:, None], below, y.high_weight[:, None])


def _extent(present: Any) -> tuple[np.ndarray, np.ndarray]:
    # First set position and the length up to the last one, for each row of a bool [N, length].
    first = present.argmax(axis=1)
    last = present.shape[1] - present[:, ::-1].argmax(axis=1)
    empty = ~present.any(axis=1)
    return np.where(empty, 0, first), np.where(empty, 0, last - first)


def _listed(ids: Iterable[int]) -> str:
    numbers = [str(int(i)) for i in ids]
    return ", ".join(numbers[:12]) + (f" and {len(numbers) - 12} more" if len(numbers) > 12 else "")


def _described(value: object) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else type(value).__name__
