"""Masks as others write them down: run lengths (COCO's), polygons and boxes, turned into pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from osprey_ros.errors import RegionError
from osprey_ros.regions.regions import MAX_ID, Regions, image_with_room

_SUBPIXEL_BITS = 4  # OpenCV takes corners as integers with so many binary places
_FAR = 1 << 20  # pixels; corners beyond are as good as there


@dataclass(frozen=True)
class MaskCrop:
    """The part of a picture that holds a mask: ``mask``, bool [h, w], begins at column ``left`` and row ``top``."""

    left: int
    top: int
    mask: np.ndarray


def mask_from_rle(counts: np.ndarray, height: int, width: int) -> MaskCrop:
    """What run lengths, integers [n], cover of a picture: in turn outside and inside, down the columns.

    This is the order of COCO's uncompressed counts. Raises RegionError if they do not add up to all pixels.
    """
    ends = np.cumsum(np.concatenate([[0], counts]), dtype=np.int64)  # of nothing, then of each run
    if ends[-1] != height * width:
        raise RegionError(
            f"its run lengths add up to {ends[-1]} pixels, {width}x{height} are {height * width}: "
            "runs go down the columns and fill the roi, the first one is outside"
        )
    begins, stops = ends[1:-1:2], ends[2::2]  # of the runs inside
    if not len(begins):
        return MaskCrop(0, 0, np.zeros((0, 0), np.bool_))
    # Only the columns from the first pixel inside to the last one are spread out.
    left, right = int(begins[0]) // height, -(-int(stops[-1]) // height)
    edges = np.clip(ends, left * height, right * height)
    inside = np.arange(len(counts)) % 2 == 1
    mask = np.repeat(inside, np.diff(edges)).reshape(right - left, height).T
    return MaskCrop(left, 0, mask)


def rle_from_mask(mask: np.ndarray) -> np.ndarray:
    """Run lengths, uint32 [n], of a mask, bool or integers [H, W]: what `mask_from_rle` reads."""
    inside = np.asarray(mask, np.bool_).T.reshape(-1)
    changes = np.flatnonzero(np.diff(inside, prepend=False))  # an empty first run where the first pixel is inside
    return np.diff(changes, prepend=0, append=inside.size).astype(np.uint32)


def mask_from_polygon(corners: np.ndarray, height: int, width: int, outlines: Sequence[int] = ()) -> MaskCrop:
    """What a polygon covers of a picture.

    ``corners`` is [n, 2] or flat: x and y in pixels, the centre of the first pixel at (0, 0). Pixels on an outline are
    inside, one that is inside two outlines is a hole. ``outlines`` holds the number of corners of each outline, () for
    a single one. The mask is empty for a polygon outside of the picture. Raises RegionError.
    """
    flat = np.asarray(corners, np.float64).reshape(-1)
    if len(flat) % 2:
        raise RegionError(f"its polygon has {len(flat)} numbers: give x and y of each corner")
    points = flat.reshape(-1, 2)
    sizes = [int(n) for n in outlines] or [len(points)]
    if sum(sizes) != len(points):
        raise RegionError(f"its outlines have {sum(sizes)} corners in all, its polygon {len(points)}")
    if min(sizes) < 3:
        raise RegionError(f"one of its outlines has {min(sizes)} corners: a polygon has at least 3")
    if not np.isfinite(points).all():
        raise RegionError("a corner of its polygon is not a finite number")
    # Cut first: corners may lie beyond all integers.
    low = np.clip(np.floor(points.min(axis=0)), 0, (width, height)).astype(np.int64)
    high = np.clip(np.ceil(points.max(axis=0)) + 1, low, (width, height)).astype(np.int64)
    canvas = np.zeros((int(high[1] - low[1]), int(high[0] - low[0])), np.uint8)
    if canvas.size:
        near = np.clip(points - low, -_FAR, _FAR)
        fixed = np.round(near * (1 << _SUBPIXEL_BITS)).astype(np.int32)
        cv2.fillPoly(canvas, np.split(fixed, np.cumsum(sizes)[:-1]), 1, shift=_SUBPIXEL_BITS)
    return MaskCrop(int(low[0]), int(low[1]), canvas.view(np.bool_))


def mask_from_box(
    centre: tuple[float, float], size: tuple[float, float], angle: float, height: int, width: int
) -> MaskCrop:
    """What a box covers of a picture. Its edges lie between pixels: the first pixel reaches from 0 to 1.

    ``angle`` in radians, from x to y, turns it around its centre. Raises RegionError.
    """
    if not np.isfinite([*centre, *size, angle]).all() or min(size) < 0:
        raise RegionError(f"its box is no box: centre {centre}, size {size}, angle {angle}")
    if angle:
        cos, sin = np.cos(angle), np.sin(angle)
        # Through the centres of the outermost pixels, which a polygon includes.
        half = np.maximum(np.array(size) - 1, 0) / 2
        corners = half * [[-1, -1], [1, -1], [1, 1], [-1, 1]] @ np.array([[cos, sin], [-sin, cos]])
        return mask_from_polygon(corners + centre - 0.5, height, width)
    # To the nearest pixel, halves up on both sides: np.round, to even, would change the size.
    middle, half = np.array(centre) + 0.5, np.array(size) / 2
    left, top = (int(v) for v in np.clip(np.floor(middle - half), 0, (width, height)))
    right, bottom = (int(v) for v in np.clip(np.floor(middle + half), (left, top), (width, height)))
    return MaskCrop(left, top, np.ones((bottom - top, right - left), np.bool_))


def regions_from_crops(parts: Sequence[MaskCrop], ids: Sequence[int], height: int, width: int) -> Regions:
    """Regions of a picture of this size from the parts of it that they cover; they may overlap.

    Those without a pixel are left out: there may be none at the end. ``ids`` are as many different numbers from 1 to
    MAX_ID. Memory goes with the pixels of the parts, not with their number times the picture. Raises RegionError.
    """
    if len(ids) != len(parts) or len(set(ids)) != len(ids):
        twice = sorted({i for i in ids if ids.count(i) > 1})
        raise RegionError(f"{len(parts)} regions need as many different ids; given twice: {twice}")
    wrong = [i for i in ids if not 1 <= i <= MAX_ID]
    if wrong:
        raise RegionError(f"ids of regions must be 1 to {MAX_ID} (0 is background), not {wrong[0]}")
    labels = np.min_scalar_type(len(parts))
    images = [np.zeros((height, width), labels)]
    rows = []
    for number, (region, part) in enumerate(zip(ids, parts, strict=True), start=1):
        x, y, w, h = cv2.boundingRect(np.ascontiguousarray(part.mask).view(np.uint8))
        if not w:
            continue
        mask = part.mask[y : y + h, x : x + w]
        left, top = part.left + x, part.top + y
        place = (slice(top, top + h), slice(left, left + w))
        image = image_with_room(images, place, mask)
        np.copyto(images[image][place], number, where=mask)
        rows.append((image, number, region, np.count_nonzero(mask), left, top, w, h))
    table = np.array(rows, np.int64).reshape(-1, 8)
    return Regions(
        images,
        image_of=table[:, 0].astype(np.intp),
        labels=table[:, 1].astype(np.intp),
        ids=table[:, 2].astype(np.int32),
        areas=table[:, 3],
        boxes=table[:, 4:].astype(np.int32),
    )
