"""Image files: read as RGB arrays, and written."""

from __future__ import annotations

import os

import numpy as np
from PIL import Image

from osprey_ros.errors import ImageError


def load_image(path: str | os.PathLike[str]) -> np.ndarray:
    """Read an image file as RGB, uint8 [H, W, 3].

    Gray and palette images become RGB, 16-bit gray is scaled to 8 bits, and an alpha channel is dropped, as in the
    published code. An EXIF orientation is ignored, because masks belong to the pixels as they are stored. Raises
    ImageError if the file is missing or cannot be read.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return to_rgb(image)
    except FileNotFoundError as error:
        raise ImageError(f"image {os.fspath(path)} does not exist") from error
    except ImageError as error:
        raise ImageError(f"image {os.fspath(path)}: {error}") from error
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise ImageError(f"image {os.fspath(path)} cannot be read: {error}") from error


def save_image(path: str | os.PathLike[str], rgb: np.ndarray) -> None:
    """Write RGB, uint8 [H, W, 3], in the format of the file name's extension. Raises ImageError if that fails."""
    check_rgb(rgb)
    try:
        Image.fromarray(np.ascontiguousarray(rgb)).save(path)
    except (OSError, ValueError) as error:
        raise ImageError(f"image {os.fspath(path)} cannot be written: {error}") from error


def check_image_name(path: str | os.PathLike[str]) -> None:
    """Raise ImageError if `save_image` cannot write the format of a file name's extension."""
    extension = os.path.splitext(path)[1].lower()
    if Image.registered_extensions().get(extension) not in Image.SAVE:
        raise ImageError(
            f"image {os.fspath(path)} cannot be written: the extension {extension!r} names no image format; use .png"
        )


def to_rgb(image: Image.Image) -> np.ndarray:
    """Return a Pillow image of any mode as RGB, uint8 [H, W, 3].

    Raises ImageError for floating-point values and for integers beyond 16 bits.
    """
    if image.mode == "F":
        raise ImageError("it holds floating-point values; convert it to 8 or 16 bits")
    if image.mode.startswith("I"):
        gray = np.asarray(image).astype(np.int64)
        if gray.min() < 0 or gray.max() > 65535:
            raise ImageError(f"its values {gray.min()} to {gray.max()} do not fit 16 bits; scale them to 0 to 65535")
        # 65535 / 255 = 257; rounded to nearest.
        gray8 = ((gray + 128) // 257).astype(np.uint8)
        return np.repeat(gray8[:, :, None], 3, axis=2)
    return np.array(image.convert("RGB"))


def check_rgb(rgb: np.ndarray) -> None:
    """Raise ImageError unless the array is a non-empty RGB image, uint8 [H, W, 3]."""
    if not isinstance(rgb, np.ndarray) or rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        found = f"{rgb.dtype} {list(rgb.shape)}" if isinstance(rgb, np.ndarray) else type(rgb).__name__
        raise ImageError(f"an image must be a uint8 array [height, width, 3] in RGB order, not {found}")
    if rgb.size == 0:
        raise ImageError(f"the image has no pixels: its size is {rgb.shape[1]}x{rgb.shape[0]}")
