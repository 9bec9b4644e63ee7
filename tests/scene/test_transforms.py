"""Transforms between frames: chained, interpolated, late, lost, in loops."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest

from osprey_ros.scene.pose import pose_of
from osprey_ros.scene.transforms import KEPT, Transform, TransformBuffer, TransformError

SECOND = 1_000_000_000
NO_TURN = (0.0, 0.0, 0.0, 1.0)


def about_z(degrees: float) -> tuple[float, float, float, float]:
    half = np.radians(degrees) / 2
    return (0.0, 0.0, float(np.sin(half)), float(np.cos(half)))


@pytest.fixture
def buffer() -> TransformBuffer:
    """A robot that drives along x and turns, with a camera 1 m above it: map -> base -> camera, map -> door."""
    buffer = TransformBuffer()
    buffer.add("map", "base", 10 * SECOND, (0, 0, 0), about_z(0))
    buffer.add("map", "base", 11 * SECOND, (2, 0, 0), about_z(90))
    buffer.add("base", "camera", 0, (0, 0, 1), NO_TURN, static=True)
    buffer.add("map", "door", 0, (5, 5, 0), about_z(180), static=True)
    return buffer


def test_a_pose_lies_between_two_stamps(buffer: TransformBuffer) -> None:
    pose = buffer.lookup("map", "camera", 10 * SECOND + SECOND // 2)
    np.testing.assert_allclose(pose.apply(np.zeros(3)), (1, 0, 1), atol=1e-12)
    np.testing.assert_allclose(pose.apply(np.array([1.0, 0, 0])), (1 + np.sqrt(0.5), np.sqrt(0.5), 1), atol=1e-12)
    np.testing.assert_allclose(buffer.lookup("/map", "camera", 11 * SECOND).apply(np.ones(3)), (1, 1, 2), atol=1e-12)


def test_frames_on_two_branches(buffer: TransformBuffer) -> None:
    there = buffer.lookup("door", "camera", 11 * SECOND)
    np.testing.assert_allclose(there.apply(np.zeros(3)), (3, 5, 1), atol=1e-12)
    back = buffer.lookup("camera", "door", 11 * SECOND)
    np.testing.assert_allclose(back.apply(there.apply(np.array([1.0, 2, 3]))), (1, 2, 3), atol=1e-12)
    same = buffer.lookup("map", "map", 0)
    np.testing.assert_allclose(same.apply(np.ones(3)), np.ones(3))


@pytest.mark.parametrize(
    ("frames", "stamp", "message", "late"),
    [
        (("map", "camera"), 12 * SECOND, "'base' to 'map' is 1.000 s older than the image", True),
        (("map", "camera"), 9 * SECOND, "the image is 1.000 s older than all transforms from 'base' to 'map'", False),
        (("map", "lidar"), 10 * SECOND, "no transform of the frame 'lidar' has arrived", True),
        (("odom", "camera"), 10 * SECOND, "no transform of the frame 'odom' has arrived", True),
    ],
)
def test_what_is_missing_is_named(
    buffer: TransformBuffer, frames: tuple[str, str], stamp: int, message: str, late: bool
) -> None:
    with pytest.raises(TransformError, match=message) as caught:
        buffer.lookup(*frames, stamp)
    assert caught.value.late is late


def test_trees_that_are_not_connected_and_loops(buffer: TransformBuffer) -> None:
    buffer.add("odom", "wheel", 10 * SECOND, (0, 0, 0), NO_TURN)
    with pytest.raises(TransformError, match=r"'camera' and 'wheel' are not connected.* below 'map' and 'odom'"):
        buffer.lookup("wheel", "camera", 10 * SECOND)
    buffer.add("camera", "map", 10 * SECOND, (0, 0, 0), NO_TURN)
    with pytest.raises(TransformError, match="form a loop"):
        buffer.wait("map", "camera", 10 * SECOND, seconds=60)  # a loop does not get better: no waiting
    for bad in ((0, 0, 0, 0), (np.nan, 0, 0, 1)):
        with pytest.raises(TransformError, match="is no rotation"):
            buffer.add("map", "base", 1, (0, 0, 0), bad)
    with pytest.raises(TransformError, match="not between two frames"):
        buffer.add("map", "map", 1, (0, 0, 0), NO_TURN)


def test_a_late_transform_is_awaited(buffer: TransformBuffer) -> None:
    found: list[Transform] = []
    waiting = threading.Thread(target=lambda: found.append(buffer.wait("map", "camera", 12 * SECOND, seconds=60)))
    waiting.start()
    buffer.add("map", "base", 13 * SECOND, (4, 0, 0), about_z(90))
    waiting.join(60)
    np.testing.assert_allclose(found[0].translation, (3, 0, 1), atol=1e-12)
    with pytest.raises(TransformError, match="older than the image"):
        buffer.wait("map", "camera", 20 * SECOND, seconds=0)


def test_old_poses_are_given_up_and_a_clock_may_jump_back(buffer: TransformBuffer) -> None:
    buffer.add("map", "base", 11 * SECOND + KEPT, (9, 0, 0), NO_TURN)
    with pytest.raises(TransformError, match="older than all"):
        buffer.lookup("map", "base", 10 * SECOND)
    buffer.add("map", "base", SECOND, (7, 0, 0), NO_TURN)  # a simulation starts again
    np.testing.assert_allclose(buffer.lookup("map", "base", SECOND).translation, (7, 0, 0))


def test_views_from_two_sides_give_the_middle_of_an_object() -> None:
    rng = np.random.default_rng(0)
    corner = np.array([1.0, 2.0, 0.5])
    cube = corner + 0.2 * rng.random((4000, 3))
    front, side = cube[cube[:, 0] < 1.02], cube[cube[:, 1] > 2.18]
    before, beside = np.array([0.0, 2.1, 0.6]), np.array([1.1, 4.0, 0.6])
    pose = pose_of(front, before, "map", 1)
    assert abs(pose.position[0] - 1.1) > 0.08  # the surface, not the middle
    for stamp in range(2, 40):
        view = pose_of(side, beside, "map", stamp) if stamp % 2 else pose_of(front, before, "map", stamp)
        pose = pose.then(view)
    for stamp in range(40, 200):  # what a view does not show is still there
        pose = pose.then(pose_of(front, before, "map", stamp))
    np.testing.assert_allclose(pose.position, corner + 0.1, atol=0.01)
    assert pose.stamp == 199
    assert min(pose.variances) > 0
    moved = pose_of(front + np.array([1.0, 0, 0]), before, "map", 200)
    assert pose.then(moved) == moved  # elsewhere: earlier views say nothing of it
    assert pose.then(replace(pose, frame_id="odom")).frame_id == "odom"


def test_a_long_object_has_its_direction() -> None:
    rng = np.random.default_rng(1)
    along = rng.uniform(-0.5, 0.5, 2000)
    across = rng.uniform(-0.05, 0.05, 2000)
    angle = np.radians(30)
    x, y = along * np.cos(angle) - across * np.sin(angle), along * np.sin(angle) + across * np.cos(angle)
    pose = pose_of(np.stack([x, y, rng.uniform(0, 0.3, 2000)], 1), np.zeros(3), "map", 1)
    assert pose.yaw == pytest.approx(angle, abs=0.03)
    np.testing.assert_allclose(pose.size, (1.0, 0.1, 0.3), atol=0.05)
