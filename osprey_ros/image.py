"""Pictures: reading them from files, and turning them into what the vision engine takes.

Preprocessing is the published one, number for number: ``CLIPImageProcessor`` (shortest edge, bicubic, no crop) followed
by a bilinear resize of the normalised tensor to a square.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from osprey_ros import bilinear
from osprey_ros.errors import OspreyError

if TYPE_CHECKING:
    from osprey_ros.bundle import ModelSpec

# A thinner picture would need more memory than it is worth: at 100 to 1 its short edge of 512 makes 26 million pixels,
# 79 MB of bytes and another 315 MB once they are normalised to float32.
MAX_ASPECT_RATIO = 100


class ImageError(OspreyError):
    """A picture that cannot be read or used; the message names it and says why."""


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


def preprocess(rgb: np.ndarray, spec: ModelSpec) -> np.ndarray:
    """The vision engine's input, float32 [1, 3, S, S], of a picture uint8 [H, W, 3].

    Raises ImageError for other arrays.
    """
    return normalise_and_square(resize_shortest_edge(rgb, spec.image_size), spec)[None]


def resize_shortest_edge(rgb: np.ndarray, size: int) -> np.ndarray:
    """Resizes uint8 [H, W, 3] bicubically so that its shorter edge is ``size``; the longer keeps the aspect ratio."""
    check_rgb(rgb)
    height, width = rgb.shape[:2]
    short, long = min(height, width), max(height, width)
    if long > MAX_ASPECT_RATIO * short:
        raise ImageError(f"a picture of {width}x{height} pixels is too thin: at most {MAX_ASPECT_RATIO} to 1")
    new_long = int(size * long / short)
    new_width, new_height = (size, new_long) if width <= height else (new_long, size)
    image = Image.fromarray(np.ascontiguousarray(rgb))
    # Image.Resampling came with Pillow 9.1, Ubuntu 22.04 has 9.0; type checkers do not see the older name.
    return np.asarray(image.resize((new_width, new_height), Image.BICUBIC))  # type: ignore[attr-defined]


def normalise_and_square(rgb_small: np.ndarray, spec: ModelSpec) -> np.ndarray:
    """Scales, normalises and squeezes uint8 [h, w, 3] to float32 [3, S, S], whatever the aspect ratio."""
    size = spec.image_size
    table = _normalised_values(spec)
    pixels = np.stack([table[channel][rgb_small[:, :, channel]] for channel in range(3)])
    height, width = pixels.shape[1:]
    # Resizing an axis to its own length changes nothing: the shorter edge already has the right one.
    if width != size:
        x = bilinear.axis(width, size)
        pixels = bilinear.blend(pixels[:, :, x.low], x.low_weight, pixels[:, :, x.high], x.high_weight)
    if height != size:
        y = bilinear.axis(height, size)
        # For three-channel tensors torch fuses the other product here; either order is right to the last bit but one.
        pixels = bilinear.blend(pixels[:, y.high], y.high_weight[:, None], pixels[:, y.low], y.low_weight[:, None])
    return np.ascontiguousarray(pixels)


def check_rgb(rgb: np.ndarray) -> None:
    """Raises ImageError unless the array is a non-empty RGB picture, uint8 [H, W, 3]."""
    if not isinstance(rgb, np.ndarray) or rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        found = f"{rgb.dtype} {list(rgb.shape)}" if isinstance(rgb, np.ndarray) else type(rgb).__name__
        raise ImageError(f"a picture must be a uint8 array [height, width, 3] in RGB order, not {found}")
    if rgb.size == 0:
        raise ImageError(f"a picture must have pixels, this one is {rgb.shape[1]}x{rgb.shape[0]}")


def _normalised_values(spec: ModelSpec) -> np.ndarray:
    # 256 possible inputs: [3, 256] float32, computed with the roundings of CLIPImageProcessor.
    scaled = (np.arange(256, dtype=np.float64) * (1 / 255)).astype(np.float32)
    mean = np.asarray(spec.image_mean, np.float32)[:, None]
    std = np.asarray(spec.image_std, np.float32)[:, None]
    return (scaled - mean) / std
