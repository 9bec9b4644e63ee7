"""A frame as plain data: a picture and its regions, of one moment. Knows nothing of ROS."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from osprey_ros._moved import old_names
from osprey_ros.errors import InputError, NoRegionError
from osprey_ros.regions.geometry import Extent, extents
from osprey_ros.regions.regions import Regions, regions_from_id_image


@dataclass(frozen=True)
class RegionLabel:
    """What a segmentation or a detector says of a region: a class name ("" for none) and how sure it is, 0 to 1."""

    label: str
    score: float


@dataclass(frozen=True)
class Frame:
    """A picture and its regions, of one moment; with depth and camera where they are known.

    Attributes:
        stamp: in nanoseconds.
        frame_id: the camera's optical frame.
        rgb: uint8 [H, W, 3].
        regions: an id image, uint8, uint16 or int32 [H, W], 0 being background; or regions that may overlap.
        labels: what is known of regions beforehand, by id; may be empty.
        depth: float32 [H, W], metres along the optical axis, unknown where it is not finite or not above 0.
        camera_matrix: float64 [3, 3] in pixels, the centre of the first one at (0, 0).
    """

    stamp: int
    frame_id: str
    rgb: np.ndarray
    regions: np.ndarray | Regions
    labels: Mapping[int, RegionLabel] = field(default_factory=dict)
    depth: np.ndarray | None = None
    camera_matrix: np.ndarray | None = None

    def check_sizes(self) -> None:
        """Raises InputError where segmentation or depth are of another size than the picture."""
        height, width = self.rgb.shape[:2]
        shape = self.regions.shape
        if shape != (height, width):
            raise InputError(
                f"the segmentation is {shape[1]}x{shape[0]} pixels and the image {width}x{height}: "
                "publish both in the same size (scale the segmentation with nearest neighbour)"
            )
        if self.depth is not None and self.depth.shape != (height, width):
            raise InputError(
                f"the depth is {self.depth.shape[1]}x{self.depth.shape[0]} pixels and the image {width}x{height}: "
                "publish depth that is registered to the image (depth_image_proc does that), or set use_depth to false"
            )

    def large_regions(self, min_area: int) -> Regions:
        """The regions of at least ``min_area`` pixels; those of an id image by rising id.

        Raises NoRegionError where there is none, RegionError for a segmentation that cannot be used.
        """
        regions = self.regions
        if not isinstance(regions, Regions):
            return regions_from_id_image(regions, min_area=min_area)
        if not len(regions):
            raise NoRegionError("there is no region in the array")
        large = regions.areas >= min_area
        if large.all():
            return regions
        if not large.any():
            raise NoRegionError(f"no region is left: all {len(regions)} are smaller than {min_area} pixels")
        return regions.select(regions.ids[large])

    def places(self, regions: Regions) -> list[Extent | None]:
        """Where each region is, None where depth does not say it."""
        if self.depth is None or self.camera_matrix is None:
            return [None] * len(regions)
        return extents(regions, self.depth, self.camera_matrix)


if not TYPE_CHECKING:  # a type checker would accept any name
    __getattr__ = old_names("frame")
