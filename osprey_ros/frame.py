"""A frame as plain data: an image and its regions, without ROS."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from osprey_ros._moved import old_names
from osprey_ros.errors import InputError, RegionError
from osprey_ros.regions.geometry import Extent, extents, surface_points
from osprey_ros.regions.regions import Regions, all_regions
from osprey_ros.regions.resize import fitted
from osprey_ros.scene.pose import ObjectPose, pose_of
from osprey_ros.scene.transforms import Transform


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
        fixed_frame: Frame in which objects have poses, "" for none.
        camera_pose: From the camera's optical frame to the fixed frame at the stamp; None while it is unknown.
    """

    stamp: int
    frame_id: str
    rgb: np.ndarray
    regions: np.ndarray | Regions
    labels: Mapping[int, RegionLabel] = field(default_factory=dict)
    depth: np.ndarray | None = None
    camera_matrix: np.ndarray | None = None
    fixed_frame: str = ""
    camera_pose: Transform | None = None

    def regions_above(self, min_area: int, masks_anyway: bool = False) -> tuple[Regions, str]:
        """Return the regions of at least ``min_area`` pixels, and why there is none ("" if there is one).

        Those of an id image are sorted by id. Regions of another resolution than the image are resized to it by nearest
        neighbor, which is logged once.

        Args:
            min_area: In pixels of the image.
            masks_anyway: As in `regions_from_id_image`.

        Raises InputError if depth and image differ in size, or segmentation and image in the ratio of width and height,
        RegionError for an invalid segmentation.
        """
        shape = self.rgb.shape[0], self.rgb.shape[1]
        self._check_depth(shape)
        regions = self.regions if isinstance(self.regions, Regions) else all_regions(self.regions, masks_anyway)
        try:
            regions = fitted(regions, shape, "the regions of the segmentation")
        except RegionError as error:
            raise InputError(str(error)) from error
        large = np.flatnonzero(regions.areas >= min_area)
        if len(large):
            return (regions if len(large) == len(regions.ids) else regions.take(large)), ""
        if len(regions.ids):
            reason = f"no region is left: all {len(regions.ids)} are smaller than {min_area} pixels"
        elif isinstance(self.regions, Regions):
            reason = "the array has no regions"
        else:
            reason = "the id image has no region: every pixel is background (0 or below)"
        return regions.take(large), reason

    def extents(self, regions: Regions) -> list[Extent | None]:
        """Return position and size of each region, None where they are not known from depth."""
        if self.depth is None or self.camera_matrix is None:
            return [None] * len(regions.ids)
        return extents(regions, self.depth, self.camera_matrix)

    def poses(self, regions: Regions) -> list[ObjectPose | None]:
        """Return the pose of each region in the fixed frame, None where depth or the camera's pose is unknown."""
        if self.depth is None or self.camera_matrix is None or self.camera_pose is None:
            return [None] * len(regions.ids)
        found: list[ObjectPose | None] = []
        for row in range(len(regions.ids)):
            points = surface_points(regions, row, self.depth, self.camera_matrix)
            if points is None:
                found.append(None)
                continue
            eye = self.camera_pose.translation
            found.append(pose_of(self.camera_pose.apply(points), eye, self.fixed_frame, self.stamp))
        return found

    def _check_depth(self, shape: tuple[int, int]) -> None:
        height, width = shape
        if self.depth is not None and self.depth.shape != (height, width):
            raise InputError(
                f"the depth is {self.depth.shape[1]}x{self.depth.shape[0]} pixels and the image {width}x{height}: "
                "publish depth that is registered to the image (depth_image_proc does that), or set use_depth to false"
            )


if not TYPE_CHECKING:  # a type checker would accept any name
    __getattr__ = old_names("frame")
