"""Strategies: images, id images and damaged files, as cameras, phones, tools and broken transfers make them."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st
from PIL import Image

FORMATS = {"PNG": ".png", "JPEG": ".jpg", "BMP": ".bmp", "WEBP": ".webp", "TIFF": ".tif", "GIF": ".gif", "PPM": ".ppm"}
JUNK = (
    b"",
    b"Mac OS X        ",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n",
    b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
    b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic",
    b"PK\x03\x04",
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff\xe0",
)


@dataclass(frozen=True)
class ImageFile:
    """Bytes of an image file, and whether they were damaged."""

    data: bytes
    format: str
    damaged: bool
    upright: tuple[int, int]  # height and width as tools show it


@st.composite
def image_files(draw: st.DrawFn) -> ImageFile:
    """Return images of every kind that Pillow writes, some of them damaged."""
    width, height = draw(st.integers(1, 90)), draw(st.integers(1, 90))
    mode = draw(st.sampled_from(["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16", "I", "F", "YCbCr", "HSV"]))
    seed = draw(st.integers(0, 2**16))
    rgb = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = Image.fromarray(rgb)
    if mode == "I;16":
        values = rgb[..., 0].astype(np.uint16) * draw(st.sampled_from([1, 16, 257]))
        image = Image.fromarray(values)
    else:
        image = image.convert("L").convert(mode) if mode in ("I", "F") else image.convert(mode)
    format = draw(st.sampled_from(sorted(FORMATS)))
    options: dict[str, Any] = {}
    orientation = draw(st.sampled_from([None, None, *range(1, 9)]))
    if orientation is not None and format in ("JPEG", "PNG", "WEBP", "TIFF"):
        exif = Image.Exif()
        exif[274] = orientation
        options["exif"] = exif
    if draw(st.booleans()) and format in ("PNG", "TIFF", "GIF", "WEBP"):
        options.update(save_all=True, append_images=[image.copy()] * draw(st.integers(0, 2)))
    stream = io.BytesIO()
    try:
        image.save(stream, format, **options)
    except (OSError, ValueError, KeyError):  # Pillow does not write this mode in this format
        stream, options = io.BytesIO(), {}
        Image.fromarray(rgb).save(stream, format)
    turned = "exif" in options and orientation in (5, 6, 7, 8)
    data, damaged = draw(_damage(stream.getvalue()))
    return ImageFile(data, format, damaged, (width, height) if turned else (height, width))


@st.composite
def _damage(draw: st.DrawFn, data: bytes) -> tuple[bytes, bool]:
    kind = draw(st.sampled_from(["none", "none", "none", "cut", "flip", "junk", "tail"]))
    if kind == "cut":
        return data[: draw(st.integers(0, len(data) - 1))], True
    if kind == "flip":
        place = draw(st.integers(0, len(data) - 1))
        return data[:place] + bytes([data[place] ^ draw(st.integers(1, 255))]) + data[place + 1 :], True
    if kind == "junk":
        return draw(st.sampled_from(JUNK)), True
    if kind == "tail":
        return data + b"\0" * draw(st.integers(1, 9)), True
    return data, False


@dataclass(frozen=True)
class IdImage:
    """An id image, its file, and the ids that are in it."""

    data: bytes
    format: str
    ids: frozenset[int]
    exact: bool  # whether the file holds the ids as they are


@st.composite
def id_images(draw: st.DrawFn, height: int, width: int) -> IdImage:
    """Return id images of a size as segmenters, tools and mistakes make them."""
    dtype = draw(st.sampled_from([np.uint8, np.uint16, np.int32, np.bool_, np.float32]))
    count = draw(st.integers(0, 12))
    largest = {np.uint8: 255, np.uint16: 65535, np.int32: 100_000, np.bool_: 1, np.float32: 9}[dtype]
    values = np.zeros((height, width), np.int64)
    for _ in range(count):
        top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
        h, w = draw(st.integers(1, height)), draw(st.integers(1, width))
        values[top : top + h, left : left + w] = draw(st.integers(0, largest))
    array = values.astype(dtype)
    format = draw(st.sampled_from(["PNG", "PNG", "PNG", "TIFF", "BMP", "JPEG", "WEBP", "GIF"]))
    options: dict[str, Any] = {"lossless": True} if format == "WEBP" and draw(st.booleans()) else {}
    image = Image.fromarray(array)
    if dtype is np.uint8 and draw(st.booleans()):
        image = Image.frombytes("P", (width, height), array.tobytes())
        image.putpalette([value * 37 % 256 for value in range(768)])
    if draw(st.integers(0, 9)) == 0:
        image = image.convert("RGB")
    if format in ("TIFF", "GIF") and draw(st.integers(0, 3)) == 0:
        options.update(save_all=True, append_images=[image.copy()])
    stream = io.BytesIO()
    try:
        image.save(stream, format, **options)
    except (OSError, ValueError):
        format = "TIFF"
        stream = io.BytesIO()
        image.save(stream, format)
    exact = format in ("PNG", "TIFF", "BMP") and image.mode not in ("RGB", "F")
    if format == "GIF":  # Pillow clips values and numbers the colors of the palette in its own order
        with Image.open(io.BytesIO(stream.getvalue())) as stored:
            array = np.asarray(stored)
    return IdImage(stream.getvalue(), format, frozenset(np.unique(array[array != 0]).astype(int).tolist()), exact)


NAMES = st.one_of(
    st.integers(0, 300).map(str),
    st.integers(0, 30).map(lambda number: f"mask_{number:03}"),
    st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=12),
    st.sampled_from(["._1", ".DS_Store", "Thumbs", "1.2", "１", "ü", "-1", "a b"]),
)
