"""Masks in the formats of data sets: COCO polygons, plain and compressed run lengths, polygons inside a box."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as coco_masks

from osprey_ros.errors import RegionError
from osprey_ros.regions.masks import counts_from_text

_MAX_COORDINATE = 1_000_000  # pixels; pycocotools computes with 32-bit integers


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
            # pycocotools reads and writes beyond its memory if run lengths are damaged.
            counts = _checked_counts(self.data["counts"])
            total, pixels = sum(counts), self.height * self.width
            if total != pixels:
                raise ValueError(f"the mask's run lengths add up to {total} pixels, the image has {pixels}")
        elif not _polygons(self.data):
            raise ValueError(
                "a mask must be run lengths, or polygons of three points or more with numbers from "
                f"-{_MAX_COORDINATE:,} to {_MAX_COORDINATE:,}"
            )

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


def _checked_counts(counts: Any) -> list[int]:
    """Return run lengths, plain or compressed, as numbers. Raises ValueError if they are no run lengths."""
    if isinstance(counts, str | bytes):
        try:
            return [int(count) for count in counts_from_text(counts)]
        except RegionError as error:
            raise ValueError(str(error)) from error
    if not isinstance(counts, list) or any(type(count) is not int or count < 0 for count in counts):
        raise ValueError("run lengths must be a text or a list of whole numbers of 0 or more")
    return counts


def _polygons(data: Any) -> bool:
    return (
        isinstance(data, list)
        and len(data) > 0
        and all(isinstance(p, list) and len(p) >= 6 and len(p) % 2 == 0 for p in data)
        and all(isinstance(v, int | float) and abs(v) <= _MAX_COORDINATE for p in data for v in p)
    )
