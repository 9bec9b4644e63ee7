"""Id images and masks from the bytes of a file or message, and signs that an id image does not hold ids."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from osprey_ros.errors import ImageError, RegionError
from osprey_ros.regions.arrays import inside
from osprey_ros.vision.image_content import check_exact, decoded_image, exif_orientation

ID_IMAGE = "a gray or palette PNG of up to 16 bits whose values are region ids"
MASK_IMAGE = "a gray or black-and-white PNG that is non-zero inside the region"
# An id image with more regions than MOST_SPECKLES below SPECKLE_AREA pixels is taken for one that was compressed with
# loss, scaled with interpolation, or is a photograph.
MOST_SPECKLES, SPECKLE_AREA = 64, 16
_BORDER_SHARE = 0.5  # of the pixels at the image border; an id above it is probably the background


@dataclass(frozen=True)
class StoredIds:
    """The values of an image file.

    Attributes:
        values: Integers [H, W], as stored.
        palette: Whether the values are indices into a palette.
        orientation: EXIF orientation of the file, 1 for upright.
    """

    values: np.ndarray
    palette: bool
    orientation: int


def stored_ids(data: bytes, expected: str = ID_IMAGE, turn: bool = True) -> StoredIds:
    """Return the values of an id image or a mask from the bytes of its file.

    Gray of up to 16 bits and palettes are read, from PNG, TIFF, BMP, GIF, PNM and WebP without loss.

    Args:
        data: The bytes of the file.
        expected: What errors ask for.
        turn: Whether to turn the image upright, as EXIF says.

    Raises:
        RegionError: The encoding changes values, there are several pages or frames, the image has color or floats, or
            the bytes are damaged or not an image. The text begins with "it" or "its".
    """
    try:
        content = check_exact(data)
        image = decoded_image(data, turn)
    except ImageError as error:
        raise RegionError(str(error)) from error
    if image.mode == "F" or not (image.mode in ("1", "L", "P") or image.mode.startswith("I")):
        channels = "floating-point values" if image.mode == "F" else f"{len(image.getbands())} channels"
        raise RegionError(f"it has {channels} (mode {image.mode}); give {expected}")
    pixels = np.asarray(image)
    if content.kind == "PNG" and image.mode == "L" and content.bits < 8:
        pixels = pixels // (255 // (2**content.bits - 1))  # Pillow scales gray of 2 and 4 bits to 0..255
    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8)
    return StoredIds(pixels, image.mode == "P", exif_orientation(data))


def stored_mask(data: bytes) -> tuple[np.ndarray, int]:
    """Return a mask, bool [H, W], from the bytes of its file, and its EXIF orientation.

    An opaque color image whose channels are equal is taken, and so is a gray one of floats. Raises RegionError as
    `stored_ids` does.
    """
    try:
        check_exact(data)
        image = decoded_image(data)
    except ImageError as error:
        raise RegionError(str(error)) from error
    if image.mode == "F":
        return np.asarray(inside(np.asarray(image)), np.bool_), exif_orientation(data)
    if image.mode in ("LA", "RGB", "RGBA"):
        pixels = np.asarray(image)
        color = pixels[:, :, : 3 if image.mode != "LA" else 1]
        opaque = image.mode == "RGB" or bool((pixels[:, :, -1] == 255).all())
        if opaque and (color == color[:, :, :1]).all():
            return color[:, :, 0] != 0, exif_orientation(data)
    ids = stored_ids(data, MASK_IMAGE)
    return ids.values != 0, ids.orientation


def check_speckles(areas: np.ndarray) -> None:
    """Raise RegionError if an id image with regions of these areas in pixels, integers [N], does not hold ids."""
    count = int(np.count_nonzero(areas < SPECKLE_AREA))
    if count > MOST_SPECKLES:
        raise RegionError(
            f"{count} of the {len(areas)} ids of the id image cover fewer than {SPECKLE_AREA} pixels each, as in a "
            "photograph or after compression with loss; give the ids as they were made, or allow this with "
            "masks_anyway (--masks-anyway)"
        )


def background_doubt(ids: np.ndarray) -> str:
    """Return a sentence if 0 is hardly the background of an id image, integers [H, W], else "".

    That is so if another id covers most of the image border, and more of the image than 0, which occurs, too.
    """
    border = np.concatenate([ids[0], ids[-1], ids[1:-1, 0], ids[1:-1, -1]])
    values, counts = np.unique(border, return_counts=True)
    found = int(values[counts.argmax()])
    if not found or counts.max() <= _BORDER_SHARE * len(border):
        return ""
    zeros, pixels = int(np.count_nonzero(ids == 0)), int(np.count_nonzero(ids == found))
    if not 0 < zeros < pixels:
        return ""
    return (
        f"0 is taken for the background but covers only {100 * zeros / ids.size:.2g} % of the id image, and "
        f"{'id ' if found > 0 else ''}{found} covers {100 * pixels / ids.size:.2g} %, also at the border; make 0 the "
        "background and count ids from 1"
    )
