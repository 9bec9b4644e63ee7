"""Conversion of image messages into numpy arrays: color images, instance ids and depth, raw or compressed.

Any object with the fields of sensor_msgs/Image or CompressedImage is accepted, also one of a recording. Pixels are
copied at most once, and not at all for rgb8, ids and 32FC1 depth in this machine's byte order without padding between
rows.
"""

from __future__ import annotations

import logging
import struct
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from osprey_ros.errors import ImageError, InputError, RegionError
from osprey_ros.regions.id_image import stored_ids
from osprey_ros.system.warn_once import warn_once
from osprey_ros.vision.image_content import check_exact, exif_orientation, image_content
from osprey_ros.vision.image_io import decoded_pixels, eight_bits

if TYPE_CHECKING:
    from sensor_msgs.msg import CompressedImage, Image

_LOGGER = logging.getLogger(__name__)
# Number and type of the channels of each encoding with interleaved pixels.
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
# Conversion to RGB. OpenCV names a Bayer pattern after the second and third pixel of its second row.
_TO_RGB = {
    "bgr": cv2.COLOR_BGR2RGB,
    "rgba": cv2.COLOR_RGBA2RGB,
    "bgra": cv2.COLOR_BGRA2RGB,
    "mono": cv2.COLOR_GRAY2RGB,
    "16UC1": cv2.COLOR_GRAY2RGB,
    "8UC1": cv2.COLOR_GRAY2RGB,
    "8UC3": cv2.COLOR_BGR2RGB,  # publishers of 8UC3 use the order of OpenCV
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
# Planes of half the height behind those of the brightness, with the two colors of four pixels side by side.
_YUV420 = {"nv12": cv2.COLOR_YUV2RGB_NV12, "nv21": cv2.COLOR_YUV2RGB_NV21}
_ID_TYPES = {"mono8": "u1", "8UC1": "u1", "mono16": "u2", "16UC1": "u2", "16SC1": "i2", "32SC1": "i4"}
_MILLIMETERS = ("16UC1", "mono16")
_DEPTH_HEADER = struct.Struct("<iff")  # of compressedDepth, before the PNG: format and two parameters of the levels


def rgb_from_message(message: Image) -> np.ndarray:
    """Convert an image message to uint8 [H, W, 3] RGB.

    16-bit channels are scaled to 8 bits. If only 8, 10, 12 or 14 bits are in use, these are scaled; it is logged once.

    For rgb8 without padding, the array shares the memory of the message. cv_bridge, if installed, converts encodings
    that are unknown here.

    Raises:
        InputError: The encoding is unknown, or the message is inconsistent.
    """
    encoding = message.encoding
    if encoding in _YUV420:
        return _rgb_of_yuv420(message)
    if encoding not in _LAYOUTS:
        return _rgb_of_cv_bridge(message)
    channels, kind = _LAYOUTS[encoding]
    pixels = _pixels(message, kind, channels)
    if channels == 2 and pixels.shape[1] % 2:
        raise InputError(f"a {encoding} image is {pixels.shape[1]} pixels wide, the width must be even")
    if kind == "u2":
        pixels = _eight_bits(pixels)
        encoding = encoding.removesuffix("16")
    encoding = encoding.removesuffix("8")
    return np.ascontiguousarray(pixels) if encoding == "rgb" else cv2.cvtColor(pixels, _TO_RGB[encoding])


def rgb_from_compressed(message: CompressedImage) -> np.ndarray:
    """Decode a JPEG or PNG image to uint8 [H, W, 3] RGB.

    An EXIF orientation is ignored, as image_transport and cv_bridge do, so that masks made with them fit; it is logged
    once. Values of 16 bits are scaled as those of raw images.

    Raises InputError if the data is damaged, incomplete or not an image.
    """
    data = _checked(message)
    orientation = exif_orientation(data)
    if orientation != 1:
        warn_once(
            _LOGGER,
            "orientation",
            f"a compressed image has EXIF orientation {orientation}, which is ignored, as image_transport "
            "does; publish upright images without it if the masks do not fit",
        )
    pixels = _decoded(message, data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION | cv2.IMREAD_ANYDEPTH)
    if pixels.dtype == np.uint16:
        pixels = _eight_bits(pixels)
    if pixels.dtype != np.uint8:
        raise InputError(f"the image has values of type {pixels.dtype}; compress images of 8 or 16 bits")
    # image_transport writes "rgb8; jpeg compressed bgr8": the encoding of the image, and the channel order that the
    # encoder was given.
    _, _, order = message.format.partition("compressed ")
    return pixels if order.strip().startswith("rgb") else cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels)


