"""Image files: read as RGB arrays, and written."""

from __future__ import annotations

import os

import numpy as np
from PIL import Image

from osprey_ros.errors import ImageError


def load_image(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads a picture file as RGB uint8 [H, W, 3].

    Grey and palette pictures become RGB, 16-bit grey is scaled to 8 bits, an alpha channel is dropped (as the published
    code does). An EXIF orientation is ignored: masks are made for the pixels as they are stored. Raises ImageError if
    the file is missing or is no readable picture.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return to_rgb(image)
    except FileNotFoundError as error:
        raise ImageError(f"picture {os.fspath(path)} does not exist") from error
    except ImageError as error:
        raise ImageError(f"picture {os.fspath(path)}: {error}") from error
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise ImageError(f"picture {os.fspath(path)} cannot be read: {error}") from error


def save_image(path: str | os.PathLike[str], rgb: np.ndarray) -> None:
    """Writes RGB uint8 [H, W, 3] in the format that the file name ends on. Raises ImageError if that fails."""
    check_rgb(rgb)
    try:
        Image.fromarray(np.ascontiguousarray(rgb)).save(path)
    except (OSError, ValueError) as error:
        raise ImageError(f"picture {os.fspath(path)} cannot be written: {error}") from error


def check_picture_name(path: str | os.PathLike[str]) -> None:
    """Raises ImageError for a file name that does not end on a format that `save_image` can write."""
    ending = os.path.splitext(path)[1].lower()
    if Image.registered_extensions().get(ending) not in Image.SAVE:
        raise ImageError(
            f"picture {os.fspath(path)} cannot be written: {ending!r} is the ending of no format for pictures, .png is"
        )


def to_rgb(image: Image.Image) -> np.ndarray:
    """RGB uint8 [H, W, 3] of any Pillow picture. Raises ImageError for floating point and for values beyond 16 bits."""
    if image.mode == "F":
        raise ImageError("it holds floating-point values: convert it to 8 or 16 bits")
    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.int64)
        if grey.min() < 0 or grey.max() > 65535:
            raise ImageError(f"its values {grey.min()} to {grey.max()} do not fit 16 bits")
        # 65535 / 255 = 257; rounded to nearest.
        grey8 = ((grey + 128) // 257).astype(np.uint8)
        return np.repeat(grey8[:, :, None], 3, axis=2)
    return np.array(image.convert("RGB"))


def check_rgb(rgb: np.ndarray) -> None:
    """Raises ImageError unless the array is a non-empty RGB picture, uint8 [H, W, 3]."""
    if not isinstance(rgb, np.ndarray) or rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        found = f"{rgb.dtype} {list(rgb.shape)}" if isinstance(rgb, np.ndarray) else type(rgb).__name__
        raise ImageError(f"a picture must be a uint8 array [height, width, 3] in RGB order, not {found}")
    if rgb.size == 0:
        raise ImageError(f"a picture must have pixels, this one is {rgb.shape[1]}x{rgb.shape[0]}")
