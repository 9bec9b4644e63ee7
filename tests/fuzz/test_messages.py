"""Generated messages of images, instance ids, depth and detections: their conversion into a frame."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
from fuzz.commands import check_text
from fuzz.files import ImageFile, image_files
from hypothesis import given
from hypothesis import strategies as st

from osprey_ros.errors import OspreyError
from osprey_ros.messages import frames

ENCODINGS = st.one_of(
    st.sampled_from(["rgb8", "bgr8", "rgba8", "bgra8", "mono8", "mono16", "rgb16", "8UC1", "8UC3", "bayer_rggb8"]),
    st.sampled_from(["16UC1", "32FC1", "32SC1", "64FC1", "bayer_grbg16", "yuyv", "uyvy", "nv12", "nv21", "yuv422"]),
    st.text(max_size=6),
)
SIZES = st.one_of(st.integers(0, 40), st.sampled_from([2**31, 2**32 - 1]))


def _header() -> Any:
    return SimpleNamespace(stamp=SimpleNamespace(sec=1_700_000_000, nanosec=0), frame_id="camera")


@st.composite
def raw_images(draw: st.DrawFn) -> Any:
    """Return messages in the layout of sensor_msgs/Image; half of them agree with themselves."""
    height, width, encoding = draw(SIZES), draw(SIZES), draw(ENCODINGS)
    step, size = draw(st.integers(0, 400)), draw(st.integers(0, 3000))
    if draw(st.booleans()):
        height, width = draw(st.integers(1, 24)), draw(st.integers(1, 24))
        channels = {"rgb8": 3, "bgr8": 3, "8UC3": 3, "rgba8": 4, "bgra8": 4, "rgb16": 6}.get(encoding, 2)
        step = width * max(channels, 4 if encoding.startswith("32") else 1)
        size = step * height * 2
    data = np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8)
    layout = {"height": height, "width": width, "encoding": encoding, "step": step}
    return SimpleNamespace(header=_header(), is_bigendian=draw(st.integers(0, 1)), data=data, **layout)


def _compressed(file: ImageFile, format: str) -> Any:
    return SimpleNamespace(header=_header(), format=format, data=np.frombuffer(file.data, np.uint8))


FORMATS = st.one_of(
    st.sampled_from(["jpeg", "png", "rgb8; jpeg compressed bgr8", "mono16; png compressed"]),
    st.sampled_from(["16UC1; compressedDepth png", "32FC1; compressedDepth png", "32FC1; compressedDepth rvl"]),
    st.text(max_size=8),
)
COMPRESSED = st.builds(_compressed, image_files(), FORMATS)
FINE = SimpleNamespace(
    header=_header(), height=24, width=32, encoding="rgb8", is_bigendian=0, step=96, data=np.full(24 * 96, 80, np.uint8)
)


def _frame(image: Any, ids: Any, depth: Any = None) -> None:
    topics = {"image": "/image", "segmentation": "/ids", "depth": "/depth"}
    try:
        frame = frames.frame_from_messages(frames.RawFrame(image, ids, "segmentation", topics, depth=depth))
    except OspreyError as error:
        check_text(str(error), *topics.values())
    else:
        assert frame.rgb.dtype == np.uint8
        assert frame.rgb.ndim == 3
        assert frame.rgb.shape[2] == 3


@given(image=st.one_of(raw_images(), COMPRESSED))
def test_image_messages(image: Any) -> None:
    _frame(image, FINE)


@given(ids=st.one_of(raw_images(), COMPRESSED))
def test_id_messages(ids: Any) -> None:
    _frame(FINE, ids)


@given(depth=st.one_of(raw_images(), COMPRESSED))
def test_depth_messages(depth: Any) -> None:
    ids = SimpleNamespace(**{**vars(FINE), "encoding": "mono8", "step": 32, "data": np.ones(24 * 32, np.uint8)})
    _frame(FINE, ids, depth)
