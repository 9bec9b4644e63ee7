"""Conversion of RegionArray, Detection2DArray and yolo_msgs/DetectionArray messages into regions of an image."""

from __future__ import annotations

import logging
from math import inf, isfinite
from typing import TYPE_CHECKING, Any

import numpy as np

from osprey_ros.errors import InputError, RegionError
from osprey_ros.frame import RegionLabel
from osprey_ros.regions.masks import MaskCrop, mask_from_box, mask_from_polygon, mask_from_rle
from osprey_ros.regions.regions import MAX_ID, Regions, regions_from_crops
from osprey_ros.system.warn_once import warn_once

if TYPE_CHECKING:
    from osprey_interfaces.msg import Region, RegionArray  # type: ignore[attr-defined]

_LOGGER = logging.getLogger(__name__)
RLE, POLYGON, BOX = 0, 1, 2  # the constants of osprey_interfaces/Region
MAX_PIXELS = 1 << 27  # of the image that a message says its regions are of; more than any camera has
MAX_MASK_PIXELS = 1 << 29  # of all masks of a message together, a byte each


def regions_from_message(message: RegionArray) -> tuple[Regions, dict[int, RegionLabel]]:
    """Convert a RegionArray, whose regions may overlap.

    A region that is invalid, or has no pixel inside the image, is left out; it is logged once for its id.

    Returns:
        The regions, and the labels by region id.

    Raises:
        InputError: All regions are invalid. The text names the id of the first.
    """
    height, width = message.height, message.width
    if not height or not width:
        raise InputError(f"the image size of the regions is {width}x{height} pixels; set height and width")
    parts = _Parts("region", height, width)
    for region in message.regions:
        try:
            parts.add(int(region.id), part_of(region, height, width))
        except RegionError as error:
            parts.leave_out(int(region.id), error)
    labels = {
        int(region.id): RegionLabel(region.label, _score(region))
        for region in message.regions
        if region.label or _score(region)
    }
    return parts.regions(), labels


def regions_from_detections(message: Any, height: int, width: int) -> tuple[Regions, dict[int, RegionLabel]]:
    """Convert the boxes of a vision_msgs/Detection2DArray to regions of an image, also of Foxy and Galactic.

    The ids of the detections are kept if all are distinct positive integers (as from a tracker). Otherwise they are
    numbered from 1. The label is the hypothesis with the highest score. A box that is invalid, or has no pixel inside
    the image, is left out; it is logged once for its id.

    Args:
        message: detections.
        height, width: size of the image in pixels.

    Returns:
        The regions, and the labels by region id.

    Raises:
        InputError: All boxes are invalid. The text names the first detection.
    """
    ids = _detection_ids([_detection_id(detection) for detection in message.detections])
    parts, labels = _Parts("detection", height, width), {}
    for number, detection in zip(ids, message.detections, strict=True):
        box = detection.bbox
        # Up to Galactic, the center is a geometry_msgs/Pose2D without the field position.
        position = getattr(box.center, "position", box.center)
        center = (float(position.x), float(position.y))
        size = (float(box.size_x), float(box.size_y))
        try:
            parts.add(number, mask_from_box(center, size, float(box.center.theta), height, width))
        except RegionError as error:
            parts.leave_out(number, error)
        # In Foxy, the result itself has the class, under the name id.
        hypotheses = [getattr(result, "hypothesis", result) for result in getattr(detection, "results", ())]
        if hypotheses:
            best = max(hypotheses, key=lambda hypothesis: hypothesis.score if isfinite(hypothesis.score) else -inf)
            label = best.class_id if hasattr(best, "class_id") else best.id
            labels[number] = RegionLabel(str(label), _score(best))
    return parts.regions(), labels


