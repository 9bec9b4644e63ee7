"""Masks of all regions at the sizes that the mask extractor takes, in memory that is used again for every picture.

The published extractor resizes each binary mask bilinearly to every feature map and keeps what is above 0, and resizes
it to a small grid whose values are kept. An output pixel depends on four source pixels at most, so that for regions
that do not overlap one look at the labels of those four serves all regions: no mask is made at full size, and the work
does not grow with their number. Clearing whole grids would make it grow: only what the last picture set is cleared.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np

from osprey_ros.regions import bilinear


class LabelImages(Protocol):
    """What `MaskPooler` asks of regions."""

    shape: tuple[int, int]

    def __len__(self) -> int: ...

    def layers(self) -> Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Label images, unsigned integers [H, W], contiguous, in which no regions overlap; together with each the
        labels (intp) of the regions in it and the numbers (intp) that these have among all regions."""


class MaskPooler:
    """Makes pooling masks and position grids, picture after picture. Use it from one thread at a time.

    Args:
        sizes: (h, w) of each feature map.
        position_size: side of the position grid; None for none.

    It keeps a plan for the last picture's size, and memory for the largest number of regions so far. Raises ValueError
    if there is no size at all.
    """

    def __init__(self, sizes: Sequence[tuple[int, int]], position_size: int | None = None) -> None:
        self._sizes = [*sizes] if position_size is None else [*sizes, (position_size, position_size)]
        if not self._sizes:
            raise ValueError("no grid is asked for: give at least one size or a position size")
        self._pooled = len(sizes)  # grids from this number on keep their values
        self._plan: _Plan | None = None
        self._capacity = 0  # regions that there is memory for
        self._memory = np.zeros(0, np.float32)  # grid after grid, each with a row for every region
        self._offset = np.zeros(0, np.intp)  # of each pixel of each grid in the memory, for the first region
        self._set: list[np.ndarray] = []  # indices into the memory of all that is not 0

    def pool(self, regions: LabelImages) -> list[np.ndarray]:
        """The grids of N regions, as views of memory that the next call overwrites: copy what must outlive it.

        For each size float32 [N, h, w] of 0 and 1, the masks resized bilinearly and thresholded above 0; and last, if
        there is a position size, float32 [N, position_size, position_size] in 0..1, the masks resized with their values
        kept. A thin region can vanish at a coarse size: its mask is then all 0, as in the published code.
        """
        for at in self._set:
            self._memory[at] = 0
        self._set = []
        if self._plan is None or self._plan.source != regions.shape:
            self._plan = _Plan(regions.shape, self._sizes, self._pooled)
            self._offset = self._capacity * self._plan.start + self._plan.pixel
        if len(regions) > self._capacity:
            self._capacity = len(regions)
            self._memory = np.zeros(self._capacity * len(self._plan.pixel), np.float32)
            self._offset = self._capacity * self._plan.start + self._plan.pixel
        for image, labels, numbers in regions.layers():
            self._add(self._plan, image, labels, numbers)
        return [self._grid(number)[: len(regions)] for number in range(len(self._sizes))]

    def _add(self, plan: _Plan, image: np.ndarray, labels: np.ndarray, numbers: np.ndarray) -> None:
        corners = image.reshape(-1).take(plan.corners)
        row_of_label = np.full(max(int(corners.max()), int(labels.max())) + 1, -1)
        row_of_label[labels] = numbers
        first = corners[0]
        row = row_of_label.take(first)
        inside = np.flatnonzero(row >= 0)
        # The two weights of an axis add up to exactly 1 once rounded: four corners in one region make 1 in every grid.
        self._write(self._offset[inside] + row[inside] * plan.stride[inside], 1)

        mixed = np.flatnonzero((corners[1] != first) | (corners[2] != first) | (corners[3] != first))
        split = int(np.searchsorted(mixed, plan.valued_from))
        for pixels, valued in ((mixed[:split], False), (mixed[split:], True)):
            rows = row_of_label.take(corners[:, pixels])
            corner, pixel = np.nonzero(rows >= 0)
            value: np.ndarray | int = 1
            if valued:
                # What each corner's region gets: [other corner, corner, pixel]. Corners of one region get the same.
                same = rows[:, None] == rows[None]
                value = _interpolate(same, *plan.weights(pixels))[corner, pixel]
            at = pixels[pixel]
            self._write(self._offset[at] + rows[corner, pixel] * plan.stride[at], value)

    def _write(self, at: np.ndarray, value: np.ndarray | int) -> None:
        self._memory[at] = value
        self._set.append(at)

    def _grid(self, number: int) -> np.ndarray:
        # float32 [capacity, h, w], a view of the memory.
        before = sum(height * width for height, width in self._sizes[:number])
        height, width = self._sizes[number]
        start = self._capacity * before
        return self._memory[start : start + self._capacity * height * width].reshape(self._capacity, height, width)


class _Plan:
    """Where all pixels of all grids come from in pictures of one size; P pixels, grid after grid.

    Attributes:
        source: (height, width) of the pictures.
        axes: (y, x) of each grid; a source pixel of weight 0 is replaced by its counterpart. That changes no value, and
            a region that touches an output pixel with weight 0 only is then not counted as touching it.
        corners: intp [4, P], flat indices into a picture: above left, above right, below left, below right.
        pixel: intp [P], a pixel's flat index in its own grid. start: intp [P], pixels of all grids before its own.
        stride: intp [P], pixels of its own grid.
        valued_from: number of the first pixel of grids that keep their values.
    """

    def __init__(self, source: tuple[int, int], sizes: Sequence[tuple[int, int]], pooled: int) -> None:
        self.source = source
        self.axes = [
            (_touched_only(bilinear.axis(source[0], h)), _touched_only(bilinear.axis(source[1], w))) for h, w in sizes
        ]
        corners = [
            [(line[:, None] * source[1] + column).reshape(-1) for line in (y.low, y.high) for column in (x.low, x.high)]
            for y, x in self.axes
        ]
        self.corners = np.concatenate([np.stack(four) for four in corners], axis=1)
        areas = np.array([h * w for h, w in sizes], np.intp)
        self.stride = np.repeat(areas, areas)
        self.start = np.repeat(np.cumsum(areas) - areas, areas)
        self.pixel = np.arange(len(self.stride)) - self.start
        self.valued_from = int(areas[:pooled].sum())

    def weights(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Weights (y low, y high, x low, x high) of pixels of the last grid, float32, as long as ``pixels``."""
        y, x = self.axes[-1]
        row, column = np.divmod(self.pixel[pixels], len(x.low))
        return y.low_weight[row], y.high_weight[row], x.low_weight[column], x.high_weight[column]


def _touched_only(axis: bilinear.Axis) -> bilinear.Axis:
    low = np.where(axis.low_weight > 0, axis.low, axis.high)
    high = np.where(axis.high_weight > 0, axis.high, axis.low)
    return bilinear.Axis(low, high, axis.low_weight, axis.high_weight)


def _interpolate(
    corners: np.ndarray, y_low: np.ndarray, y_high: np.ndarray, x_low: np.ndarray, x_high: np.ndarray
) -> np.ndarray:
    """Bilinear interpolation of four boolean corners [4, ..., P], in the order of `_Plan.corners`, to float32."""
    above_left, above_right, below_left, below_right = corners.astype(np.float32)
    above = bilinear.blend(above_left, x_low, above_right, x_high)
    below = bilinear.blend(below_left, x_low, below_right, x_high)
    return bilinear.blend(above, y_low, below, y_high)
