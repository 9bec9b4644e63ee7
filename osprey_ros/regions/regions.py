"""Regions of an image, made from an id image or from binary masks that may overlap.

Regions are stored in label images of their own, so the source arrays can be reused. A label image holds many regions
that do not overlap; regions that overlap are put into different ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import cv2
import numpy as np

from osprey_ros.errors import RegionError
from osprey_ros.regions.pooling import MaskPooler

MAX_ID = 2**31 - 1  # ids are stored and published as int32
_SEARCHED_IMAGES = 4  # latest label images that are searched for room for a mask, to bound the search
_BLOCK_PIXELS = 1 << 17  # pixels of an id image that are processed at once, so that they fit the processor's cache


class Regions:
    """N regions of one image, made by `regions_from_id_image`, `regions_from_masks` or `as_regions`.

    Attributes:
        shape: (height, width) of the image in pixels.
        ids: int32 [N], the ids of the segmentation.
        areas: int64 [N], number of pixels of each region.
        boxes: int32 [N, 4], bounding box of each region as x, y, width, height; zeros for an empty mask.
    """

    def __init__(
        self,
        images: Sequence[np.ndarray],
        image_of: np.ndarray,
        labels: np.ndarray,
        ids: np.ndarray,
        areas: np.ndarray,
        boxes: np.ndarray,
    ) -> None:
        """Make regions of label images: region n is where ``images[image_of[n]]`` has the value ``labels[n]``.

        Args:
            images: Label images, unsigned integers [H, W] each.
            image_of: intp [N], index of the label image of each region.
            labels: intp [N], value of each region in its label image.
            ids, areas, boxes: As in the attributes.
        """
        self._images, self._image_of, self._labels = images, image_of, labels
        self.shape = (images[0].shape[0], images[0].shape[1])
        self.ids, self.areas, self.boxes = ids, areas, boxes

    def __len__(self) -> int:
        return len(self.ids)

    def pooling_masks(self, sizes: Sequence[tuple[int, int]]) -> list[np.ndarray]:
        """Return the masks resized bilinearly to each (h, w) and thresholded above 0, float32 [N, h, w] of 0 and 1.

        The mask of a thin region can be all 0 at a coarse size, as in the published code. For a sequence of images,
        one `MaskPooler` is faster.
        """
        return MaskPooler(sizes).pool(self)

    def position_grids(self, size: int) -> np.ndarray:
        """Return the masks resized bilinearly, float32 [N, size, size] in 0..1."""
        return MaskPooler((), size).pool(self)[0]

    def select(self, ids: Iterable[int]) -> Regions:
        """Return the regions with these ids, in this order. Raises RegionError for no, unknown or repeated ids."""
        rows = {int(region): row for row, region in enumerate(self.ids)}
        wanted = [int(region) for region in ids]
        absent = [region for region in wanted if region not in rows]
        if absent:
            raise RegionError(f"no region has id {_listed(absent)}; choose from {_listed(self.ids)}")
        if not wanted:
            raise RegionError("no region is selected; give at least one id")
        repeated = [region for region, count in Counter(wanted).items() if count > 1]
        if repeated:
            raise RegionError(f"id {_listed(repeated)} is given more than once; give every id once")
        picked = np.array([rows[region] for region in wanted], dtype=np.intp)
        return self.take(picked)

    def take(self, rows: np.ndarray) -> Regions:
        """Return the regions with these row numbers, intp [n], in this order."""
        kept = (part[rows] for part in (self._image_of, self._labels, self.ids, self.areas, self.boxes))
        return Regions(self._images, *kept)

    def crop(self, row: int) -> np.ndarray:
        """Return the mask of the region in a row (not its id) inside its bounding box, bool [height, width]."""
        x, y, width, height = self.boxes[row]
        result: np.ndarray = self._images[self._image_of[row]][y : y + height, x : x + width] == self._labels[row]
        return result

    def layers(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yield each label image with the labels and the row numbers of its regions, as `MaskPooler` reads them."""
        for number, image in enumerate(self._images):
            rows = np.flatnonzero(self._image_of == number)
            if len(rows):
                yield image, self._labels[rows], rows


