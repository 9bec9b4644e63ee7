"""Image files: read as RGB arrays, and written."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from osprey_ros.errors import ImageError
from osprey_ros.file_errors import os_reason
from osprey_ros.files import completed_file
from osprey_ros.vision.image_content import decoded_image, exif_orientation, frame_count, has_deep_color, size_of

_LOGGER = logging.getLogger(__name__)


def load_image(path: str | os.PathLike[str]) -> np.ndarray:
    """Read an image file as RGB, uint8 [H, W, 3].

    Gray and palette images become RGB, and an alpha channel is dropped, as in the published code. The image is upright:
    an EXIF orientation is applied, as labeling tools, browsers and ``cv2.imread`` do. Values of 16 bits are scaled
    to 8 bits; if they use only 8, 10, 12 or 14 bits, these are scaled and a warning is logged. Of several pages or
    frames the first is read, with a warning.

    Raises ImageError if the file is missing, damaged, or not an image that can be read.
    """
    data = read_file(path)
    try:
        rgb, doubts = rgb_from_bytes(data)
    except ImageError as error:
        raise ImageError(f"image {os.fspath(path)} cannot be read: {error}") from error
    for doubt in doubts:
        _LOGGER.warning("image %s: %s", os.fspath(path), doubt)
    return rgb


def read_file(path: str | os.PathLike[str]) -> bytes:
    """Return the bytes of an image file. Raises ImageError if it is missing or cannot be read."""
    try:
        return Path(path).read_bytes()
    except FileNotFoundError as error:
        raise ImageError(f"image {os.fspath(path)} does not exist") from error
    except OSError as error:
        raise ImageError(f"image {os.fspath(path)} cannot be read: {error.strerror}") from error


def rgb_from_bytes(data: bytes) -> tuple[np.ndarray, tuple[str, ...]]:
    """Decode the bytes of an image file, upright as EXIF says.

    Returns:
        RGB, uint8 [H, W, 3], and sentences about what may be wrong with it.

    Raises:
        ImageError: The bytes are damaged or not an image.
    """
    image = decoded_image(data)
    doubts = []
    frames = frame_count(data)
    if frames > 1:
        doubts.append(f"it has {frames} pages or frames; only the first is read")
    deep = decoded_pixels(data, cv2.IMREAD_UNCHANGED) if has_deep_color(data) else None
    if deep is not None and deep.ndim == 3 and deep.dtype == np.uint16:
        pixels, doubt = eight_bits(upright(deep, exif_orientation(data))[:, :, 2::-1])
        rgb = np.ascontiguousarray(pixels)
    elif image.mode.startswith("I"):
        gray = np.asarray(image).astype(np.int64)
        if gray.min() < 0 or gray.max() > 65535:
            raise ImageError(f"its values {gray.min()} to {gray.max()} do not fit 16 bits; scale them to 0 to 65535")
        gray8, doubt = eight_bits(gray.astype(np.uint16))
        rgb = np.repeat(gray8[:, :, None], 3, axis=2)
    elif image.mode == "F":
        raise ImageError("it holds floating-point values; convert it to 8 or 16 bits")
    else:
        rgb, doubt = np.array(image.convert("RGB")), ""
    return rgb, (*doubts, doubt) if doubt else tuple(doubts)


def decoded_pixels(data: bytes, flags: int) -> np.ndarray | None:
    """Return the pixels of the bytes of an image file as OpenCV decodes them with its flags; None if it cannot."""
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:  # such as an image with more pixels than OpenCV's limit
        return None


def eight_bits(values: np.ndarray) -> tuple[np.ndarray, str]:
    """Scale values of up to 16 bits to 8 bits.

    Cameras with 10, 12 or 14 bits store their values in 16 bits, often without a shift. So the range is looked at: the
    smallest of 8, 10, 12, 14 and 16 bits that holds all values is scaled to 0 to 255.

    Args:
        values: uint16 of any shape.

    Returns:
        uint8 of the same shape, and a sentence if fewer than 16 bits are in use, else "".
    """
    highest = int(values.max(initial=0))
    bits = next(bits for bits in (8, 10, 12, 14, 16) if highest < 1 << bits) if highest else 16
    scaled = cv2.convertScaleAbs(values, alpha=255 / ((1 << bits) - 1)).reshape(values.shape)
    if bits == 16:
        return scaled, ""
    return scaled, f"its 16-bit values end at {highest} of 65535, so they are taken as {bits} bits and scaled"


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn pixels [H, W, ...] as an EXIF orientation, 1 to 8, says."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Return (width, height) of the upright image of a file in pixels. The file must be whole, its pixels are not read.

    Raises ImageError if it is missing, damaged, or not an image that can be read.
    """
    data = read_file(path)
    try:
        return size_of(data)
    except ImageError as error:
        raise ImageError(f"image {os.fspath(path)} cannot be read: {error}") from error


def save_image(path: str | os.PathLike[str], rgb: np.ndarray) -> None:
    """Write RGB, uint8 [H, W, 3], in the format of the file name's extension. Raises ImageError if that fails.

    A failure leaves no part of the file, and an older file as it was.
    """
    check_rgb(rgb)
    try:
        with completed_file(path) as partial:
            Image.fromarray(np.ascontiguousarray(rgb)).save(partial)
    except (OSError, ValueError) as error:
        reason = os_reason(error) if isinstance(error, OSError) else error
        raise ImageError(f"image {os.fspath(path)} cannot be written: {reason}") from error


def check_image_name(path: str | os.PathLike[str]) -> None:
    """Raise ImageError if `save_image` cannot write the format of a file name's extension."""
    extension = os.path.splitext(path)[1].lower()
    if Image.registered_extensions().get(extension) not in Image.SAVE:
        raise ImageError(
            f"image {os.fspath(path)} cannot be written: the extension {extension!r} names no image format; use .png"
        )


def check_rgb(rgb: np.ndarray) -> None:
    """Raise ImageError unless the array is a non-empty RGB image, uint8 [H, W, 3]."""
    if not isinstance(rgb, np.ndarray) or rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        found = f"{rgb.dtype} {list(rgb.shape)}" if isinstance(rgb, np.ndarray) else type(rgb).__name__
        raise ImageError(f"an image must be a uint8 array [height, width, 3] in RGB order, not {found}")
    if rgb.size == 0:
        raise ImageError(f"the image has no pixels: its size is {rgb.shape[1]}x{rgb.shape[0]}")
