"""Regions of an image, made from an id image or from binary masks that may overlap.

Regions are stored in label images of their own, so the source arrays can be reused. A label image holds many regions
that do not overlap; regions that overlap are put into different ones.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import cv2
import numpy as np

from osprey_ros.errors import RegionError
from osprey_ros.regions.arrays import as_array, described, mask_stack, masks_from_list
from osprey_ros.regions.id_image import background_doubt, check_speckles
from osprey_ros.regions.label_images import IdImageRegions, MaskRegions, image_with_room
from osprey_ros.regions.masks import MaskCrop
from osprey_ros.regions.pooling import MaskPooler
from osprey_ros.system.warn_once import warn_once

_LOGGER = logging.getLogger(__name__)
MAX_ID = 2**31 - 1  # ids are stored and published as int32


class Regions:
    """N regions of one image, made by `regions_from_id_image`, `regions_from_masks` or `as_regions`.

    Attributes:
        shape: (height, width) of the image in pixels.
        ids: int32 [N], the ids of the segmentation.
        areas: int64 [N], number of pixels of each region.
        boxes: int32 [N, 4], bounding box of each region as x, y, width, height; zeros for an empty mask.
        layers: Label images, each with the labels and the row numbers of its regions, as `MaskPooler` reads them.
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
            ids: As the attribute.
            areas: As the attribute.
            boxes: As the attribute.
        """
        self._images, self._image_of, self._labels = images, image_of, labels
        self.shape = (images[0].shape[0], images[0].shape[1])
        self.ids, self.areas, self.boxes = ids, areas, boxes
        rows = [np.flatnonzero(image_of == number) for number in range(len(images))]
        self.layers: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]] = [
            (image, labels[own], own) for image, own in zip(images, rows, strict=True) if len(own)
        ]

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

    def mask(self, row: int) -> np.ndarray:
        """Return the mask of the region in a row (not its id) at the size of the image, bool [H, W]."""
        mask = np.zeros(self.shape, np.bool_)
        x, y, width, height = self.boxes[row]
        mask[y : y + height, x : x + width] = self.crop(row)
        return mask


def regions_from_id_image(
    ids: np.ndarray, only: Iterable[int] | None = None, min_area: int = 1, masks_anyway: bool = False
) -> Regions:
    """Return the regions of an id image.

    Args:
        ids: Integers [H, W], also as floats without a fraction. Pixels with the same positive id are one region, 0 and
            below are background.
        only: Keep the regions with these ids.
        min_area: Keep the regions of at least this number of pixels.
        masks_anyway: Take an image also if more than 64 ids cover fewer than 16 pixels each, and do not warn if 0 is
            hardly the background.

    Returns:
        The regions by ascending id.

    Raises:
        RegionError: ``ids`` has another type or shape, does not look like ids, or no region is left.
    """
    regions = all_regions(ids, masks_anyway)
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


def all_regions(ids: Any, masks_anyway: bool = False) -> Regions:
    """Return the regions of an id image as `regions_from_id_image` does; none if every pixel is background."""
    ids = _whole_numbers(as_array(ids))
    if not isinstance(ids, np.ndarray) or ids.ndim != 2 or ids.dtype.kind not in "iu":
        raise RegionError(f"an id image must be an integer array [height, width], not {described(ids)}")
    if ids.size == 0:
        raise RegionError(f"the id image has no pixels: its size is {ids.shape[1]}x{ids.shape[0]}")
    found = IdImageRegions(ids)
    if len(found.ids) and found.ids[-1] > MAX_ID:
        raise RegionError(f"id {found.ids[-1]} of the id image does not fit 32 bits; use ids up to {MAX_ID}")
    if not masks_anyway:
        check_speckles(found.areas)
        doubt = background_doubt(ids)
        if doubt:
            warn_once(_LOGGER, "background", doubt)
    return Regions(
        [found.image],
        image_of=np.zeros(len(found.ids), np.intp),
        labels=found.labels,
        ids=found.ids.astype(np.int32),
        areas=found.areas,
        boxes=found.boxes,
    )


def _whole_numbers(ids: Any) -> Any:
    """Return an id image of floats as integers if no value has a fraction; anything else as it is."""
    if not isinstance(ids, np.ndarray) or ids.dtype.kind != "f" or not np.isfinite(ids).all():
        return ids
    whole = np.clip(ids, -1, 2.0**62).astype(np.int64)
    return whole if (whole == np.maximum(ids, -1)).all() else ids


def regions_from_masks(masks: Any, ids: Iterable[int] | None = None) -> Regions:
    """Return a region for each binary mask. Masks may overlap; a mask without a pixel gives a region without pixels.

    Args:
        masks: [N, H, W] or [N, 1, H, W], bool or numbers, non-zero inside the region; floats can be probabilities or
            logits (see `mask_stack`). Or a list as `masks_from_list` takes it, such as that of SAM's mask generator.
        ids: N different numbers from 1 to MAX_ID; by default 1 to N.

    Raises:
        RegionError: An array has another type or shape, the ids are invalid, or all masks are empty.
    """
    if isinstance(masks, list | tuple):
        masks, kept = masks_from_list(masks)
        ids = kept if ids is None else _kept(ids, kept)
    masks = mask_stack(masks)
    if masks.shape[1] == 0 or masks.shape[2] == 0:
        raise RegionError(f"the masks have no pixels: their size is {masks.shape[2]}x{masks.shape[1]}")
    numbers = list(range(1, len(masks) + 1)) if ids is None else [int(region) for region in ids]
    if len(numbers) != len(masks) or len(set(numbers)) != len(masks):
        raise RegionError(f"{len(masks)} masks need as many different ids, not {_listed(numbers)}")
    outside = [region for region in numbers if not 1 <= region <= MAX_ID]
    if outside:
        raise RegionError(f"region ids must be 1 to {MAX_ID} (0 is background), not {_listed(outside)}")
    layers = MaskRegions(masks)
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


def regions_from_crops(crops: Sequence[MaskCrop], ids: Sequence[int], height: int, width: int) -> Regions:
    """Make regions of a ``width`` x ``height`` image from masks, which may overlap.

    Masks without a pixel are left out, so that the result can be empty. The memory grows with the pixels of the masks,
    not with their number times the image.

    Args:
        crops: The masks; each must lie inside the image.
        ids: A different number from 1 to MAX_ID for each mask.
        height, width: Size of the image.

    Raises RegionError for other ids.
    """
    if len(ids) != len(crops) or len(set(ids)) != len(ids):
        twice = sorted({i for i in ids if ids.count(i) > 1})
        raise RegionError(
            f"{len(crops)} masks need as many different ids, but there are {len(ids)}; given twice: {twice}"
        )
    wrong = [i for i in ids if not 1 <= i <= MAX_ID]
    if wrong:
        raise RegionError(f"region ids must be 1 to {MAX_ID} (0 is background), not {wrong[0]}")
    labels = np.min_scalar_type(len(crops))
    images = [np.zeros((height, width), labels)]
    rows = []
    for label, (region, crop) in enumerate(zip(ids, crops, strict=True), start=1):
        x, y, w, h = cv2.boundingRect(np.ascontiguousarray(crop.mask).view(np.uint8))
        if not w:
            continue
        mask = crop.mask[y : y + h, x : x + w]
        left, top = crop.left + x, crop.top + y
        place = (slice(top, top + h), slice(left, left + w))
        image = image_with_room(images, place, mask)
        np.copyto(images[image][place], label, where=mask)
        rows.append((image, label, region, np.count_nonzero(mask), left, top, w, h))
    table = np.array(rows, np.int64).reshape(-1, 8)
    return Regions(
        images,
        image_of=table[:, 0].astype(np.intp),
        labels=table[:, 1].astype(np.intp),
        ids=table[:, 2].astype(np.int32),
        areas=table[:, 3],
        boxes=table[:, 4:].astype(np.int32),
    )


def as_regions(regions: Any) -> Regions:
    """Return regions from the forms in which segmentation models return them.

    Args:
        regions: `Regions`, which are returned as they are; an id image, whole numbers [H, W]; one mask, bool [H, W] or
            floats that are not all whole; masks [N, H, W] or [N, 1, H, W]; or a list of masks or of dictionaries
            with a "segmentation", as SAM's mask generator returns it. Tensors are taken, too.

    Raises RegionError for other arrays and if no pixel is in a region.
    """
    if isinstance(regions, Regions):
        return regions
    if isinstance(regions, list | tuple):
        return regions_from_masks(regions)
    array = as_array(regions)
    if isinstance(array, np.ndarray) and array.ndim > 2:
        return regions_from_masks(array)
    array = _whole_numbers(array)
    if isinstance(array, np.ndarray) and array.ndim == 2 and array.dtype.kind in "bf":
        return regions_from_masks(array[None])
    return regions_from_id_image(array)


def _kept(ids: Iterable[int], numbers: Sequence[int]) -> list[int]:
    """Return those of the ids of a list of masks whose masks were kept; all, if there are too few."""
    given = [int(region) for region in ids]
    return [given[number - 1] for number in numbers] if len(given) >= max(numbers) else given


def _listed(ids: Iterable[int]) -> str:
    numbers = [str(int(i)) for i in ids]
    return ", ".join(numbers[:12]) + (f" and {len(numbers) - 12} more" if len(numbers) > 12 else "")
