"""Masks from the encodings of messages and files: run lengths (as in COCO), polygons and boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from osprey_ros.errors import RegionError

_SUBPIXEL_BITS = 4  # fractional bits of the integer coordinates that OpenCV takes
_MAX_COORDINATE = 1 << 20  # pixels from the polygon's box; corners beyond it are moved to it, to fit an integer


@dataclass(frozen=True)
class MaskCrop:
    """A mask inside a rectangle of an image.

    Attributes:
        left: Column of the image where the mask begins.
        top: Row of the image where the mask begins.
        mask: bool [h, w], True inside the region.
    """

    left: int
    top: int
    mask: np.ndarray


def mask_from_rle(counts: np.ndarray, height: int, width: int) -> MaskCrop:
    """Decode run lengths, integers [n], into a mask of a ``width`` x ``height`` image.

    Runs go down the columns and are in turn outside and inside, as in COCO's uncompressed counts. Raises RegionError
    if they do not add up to the number of pixels.
    """
    ends = np.cumsum(np.concatenate([[0], counts]), dtype=np.int64)  # 0, then the end of each run
    if ends[-1] != height * width:
        raise RegionError(
            f"its run lengths add up to {ends[-1]} pixels but {width}x{height} are {height * width}; "
            "give runs down the columns that cover the whole roi and begin outside"
        )
    begins, stops = ends[1:-1:2], ends[2::2]  # begin and end of each run inside
    if not len(begins):
        return MaskCrop(0, 0, np.zeros((0, 0), np.bool_))
    # Only the columns between the first and the last pixel inside are decoded.
    left, right = int(begins[0]) // height, -(-int(stops[-1]) // height)
    edges = np.clip(ends, left * height, right * height)
    inside = np.arange(len(counts)) % 2 == 1
    mask = np.repeat(inside, np.diff(edges)).reshape(right - left, height).T
    return MaskCrop(left, 0, mask)


def rle_from_mask(mask: np.ndarray) -> np.ndarray:
    """Encode a mask, bool or integers [H, W], as run lengths, uint32 [n], for `mask_from_rle`."""
    inside = np.asarray(mask, np.bool_).T.reshape(-1)
    changes = np.flatnonzero(np.diff(inside, prepend=False))  # the first run is empty if the first pixel is inside
    return np.diff(changes, prepend=0, append=inside.size).astype(np.uint32)


def mask_from_polygon(corners: np.ndarray, height: int, width: int, outlines: Sequence[int] = ()) -> MaskCrop:
    """Draw a polygon into a mask of a ``width`` x ``height`` image.

    Pixels on an outline are inside; a pixel inside two outlines is a hole. The mask of a polygon outside the image is
    empty.

    Args:
        corners: x and y of each corner in pixels, [n, 2] or flat. The center of the first pixel is (0, 0).
        height, width: Size of the image.
        outlines: Number of corners of each outline; () for a single outline.

    Raises RegionError for fewer than 3 corners, an odd number of values, or values that are not finite.
    """
    flat = np.asarray(corners, np.float64).reshape(-1)
    if len(flat) % 2:
        raise RegionError(f"its polygon has {len(flat)} values; give x and y for each corner")
    points = flat.reshape(-1, 2)
    sizes = [int(n) for n in outlines] or [len(points)]
    if sum(sizes) != len(points):
        raise RegionError(
            f"its outlines have {sum(sizes)} corners but its polygon has {len(points)}; count all corners"
        )
    if min(sizes) < 3:
        raise RegionError(f"one of its outlines has {min(sizes)} corners; give at least 3")
    if not np.isfinite(points).all():
        raise RegionError("a corner of its polygon is not finite; give finite coordinates")
    # Clip before the conversion: coordinates may exceed the range of integers.
    low = np.clip(np.floor(points.min(axis=0)), 0, (width, height)).astype(np.int64)
    high = np.clip(np.ceil(points.max(axis=0)) + 1, low, (width, height)).astype(np.int64)
    canvas = np.zeros((int(high[1] - low[1]), int(high[0] - low[0])), np.uint8)
    if canvas.size:
        near = np.clip(points - low, -_MAX_COORDINATE, _MAX_COORDINATE)
        fixed = np.round(near * (1 << _SUBPIXEL_BITS)).astype(np.int32)
        cv2.fillPoly(canvas, np.split(fixed, np.cumsum(sizes)[:-1]), 1, shift=_SUBPIXEL_BITS)
    return MaskCrop(int(low[0]), int(low[1]), canvas.view(np.bool_))


def mask_from_box(
    center: tuple[float, float], size: tuple[float, float], angle: float, height: int, width: int
) -> MaskCrop:
    """Draw a box into a mask of a ``width`` x ``height`` image.

    Args:
        center: x and y in pixels. Edges lie between pixels: the first pixel reaches from 0 to 1.
        size: Width and height of the box in pixels.
        angle: Rotation around the center in radians, from x to y.
        height, width: Size of the image.

    Raises RegionError if a value is not finite or a size is negative.
    """
    if not np.isfinite([*center, *size, angle]).all() or min(size) < 0:
        raise RegionError(
            f"invalid box: center {center}, size {size}, angle {angle}; give finite values and sizes of at least 0"
        )
    if angle:
        cos, sin = np.cos(angle), np.sin(angle)
        # The polygon goes through the centers of the outermost pixels, which it includes.
        half = np.maximum(np.array(size) - 1, 0) / 2
        corners = half * [[-1, -1], [1, -1], [1, 1], [-1, 1]] @ np.array([[cos, sin], [-sin, cos]])
        return mask_from_polygon(corners + center - 0.5, height, width)
    # Round halves up on both sides: np.round, which rounds to even, would change the size.
    middle, half = np.array(center) + 0.5, np.array(size) / 2
    left, top = (int(v) for v in np.clip(np.floor(middle - half), 0, (width, height)))
    right, bottom = (int(v) for v in np.clip(np.floor(middle + half), (left, top), (width, height)))
    return MaskCrop(left, top, np.ones((bottom - top, right - left), np.bool_))


def counts_from_text(text: str | bytes) -> np.ndarray:
    """Decode COCO's compressed run lengths, as pycocotools writes them, into counts for `mask_from_rle`, int64 [n].

    Each character holds 5 bits of a number, the lowest first, and whether more follow. From the fourth number on, the
    difference to the number two places before is stored. Raises RegionError for other text.
    """
    # Characters beyond ASCII become bytes above 111, which are none of the 64.
    raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else bytes(text)
    counts: list[int] = []
    value = shift = 0
    for character in raw:
        bits = character - 48
        if not 0 <= bits < 64 or shift > 60:
            raise RegionError("its compressed run lengths are damaged; give counts as pycocotools writes them")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    if shift or any(count < 0 for count in counts):
        raise RegionError("its compressed run lengths are damaged; give counts as pycocotools writes them")
    return np.array(counts, np.int64)
