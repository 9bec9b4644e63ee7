"""Conversion of RegionArray and Detection2DArray messages into regions of an image."""

from __future__ import annotations

from math import inf, isfinite
from typing import TYPE_CHECKING, Any

import numpy as np

from osprey_ros.errors import InputError, RegionError
from osprey_ros.frame import RegionLabel
from osprey_ros.regions.masks import MaskCrop, mask_from_box, mask_from_polygon, mask_from_rle
from osprey_ros.regions.regions import MAX_ID, Regions, regions_from_crops

if TYPE_CHECKING:
    from osprey_interfaces.msg import Region, RegionArray  # type: ignore[attr-defined]

RLE, POLYGON, BOX = 0, 1, 2  # the constants of osprey_interfaces/Region


def regions_from_message(message: RegionArray) -> tuple[Regions, dict[int, RegionLabel]]:
    """Convert a RegionArray, whose regions may overlap.

    Returns:
        The regions, and the labels by region id.

    Raises:
        InputError: A region is invalid. The text names its id.
    """
    height, width = message.height, message.width
    if not height or not width:
        raise InputError(f"the image size of the regions is {width}x{height} pixels; set height and width")
    parts = []
    for region in message.regions:
        try:
            parts.append(part_of(region, height, width))
        except RegionError as error:
            raise InputError(f"region {region.id}: {error}") from error
    labels = {
        int(region.id): RegionLabel(region.label, _score(region))
        for region in message.regions
        if region.label or _score(region)
    }
    return _regions(parts, [int(region.id) for region in message.regions], height, width), labels


def regions_from_detections(message: Any, height: int, width: int) -> tuple[Regions, dict[int, RegionLabel]]:
    """Convert the boxes of a vision_msgs/Detection2DArray to regions of an image, also of Foxy and Galactic.

    The ids of the detections are kept if all are distinct positive integers (as from a tracker). Otherwise they are
    numbered from 1. The label is the hypothesis with the highest score.

    Args:
        message: detections.
        height, width: size of the image in pixels.

    Returns:
        The regions, and the labels by region id.

    Raises:
        InputError: A box is invalid. The text names the detection.
    """
    ids = _detection_ids([_detection_id(detection) for detection in message.detections])
    parts, labels = [], {}
    for number, detection in zip(ids, message.detections, strict=True):
        box = detection.bbox
        # Up to Galactic, the center is a geometry_msgs/Pose2D without the field position.
        position = getattr(box.center, "position", box.center)
        center = (float(position.x), float(position.y))
        size = (float(box.size_x), float(box.size_y))
        try:
            parts.append(mask_from_box(center, size, float(box.center.theta), height, width))
        except RegionError as error:
            raise InputError(f"detection {number}: {error}") from error
        # In Foxy, the result itself has the class, under the name id.
        hypotheses = [getattr(result, "hypothesis", result) for result in getattr(detection, "results", ())]
        if hypotheses:
            best = max(hypotheses, key=lambda hypothesis: hypothesis.score if isfinite(hypothesis.score) else -inf)
            label = best.class_id if hasattr(best, "class_id") else best.id
            labels[number] = RegionLabel(str(label), _score(best))
    return _regions(parts, ids, height, width), labels


def _score(source: Any) -> float:
    """Return the score of a region or hypothesis; 0 if it is not finite, which a scene file could not store."""
    score = float(source.score)
    return score if isfinite(score) else 0.0


def _regions(parts: list[MaskCrop], ids: list[int], height: int, width: int) -> Regions:
    try:
        return regions_from_crops(parts, ids, height, width)
    except RegionError as error:
        raise InputError(str(error)) from error


def part_of(region: Region, height: int, width: int) -> MaskCrop:
    """Return the mask of one region of an image of this size. Raises RegionError if the region is invalid."""
    if region.encoding == POLYGON:
        return mask_from_polygon(np.asarray(region.polygon), height, width, list(region.outlines))
    if region.encoding not in (RLE, BOX):
        raise RegionError(f"encoding {region.encoding} is not RLE ({RLE}), POLYGON ({POLYGON}) or BOX ({BOX})")
    roi = region.roi
    left, top, wide, tall = roi.x_offset, roi.y_offset, roi.width, roi.height
    if not wide and not tall:
        left, top, wide, tall = 0, 0, width, height
    if left + wide > width or top + tall > height:
        raise RegionError(f"the roi of {wide}x{tall} pixels at ({left}, {top}) exceeds the image of {width}x{height}")
    if region.encoding == BOX:
        return MaskCrop(left, top, np.ones((tall, wide), np.bool_))
    part = mask_from_rle(np.asarray(region.rle), tall, wide)
    return MaskCrop(left + part.left, top + part.top, part.mask)


def _detection_id(detection: Any) -> str:
    """Return the id of a detection; Foxy and Galactic call it tracking_id, and older releases have none."""
    return str(getattr(detection, "id", getattr(detection, "tracking_id", "")))


def _detection_ids(texts: list[str]) -> list[int]:
    if all(text.isdecimal() and 1 <= int(text) <= MAX_ID for text in texts):
        numbers = [int(text) for text in texts]
        if len(set(numbers)) == len(numbers):
            return numbers
    return list(range(1, len(texts) + 1))
