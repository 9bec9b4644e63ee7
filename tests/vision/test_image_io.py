"""Image files of every common kind are read as RGB, and errors name the file."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from osprey_ros.errors import ImageError
from osprey_ros.vision.image_io import image_size, load_image, save_image, upright


def test_color_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    save_image(tmp_path / "color.png", rgb)
    np.testing.assert_array_equal(load_image(tmp_path / "color.png"), rgb)


def test_alpha_is_dropped(tmp_path: Path) -> None:
    rgba = np.random.default_rng(0).integers(0, 256, (5, 7, 4), dtype=np.uint8)
    Image.fromarray(rgba).save(tmp_path / "alpha.png")
    np.testing.assert_array_equal(load_image(tmp_path / "alpha.png"), rgba[:, :, :3])


def test_gray_and_palette_become_rgb(tmp_path: Path) -> None:
    gray = np.random.default_rng(0).integers(0, 256, (5, 7), dtype=np.uint8)
    Image.fromarray(gray).save(tmp_path / "gray.png")
    np.testing.assert_array_equal(load_image(tmp_path / "gray.png"), np.stack([gray] * 3, axis=2))
    palette = Image.fromarray(gray % 3).convert("P")
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    palette.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(load_image(tmp_path / "palette.png")[0, 0] // 10 % 3, [1, 2, 0])


def test_sixteen_bits_are_scaled_to_eight(tmp_path: Path) -> None:
    gray = np.array([[0, 256, 32896, 65535]], np.uint16)
    Image.fromarray(gray).save(tmp_path / "gray16.png")
    np.testing.assert_array_equal(load_image(tmp_path / "gray16.png")[0, :, 0], [0, 1, 128, 255])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["turned.png", "turned.tif", "turned.webp", "deep.png"])
def test_images_are_turned_upright_as_opencv_does(tmp_path: Path, orientation: int, name: str) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    if name == "deep.png":  # Pillow does not write color of 16 bits
        cv2.imwrite(str(tmp_path / name), rgb[:, :, ::-1].astype(np.uint16) * 257)
        _insert_exif(tmp_path / name, exif.tobytes().removeprefix(b"Exif\0\0"))
    else:
        Image.fromarray(rgb).save(tmp_path / name, exif=exif, lossless=True)
    (tmp_path / "plain.jpg").write_bytes(b"")
    Image.fromarray(rgb).save(tmp_path / "plain.jpg", exif=exif)  # the format that every OpenCV turns
    turned = cv2.imread(str(tmp_path / "plain.jpg")).shape
    found = load_image(tmp_path / name)
    assert found.shape == turned
    np.testing.assert_array_equal(found, upright(rgb, orientation))
    assert image_size(tmp_path / name) == (turned[1], turned[0])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations_are_those_of_pillow(orientation: int) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    image = Image.fromarray(rgb)
    image.getexif()[0x0112] = orientation
    np.testing.assert_array_equal(upright(rgb, orientation), np.asarray(ImageOps.exif_transpose(image)))


def _insert_exif(png: Path, exif: bytes) -> None:
    """Insert an eXIf chunk behind the header of a PNG file."""
    data = png.read_bytes()
    body = b"eXIf" + exif
    chunk = struct.pack(">I", len(exif)) + body + struct.pack(">I", zlib.crc32(body))
    png.write_bytes(data[:33] + chunk + data[33:])


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
@pytest.mark.parametrize("color", [False, True])
def test_fewer_bits_in_16_are_scaled_to_the_range_in_use(
    tmp_path: Path, bits: int, color: bool, caplog: pytest.LogCaptureFixture
) -> None:
    values = np.linspace(0, 2**bits - 1, 35).reshape(5, 7).astype(np.uint16)
    pixels = np.repeat(values[:, :, None], 3, axis=2) if color else values
    cv2.imwrite(str(tmp_path / "g.png"), pixels)
    expected = np.repeat(np.rint(values / (2**bits - 1) * 255).astype(np.uint8)[:, :, None], 3, axis=2)
    np.testing.assert_allclose(load_image(tmp_path / "g.png"), expected, atol=1)
    assert f"g.png: its 16-bit values end at {2**bits - 1} of 65535, so they are taken as {bits} bits" in caplog.text


def test_of_several_pages_the_first_is_read_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, second = (Image.new("RGB", (7, 5), color) for color in ("red", "blue"))
    first.save(tmp_path / "pages.tif", save_all=True, append_images=[second])
    assert load_image(tmp_path / "pages.tif")[0, 0].tolist() == [255, 0, 0]
    assert "pages.tif: it has 2 pages or frames; only the first is read" in caplog.text


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"absent\.png does not exist"):
        load_image(tmp_path / "absent.png")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ImageError, match=r"text\.png cannot be read: it is not an image of a known format"):
        load_image(tmp_path / "text.png")
    save_image(tmp_path / "cut.png", np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8))
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:2000])
    with pytest.raises(ImageError, match=r"cut\.png cannot be read"):
        load_image(tmp_path / "cut.png")
    with pytest.raises(ImageError, match="cannot be read"):
        load_image(tmp_path)
    with pytest.raises(ImageError, match=r"image\.xyz cannot be written"):
        save_image(tmp_path / "image.xyz", np.zeros((2, 2, 3), np.uint8))
