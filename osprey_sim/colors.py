"""The 11 basic colors: the name of a pixel's color, and the color of an object."""

from __future__ import annotations

import cv2
import numpy as np

BASIC_COLORS: tuple[str, ...] = (
    "black",
    "white",
    "gray",
    "red",
    "orange",
    "yellow",
    "green",
    "blue",
    "purple",
    "pink",
    "brown",
)
_SHARE = 0.6  # of the pixels that must have the color

# Examples of each color, sRGB. A pixel has the color of the nearest example in CIE L*a*b*.
_EXAMPLES: dict[str, tuple[str, ...]] = {
    "black": ("000000", "1c1c1c", "26221f", "1b1e28", "2c2c2c"),
    "white": ("ffffff", "e8e8e8", "d6d6d6", "efe9da", "dfe6ee", "eee3e3"),
    "gray": ("484848", "606060", "7c7c7c", "989898", "b0b0b0", "6a7078", "a8a298"),
    "red": ("ff0000", "d01818", "a01010", "780c0c", "e04038", "b83030"),
    "orange": ("ff8000", "f06010", "ffa030", "d86818", "e88c48"),
    "yellow": ("ffff00", "f0d020", "f8e868", "d8c020", "f0e6a0", "b8a018"),
    "green": ("00ff00", "10a020", "0c5c14", "508c30", "90c860", "0a3010", "60a080", "788c50"),
    "blue": ("0000ff", "1838b0", "101c60", "3878d0", "78b0e8", "20a8d0", "506890", "306478", "a0c8e0", "00e0ff"),
    "purple": ("8000ff", "602090", "a048c8", "40184c", "9078b0"),
    "pink": ("ff80c0", "ff40a0", "f0a8b8", "e080a8", "d8208c"),
    "brown": ("502810", "6c4020", "8c5c34", "a87848", "c09468", "3c2010", "785844", "5c4a38", "b09a7c"),
}


def _lab(rgb: np.ndarray) -> np.ndarray:
    """Return CIE L*a*b* float32 [N, 3] of colors uint8 [N, 3]."""
    lab: np.ndarray = cv2.cvtColor((rgb[None] / np.float32(255)).astype(np.float32), cv2.COLOR_RGB2LAB)[0]
    return lab


_POINTS = _lab(np.array([list(bytes.fromhex(code)) for name in BASIC_COLORS for code in _EXAMPLES[name]], np.uint8))
_NAMES = np.array([number for number, name in enumerate(BASIC_COLORS) for _ in _EXAMPLES[name]])


def color_names(pixels: np.ndarray) -> np.ndarray:
    """Return the index in BASIC_COLORS of each pixel, int64 [N], for pixels uint8 [N, 3]."""
    lab = _lab(pixels)
    distances = (lab**2).sum(axis=1)[:, None] - 2 * lab @ _POINTS.T + (_POINTS**2).sum(axis=1)
    names: np.ndarray = _NAMES[distances.argmin(axis=1)]
    return names


def dominant_color(pixels: np.ndarray) -> str:
    """Return the basic color of at least 60 % of the pixels, uint8 [N, 3]; "" if no color has that share."""
    if len(pixels) == 0:
        return ""
    counts = np.bincount(color_names(pixels), minlength=len(BASIC_COLORS))
    best = int(counts.argmax())
    return BASIC_COLORS[best] if counts[best] >= _SHARE * len(pixels) else ""
