"""Pictures: preprocessing equals the published one number for number, and files of every common kind are read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessor
from transformers.models import clip

from osprey_ros.bundle import ModelSpec
from osprey_ros.image import ImageError, load_image, preprocess, save_image

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def _published(rgb: np.ndarray, size: int) -> np.ndarray:
    # transformers 5 calls the Pillow one CLIPImageProcessorPil; before, it was the only one.
    processor = getattr(clip, "CLIPImageProcessorPil", CLIPImageProcessor)(
        size={"shortest_edge": size}, do_center_crop=False, image_mean=CLIP_MEAN, image_std=CLIP_STD
    )
    pixels = processor(images=rgb, return_tensors="pt", input_data_format="channels_last")["pixel_values"]
    return torch.nn.functional.interpolate(pixels, (size, size), mode="bilinear", align_corners=False).numpy()


@pytest.mark.parametrize("size", [64, 192, 512])
@pytest.mark.parametrize("shape", [(480, 640), (720, 1280), (37, 91), (91, 37), (641, 480), (512, 512), (1, 30)])
def test_preprocessing_is_the_published_one(shape: tuple[int, int], size: int, spec: ModelSpec) -> None:
    rgb = np.random.default_rng(size).integers(0, 256, (*shape, 3), dtype=np.uint8)
    spec = replace(spec, image_size=size, image_mean=CLIP_MEAN, image_std=CLIP_STD)
    ours = preprocess(rgb, spec)
    assert ours.dtype == np.float32
    assert ours.flags.c_contiguous
    # Equal to the last bit where torch has fused multiply-adds; without them the last bit may differ.
    np.testing.assert_allclose(ours, _published(rgb, size), rtol=0, atol=5e-7)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 5, 3), np.float32), r"not float32 \[4, 5, 3\]"),
        (np.zeros((4, 5), np.uint8), r"not uint8 \[4, 5\]"),
        (np.zeros((4, 5, 4), np.uint8), r"not uint8 \[4, 5, 4\]"),
        (np.zeros((0, 5, 3), np.uint8), "5x0"),
        (np.zeros((2, 900, 3), np.uint8), "900x2 pixels is too thin"),
        ("cat.png", "not str"),
    ],
)
def test_arrays_that_are_no_picture(array: np.ndarray, message: str, spec: ModelSpec) -> None:
    with pytest.raises(ImageError, match=message):
        preprocess(array, spec)


def test_colour_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    save_image(tmp_path / "colour.png", rgb)
    np.testing.assert_array_equal(load_image(tmp_path / "colour.png"), rgb)


def test_alpha_is_dropped(tmp_path: Path) -> None:
    rgba = np.random.default_rng(0).integers(0, 256, (5, 7, 4), dtype=np.uint8)
    Image.fromarray(rgba).save(tmp_path / "alpha.png")
    np.testing.assert_array_equal(load_image(tmp_path / "alpha.png"), rgba[:, :, :3])


def test_grey_and_palette_become_rgb(tmp_path: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (5, 7), dtype=np.uint8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(load_image(tmp_path / "grey.png"), np.stack([grey] * 3, axis=2))
    palette = Image.fromarray(grey % 3).convert("P")
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    palette.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(load_image(tmp_path / "palette.png")[0, 0] // 10 % 3, [1, 2, 0])


def test_sixteen_bits_are_scaled_to_eight(tmp_path: Path) -> None:
    grey = np.array([[0, 256, 32896, 65535]], np.uint16)
    Image.fromarray(grey).save(tmp_path / "grey16.png")
    np.testing.assert_array_equal(load_image(tmp_path / "grey16.png")[0, :, 0], [0, 1, 128, 255])


def test_pixels_are_taken_as_stored_whatever_exif_says(tmp_path: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: to be turned by 90 degrees for viewing
    Image.fromarray(rgb).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(load_image(tmp_path / "turned.png"), rgb)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"absent\.png does not exist"):
        load_image(tmp_path / "absent.png")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ImageError, match=r"text\.png cannot be read"):
        load_image(tmp_path / "text.png")
    save_image(tmp_path / "cut.png", np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8))
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:2000])
    with pytest.raises(ImageError, match=r"cut\.png cannot be read"):
        load_image(tmp_path / "cut.png")
    with pytest.raises(ImageError, match="cannot be read"):
        load_image(tmp_path)
    with pytest.raises(ImageError, match=r"picture\.xyz cannot be written"):
        save_image(tmp_path / "picture.xyz", np.zeros((2, 2, 3), np.uint8))
