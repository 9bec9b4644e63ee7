"""A frame as plain data: an image and its regions, without ROS."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from osprey_ros._moved import old_names
from osprey_ros.errors import InputError
from osprey_ros.regions.geometry import Extent, extents
from osprey_ros.regions.regions import Regions, all_regions


@dataclass(frozen=True)
class RegionLabel:
    """Class of a region from a segmentation or a detector, "" for none, and its score, 0 to 1."""

    label: str
    score: float


@dataclass(frozen=True)
class Frame:
    """An image and its regions, with depth and camera matrix if they are known.

    Attributes:
        stamp: In nanoseconds.
        frame_id: The camera's optical frame.
        rgb: uint8 [H, W, 3].
        regions: An id image, integers [H, W], where 0 and below are background; or regions, which may overlap.
        labels: Classes of regions by id; may be empty.
        depth: float32 [H, W], meters along the optical axis. Values that are not finite or not above 0 are unknown.
        camera_matrix: float64 [3, 3] in pixels; the center of the first pixel is (0, 0).
    """

    stamp: int
    frame_id: str
    rgb: np.ndarray
    regions: np.ndarray | Regions
    labels: Mapping[int, RegionLabel] = field(default_factory=dict)
    depth: np.ndarray | None = None
    camera_matrix: np.ndarray | None = None

    def regions_above(self, min_area: int) -> tuple[Regions, str]:
        """Return the regions of at least ``min_area`` pixels, and why there is none ("" if there is one).

        Those of an id image are sorted by id. Raises InputError if segmentation, depth and image differ in size,
        RegionError for an invalid segmentation.
        """
        self._check_sizes()
        regions = self.regions if isinstance(self.regions, Regions) else all_regions(self.regions)
        large = np.flatnonzero(regions.areas >= min_area)
        if len(large):
            return (regions if len(large) == len(regions) else regions.take(large)), ""
        if len(regions):
            reason = f"no region is left: all {len(regions)} are smaller than {min_area} pixels"
        elif regions is self.regions:
            reason = "the array has no regions"
        else:
            reason = "the id image has no region: every pixel is background (0 or below)"
        return regions.take(large), reason

    def extents(self, regions: Regions) -> list[Extent | None]:
        """Return position and size of each region, None where they are not known from depth."""
        if self.depth is None or self.camera_matrix is None:
            return [None] * len(regions)
        return extents(regions, self.depth, self.camera_matrix)

    def _check_sizes(self) -> None:
        height, width = self.rgb.shape[:2]
        shape = self.regions.shape
        if shape != (height, width):
            raise InputError(
                f"the segmentation is {shape[1]}x{shape[0]} pixels and the image {width}x{height}: "
                "publish both in the same size (scale the segmentation with nearest neighbor)"
            )
        if self.depth is not None and self.depth.shape != (height, width):
            raise InputError(
                f"the depth is {self.depth.shape[1]}x{self.depth.shape[0]} pixels and the image {width}x{height}: "
                "publish depth that is registered to the image (depth_image_proc does that), or set use_depth to false"
            )


if not TYPE_CHECKING:  # a type checker would accept any name
    __getattr__ = old_names("frame")
