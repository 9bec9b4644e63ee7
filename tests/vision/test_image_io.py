"""Image files of every common kind are read as RGB, and errors name the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from osprey_ros.errors import ImageError
from osprey_ros.vision.image_io import load_image, save_image


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


def test_pixels_are_taken_as_stored_whatever_exif_says(tmp_path: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: to be turned by 90 degrees for viewing
    Image.fromarray(rgb).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(load_image(tmp_path / "turned.png"), rgb)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"absent\.png does not exist"):
        load_image(tmp_path / "absent.png")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ImageError, match=r"text\.png cannot be read"):
        load_image(tmp_path / "text.png")
    save_image(tmp_path / "cut.png", np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8))
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:2000])
    with pytest.raises(ImageError, match=r"cut\.png cannot be read"):
        load_image(tmp_path / "cut.png")
    with pytest.raises(ImageError, match="cannot be read"):
        load_image(tmp_path)
    with pytest.raises(ImageError, match=r"image\.xyz cannot be written"):
        save_image(tmp_path / "image.xyz", np.zeros((2, 2, 3), np.uint8))
