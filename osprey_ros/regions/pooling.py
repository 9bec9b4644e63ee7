"""Mask pooling: the masks of all regions at the sizes that the mask extractor takes.

The published extractor resizes each binary mask bilinearly to every feature map and thresholds it above 0. It also
resizes it to a small grid, whose values it keeps. An output pixel depends on at most four source pixels. For regions
that do not overlap, the labels of these four pixels therefore give the output pixel of all regions at once: no mask is
made at full size, and the cost does not grow with the number of regions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np


class LabelImages(Protocol):
    """What `MaskPooler` reads of N regions; `osprey_ros.regions.regions.Regions` is the implementation."""

    shape: tuple[int, int]
    ids: np.ndarray
    layers: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]
    """Label images, in none of which regions overlap.

    Each is an image of unsigned integers [H, W], contiguous, with the labels (intp) of its regions and their row
    numbers among all regions (intp).
    """


class MaskPooler:
    """Makes pooling masks and position grids for one image after another. Use it from one thread at a time.

    It keeps its memory, and the source pixels of all outputs for the latest image size.

    Args:
        sizes: (h, w) of each feature map.
        position_size: Side of the position grid; None for no grid.

    Raises ValueError if there is neither a size nor a position size.
    """

    def __init__(self, sizes: Sequence[tuple[int, int]], position_size: int | None = None) -> None:
        self._sizes = [*sizes] if position_size is None else [*sizes, (position_size, position_size)]
        if not self._sizes:
            raise ValueError("nothing to pool: give at least one size or a position size")
        self._thresholded = len(sizes)  # grids before this one are thresholded, the others keep their values
        self._plan: _Plan | None = None
        self._capacity = 0  # number of regions that the memory has room for
        self._memory = np.zeros(0, np.float32)  # one grid after another, each with one row for each region
        self._offset = np.zeros(0, np.intp)  # of each pixel of each grid in the memory, for the first region
        self._written: list[np.ndarray] = []  # indices of all non-zero values in the memory

    def pool(self, regions: LabelImages) -> list[np.ndarray]:
        """Return the grids of N regions. They are views of memory that the next call overwrites.

        For each size float32 [N, h, w] of 0 and 1: the masks resized bilinearly and thresholded above 0. Then, with a
        position size, float32 [N, position_size, position_size] in 0..1: the masks resized bilinearly. The mask of a
        thin region can be all 0 at a coarse size, as in the published code.
        """
        count = len(regions.ids)
        # Clearing whole grids would take time for each region: only the non-zero values are cleared.
        for at in self._written:
            self._memory[at] = 0
        self._written = []
        if self._plan is None or self._plan.source != regions.shape:
            self._plan = _Plan(regions.shape, self._sizes, self._thresholded)
            self._offset = self._capacity * self._plan.start + self._plan.pixel
        if count > self._capacity:
            self._capacity = count
            self._memory = np.zeros(self._capacity * len(self._plan.pixel), np.float32)
            self._offset = self._capacity * self._plan.start + self._plan.pixel
        for image, labels, rows in regions.layers:
            self._add(self._plan, image, labels, rows)
        return [self._grid(number)[:count] for number in range(len(self._sizes))]

    def _add(self, plan: _Plan, image: np.ndarray, labels: np.ndarray, rows: np.ndarray) -> None:
        """Write the regions of one label image to all grids."""
        corners = image.reshape(-1).take(plan.corners)
        row_of_label = np.full(max(int(corners.max()), int(labels.max())) + 1, -1)
        row_of_label[labels] = rows
        first = corners[0]
        row = row_of_label.take(first)
        inside = np.flatnonzero(row >= 0)
        # First write 1 for the region of the first corner. That is the result where all four corners are of one
        # region, because the two weights of an axis add up to exactly 1.
        self._write(self._offset[inside] + row[inside] * plan.stride[inside], 1)

        # Then correct the pixels whose corners are of different regions.
        mixed = np.flatnonzero((corners[1] != first) | (corners[2] != first) | (corners[3] != first))
        split = int(np.searchsorted(mixed, plan.values_from))
        for pixels, keep_values in ((mixed[:split], False), (mixed[split:], True)):
            corner_rows = row_of_label.take(corners[:, pixels])
            corner, pixel = np.nonzero(corner_rows >= 0)
            value: np.ndarray | int = 1
            if keep_values:
                # The value for the region of each corner: [other corner, corner, pixel]. Equal for corners of a region.
                same = corner_rows[:, None] == corner_rows[None]
                value = _interpolate(same, *plan.weights(pixels))[corner, pixel]
            at = pixels[pixel]
            self._write(self._offset[at] + corner_rows[corner, pixel] * plan.stride[at], value)

    def _write(self, at: np.ndarray, value: np.ndarray | int) -> None:
        self._memory[at] = value
        self._written.append(at)

    def _grid(self, number: int) -> np.ndarray:
        """Return a view of one grid for all regions, float32 [capacity, h, w]."""
        before = sum(height * width for height, width in self._sizes[:number])
        height, width = self._sizes[number]
        start = self._capacity * before
        return self._memory[start : start + self._capacity * height * width].reshape(self._capacity, height, width)


class _Plan:
    """The source pixels of all pixels of all grids, for images of one size. P is the number of pixels of all grids.

    Attributes:
        source: (height, width) of the images.
        axes: (y, x) of each grid. A source pixel with weight 0 is replaced by the other one, which changes no value.
            A region that covers only source pixels with weight 0 then does not count as touching the output pixel.
        corners: intp [4, P], flat indices into an image: above left, above right, below left, below right.
        pixel: intp [P], flat index of a pixel in its own grid.
        start: intp [P], number of pixels in all grids before its own.
        stride: intp [P], number of pixels in its own grid.
        values_from: index of the first pixel of the grids that keep their values.
    """

    def __init__(self, source: tuple[int, int], sizes: Sequence[tuple[int, int]], thresholded: int) -> None:
        self.source = source
        self.axes = [(_axis(source[0], h), _axis(source[1], w)) for h, w in sizes]
        corners = [
            [(line[:, None] * source[1] + column).reshape(-1) for line in (y.low, y.high) for column in (x.low, x.high)]
            for y, x in self.axes
        ]
        self.corners = np.concatenate([np.stack(four) for four in corners], axis=1)
        areas = np.array([h * w for h, w in sizes], np.intp)
        self.stride = np.repeat(areas, areas)
        self.start = np.repeat(np.cumsum(areas) - areas, areas)
        self.pixel = np.arange(len(self.stride)) - self.start
        self.values_from = int(areas[:thresholded].sum())

    def weights(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return the weights (y low, y high, x low, x high) of pixels of the last grid, float32 [len(pixels)] each."""
        y, x = self.axes[-1]
        row, column = np.divmod(self.pixel[pixels], len(x.low))
        return y.low_weight[row], y.high_weight[row], x.low_weight[column], x.high_weight[column]


