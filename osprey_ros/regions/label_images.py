"""Label images of regions: areas and boxes of the ids of an image, and room for masks that overlap."""

from __future__ import annotations

import cv2
import numpy as np

from osprey_ros.errors import RegionError

MAX_LABEL_BYTES = 1 << 30  # of all label images of one frame: 258 images of 1920x1080 with more than 255 masks
_SEARCHED_IMAGES = 4  # latest label images that are searched for room for a mask, to bound the search
_BLOCK_PIXELS = 1 << 17  # pixels of an id image that are processed at once, so that they fit the processor's cache


class IdImageRegions:
    """Finds areas and boxes of the regions of an id image from its runs of equal ids in rows.

    There are far fewer runs than pixels, so sorting and grouping runs is fast.

    Attributes:
        image: Label image, unsigned integers [H, W]: the ids if they fit 16 bits, otherwise labels 1, 2, 3 ...
        labels: intp [N], value of each region in ``image``.
        ids: [N], ascending, with the type of the id image.
        areas, boxes: As in `Regions`.
    """

    def __init__(self, ids: np.ndarray) -> None:
        height, width = ids.shape
        flat = np.ascontiguousarray(ids).reshape(-1)
        starts = _run_starts(flat, width)
        lengths = np.diff(starts, append=flat.size)
        values = flat[starts]

        if values.max() < 65536:
            small = np.uint8 if values.max() < 256 else np.uint16
            if values.min() < 0:
                flat, values = np.maximum(flat, 0), np.maximum(values, 0)
            self.image: np.ndarray = flat.reshape(height, width).astype(small)
            label = values.astype(small)
            value_of_label = np.arange(int(values.max()) + 1).astype(ids.dtype)
        else:
            values, value_of_run = np.unique(values, return_inverse=True)
            positive = values > 0
            label_of_value = np.where(positive, np.cumsum(positive), 0)
            label = label_of_value.astype(np.min_scalar_type(len(values)))[value_of_run.reshape(-1)]
            self.image = np.repeat(label, lengths).reshape(height, width)
            value_of_label = np.concatenate([values[:1], values[positive]])

        inside = np.flatnonzero(label != 0)
        inside = inside[np.argsort(label[inside], kind="stable")]  # grouped by region, from top to bottom
        label, starts, lengths = label[inside], starts[inside], lengths[inside]
        first = np.flatnonzero(np.append(True, label[1:] != label[:-1])[: len(label)])
        last = np.append(first[1:], len(label))[: len(first)] - 1
        self.labels = label[first].astype(np.intp)
        self.ids = value_of_label[self.labels]
        self.areas = np.zeros(len(first), np.int64)
        self.boxes = np.zeros((len(first), 4), np.int32)
        if len(first):
            left = starts % width
            x, y = np.minimum.reduceat(left, first), starts[first] // width
            right, bottom = np.maximum.reduceat(left + lengths, first), starts[last] // width + 1
            self.areas[:] = np.add.reduceat(lengths, first)
            self.boxes[:] = np.stack([x, y, right - x, bottom - y], axis=1)


def _run_starts(flat: np.ndarray, width: int) -> np.ndarray:
    """Return the start of each run of equal values in an image [H * width], intp. Every row begins a run."""
    # Blocks of rows share one array of flags. It is read eight flags at a time, because most are not set.
    step = max(1, _BLOCK_PIXELS // width) * width
    begins = np.zeros(-(-step // 8) * 8, dtype=bool)
    parts = []
    for start in range(0, flat.size, step):
        part = flat[start : start + step]
        np.not_equal(part[1:], part[:-1], out=begins[1 : len(part)])
        begins[: len(part) : width] = True
        begins[len(part) :] = False
        words = begins.view(np.uint64)
        some = np.flatnonzero(words != 0)
        byte = np.flatnonzero(words[some].view(bool))
        parts.append(some[byte >> 3] * 8 + (byte & 7) + start)
    return np.concatenate(parts)


class MaskRegions:
    """Puts binary masks into label images in which no masks overlap.

    Attributes:
        images: Label images, unsigned integers [H, W]. Mask n has the label n + 1 in its image, 0 is background.
        image_of: intp [N], index of the label image of each mask.
        areas, boxes: As in `Regions`.
    """

    def __init__(self, masks: np.ndarray) -> None:
        count, height, width = masks.shape
        self.boxes = np.zeros((count, 4), np.int32)
        self.areas = np.zeros(count, np.int64)
        self.image_of = np.zeros(count, np.intp)
        self.images = [np.zeros((height, width), np.min_scalar_type(count))]
        for number, mask in enumerate(masks):
            self.boxes[number] = x, y, w, h = cv2.boundingRect(np.ascontiguousarray(mask).view(np.uint8))
            part = (slice(y, y + h), slice(x, x + w))
            crop = mask[part] != 0
            self.areas[number] = np.count_nonzero(crop)
            self.image_of[number] = image_with_room(self.images, part, crop)
            np.copyto(self.images[self.image_of[number]][part], number + 1, where=crop)


def image_with_room(images: list[np.ndarray], place: tuple[slice, slice], mask: np.ndarray) -> int:
    """Return the index of a label image that is empty under a mask at ``place``; append one if there is none.

    Raises RegionError if that would exceed MAX_LABEL_BYTES.
    """
    for number in range(max(0, len(images) - _SEARCHED_IMAGES), len(images)):
        if not np.logical_and(images[number][place], mask).any():
            return number
    if images[0].nbytes * (len(images) + 1) > MAX_LABEL_BYTES:
        height, width = images[0].shape
        raise RegionError(
            f"the masks overlap so often that {len(images)} images of {width}x{height} cannot hold them; give fewer or "
            "smaller masks"
        )
    images.append(np.zeros(images[0].shape, images[0].dtype))
    return len(images) - 1