def ids_from_message(message: Image) -> np.ndarray:
    """Convert an image of instance ids to integers [H, W], unchanged; shares the memory of the message if possible.

    Raises:
        InputError: The encoding is unknown, or the message is inconsistent.
    """
    if message.encoding not in _ID_TYPES:
        raise InputError(
            f"encoding {message.encoding!r} is not supported for instance ids; publish one of {', '.join(_ID_TYPES)}"
        )
    return _pixels(message, _ID_TYPES[message.encoding], 1)


def ids_from_compressed(message: CompressedImage) -> np.ndarray:
    """Decode an image of instance ids, a gray or palette PNG, to uint8 or uint16 [H, W].

    The bytes decide, not the declared format: JPEG and lossy WebP change ids. Raises InputError if the data is not an
    image that can hold ids.
    """
    try:
        return stored_ids(_data(message), turn=False).values
    except RegionError as error:
        raise InputError(f"the image of instance ids cannot be used: {error}") from error


def depth_from_message(message: Image) -> np.ndarray:
    """Convert a depth image, 16UC1 (millimeters) or 32FC1 (meters), to float32 [H, W] in meters.

    Values without a measurement (0, NaN, infinity) stay as they are.

    Raises:
        InputError: The encoding is unknown, or the message is inconsistent.
    """
    if message.encoding in _MILLIMETERS:
        return np.asarray(_pixels(message, "u2", 1) * np.float32(0.001))
    if message.encoding == "32FC1":
        return _pixels(message, "f4", 1)
    raise InputError(
        f"encoding {message.encoding!r} is not supported for depth; publish 16UC1 (millimeters) or 32FC1 (meters)"
    )


def depth_from_compressed(message: CompressedImage) -> np.ndarray:
    """Decode a depth image of image_transport's compressedDepth (PNG) to float32 [H, W] in meters.

    16UC1 is stored unchanged (millimeters). 32FC1 is stored as levels of inverse depth: a / (level - b), with a and b
    from the header (compressed_depth_image_transport). Values without a measurement are 0 or NaN.

    Raises:
        InputError: The format is not supported, or the data is damaged.
    """
    encoding = message.format.partition(";")[0].strip()
    if encoding not in (*_MILLIMETERS, "32FC1") or "compressedDepth" not in message.format or "rvl" in message.format:
        raise InputError(
            f"format {message.format!r} is not supported for depth; publish 16UC1 or 32FC1 with the compressedDepth "
            "transport and its parameter format set to png"
        )
    if len(message.data) <= _DEPTH_HEADER.size:
        raise InputError(f"data has {len(message.data)} bytes, the header alone has {_DEPTH_HEADER.size}")
    _, a, b = _DEPTH_HEADER.unpack_from(message.data)
    png = bytes(message.data)[_DEPTH_HEADER.size :]
    try:
        content = check_exact(png)
    except ImageError as error:
        raise InputError(f"the depth behind the header cannot be used: {error}") from error
    if content.damage:
        raise InputError(f"the depth behind the header is damaged: {content.damage}; record or send it again")
    levels = decoded_pixels(png, cv2.IMREAD_UNCHANGED) if content.kind == "PNG" else None
    if levels is None or levels.ndim != 2 or levels.dtype != np.uint16:
        raise InputError("the data behind the header is not a gray PNG with 16 bits")
    if encoding in _MILLIMETERS:
        return np.asarray(levels * np.float32(0.001))
    with np.errstate(divide="ignore", invalid="ignore"):
        meters = np.float32(a) / (levels - np.float32(b))
    return np.asarray(np.where(levels > 0, meters, np.float32(np.nan)))


