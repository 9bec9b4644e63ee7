"""Regions of a picture in the forms a segmentation gives them: an id image, or binary masks that may overlap.

Regions keep label images of their own, one where nothing overlaps, so that the arrays they came from may be used for
the next picture. Masks that overlap lie in different label images: few are needed, however many masks there are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import cv2
import numpy as np

from osprey_ros.errors import RegionError
from osprey_ros.regions.pooling import MaskPooler

MAX_ID = 2**31 - 1  # ids are kept, and published, as int32
_LAYERS_TRIED = 4  # label images in which room is looked for before there is a new one: bounds the search
_PIXELS_AT_ONCE = 1 << 17  # of an id image: what is worked on stays in the processor's cache


class Regions:
    """N regions of one picture, made by `regions_from_id_image`, `regions_from_masks` or `as_regions`.

    Attributes:
        shape: (height, width) of the picture in pixels.
        ids: int32 [N], the segmentation's own numbers.
        areas: int64 [N], pixels of each region.
        boxes: int32 [N, 4], the bounding box of each region as x, y, width, height; zeros for an empty mask.
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
        """Region number n is where ``images[image_of[n]]``, unsigned integers [H, W], has the value ``labels[n]``."""
        self._images, self._image_of, self._labels = images, image_of, labels
        self.shape = (images[0].shape[0], images[0].shape[1])
        self.ids, self.areas, self.boxes = ids, areas, boxes

    def __len__(self) -> int:
        return len(self.ids)

    def pooling_masks(self, sizes: Sequence[tuple[int, int]]) -> list[np.ndarray]:
        """For each (h, w): float32 [N, h, w] of 0 and 1, the masks resized bilinearly and then thresholded above 0.

        A thin region can vanish at a coarse size: its mask is then all 0, as in the published code. Where pictures
        follow one another, one `MaskPooler` for all of them is faster.
        """
        return MaskPooler(sizes).pool(self)

    def position_grids(self, size: int) -> np.ndarray:
        """float32 [N, size, size] in 0..1: the masks resized bilinearly, values kept."""
        return MaskPooler((), size).pool(self)[0]

    def select(self, ids: Iterable[int]) -> Regions:
        """The regions with these ids, in this order. Raises RegionError for an id that is not there or comes twice."""
        rows = {int(region): row for row, region in enumerate(self.ids)}
        wanted = [int(region) for region in ids]
        absent = [region for region in wanted if region not in rows]
        if absent:
            raise RegionError(f"no region with id {_listed(absent)}: there are {_listed(self.ids)}")
        if not wanted:
            raise RegionError("no region is selected: give at least one id")
        repeated = [region for region, count in Counter(wanted).items() if count > 1]
        if repeated:
            raise RegionError(f"id {_listed(repeated)} is asked for more than once: give every id once")
        picked = np.array([rows[region] for region in wanted], dtype=np.intp)
        return self.take(picked)

    def take(self, rows: np.ndarray) -> Regions:
        """Return the regions with these row numbers, intp [n], in this order."""
        kept = (part[rows] for part in (self._image_of, self._labels, self.ids, self.areas, self.boxes))
        return Regions(self._images, *kept)

    def crop(self, row: int) -> np.ndarray:
        """bool [box height, box width]: the mask of region number ``row`` (not its id) inside its bounding box."""
        x, y, width, height = self.boxes[row]
        return self._images[self._image_of[row]][y : y + height, x : x + width] == self._labels[row]

    def layers(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Label images, as `MaskPooler` takes them: each with the labels in it, and the numbers, of its regions."""
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
            f"no region is left of ids {_listed(regions.ids)}: all are smaller than {min_area} pixels or not asked for"
        )
    return regions.take(np.flatnonzero(keep))


def all_regions(ids: np.ndarray) -> Regions:
    """Return the regions of an id image as `regions_from_id_image` does; none if every pixel is background."""
    if not isinstance(ids, np.ndarray) or ids.ndim != 2 or ids.dtype.kind not in "iu":
        raise RegionError(f"an id image must be an integer array [height, width], not {_described(ids)}")
    if ids.size == 0:
        raise RegionError(f"the id image has no pixels: its size is {ids.shape[1]}x{ids.shape[0]}")
    found = _Found(ids)
    if len(found.ids) and found.ids[-1] > MAX_ID:
        raise RegionError(f"the id {found.ids[-1]} of the id image does not fit 32 bits: number regions up to {MAX_ID}")
    return Regions(
        [found.image],
        image_of=np.zeros(len(found.ids), np.intp),
        labels=found.labels,
        ids=found.ids.astype(np.int32),
        areas=found.areas,
        boxes=found.boxes,
    )


def regions_from_masks(masks: np.ndarray, ids: Iterable[int] | None = None) -> Regions:
    """Regions of binary masks, bool or uint8 [N, H, W] (non-zero is inside); they may overlap. ``ids`` default to 1..N.

    A mask without a pixel is kept, so that N masks give N regions. Raises RegionError for another type or shape of
    array, for ids that are not N different numbers from 1 to MAX_ID, and if all masks are empty.
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
    layers = _Layers(masks)
    if not layers.areas.any():
        raise RegionError(f"there is no region: {len(masks)} masks, none with a pixel set")
    return Regions(
        layers.images,
        image_of=layers.image_of,
        labels=np.arange(1, len(masks) + 1),
        ids=np.array(numbers, dtype=np.int32),
        areas=layers.areas,
        boxes=layers.boxes,
    )


def as_regions(regions: Regions | np.ndarray) -> Regions:
    """Regions as they are, from an id image (integers [H, W]), from one mask (bool [H, W]) or a stack ([N, H, W])."""
    if isinstance(regions, Regions):
        return regions
    if isinstance(regions, np.ndarray) and regions.ndim == 3:
        return regions_from_masks(regions)
    if isinstance(regions, np.ndarray) and regions.ndim == 2 and regions.dtype == np.bool_:
        return regions_from_masks(regions[None])
    return regions_from_id_image(regions)


class _Found:
    """The regions of an id image: their areas, boxes and a small copy of the image, from its runs of equal ids in rows.

    There are far fewer runs than pixels, so whatever needs sorting or grouping is done on them.

    Attributes:
        image: unsigned integers [H, W], the ids themselves where they fit 16 bits, else labels 1, 2, 3 ...
        labels: intp [N], the value of each region in ``image``.
        ids: [N], ascending, of the id image's own type. areas, boxes: as in `Regions`.
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
        inside = inside[np.argsort(label[inside], kind="stable")]  # by region, each from top to bottom
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
    """intp: where runs of equal values begin in an image [H * width]; no run goes on in the next row."""
    # A few rows at a time, in memory that is used again; flags are read eight at a time, as most are not set.
    step = max(1, _PIXELS_AT_ONCE // width) * width
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


class _Layers:
    """Binary masks laid into as few label images as will do without one hiding a part of another.

    Attributes:
        images: unsigned integers [H, W] each; mask number n has the label n + 1 in its image, 0 is background.
        image_of: intp [N], the image that each mask lies in. areas, boxes: as in `Regions`.
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
    """Number of a label image where nothing lies under a mask at `place`; a new one where the latest have no room."""
    for number in range(max(0, len(images) - _LAYERS_TRIED), len(images)):
        if not np.logical_and(images[number][place], mask).any():
            return number
    images.append(np.zeros_like(images[0]))
    return len(images) - 1


def _listed(ids: Iterable[int]) -> str:
    numbers = [str(int(i)) for i in ids]
    return ", ".join(numbers[:12]) + (f" and {len(numbers) - 12} more" if len(numbers) > 12 else "")


def _described(value: object) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else type(value).__name__
