"""Masks in the forms in which segmentation models return them: arrays of any type, tensors, and lists as SAM's."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from osprey_ros.errors import RegionError
from osprey_ros.regions.masks import counts_from_text, mask_from_rle

_LOGGER = logging.getLogger(__name__)


def as_array(value: Any) -> Any:
    """Return an array for a tensor or another object that converts to one; other objects as they are.

    Raises RegionError for a tensor that is not in the memory of the CPU.
    """
    if isinstance(value, np.ndarray) or not hasattr(value, "__array__"):
        return value
    try:
        return np.asarray(value.detach() if hasattr(value, "detach") else value)
    except (TypeError, RuntimeError, ValueError) as error:
        raise RegionError(f"{described(value)} cannot be converted to an array; call .cpu().numpy() on it") from error


def mask_stack(value: Any) -> np.ndarray:
    """Return masks as bool or uint8 [N, H, W], non-zero inside.

    Args:
        value: bool, integers or floats, [N, H, W], [N, 1, H, W] or [1, N, H, W]. See `inside` for floats.

    Raises RegionError for another type or shape, and for floats that are neither masks nor scores.
    """
    masks = as_array(value)
    if isinstance(masks, np.ndarray) and masks.ndim == 4 and 1 in masks.shape[:2]:
        masks = masks[:, 0] if masks.shape[1] == 1 else masks[0]
    if not isinstance(masks, np.ndarray) or masks.ndim != 3 or masks.dtype.kind not in "biuf":
        raise RegionError(
            f"masks must be an array [regions, height, width] of bool, whole numbers or floats, not {described(masks)}"
        )
    return inside(masks)


def inside(values: np.ndarray) -> np.ndarray:
    """Return where pixels are inside a mask: bool or uint8 of the same shape, non-zero inside.

    Whole numbers are non-zero inside. Floats are masks if they have no value but 0 and one other, probabilities if all
    are 0 to 1 (inside above 0.5), and scores of a model, as SAM's logits, if some are negative (inside above 0).

    Raises RegionError for floats that are none of these.
    """
    if values.dtype in (np.bool_, np.uint8):
        return values
    if values.dtype.kind == "f":
        if not np.isfinite(values).all():
            raise RegionError("float masks must be finite, but a value is NaN or infinite; replace it by 0")
        lowest, highest = float(values.min(initial=0)), float(values.max(initial=0))
        two_values = lowest == 0 and bool(((values == 0) | (values == highest)).all())
        if lowest < 0 or two_values:
            threshold = 0.0
        elif highest <= 1:
            threshold = 0.5
        else:
            raise RegionError(
                f"float masks have values from {lowest:g} to {highest:g}; give 0 and 1, probabilities, or logits"
            )
        result: np.ndarray = values > threshold
        return result
    result = values != 0
    return result


def masks_from_list(items: Sequence[Any]) -> tuple[np.ndarray, list[int]]:
    """Return the masks of a list, as SAM's mask generator returns it, and the numbers of those items from 1 up.

    An item that cannot be used is left out with a warning.

    Args:
        items: Masks [H, W], or dictionaries with a "segmentation": a mask or COCO's run lengths, plain or compressed.

    Returns:
        bool [N, H, W], and N numbers.

    Raises RegionError if no item can be used.
    """
    masks: list[np.ndarray] = []
    numbers: list[int] = []
    reason = "the list is empty; give at least one mask"
    for number, item in enumerate(items, start=1):
        try:
            mask = _mask_of(item)
            if masks and mask.shape != masks[0].shape:
                raise RegionError(
                    f"it is {mask.shape[1]}x{mask.shape[0]} pixels, mask {numbers[0]} is "
                    f"{masks[0].shape[1]}x{masks[0].shape[0]}; give masks of one size"
                )
        except RegionError as error:
            reason = f"mask {number} of the list: {error}"
            _LOGGER.warning("%s; it is left out", reason)
            continue
        masks.append(mask)
        numbers.append(number)
    if not masks:
        raise RegionError(reason)
    return np.stack(masks), numbers


def described(value: object) -> str:
    """Return the type and the shape of a value as text."""
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else type(value).__name__


def _mask_of(item: Any) -> np.ndarray:
    """Return one mask of a list, bool [H, W]. Raises RegionError."""
    if isinstance(item, Mapping):
        if "segmentation" not in item:
            raise RegionError("it has no 'segmentation'; give a mask or run lengths under this key")
        item = item["segmentation"]
    if isinstance(item, Mapping):
        return _mask_of_run_lengths(item)
    mask = as_array(item)
    if not isinstance(mask, np.ndarray) or mask.ndim != 2 or not mask.size or mask.dtype.kind not in "biuf":
        raise RegionError(f"a mask must be an array [height, width] or run lengths, not {described(mask)}")
    return np.asarray(inside(mask), np.bool_)


def _mask_of_run_lengths(encoded: Mapping[str, Any]) -> np.ndarray:
    try:
        height, width = (int(side) for side in encoded["size"])
        counts = encoded["counts"]
    except (KeyError, TypeError, ValueError) as error:
        raise RegionError("its run lengths need 'size' ([height, width]) and 'counts'") from error
    if height < 1 or width < 1:
        raise RegionError(f"its run lengths are for an image of {width}x{height} pixels; give its size")
    if isinstance(counts, str | bytes):
        runs = counts_from_text(counts)
    else:
        try:
            runs = np.asarray(counts, np.int64)
        except (TypeError, ValueError, OverflowError) as error:
            raise RegionError("its run lengths are not whole numbers") from error
    if runs.ndim != 1 or (runs < 0).any():
        raise RegionError("its run lengths must be a list of numbers of 0 or more")
    crop = mask_from_rle(runs, height, width)
    mask = np.zeros((height, width), np.bool_)
    mask[crop.top : crop.top + crop.mask.shape[0], crop.left : crop.left + crop.mask.shape[1]] = crop.mask
    return mask