def regions_from_id_image(ids: np.ndarray, only: Iterable[int] | None = None, min_area: int = 1) -> Regions:
    """Return the regions of an id image.

    Args:
        ids: Integers [H, W]. Pixels with the same positive id are one region, 0 and below are background.
        only: Keep the regions with these ids.
        min_area: Keep the regions of at least this number of pixels.

    Returns:
        The regions by ascending id.

    Raises:
        RegionError: ``ids`` has another type or shape, or no region is left.
    """
    regions = all_regions(ids)
    if not len(regions):
        raise RegionError("the id image has no region: every pixel is background (0 or below)")
    keep = regions.areas >= min_area
    if only is not None:
        keep &= np.isin(regions.ids, [int(region) for region in only])
    if not keep.any():
        raise RegionError(
            f"no region of ids {_listed(regions.ids)} is left: all are smaller than {min_area} pixels or not selected"
        )
    return regions.take(np.flatnonzero(keep))


def all_regions(ids: np.ndarray) -> Regions:
    """Return the regions of an id image as `regions_from_id_image` does; none if every pixel is background."""
    if not isinstance(ids, np.ndarray) or ids.ndim != 2 or ids.dtype.kind not in "iu":
        raise RegionError(f"an id image must be an integer array [height, width], not {_described(ids)}")
    if ids.size == 0:
        raise RegionError(f"the id image has no pixels: its size is {ids.shape[1]}x{ids.shape[0]}")
    found = _IdImageRegions(ids)
    if len(found.ids) and found.ids[-1] > MAX_ID:
        raise RegionError(f"id {found.ids[-1]} of the id image does not fit 32 bits; use ids up to {MAX_ID}")
    return Regions(
        [found.image],
        image_of=np.zeros(len(found.ids), np.intp),
        labels=found.labels,
        ids=found.ids.astype(np.int32),
        areas=found.areas,
        boxes=found.boxes,
    )


def regions_from_masks(masks: np.ndarray, ids: Iterable[int] | None = None) -> Regions:
    """Return a region for each binary mask. Masks may overlap; a mask without a pixel gives a region without pixels.

    Args:
        masks: bool or uint8 [N, H, W], non-zero inside the region.
        ids: N different numbers from 1 to MAX_ID; by default 1 to N.

    Raises:
        RegionError: An array has another type or shape, the ids are invalid, or all masks are empty.
    """
    if not isinstance(masks, np.ndarray) or masks.ndim != 3 or masks.dtype not in (np.bool_, np.uint8):
        raise RegionError(f"masks must be a bool or uint8 array [regions, height, width], not {_described(masks)}")
    if masks.shape[1] == 0 or masks.shape[2] == 0:
        raise RegionError(f"the masks have no pixels: their size is {masks.shape[2]}x{masks.shape[1]}")
    numbers = list(range(1, len(masks) + 1)) if ids is None else [int(region) for region in ids]
    if len(numbers) != len(masks) or len(set(numbers)) != len(masks):
        raise RegionError(f"{len(masks)} masks need as many different ids, not {_listed(numbers)}")
    outside = [region for region in numbers if not 1 <= region <= MAX_ID]
    if outside:
        raise RegionError(f"region ids must be 1 to {MAX_ID} (0 is background), not {_listed(outside)}")
    layers = _MaskRegions(masks)
    if not layers.areas.any():
        raise RegionError(f"all {len(masks)} masks are empty; set the pixels inside the regions")
    return Regions(
        layers.images,
        image_of=layers.image_of,
        labels=np.arange(1, len(masks) + 1),
        ids=np.array(numbers, dtype=np.int32),
        areas=layers.areas,
        boxes=layers.boxes,
    )


def as_regions(regions: Regions | np.ndarray) -> Regions:
    """Return regions from an id image (integers [H, W]), one mask (bool [H, W]) or masks (bool or uint8 [N, H, W]).

    `Regions` are returned as they are. Raises RegionError for other arrays and if no pixel is in a region.
    """
    if isinstance(regions, Regions):
        return regions
    if isinstance(regions, np.ndarray) and regions.ndim == 3:
        return regions_from_masks(regions)
    if isinstance(regions, np.ndarray) and regions.ndim == 2 and regions.dtype == np.bool_:
        return regions_from_masks(regions[None])
    return regions_from_id_image(regions)


class _IdImageRegions:
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


class _MaskRegions:
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
    """Return the index of a label image that is empty under a mask at ``place``; append one if there is none."""
    for number in range(max(0, len(images) - _SEARCHED_IMAGES), len(images)):
        if not np.logical_and(images[number][place], mask).any():
            return number
    images.append(np.zeros_like(images[0]))
    return len(images) - 1


def _listed(ids: Iterable[int]) -> str:
    numbers = [str(int(i)) for i in ids]
    return ", ".join(numbers[:12]) + (f" and {len(numbers) - 12} more" if len(numbers) > 12 else "")


def _described(value: object) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else type(value).__name__
