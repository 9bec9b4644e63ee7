"""Conversion between ROS images and numpy arrays: encodings, padding, byte order, and messages that are wrong."""

from __future__ import annotations

import array
import subprocess
import sys

import cv2
import numpy as np
import pytest
from sensor_msgs.msg import Image

from osprey_ros.pipeline import DescribedObject
from osprey_ros.ros import messages

RNG = np.random.default_rng(7)
RGB = RNG.integers(0, 256, (6, 5, 3), np.uint8)
STAMP = 1_700_000_000_123_456_789
HEADER = messages.header_message(STAMP, "camera_optical_frame")


def padded(pixels: np.ndarray, encoding: str, padding: int, big: bool = False) -> Image:
    """An image message with some bytes of rubbish behind each row, built by hand."""
    wide = pixels.astype(pixels.dtype.newbyteorder(">" if big else "<"))
    rows = wide.reshape(len(pixels), -1).view(np.uint8)
    rows = np.hstack([rows, np.full((len(rows), padding), 0xA5, np.uint8)])
    height, width = pixels.shape[:2]
    message = Image(height=height, width=width, encoding=encoding, is_bigendian=int(big), step=rows.shape[1])
    message.data = array.array("B", rows.tobytes())
    return message


@pytest.mark.parametrize("padding", [0, 1, 7])
@pytest.mark.parametrize(
    ("encoding", "pixels", "expected"),
    [
        ("rgb8", RGB, RGB),
        ("bgr8", RGB[..., ::-1], RGB),
        ("8UC3", RGB[..., ::-1], RGB),
        ("rgba8", cv2.cvtColor(RGB, cv2.COLOR_RGB2RGBA), RGB),
        ("bgra8", cv2.cvtColor(RGB, cv2.COLOR_RGB2BGRA), RGB),
        ("mono8", RGB[..., 0], np.repeat(RGB[..., :1], 3, axis=2)),
        ("mono16", RGB[..., 0].astype(np.uint16) * 257, np.repeat(RGB[..., :1], 3, axis=2)),
    ],
)
def test_colours_of_each_encoding(encoding: str, pixels: np.ndarray, expected: np.ndarray, padding: int) -> None:
    found = messages.rgb_from_message(padded(pixels, encoding, padding))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize(
    ("encoding", "dtype"),
    [("8UC1", np.uint8), ("mono8", np.uint8), ("16UC1", np.uint16), ("mono16", np.uint16), ("32SC1", np.int32)],
)
def test_ids_of_each_encoding(encoding: str, dtype: type, padding: int, big: bool) -> None:
    ids = RNG.integers(0, np.iinfo(dtype).max, (4, 5)).astype(dtype)
    found = messages.ids_from_message(padded(ids, encoding, padding, big))
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, ids)


def test_rgb8_and_ids_share_the_memory_of_the_message() -> None:
    image = messages.image_message(RGB, "rgb8", HEADER)
    assert np.shares_memory(messages.rgb_from_message(image), np.frombuffer(image.data, np.uint8))
    ids = messages.image_message(np.ones((4, 5), np.uint16), "mono16", HEADER)
    assert np.shares_memory(messages.ids_from_message(ids), np.frombuffer(ids.data, np.uint8))


def test_what_goes_out_comes_back() -> None:
    message = messages.image_message(RGB[:, ::2], "rgb8", HEADER)
    assert (message.height, message.width, message.step) == (6, 3, 9)
    np.testing.assert_array_equal(messages.rgb_from_message(message), RGB[:, ::2])
    assert messages.stamp_of(message) == STAMP
    assert message.header.frame_id == "camera_optical_frame"


def test_frames_carry_stamp_and_frame_id() -> None:
    image = messages.image_message(RGB, "rgb8", HEADER)
    segmentation = messages.image_message(np.ones(RGB.shape[:2], np.uint8), "mono8", HEADER)
    frame = messages.frame_from_messages(image, segmentation, topics=("/a", "/b"))
    assert (frame.stamp, frame.frame_id) == (STAMP, "camera_optical_frame")
    assert frame.ids.shape == (6, 5)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"encoding": "bayer_rggb8"}, "encoding 'bayer_rggb8' is not understood: publish one of rgb8"),
        ({"step": 14}, "step 14 is too small for 5 pixels of rgb8, which need 15 bytes"),
        ({"height": 7}, "data holds 90 bytes, a 5x7 image of step 15 needs 105"),
        ({"width": 0}, "the image is 0x6 pixels"),
    ],
)
def test_wrong_images_are_named(change: dict[str, object], reason: str) -> None:
    image = messages.image_message(RGB, "rgb8", HEADER)
    for name, value in change.items():
        setattr(image, name, value)
    with pytest.raises(messages.MessageError, match=reason):
        messages.rgb_from_message(image)


def test_the_error_of_a_frame_names_the_topic() -> None:
    image = messages.image_message(RGB, "rgb8", HEADER)
    with pytest.raises(messages.MessageError, match=r"^/ids: encoding 'rgb8' is not understood as instance ids"):
        messages.frame_from_messages(image, image, topics=("/camera", "/ids"))


def test_objects_become_a_message() -> None:
    described = DescribedObject(7, (3, 4, 20, 30), 450, "mug", "a small red mug", 0.75, STAMP)
    message = messages.objects_message([described], HEADER)
    (found,) = message.objects
    assert message.header == HEADER
    assert (found.instance_id, found.area, found.category, found.description) == (7, 450, "mug", "a small red mug")
    assert (found.roi.x_offset, found.roi.y_offset, found.roi.width, found.roi.height) == (3, 4, 20, 30)
    assert found.confidence == 0.75
    assert found.described_at == HEADER.stamp


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