def _pixels(message: Image, kind: str, channels: int) -> np.ndarray:
    """Return a view of the pixels, [H, W] or [H, W, C], without row padding; a copy only to swap or align bytes."""
    height, width, step = message.height, message.width, message.step
    dtype = np.dtype(kind)
    row = width * channels * dtype.itemsize
    if height == 0 or width == 0:
        raise InputError(f"the image is empty ({width}x{height} pixels)")
    rows = _rows(message, height, row, "image", "correct the publisher of the image")
    if step % dtype.itemsize or rows.ctypes.data % dtype.itemsize:
        rows = np.ascontiguousarray(rows)
    wide: np.ndarray = rows.view(dtype.newbyteorder(">" if message.is_bigendian else "<")).astype(dtype, copy=False)
    return wide if channels == 1 else wide.reshape(height, width, channels)


def _rows(message: Image, count: int, row: int, kind: str, remedy: str) -> np.ndarray:
    """Return a view of the rows of a message without their padding, uint8 [count, row].

    Raises InputError, with the remedy, if step or data are too small for an image of this kind.
    """
    width, step = message.width, message.step
    if step < row:
        raise InputError(f"step {step} is too small for {width} pixels of {message.encoding}, which need {row} bytes")
    # The last row may lack its padding.
    if len(message.data) < step * (count - 1) + row:
        raise InputError(
            f"data has {len(message.data)} bytes, a {width}x{message.height} {kind} with step {step} needs "
            f"{step * count}; {remedy}"
        )
    raw = np.frombuffer(message.data, np.uint8)
    return np.lib.stride_tricks.as_strided(raw, (count, row), (step, 1), writeable=False)


def _rgb_of_yuv420(message: Image) -> np.ndarray:
    height, width = message.height, message.width
    if height % 2 or width % 2 or not height or not width:
        raise InputError(f"a {message.encoding} image has {width}x{height} pixels, width and height must be even")
    remedy = "set height to that of the image, without the rows of the colors"
    planes = _rows(message, height * 3 // 2, width, f"{message.encoding} image", remedy)
    return cv2.cvtColor(np.ascontiguousarray(planes), _YUV420[message.encoding])


def _eight_bits(pixels: np.ndarray) -> np.ndarray:
    """Return values of 16 bits scaled to 8 bits; the range that is in use is logged once."""
    scaled, doubt = eight_bits(pixels)
    if doubt:
        warn_once(_LOGGER, "range", f"an image of 16 bits: {doubt}")
    return scaled


def _data(message: CompressedImage) -> bytes:
    data = bytes(message.data)
    if not data:
        raise InputError("data is empty")
    return data


def _checked(message: CompressedImage) -> bytes:
    """Return the data of an image that is whole. Decoders, by version, fill up what is missing."""
    data = _data(message)
    try:
        content = image_content(data)
    except ImageError as error:
        raise InputError(f"the {len(data)} bytes of format {message.format!r} are not an image: {error}") from error
    if content.damage:
        raise InputError(f"the {content.kind} image of {len(data)} bytes is damaged: {content.damage}")
    return data


def _decoded(message: CompressedImage, data: bytes, flags: int) -> np.ndarray:
    pixels = decoded_pixels(data, flags)
    if pixels is None:
        raise InputError(f"the {len(data)} bytes of format {message.format!r} are not a JPEG or PNG image")
    return pixels


def _rgb_of_cv_bridge(message: Image) -> np.ndarray:
    known = ", ".join((*_LAYOUTS, *_YUV420))
    advice = f"encoding {message.encoding!r} is not supported; publish one of {known}"
    bridge = _cv_bridge(advice)
    try:
        return np.ascontiguousarray(bridge().imgmsg_to_cv2(message, desired_encoding="rgb8"))
    except Exception as error:  # cv_bridge raises its own errors, OpenCV's and Python's
        raise InputError(f"{advice} (cv_bridge, which is installed, cannot convert it either)") from error


def _cv_bridge(advice: str) -> Any:
    try:
        from cv_bridge import CvBridge
    except ModuleNotFoundError as error:
        raise InputError(f"{advice}, or install cv_bridge, which supports more") from error
    except Exception as error:  # cv_bridge built for another NumPy raises various errors
        raise InputError(
            f"{advice} (cv_bridge is installed but cannot be imported; it may be built for another NumPy)"
        ) from error
    return CvBridge
