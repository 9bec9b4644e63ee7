"""Preprocessing: exact mode agrees with the published one, fast mode approximates it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from osprey_ros.bundle.spec import ModelSpec
from osprey_ros.errors import ImageError
from osprey_ros.vision.preprocess import Preprocessor, normalize_and_square, preprocess, resize_shortest_edge
from osprey_torch.published import PublishedPixels

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("size", [64, 192, 512])
@pytest.mark.parametrize("shape", [(480, 640), (720, 1280), (37, 91), (91, 37), (641, 480), (512, 512), (1, 30)])
def test_exact_mode_agrees_with_the_published_preprocessing(
    shape: tuple[int, int], size: int, threads: int, spec: ModelSpec
) -> None:
    rgb = np.random.default_rng(size).integers(0, 256, (*shape, 3), dtype=np.uint8)
    spec = replace(spec, image_size=size, image_mean=CLIP_MEAN, image_std=CLIP_STD)
    ours = Preprocessor(spec, threads=threads)(rgb)
    assert ours.dtype == np.float32
    assert ours.flags.c_contiguous
    np.testing.assert_allclose(ours, PublishedPixels(spec)(rgb).numpy(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_the_number_of_threads_changes_no_value(threads: int, spec: ModelSpec) -> None:
    rng = np.random.default_rng(threads)
    spec = replace(spec, image_size=192)
    one, many = Preprocessor(spec), Preprocessor(spec, threads=threads)
    for shape in [(480, 640), (720, 1280), (1280, 720), (768, 768), (500, 640), (100, 130), (130, 100), (200, 1300)]:
        rgb = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
        np.testing.assert_array_equal(many(rgb), one(rgb), err_msg=str(shape))


@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_a_preprocessor_takes_images_of_any_size_in_turn(mode: str, spec: ModelSpec) -> None:
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
def test_fast_mode_approximates_exact_mode(shape: tuple[int, int], size: int, spec: ModelSpec) -> None:
    spec = replace(spec, image_size=size)
    rgb = _edges(*shape)
    # In levels of 8 bits: flat areas agree, edges nearly.
    difference = (
        np.abs(preprocess(rgb, spec, "fast") - preprocess(rgb, spec)) * np.reshape(spec.image_std, (3, 1, 1)) * 255
    )
    assert difference.mean() < 1.5
    assert difference.max() < 40


def test_fast_mode_keeps_flat_color(spec: ModelSpec) -> None:
    rgb = np.empty((90, 160, 3), np.uint8)
    rgb[:] = 200, 100, 50
    np.testing.assert_array_equal(preprocess(rgb, spec, "fast"), preprocess(rgb, spec))


def _edges(height: int, width: int) -> np.ndarray:
    """Smooth colors with a disc and a bar of sharp outline, uint8 [height, width, 3]."""
    y, x = np.mgrid[:height, :width] / min(height, width)
    rgb = np.stack([127 + 80 * np.sin(3 * x), 127 + 80 * np.cos(2 * y), 90 + 60 * x * y], axis=2)
    rgb[np.hypot(y - 0.5, x - 0.4) < 0.25] = 230, 60, 40
    rgb[np.abs(x - y) < 0.04] = 20, 30, 200
    return rgb.clip(0, 255).astype(np.uint8)


def test_an_unknown_mode_is_refused(spec: ModelSpec) -> None:
    with pytest.raises(ImageError, match="unknown preprocessing mode 'quick': choose one of exact, fast"):
        Preprocessor(spec, "quick")


def test_training_prepares_images_in_two_steps(spec: ModelSpec) -> None:
    rgb = np.random.default_rng(1).integers(0, 256, (120, 200, 3), dtype=np.uint8)
    resized = resize_shortest_edge(rgb, spec.image_size)
    assert resized.shape == (64, 106, 3)
    np.testing.assert_array_equal(normalize_and_square(resized, spec), preprocess(rgb, spec)[0])


@pytest.mark.parametrize("mode", ["exact", "fast"])
@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 5, 3), np.float32), r"not float32 \[4, 5, 3\]"),
        (np.zeros((4, 5), np.uint8), r"not uint8 \[4, 5\]"),
        (np.zeros((4, 5, 4), np.uint8), r"not uint8 \[4, 5, 4\]"),
        (np.zeros((0, 5, 3), np.uint8), "5x0"),
        (np.zeros((2, 900, 3), np.uint8), "the image is 900x2: its sides may differ by 100 times at most"),
        ("cat.png", "not str"),
    ],
)
def test_other_arrays_are_refused(array: np.ndarray, message: str, mode: str, spec: ModelSpec) -> None:
    with pytest.raises(ImageError, match=message):
        preprocess(array, spec, mode)
