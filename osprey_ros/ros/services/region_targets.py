"""Find the frame and the regions that a request refers to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from osprey_ros.errors import InputError, RegionError
from osprey_ros.messages.regions import part_of
from osprey_ros.messages.stamps import NANOSECONDS
from osprey_ros.pipeline import Pipeline
from osprey_ros.regions.masks import MaskCrop
from osprey_ros.regions.regions import Regions, regions_from_crops
from osprey_ros.scene.history import ObservedFrame
from osprey_ros.scene.recall import recent_frame, stamp_text, unknown_track


@dataclass(frozen=True)
class Target:
    """One or more regions of a frame, with the track id of each; 0 for a region without a known object."""

    seen: ObservedFrame
    regions: Regions
    track_ids: tuple[int, ...]


def target_of(request: Any, pipeline: Pipeline) -> Target:
    """Return the target of a DescribeRegion request, of the service or the action. Raises InputError."""
    track_ids = [int(track_id) for track_id in request.track_ids]
    for track_id in track_ids:
        if track_id < 1:  # 0 marks forgotten objects in the latest frames
            raise unknown_track(track_id)
    seen = recent_frame(pipeline.memory, track_ids, request.stamp.sec * NANOSECONDS + request.stamp.nanosec)
    height, width = seen.regions.shape
    parts: list[MaskCrop] = []
    owners: list[int] = []
    for track_id in track_ids:
        parts.append(_part(seen, _row_of(track_id, seen)))
        owners.append(track_id)
    for point in request.points:
        row = _row_at(point.x, point.y, seen)
        parts.append(_part(seen, row))
        owners.append(int(seen.track_ids[row]))
    for number, region in enumerate(request.regions, start=1):
        try:
            part = part_of(region, height, width)
        except RegionError as error:
            raise InputError(f"region {number} of the request: {error}") from error
        if not part.mask.any():
            raise InputError(f"region {number} of the request has no pixel inside the image of {width}x{height}")
        parts.append(part)
        owners.append(0)
    if not parts:
        raise InputError("the request is empty; set track_ids, points or regions")
    return Target(seen, regions_from_crops(parts, range(1, len(parts) + 1), height, width), tuple(owners))


def _row_of(track_id: int, seen: ObservedFrame) -> int:
    rows = (seen.track_ids == track_id).nonzero()[0]
    if not len(rows):
        raise InputError(f"track {track_id} is not in the frame {stamp_text(seen.stamp)}")
    return int(rows[0])


def _row_at(x: float, y: float, seen: ObservedFrame) -> int:
    """Return the row of the smallest region that covers a pixel."""
    height, width = seen.regions.shape
    if not (-0.5 <= x < width - 0.5 and -0.5 <= y < height - 0.5):  # NaN, too
        raise InputError(f"the point ({x:g}, {y:g}) is outside the image of {width}x{height} pixels")
    column, line = round(x), round(y)
    covering = []
    for row, (left, top, wide, tall) in enumerate(seen.regions.boxes):
        inside = left <= column < left + wide and top <= line < top + tall
        if inside and seen.regions.crop(row)[line - top, column - left]:
            covering.append(row)
    if not covering:
        raise InputError(f"no region covers the point ({x:g}, {y:g}); send the region as a box or a mask")
    return min(covering, key=lambda row: int(seen.regions.areas[row]))


def _part(seen: ObservedFrame, row: int) -> MaskCrop:
    left, top = (int(v) for v in seen.regions.boxes[row][:2])
    return MaskCrop(left, top, seen.regions.crop(row))
