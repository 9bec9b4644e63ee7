"""Everything in an image: clicks on a grid or where objects are likely, and what is kept of their masks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from osprey_ros.segmenter.engines import SegmenterEngines
from osprey_ros.segmenter.input_image import Placement
from osprey_ros.segmenter.masks import LowMask, distinct, low_mask, stability
from osprey_ros.segmenter.prompts import points_of_objects
from osprey_ros.segmenter.spec import EverythingSpec, SegmenterSpec
from osprey_ros.system.call import Call


class Everything:
    """Finds all regions of the image that the engines encoded last.

    Args:
        engines: The engines.
        spec: Settings of the segmenter.
        settings: Settings of this mode.
        placement: Where the image lies in the encoder's input.

    Attributes:
        low_shape: (h, w) of the decoder's whole output, once `find` has returned.
    """

    def __init__(
        self, engines: SegmenterEngines, spec: SegmenterSpec, settings: EverythingSpec, placement: Placement
    ) -> None:
        self._engines, self._spec, self._settings, self._placement = engines, spec, settings, placement
        self._batch = min(settings.batch, engines.most_prompts)
        self._covered: np.ndarray | None = None  # bool [rows, columns] of `objectness`: in a mask that was found
        self.low_shape = (1, 1)

    def find(self, call: Call) -> list[LowMask]:
        """Return the masks by descending score. Errors are those of `SegmenterEngines.decode`."""
        found: list[LowMask] = []
        for points in self._grid() if self._engines.objectness is None else self._likely(self._engines.objectness):
            coords, labels = points_of_objects(points).encoded(self._placement, self._spec)
            logits, scores = self._engines.decode(coords, labels, call)
            self.low_shape = (logits.shape[2], logits.shape[3])
            found += self._good(logits, scores)
        return distinct(found, self._settings.max_overlap, self._spec.mask_threshold)[: self._settings.max_regions]

    def _grid(self) -> Iterator[np.ndarray]:
        """Yield the points of a regular grid, float64 [n, 2] each."""
        side, (height, width) = self._settings.points_per_side, self._placement.shape
        along = (np.arange(side) + 0.5) / side
        x, y = np.meshgrid(along * width, along * height)
        points = np.stack([x, y], axis=-1).reshape(-1, 2) - self._spec.pixel_center
        for start in range(0, len(points), self._batch):
            yield points[start : start + self._batch]

    def _likely(self, objectness: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the centers of cells of ``objectness``, the best first, that no mask found so far covers.

        A run takes cells at a distance from each other, because the masks of the next ones often cover both.
        """
        rows, columns = self._placement.cells(*objectness.shape)
        cells = np.array(self._placement.input_size) / objectness.shape  # height and width in pixels of the input
        values = objectness[:rows, :columns]
        self._covered = values < self._settings.objectness_threshold
        apart = np.maximum(np.ceil(self._settings.point_spacing / cells).astype(int) - 1, 0)
        left = self._settings.max_prompts
        while left > 0:
            picked = _spread(values, ~self._covered, min(self._batch, left), apart)
            if not len(picked):
                return
            left -= len(picked)
            self._covered[picked[:, 0], picked[:, 1]] = True
            yield ((picked + 0.5) * cells)[:, ::-1] / self._placement.scale - self._spec.pixel_center

    def _good(self, logits: np.ndarray, scores: np.ndarray) -> list[LowMask]:
        """Return the masks that are good enough. ``logits``: float32 [P, M, h, w], ``scores``: float32 [P, M]."""
        settings, threshold = self._settings, self._spec.mask_threshold
        if settings.all_candidates:
            prompts, candidates = np.nonzero(scores >= settings.min_score)
        else:
            best = scores.argmax(axis=1)
            prompts = np.flatnonzero(scores.max(axis=1) >= settings.min_score)
            candidates = best[prompts]
        rows, columns = self._placement.cells(*logits.shape[2:])
        smallest = settings.min_area / self._placement.pixels_of(*logits.shape[2:])
        found = []
        for prompt, candidate in zip(prompts, candidates, strict=True):
            values = logits[prompt, candidate, :rows, :columns]
            if stability(values, threshold, settings.stability_offset) < settings.min_stability:
                continue
            self._cover(values > threshold)
            mask = low_mask(values, scores[prompt, candidate], threshold)
            if mask is not None and mask.area >= smallest:
                found.append(mask)
        return found

    def _cover(self, mask: np.ndarray) -> None:
        """Note which cells of ``objectness`` have their centers in a mask, bool [h, w]."""
        if self._covered is None:
            return
        down, across = (
            np.minimum(((np.arange(cells) + 0.5) * low / cells).astype(int), low - 1)
            for cells, low in zip(self._covered.shape, mask.shape, strict=True)
        )
        self._covered |= mask[down[:, None], across]


def _spread(values: np.ndarray, free: np.ndarray, count: int, apart: np.ndarray) -> np.ndarray:
    """Return the free cells with the highest values, intp [n, 2] as row and column, at most ``count``.

    Args:
        values: float32 [rows, columns].
        free: bool [rows, columns].
        count: The most cells.
        apart: Rows and columns around a cell without another one.
    """
    free, picked = free.copy(), []
    cells = np.argwhere(free)
    for row, column in cells[np.argsort(-values[free], kind="stable")]:
        if free[row, column]:
            picked.append((row, column))
            top, left = np.maximum((row, column) - apart, 0)
            free[top : row + apart[0] + 1, left : column + apart[1] + 1] = False
            if len(picked) == count:
                break
    return np.array(picked, np.intp).reshape(-1, 2)
