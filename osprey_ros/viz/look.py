"""Views of a recent frame for people and agents: the whole image or a crop around objects, plain or as an overlay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from osprey_ros.regions.regions import Regions
from osprey_ros.scene.history import ObservedFrame
from osprey_ros.scene.types import Snapshot
from osprey_ros.viz.overlay import draw_regions

SIDE = 768  # pixels of the longer side, by default
MAX_SIDE = 2048
_MARGIN, _LEAST_MARGIN = 0.25, 12  # around the objects of a crop: share of their box, and pixels
_QUALITY = 85  # of JPEG


@dataclass(frozen=True)
class View:
    """A part of an image.

    Attributes:
        stamp, frame_id: Of the image.
        box: x, y, width and height of the part in pixels of the image.
        jpeg: The part as a JPEG file; smaller than the box if it was reduced.
    """

    stamp: int
    frame_id: str
    box: tuple[int, int, int, int]
    jpeg: bytes = field(repr=False)


def view_of(seen: ObservedFrame, scene: Snapshot, track_ids: Sequence[int], with_overlay: bool, side: int) -> View:
    """Return a view of a frame.

    Args:
        seen: The frame; it has a region of each of ``track_ids``.
        scene: The scene, for the words of the overlay.
        track_ids: The objects to show, with what is around them; none for the whole image.
        with_overlay: Whether regions and words are drawn: of ``track_ids``, or of all objects.
        side: Largest number of pixels of the longer side, from 1 up.
    """
    owners = seen.track_ids
    shown = np.isin(owners, list(track_ids)) if track_ids else owners > 0
    image = seen.rgb
    if with_overlay and shown.any():
        regions = seen.regions.take(np.flatnonzero(shown))
        words = {thing.track_id: thing.description or thing.category for thing in scene.objects}
        labels = [f"{track} {words.get(track, '')}".strip() for track in owners[shown].tolist()]
        image = image.copy()
        draw_regions(image, regions, labels, color_ids=owners[shown].tolist())
    left, top, wide, tall = _around(seen.regions, shown) if track_ids else (0, 0, image.shape[1], image.shape[0])
    part = image[top : top + tall, left : left + wide]
    factor = side / max(wide, tall)
    if factor < 1:
        size = (max(1, round(wide * factor)), max(1, round(tall * factor)))
        part = cv2.resize(part, size, interpolation=cv2.INTER_AREA)
    _, file = cv2.imencode(".jpg", np.ascontiguousarray(part[:, :, ::-1]), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return View(seen.stamp, seen.frame_id, (left, top, wide, tall), file.tobytes())


def _around(regions: Regions, shown: np.ndarray) -> tuple[int, int, int, int]:
    boxes = regions.boxes[shown]
    low, high = boxes[:, :2].min(axis=0), (boxes[:, :2] + boxes[:, 2:]).max(axis=0)
    margin = np.maximum(_LEAST_MARGIN, _MARGIN * (high - low)).astype(int)
    left, top = (int(v) for v in np.maximum(0, low - margin))
    right, bottom = (int(v) for v in np.minimum(regions.shape[::-1], high + margin))
    return left, top, right - left, bottom - top