def regions_from_yolo(message: Any, height: int, width: int) -> tuple[Regions, dict[int, RegionLabel]]:
    """Convert a yolo_msgs/DetectionArray of yolo_ros: the outlines of masks, or boxes where there is no mask.

    Ids are those of the tracker, by the rule of `regions_from_detections`; the label is the name of the class. A
    detection that is invalid, or has no pixel inside the image, is left out; it is logged once for its id.

    Args:
        message: Detections.
        height, width: Size of the image in pixels, unless the masks give the size of the image that they were made on.

    Returns:
        The regions, of the size that the masks give, and the labels by region id.

    Raises:
        InputError: All detections are invalid, or the masks are of images of several sizes.
    """
    outlines = [detection.mask for detection in message.detections if len(detection.mask.data)]
    sizes = {(int(mask.height), int(mask.width)) for mask in outlines if mask.height > 0 and mask.width > 0}
    if len(sizes) > 1:
        given = ", ".join(f"{w}x{h}" for h, w in sorted(sizes))
        raise InputError(f"the masks are of images of several sizes ({given}); publish detections of one image")
    height, width = sizes.pop() if sizes else (height, width)
    ids = _detection_ids([_detection_id(detection) for detection in message.detections])
    parts, labels = _Parts("detection", height, width), {}
    for number, detection in zip(ids, message.detections, strict=True):
        box, corners = detection.bbox, [(point.x, point.y) for point in detection.mask.data]
        center, size = (box.center.position.x, box.center.position.y), (box.size.x, box.size.y)
        try:
            if corners:
                parts.add(number, mask_from_polygon(np.array(corners), height, width))
            else:
                parts.add(number, mask_from_box(center, size, float(box.center.theta), height, width))
        except RegionError as error:
            parts.leave_out(number, error)
        if detection.class_name or _score(detection):
            labels[number] = RegionLabel(str(detection.class_name), _score(detection))
    return parts.regions(), labels


def _score(source: Any) -> float:
    """Return the score of a region or hypothesis; 0 if it is not finite, which a scene file could not store."""
    score = float(source.score)
    if isfinite(score):
        return score
    warn_once(_LOGGER, "score", f"a score of the regions is {score}; scores that are not finite count as 0")
    return 0.0


class _Parts:
    """The masks of one message that can be used.

    Args:
        name: What warnings and errors call one of them.
        height, width: Size of their image in pixels. Raises InputError if it is too large.
    """

    def __init__(self, name: str, height: int, width: int) -> None:
        if height * width > MAX_PIXELS:
            raise InputError(
                f"the image size of the regions is {width}x{height} pixels, more than {MAX_PIXELS} in all; set the "
                "height and width of the image"
            )
        self._shape = (height, width)
        self._pixels = 0  # of all masks
        self._name, self._masks = name, dict[int, MaskCrop]()
        self._reason = ""  # the first one for which a mask was left out

    def add(self, number: int, mask: MaskCrop) -> None:
        """Add a mask with its id. Raises RegionError for an id that is not possible or was added before."""
        if not 1 <= number <= MAX_ID:
            raise RegionError(f"region ids must be 1 to {MAX_ID} (0 is background), not {number}")
        if number in self._masks:
            raise RegionError("its id is given twice; give every region an id of its own")
        if self._pixels + mask.mask.size > MAX_MASK_PIXELS:
            raise RegionError(
                f"the masks before it have {self._pixels} pixels, and a message may have {MAX_MASK_PIXELS}; publish "
                "fewer or smaller regions"
            )
        self._pixels += mask.mask.size
        self._masks[number] = mask
        if not mask.mask.any():
            self._warn(number, "it has no pixel inside the image")

    def leave_out(self, number: int, error: RegionError) -> None:
        """Leave out a mask that cannot be used."""
        self._reason = self._reason or f"{self._name} {number}: {error}"
        self._warn(number, str(error))

    def regions(self) -> Regions:
        """Return the regions of the image. Raises InputError if all were left out, or need too much memory."""
        if self._reason and not self._masks:
            raise InputError(self._reason)
        try:
            return regions_from_crops(list(self._masks.values()), list(self._masks), *self._shape)
        except RegionError as error:
            raise InputError(str(error)) from error

    def _warn(self, number: int, reason: str) -> None:
        warn_once(_LOGGER, f"{self._name} {number}", f"{self._name} {number} is left out: {reason}")


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
