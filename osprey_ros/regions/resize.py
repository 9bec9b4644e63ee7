"""Masks of another resolution than their image."""

from __future__ import annotations

import logging

import numpy as np

from osprey_ros.errors import RegionError
from osprey_ros.regions.label_images import IdImageRegions
from osprey_ros.regions.regions import Regions
from osprey_ros.system.warn_once import warn_once

_LOGGER = logging.getLogger(__name__)
_ASPECT_TOLERANCE = 0.02  # relative difference of width / height; sizes are rounded to pixels


def fitted(regions: Regions, shape: tuple[int, int], name: str = "the regions") -> Regions:
    """Return regions of another resolution, resized to an image by nearest neighbor. It is logged once.

    Regions of the size of the image are returned as they are. A small region can lose all its pixels.

    Args:
        regions: Regions of an image.
        shape: (height, width) of the image in pixels.
        name: What errors and warnings call the regions.

    Raises RegionError if width and height have another ratio.
    """
    if regions.shape == shape:
        return regions
    check_resizable(regions.shape, shape, name)
    images: list[np.ndarray] = []
    image_of, labels = np.zeros(len(regions), np.intp), np.zeros(len(regions), np.intp)
    areas, boxes = np.zeros_like(regions.areas), np.zeros_like(regions.boxes)
    for image, values, rows in regions.layers:
        image_of[rows], labels[rows] = len(images), values
        images.append(resized(image, shape))
        found = IdImageRegions(images[-1])
        place = {int(label): at for at, label in enumerate(found.labels)}
        for row, value in zip(rows, values, strict=True):
            at = place.get(int(value))
            if at is not None:
                areas[row], boxes[row] = found.areas[at], found.boxes[at]
    return Regions(images or [np.zeros(shape, np.uint8)], image_of, labels, regions.ids, areas, boxes)


def check_resizable(size: tuple[int, int], shape: tuple[int, int], name: str = "the regions", key: str = "") -> None:
    """Check that masks can be resized to an image, and log once that they are.

    Args:
        size: (height, width) of the masks in pixels.
        shape: (height, width) of the image in pixels.
        name: What errors and warnings call the masks.
        key: Names the kind of masks, about which one warning is logged; by default ``name``.

    Raises RegionError if width and height have another ratio.
    """
    (height, width), (to_height, to_width) = size, shape
    sizes = f"{name} are {width}x{height} pixels, the image is {to_width}x{to_height}"
    if not height * width or abs(width * to_height / (height * to_width) - 1) > _ASPECT_TOLERANCE:
        raise RegionError(
            f"{sizes}, and the ratio of width and height differs; make the masks on this image, or resize them to it "
            "(nearest neighbor)"
        )
    warn_once(_LOGGER, key or name, f"{sizes}; they are resized by nearest neighbor")


def resized(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return an image, [..., H, W], resized to (height, width) by nearest neighbor; centers of pixels are aligned."""
    rows, columns = (
        np.minimum(((np.arange(target) + 0.5) * (source / target)).astype(np.intp), source - 1)
        for source, target in zip(image.shape[-2:], shape, strict=True)
    )
    result: np.ndarray = image[..., rows[:, None], columns]
    return result
