"""What the bytes of a file are is found whatever its name says, and damage is found before a decoder hides it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from osprey_ros.errors import ImageError
from osprey_ros.vision.image_content import check_exact, image_content
from osprey_ros.vision.image_io import load_image

RGB = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def encoded(kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(RGB).save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("kind", "options", "name", "lossy"),
    [
        ("PNG", {}, "PNG", False),
        ("JPEG", {}, "JPEG", True),
        ("JPEG", {"progressive": True}, "JPEG", True),
        ("GIF", {}, "GIF", False),
        ("TIFF", {}, "TIFF", False),
        ("BMP", {}, "BMP", False),
        ("PPM", {}, "PNM", False),
        ("WEBP", {}, "lossy WebP", True),
        ("WEBP", {"lossless": True}, "WebP", False),
        ("JPEG2000", {}, "JPEG 2000", True),
    ],
)
def test_formats_are_known_by_their_bytes(kind: str, options: dict[str, object], name: str, lossy: bool) -> None:
    content = image_content(encoded(kind, **options))
    assert (content.kind, content.lossy, content.damage) == (name, lossy, "")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF", "BMP", "PPM", "WEBP"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.9, 1.0])
def test_images_that_are_cut_off_are_refused(tmp_path: Path, kind: str, share: float) -> None:
    whole = encoded(kind)
    (tmp_path / "image").write_bytes(whole[: min(int(len(whole) * share), len(whole) - 2)])
    with pytest.raises(ImageError, match="cannot be read: it is") as refused:
        load_image(tmp_path / "image")
    assert "\n" not in str(refused.value)
    assert "Error" not in str(refused.value)


def test_the_end_of_a_preview_is_not_the_end_of_a_jpeg() -> None:
    preview = encoded("JPEG")
    exif = b"Exif\0\0" + preview
    segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    whole = encoded("JPEG")
    data = whole[:2] + segment + whole[2:]
    assert image_content(data).damage == ""
    assert image_content(data[:-2]).damage == "its end-of-image marker is missing"
    assert image_content(data + b"trailing bytes of a phone").damage == ""


def test_a_changed_byte_of_a_png_is_found() -> None:
    data = bytearray(encoded("PNG"))
    data[len(data) // 2] ^= 1
    assert image_content(bytes(data)).damage == "a checksum is wrong"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", r"it is empty \(0 bytes\)"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "a Git LFS pointer.*git lfs pull"),
        (b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        ", "a sidecar file of macOS"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "it is HEIC, which cannot be read here; convert it to PNG or JPEG"),
        (b"\0\0\0\x18ftypisom\0\0\0\0isomiso2", "it is an MP4 video; extract the frame"),
        (b"\n <!DOCTYPE html><html>", "a web page; download the image itself"),
        (b"%PDF-1.7", "a PDF document"),
        (b"PK\x03\x04", "a ZIP archive"),
        (b"\x93NUMPY\x01\0", "a NumPy array"),
        (b'[{"segmentation": []}]', "JSON text"),
        (b"<svg xmlns=", "an SVG drawing"),
        (b"plain text", "it is not an image of a known format"),
    ],
)
def test_files_that_are_something_else_are_named(tmp_path: Path, data: bytes, text: str) -> None:
    (tmp_path / "image.png").write_bytes(data)
    with pytest.raises(ImageError, match=text):
        load_image(tmp_path / "image.png")


def test_values_of_a_lossy_encoding_are_not_exact() -> None:
    check_exact(encoded("PNG"))
    with pytest.raises(ImageError, match="it is encoded as JPEG, which changes values; save it as PNG"):
        check_exact(encoded("JPEG"))
