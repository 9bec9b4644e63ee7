"""Pixels of image messages as numpy arrays: pictures, instance ids and depth, raw or compressed.

Imports no ROS: whatever has the fields of sensor_msgs/Image or CompressedImage will do, a recording's messages too.
Pixels are copied once at most, and not at all for rgb8, ids and 32FC1 depth in this machine's byte order without
padding between rows.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

import cv2
import numpy as np

from osprey_ros.errors import InputError

if TYPE_CHECKING:
    from sensor_msgs.msg import CompressedImage, Image

# Channels and the type of one, of the encodings whose pixels lie side by side.
_LAYOUTS = {
    "rgb8": (3, "u1"),
    "bgr8": (3, "u1"),
    "rgba8": (4, "u1"),
    "bgra8": (4, "u1"),
    "mono8": (1, "u1"),
    "8UC1": (1, "u1"),
    "8UC3": (3, "u1"),
    "8UC4": (4, "u1"),
    "rgb16": (3, "u2"),
    "bgr16": (3, "u2"),
    "rgba16": (4, "u2"),
    "bgra16": (4, "u2"),
    "mono16": (1, "u2"),
    "16UC1": (1, "u2"),
    "bayer_rggb8": (1, "u1"),
    "bayer_bggr8": (1, "u1"),
    "bayer_gbrg8": (1, "u1"),
    "bayer_grbg8": (1, "u1"),
    "bayer_rggb16": (1, "u2"),
    "bayer_bggr16": (1, "u2"),
    "bayer_gbrg16": (1, "u2"),
    "bayer_grbg16": (1, "u2"),
    "uyvy": (2, "u1"),
    "yuyv": (2, "u1"),
    "yuv422": (2, "u1"),
    "yuv422_yuy2": (2, "u1"),
}
# What makes RGB of them; OpenCV names a Bayer pattern by the second and third pixel of its second row.
_TO_RGB = {
    "bgr": cv2.COLOR_BGR2RGB,
    "rgba": cv2.COLOR_RGBA2RGB,
    "bgra": cv2.COLOR_BGRA2RGB,
    "mono": cv2.COLOR_GRAY2RGB,
    "16UC1": cv2.COLOR_GRAY2RGB,
    "8UC1": cv2.COLOR_GRAY2RGB,
    "8UC3": cv2.COLOR_BGR2RGB,  # OpenCV's order, which is what publishers of 8UC3 mean
    "8UC4": cv2.COLOR_BGRA2RGB,
    "bayer_rggb": cv2.COLOR_BayerBG2RGB,
    "bayer_bggr": cv2.COLOR_BayerRG2RGB,
    "bayer_gbrg": cv2.COLOR_BayerGR2RGB,
    "bayer_grbg": cv2.COLOR_BayerGB2RGB,
    "uyvy": cv2.COLOR_YUV2RGB_UYVY,
    "yuv422": cv2.COLOR_YUV2RGB_UYVY,
    "yuyv": cv2.COLOR_YUV2RGB_YUY2,
    "yuv422_yuy2": cv2.COLOR_YUV2RGB_YUY2,
}
_ID_TYPES = {"mono8": "u1", "8UC1": "u1", "mono16": "u2", "16UC1": "u2", "16SC1": "i2", "32SC1": "i4"}
_MILLIMETRES = ("16UC1", "mono16")
_DEPTH_HEADER = struct.Struct("<iff")  # of compressedDepth, before its PNG: kind and two parameters of the levels
_PNG_BIT_DEPTH = 24  # its place: after signature (8), length and name of the first chunk (8), width and height (8)


def rgb_from_message(message: Image) -> np.ndarray:
    """The pixels of a picture, uint8 [H, W, 3] RGB; 16-bit channels are scaled to 8 bits.

    For rgb8 without padding the array shares the message's memory. Encodings that are not known here are left to
    cv_bridge, where it is installed. Raises InputError.
    """
    encoding = message.encoding
    if encoding not in _LAYOUTS:
        return _rgb_of_cv_bridge(message)
    channels, kind = _LAYOUTS[encoding]
    pixels = _pixels(message, kind, channels)
    if channels == 2 and pixels.shape[1] % 2:
        raise InputError(f"a {encoding} image is {pixels.shape[1]} pixels wide: two share their colour, so be even")
    if kind == "u2":
        pixels = cv2.convertScaleAbs(pixels, alpha=1 / 257)  # 65535 / 255 = 257; rounded to nearest
        encoding = encoding.removesuffix("16")
    encoding = encoding.removesuffix("8")
    return np.ascontiguousarray(pixels) if encoding == "rgb" else cv2.cvtColor(pixels, _TO_RGB[encoding])


def rgb_from_compressed(message: CompressedImage) -> np.ndarray:
    """The pixels of a JPEG or PNG picture, uint8 [H, W, 3] RGB. Raises InputError."""
    # A camera driver knows how it is mounted, and masks are made for the pixels as they are stored.
    pixels = _decoded(message, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    # image_transport writes "rgb8; jpeg compressed bgr8": the picture's encoding, and the order that was given to the
    # coder as if it were OpenCV's own.
    _, _, order = message.format.partition("compressed ")
    return pixels if order.strip().startswith("rgb") else cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels)


def ids_from_message(message: Image) -> np.ndarray:
    """The pixels of an instance-id image, integers [H, W] as they are stored; shares the message's memory if it can.

    Raises InputError.
    """
    if message.encoding not in _ID_TYPES:
        raise InputError(
            f"encoding {message.encoding!r} is not understood as instance ids: publish one of {', '.join(_ID_TYPES)}"
        )
    return _pixels(message, _ID_TYPES[message.encoding], 1)


def ids_from_compressed(message: CompressedImage) -> np.ndarray:
    """The pixels of an instance-id image written as grey PNG, uint8 or uint16 [H, W]. Raises InputError."""
    if "jpeg" in message.format.lower() or "jpg" in message.format.lower():
        raise InputError(f"format {message.format!r} changes instance ids: compress them as png")
    pixels = _decoded(message, cv2.IMREAD_UNCHANGED)
    if pixels.ndim != 2:
        raise InputError(f"the png has {pixels.shape[2]} channels: instance ids are grey with up to 16 bits")
    bits = message.data[_PNG_BIT_DEPTH] if bytes(message.data[:4]) == b"\x89PNG" else 8
    # OpenCV spreads grey of 1, 2 and 4 bits over 0 to 255.
    return pixels // np.uint8(255 // (2**bits - 1)) if bits < 8 else pixels


def depth_from_message(message: Image) -> np.ndarray:
    """Depth in metres, float32 [H, W], of a 16UC1 (millimetres) or 32FC1 (metres) image.

    Unknown values stay as they are: 0, NaN and infinity. Raises InputError.
    """
    if message.encoding in _MILLIMETRES:
        return _pixels(message, "u2", 1) * np.float32(0.001)
    if message.encoding == "32FC1":
        return _pixels(message, "f4", 1)
    raise InputError(
        f"encoding {message.encoding!r} is not understood as depth: publish 16UC1 (millimetres) or 32FC1 (metres)"
    )


def depth_from_compressed(message: CompressedImage) -> np.ndarray:
    """Depth in metres, float32 [H, W], of a message of image_transport's compressedDepth, as PNG.

    16UC1 is kept as it is (millimetres). 32FC1 comes as levels of inverse depth: a / (level - b), where the header has
    a and b (compressed_depth_image_transport). Unknown values are 0 or NaN. Raises InputError.
    """
    encoding = message.format.partition(";")[0].strip()
    if encoding not in (*_MILLIMETRES, "32FC1") or "compressedDepth" not in message.format or "rvl" in message.format:
        raise InputError(
            f"format {message.format!r} is not understood as depth: publish 16UC1 or 32FC1 by the compressedDepth "
            "transport, with its parameter format set to png"
        )
    if len(message.data) <= _DEPTH_HEADER.size:
        raise InputError(f"data holds {len(message.data)} bytes, and the header alone is {_DEPTH_HEADER.size}")
    _, a, b = _DEPTH_HEADER.unpack_from(message.data)
    levels = cv2.imdecode(np.frombuffer(message.data, np.uint8, offset=_DEPTH_HEADER.size), cv2.IMREAD_UNCHANGED)
    if levels is None or levels.ndim != 2 or levels.dtype != np.uint16:
        raise InputError("behind the header there is no grey PNG of 16 bits, as compressedDepth has it")
    if encoding in _MILLIMETRES:
        return levels * np.float32(0.001)
    with np.errstate(divide="ignore", invalid="ignore"):
        metres = np.float32(a) / (levels - np.float32(b))
    return np.where(levels > 0, metres, np.float32(np.nan))


def _pixels(message: Image, kind: str, channels: int) -> np.ndarray:
    """A view of the pixels, [H, W] or [H, W, C], past the padding of each row; a copy only to swap bytes."""
    height, width, step = message.height, message.width, message.step
    dtype = np.dtype(kind)
    row = width * channels * dtype.itemsize
    if height == 0 or width == 0:
        raise InputError(f"the image is {width}x{height} pixels: there is nothing in it")
    if step < row:
        raise InputError(f"step {step} is too small for {width} pixels of {message.encoding}, which need {row} bytes")
    # The last row may come without its padding.
    if len(message.data) < step * (height - 1) + row:
        raise InputError(
            f"data holds {len(message.data)} bytes, a {width}x{height} image of step {step} needs {step * height}: "
            "the publisher fills the message wrongly"
        )
    raw = np.frombuffer(message.data, np.uint8)
    rows = np.lib.stride_tricks.as_strided(raw, (height, row), (step, 1), writeable=False)
    if step % dtype.itemsize or raw.ctypes.data % dtype.itemsize:
        rows = np.ascontiguousarray(rows)
    wide = rows.view(dtype.newbyteorder(">" if message.is_bigendian else "<")).astype(dtype, copy=False)
    return wide if channels == 1 else wide.reshape(height, width, channels)


def _decoded(message: CompressedImage, flags: int) -> np.ndarray:
    data = np.frombuffer(message.data, np.uint8)
    if not len(data):
        raise InputError("data is empty: there is no picture in it")
    pixels = cv2.imdecode(data, flags)
    if pixels is None:
        raise InputError(f"the {len(data)} bytes of format {message.format!r} are no JPEG or PNG picture")
    return pixels


def _rgb_of_cv_bridge(message: Image) -> np.ndarray:
    advice = f"encoding {message.encoding!r} is not understood: publish one of {', '.join(_LAYOUTS)}"
    bridge = _cv_bridge(advice)
    try:
        return np.ascontiguousarray(bridge().imgmsg_to_cv2(message, desired_encoding="rgb8"))
    except Exception as error:  # cv_bridge raises its own errors, OpenCV's and Python's
        raise InputError(f"{advice} (cv_bridge: {error})") from error


def _cv_bridge(advice: str) -> Callable:
    try:
        from cv_bridge import CvBridge
    except ModuleNotFoundError as error:
        raise InputError(f"{advice}, or install cv_bridge, which knows more") from error
    except Exception as error:  # one that was built for another NumPy fails in ways of its own
        raise InputError(f"{advice} (cv_bridge is installed and cannot be loaded: {error})") from error
    return CvBridge
