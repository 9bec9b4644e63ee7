"""The camera's motion between images that are moved by a known similarity."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from osprey_ros.scene.camera_motion import camera_motion, differs, small_gray, small_image

HEIGHT, WIDTH = 180, 256


@pytest.fixture(scope="module")
def world() -> np.ndarray:
    """A large image, uint8, with detail of all sizes."""
    rng = np.random.default_rng(5)
    layers = [cv2.resize(rng.random((n, n)), (600, 600), interpolation=cv2.INTER_CUBIC) for n in (20, 60, 150)]
    image = sum(layers)
    return cv2.normalize(image, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


def view(world: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The image of a camera, for a similarity [2, 3] from the middle of the world to the image."""
    middle = np.array([[1, 0, -170], [0, 1, -200], [0, 0, 1]], float)
    return cv2.warpAffine(world, matrix @ middle, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR)


def similarity(degrees: float, scale: float, x: float, y: float) -> np.ndarray:
    matrix = cv2.getRotationMatrix2D((WIDTH / 2, HEIGHT / 2), degrees, scale)
    matrix[:, 2] += (x, y)
    return matrix


def error(found: np.ndarray, true: np.ndarray) -> float:
    """The largest distance in pixels between where the two take the image's corners."""
    corners = np.array([[0, 0, 1], [WIDTH, 0, 1], [0, HEIGHT, 1], [WIDTH, HEIGHT, 1]], float)
    return float(np.linalg.norm(corners @ (found - true).T, axis=1).max())


@pytest.mark.parametrize("motion", [(0, 1, 0, 0), (0, 1, 5, -3), (3, 1.04, -6, 4), (-2, 0.95, 0, 8)])
def test_small_motions_are_found_to_a_pixel(world, motion):
    true = similarity(*motion)
    found = camera_motion(view(world, np.eye(2, 3)), view(world, true))
    assert found.sure
    assert error(found.matrix, true) < 1.0


def test_a_wide_step_is_found_too(world):
    true = similarity(12, 1.1, 60, -35)
    found = camera_motion(view(world, np.eye(2, 3)), view(world, true))
    assert found.sure
    assert error(found.matrix, true) < 4.0


def test_a_large_thing_that_moves_by_itself_does_not_fool_it(world):
    true = similarity(0, 1, 4, 2)
    before, after = view(world, np.eye(2, 3)), view(world, true)
    foreground = np.zeros((HEIGHT, WIDTH), bool)
    foreground[20:170, 30:200] = True  # more than half of the image
    thing = np.random.default_rng(1).integers(0, 255, (30, 34)).astype(np.uint8)
    thing = cv2.resize(thing, (170, 150), interpolation=cv2.INTER_CUBIC)
    before[20:170, 30:200] = thing
    after[20:170, 45:215] = thing
    found = camera_motion(before, after, foreground)
    assert found.sure
    assert error(found.matrix, true) < 1.5


def test_it_is_not_sure_where_there_is_nothing_to_see(world):
    plain = np.full((HEIGHT, WIDTH), 120, np.uint8)
    other = np.random.default_rng(2).integers(0, 255, (HEIGHT, WIDTH)).astype(np.uint8)
    for before, after in ((plain, view(world, np.eye(2, 3))), (view(world, np.eye(2, 3)), other)):
        found = camera_motion(before, after)
        assert not found.sure
        np.testing.assert_array_equal(found.matrix, np.eye(2, 3))


def test_a_image_that_stands_still_but_for_noise_has_not_moved(world):
    image = view(world, np.eye(2, 3))
    noise = np.random.default_rng(3).normal(0, 1.5, image.shape)
    found = camera_motion(image, np.clip(image + noise, 0, 255).astype(np.uint8))
    assert found.sure
    assert error(found.matrix, np.eye(2, 3)) < 0.5


def test_images_of_different_sizes_say_nothing(world):
    image = view(world, np.eye(2, 3))
    assert not camera_motion(image, image[:-10]).sure


def test_a_motion_scales_with_the_image(world):
    found = camera_motion(view(world, np.eye(2, 3)), view(world, similarity(0, 1, 6, 0))).scaled(5)
    np.testing.assert_allclose(found.matrix @ [0, 0, 1], [30, 0], atol=2.5)


@pytest.mark.parametrize(
    ("size", "small"), [((720, 1280), (144, 256)), ((1280, 720), (256, 144)), ((90, 120), (90, 120))]
)
def test_small_images_keep_their_shape(size, small):
    rgb = np.zeros((*size, 3), np.uint8)
    rgb[:, : size[1] // 2] = (255, 0, 0)
    gray = small_gray(rgb)
    assert (gray.shape, gray.dtype) == (small, np.uint8)
    assert abs(int(gray[5, 5]) - 76) <= 1
    assert gray[5, -5] == 0


@pytest.mark.parametrize("shape", [(720, 1280), (480, 640)])
def test_noise_is_no_difference_and_a_small_thing_is(world, shape):
    rgb = cv2.resize(np.repeat(world[..., None], 3, axis=2), shape[::-1])
    rng = np.random.default_rng(3)

    def shot(image: np.ndarray) -> np.ndarray:
        return small_image(np.clip(image + rng.normal(0, 5, image.shape), 0, 255).astype(np.uint8))

    before = shot(rgb)
    assert not any(differs(before, shot(rgb), 10.0) for _ in range(5))
    changed = rgb.copy()
    changed[200:214, 300:314] = 255 - changed[200:214, 300:314] // 2
    assert differs(before, shot(changed), 10.0)
    recolored = rgb.copy()  # as bright as before
    recolored[200:230, 300:330] = np.clip(recolored[200:230, 300:330] + np.array([60, -20, -60]), 0, 255)
    assert differs(before, shot(recolored), 10.0)
    assert differs(before, shot(np.roll(rgb, 3, axis=1)), 10.0)
    assert differs(before, before[:-1], 10.0)
