"""Masks in the formats of data sets: COCO polygons, plain and compressed run lengths, polygons inside a box."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as coco_masks


def with_area(data: Any) -> Any:
    """Return a mask as a file has it, without polygons of fewer than three points.

    They have no area; published files and labeling tools have them now and then, and COCO's tools take four numbers
    in front for a box.
    """
    return [p for p in data if not isinstance(p, list) or len(p) >= 6] if isinstance(data, list) else data


@dataclass(frozen=True)
class Segmentation:
    """One region's mask as stored, decoded on demand; height and width are those of the image."""

    data: Any  # polygons [[x, y, x, y, ...], ...], or {"counts": ..., "size": [height, width]}
    height: int
    width: int

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise ValueError(f"the image's size is {self.width}x{self.height}")
        if isinstance(self.data, dict):
            if "counts" not in self.data or "size" not in self.data:
                raise ValueError("run lengths need 'counts' and 'size'")
            if list(self.data["size"]) != [self.height, self.width]:
                raise ValueError(
                    f"the mask's size (height, width) is {list(self.data['size'])}, the image's is "
                    f"{[self.height, self.width]}"
                )
            counts = self.data["counts"]
            if isinstance(counts, list) and sum(counts) != self.height * self.width:
                raise ValueError(
                    f"the mask's run lengths add up to {sum(counts)} pixels, the image has {self.height * self.width}"
                )
            if not isinstance(counts, list):
                self._check_encoded()
        elif not _polygons(self.data):
            raise ValueError("a mask must be polygons of three points or more, given as numbers, or run lengths")

    def _check_encoded(self) -> None:
        """Raise ValueError if compressed run lengths do not fit the image."""
        try:
            coco_masks.decode(self._encoded())
        except (TypeError, ValueError, AttributeError) as error:
            raise ValueError("the mask's compressed run lengths do not fit its size") from error

    @property
    def area(self) -> int:
        """Number of pixels inside the image."""
        return int(coco_masks.area(self._encoded()))

    def decode(self) -> np.ndarray:
        """Return the mask, bool [height, width]."""
        result: np.ndarray = coco_masks.decode(self._encoded()).astype(bool)
        return result

    def _encoded(self) -> Any:
        """Return the mask as pycocotools encodes it."""
        if isinstance(self.data, list):
            parts = coco_masks.frPyObjects([list(map(float, p)) for p in self.data], self.height, self.width)
            return coco_masks.merge(parts)
        if isinstance(self.data["counts"], list):
            return coco_masks.frPyObjects(self.data, self.height, self.width)
        counts = self.data["counts"]
        return {**self.data, "counts": counts.encode() if isinstance(counts, str) else counts}


def _polygons(data: Any) -> bool:
    return (
        isinstance(data, list)
        and len(data) > 0
        and all(isinstance(p, list) and len(p) >= 6 and len(p) % 2 == 0 for p in data)
        and all(isinstance(v, int | float) for p in data for v in p)
    )
