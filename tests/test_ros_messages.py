"""Numbers and arrays as outgoing messages."""

from __future__ import annotations

import subprocess
import sys

import numpy as np

from osprey_ros.pipeline import DescribedObject
from osprey_ros.ros import images, messages

RGB = np.random.default_rng(7).integers(0, 256, (6, 5, 3), np.uint8)
STAMP = 1_700_000_000_123_456_789
HEADER = messages.header_message(STAMP, "camera_optical_frame")


def test_what_goes_out_comes_back() -> None:
    message = messages.image_message(RGB[:, ::2], "rgb8", HEADER)
    assert (message.height, message.width, message.step) == (6, 3, 9)
    np.testing.assert_array_equal(images.rgb_from_message(message), RGB[:, ::2])
    assert messages.stamp_of(message) == STAMP
    assert message.header.frame_id == "camera_optical_frame"


def test_objects_become_a_message() -> None:
    described = DescribedObject(
        instance_id=7,
        box=(3, 4, 20, 30),
        area=450,
        category="mug",
        description="a small red mug",
        confidence=0.75,
        described_at=STAMP,
        position=(0.5, -0.25, 1.5),
        size=(0.125, 0.25, 0.0625),
        label="cup",
        score=0.5,
    )
    message = messages.objects_message([described], HEADER)
    (found,) = message.objects
    assert message.header == HEADER
    assert (found.instance_id, found.area, found.category, found.description) == (7, 450, "mug", "a small red mug")
    assert (found.roi.x_offset, found.roi.y_offset, found.roi.width, found.roi.height) == (3, 4, 20, 30)
    assert (found.confidence, found.label, found.score, found.skipped) == (0.75, "cup", 0.5, "")
    assert found.described_at == HEADER.stamp
    assert found.has_position
    assert (found.position.x, found.position.y, found.position.z) == (0.5, -0.25, 1.5)
    assert (found.size.x, found.size.y, found.size.z) == (0.125, 0.25, 0.0625)


def test_an_object_without_words_and_place_says_so() -> None:
    described = DescribedObject(7, (3, 4, 20, 30), 450, "", "", 0.0, STAMP, skipped="no time left")
    (found,) = messages.objects_message([described], HEADER).objects
    assert found.skipped == "no time left"
    assert not found.has_position


def test_missing_interfaces_are_mended_by_the_command_that_is_named() -> None:
    code = "import sys; sys.modules['osprey_interfaces.msg'] = None; import osprey_ros.ros.messages"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "osprey_interfaces is not built for this Python: run `make venv`" in ended.stderr.splitlines()[-1]


def test_camera_info_holds_the_matrix() -> None:
    matrix = np.array([[500.0, 0, 319.5], [0, 501.0, 239.5], [0, 0, 1]])
    message = messages.camera_info_message(matrix, 640, 480, HEADER)
    assert (message.width, message.height, message.distortion_model) == (640, 480, "plumb_bob")
    assert list(message.k) == matrix.ravel().tolist()
    assert list(message.p) == [500.0, 0, 319.5, 0, 0, 501.0, 239.5, 0, 0, 0, 1, 0]