@dataclass(frozen=True)
class _Axis:
    """One axis of a bilinear resize: ``low_weight * source[low] + high_weight * source[high]`` for each output."""

    low: np.ndarray  # intp
    high: np.ndarray  # intp
    low_weight: np.ndarray  # float32
    high_weight: np.ndarray  # float32


def _axis(source: int, target: int) -> _Axis:
    """Return the axis that resizes ``source`` pixels to ``target`` (both at least 1).

    Positions are those of ``torch.nn.functional.interpolate(mode="bilinear", align_corners=False)`` to the last bit:
    whether a weight is 0 decides which pixels a thresholded mask covers.
    """
    scale = np.float32(source) / np.float32(target)
    # torch computes scale * (index + 0.5) - 0.5 with one rounding to float32. float64 holds the product exactly.
    exact = np.float64(scale) * (np.arange(target) + 0.5) - 0.5
    position = np.maximum(exact.astype(np.float32), np.float32(0))
    low = np.minimum(position.astype(np.intp), source - 1)
    high = np.minimum(low + 1, source - 1)
    high_weight = np.clip(position - low.astype(np.float32), np.float32(0), np.float32(1))
    low_weight = np.float32(1) - high_weight
    return _Axis(np.where(low_weight > 0, low, high), np.where(high_weight > 0, high, low), low_weight, high_weight)


def _interpolate(
    corners: np.ndarray, y_low: np.ndarray, y_high: np.ndarray, x_low: np.ndarray, x_high: np.ndarray
) -> np.ndarray:
    """Interpolate four boolean corners [4, ..., P], in the order of `_Plan.corners`, bilinearly to float32."""
    above_left, above_right, below_left, below_right = corners.astype(np.float32)
    above = above_left * x_low + above_right * x_high
    below = below_left * x_low + below_right * x_high
    result: np.ndarray = above * y_low + below * y_high
    return result
