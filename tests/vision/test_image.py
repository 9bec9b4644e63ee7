"""Pictures: preprocessing equals the published one number for number, and files of every common kind are read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from osprey_ros.bundle.spec import ModelSpec
from osprey_ros.errors import ImageError
from osprey_ros.vision.image_io import load_image, save_image
from osprey_ros.vision.preprocess import Preprocessor, normalise_and_square, preprocess
from osprey_torch.published import PublishedPixels

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@pytest.mark.parametrize("size", [64, 192, 512])
@pytest.mark.parametrize("shape", [(480, 640), (720, 1280), (37, 91), (91, 37), (641, 480), (512, 512), (1, 30)])
def test_preprocessing_is_the_published_one(shape: tuple[int, int], size: int, spec: ModelSpec) -> None:
    rgb = np.random.default_rng(size).integers(0, 256, (*shape, 3), dtype=np.uint8)
    spec = replace(spec, image_size=size, image_mean=CLIP_MEAN, image_std=CLIP_STD)
    ours = preprocess(rgb, spec)
    assert ours.dtype == np.float32
    assert ours.flags.c_contiguous
    # Equal to the last bit where torch has fused multiply-adds; without them the last bit may differ.
    np.testing.assert_allclose(ours, PublishedPixels(spec)(rgb).numpy(), rtol=0, atol=5e-7)


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_threads_change_no_number(threads: int, spec: ModelSpec) -> None:
    rng = np.random.default_rng(threads)
    spec = replace(spec, image_size=192)
    one, many = Preprocessor(spec), Preprocessor(spec, threads=threads)
    # The scale of the last four is no fraction of a power of two, or Pillow may turn its passes around.
    for shape in [(480, 640), (720, 1280), (1280, 720), (768, 768), (500, 640), (100, 130), (130, 100), (200, 1300)]:
        rgb = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
        np.testing.assert_array_equal(many(rgb), one(rgb), err_msg=str(shape))


@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_a_preprocessor_takes_pictures_of_any_size_in_turn(mode: str, spec: ModelSpec) -> None:
    rng = np.random.default_rng(0)
    preprocessor = Preprocessor(spec, mode)
    for shape in ((48, 64), (300, 100), (48, 64), (1, 1), (64, 64), (1, 100), (100, 1), (1001, 77), (48, 64)):
        rgb = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
        pixels = preprocessor(rgb)
        assert (pixels.shape, pixels.dtype, pixels.flags.c_contiguous) == ((1, 3, 64, 64), np.float32, True)
        np.testing.assert_array_equal(pixels, preprocess(rgb, spec, mode))
        np.testing.assert_array_equal(preprocessor(rgb[:, ::-1]), preprocess(rgb[:, ::-1].copy(), spec, mode))


@pytest.mark.parametrize("size", [64, 192, 512])
@pytest.mark.parametrize("shape", [(480, 640), (720, 1280), (1280, 720), (512, 512), (75, 100)])
def test_fast_preprocessing_comes_near_the_exact_one(shape: tuple[int, int], size: int, spec: ModelSpec) -> None:
    spec = replace(spec, image_size=size)
    rgb = _edges(*shape)
    # In levels of 8 bits: flat areas agree, edges nearly.
    difference = (
        np.abs(preprocess(rgb, spec, "fast") - preprocess(rgb, spec)) * np.reshape(spec.image_std, (3, 1, 1)) * 255
    )
    assert difference.mean() < 1.5
    assert difference.max() < 40


def test_fast_preprocessing_keeps_flat_colour(spec: ModelSpec) -> None:
    rgb = np.empty((90, 160, 3), np.uint8)
    rgb[:] = 200, 100, 50
    np.testing.assert_array_equal(preprocess(rgb, spec, "fast"), preprocess(rgb, spec))


def _edges(height: int, width: int) -> np.ndarray:
    """Smooth colours with a disc and a bar of sharp outline, uint8 [height, width, 3]."""
    y, x = np.mgrid[:height, :width] / min(height, width)
    rgb = np.stack([127 + 80 * np.sin(3 * x), 127 + 80 * np.cos(2 * y), 90 + 60 * x * y], axis=2)
    rgb[np.hypot(y - 0.5, x - 0.4) < 0.25] = 230, 60, 40
    rgb[np.abs(x - y) < 0.04] = 20, 30, 200
    return rgb.clip(0, 255).astype(np.uint8)


def test_an_unknown_mode_is_refused(spec: ModelSpec) -> None:
    with pytest.raises(ImageError, match="unknown mode of preprocessing 'quick': choose one of exact, fast"):
        Preprocessor(spec, "quick")


def test_only_a_resized_picture_is_squared(spec: ModelSpec) -> None:
    with pytest.raises(ValueError, match="65x70 pixels has no edge in common with 64x64"):
        normalise_and_square(np.zeros((70, 65, 3), np.uint8), spec)


@pytest.mark.parametrize("mode", ["exact", "fast"])
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
def test_arrays_that_are_no_picture(array: np.ndarray, message: str, mode: str, spec: ModelSpec) -> None:
    with pytest.raises(ImageError, match=message):
        preprocess(array, spec, mode)


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
