"""ROS messages to numpy arrays and back. ROS types end here: nothing below this file knows them.

Pixels are copied once on the way in at most (never for rgb8 without padding and for id images in this machine's byte
order) and once on the way out.
"""

from __future__ import annotations

import array
import sys
from collections.abc import Sequence

import cv2
import numpy as np
from builtin_interfaces.msg import Time
from sensor_msgs.msg import CameraInfo, Image, RegionOfInterest
from std_msgs.msg import Header

from osprey_ros.errors import OspreyError
from osprey_ros.pipeline import DescribedObject, Frame

try:
    from osprey_interfaces.msg import ObjectDescription, ObjectDescriptionArray  # type: ignore[attr-defined]
except ImportError as error:
    raise ImportError(
        "osprey_interfaces is not built for this Python: run `make venv` in the checkout of osprey_ros; "
        "in a workspace, `colcon build --base-paths src src/osprey_ros/osprey_interfaces` then `. install/setup.bash`"
    ) from error

_COLOUR_CHANNELS = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "8UC3": 3, "mono8": 1, "8UC1": 1}
_TO_RGB = {
    "bgr8": cv2.COLOR_BGR2RGB,
    "8UC3": cv2.COLOR_BGR2RGB,  # OpenCV's order, which is what publishers of 8UC3 mean
    "rgba8": cv2.COLOR_RGBA2RGB,
    "bgra8": cv2.COLOR_BGRA2RGB,
    "mono8": cv2.COLOR_GRAY2RGB,
    "8UC1": cv2.COLOR_GRAY2RGB,
}
_SIXTEEN_BIT = ("mono16", "16UC1")
_ID_TYPES = {"mono8": "u1", "8UC1": "u1", "mono16": "u2", "16UC1": "u2", "32SC1": "i4"}
_NANOSECONDS = 1_000_000_000


class MessageError(OspreyError):
    """A message that cannot be understood; the text names the value and the remedy."""


def stamp_of(message: Image) -> int:
    """Stamp of a message's header, in nanoseconds."""
    return message.header.stamp.sec * _NANOSECONDS + message.header.stamp.nanosec


def time_message(stamp: int) -> Time:
    """A stamp in nanoseconds as a message."""
    return Time(sec=stamp // _NANOSECONDS, nanosec=stamp % _NANOSECONDS)


def header_message(stamp: int, frame_id: str) -> Header:
    """A header from a stamp in nanoseconds and a frame."""
    return Header(stamp=time_message(stamp), frame_id=frame_id)


def rgb_from_message(message: Image) -> np.ndarray:
    """The pixels of a colour or grey image, uint8 [H, W, 3] RGB; 16-bit grey is scaled to 8 bits.

    For rgb8 the array shares the message's memory. Raises MessageError.
    """
    encoding = message.encoding
    if encoding in _SIXTEEN_BIT:
        # 65535 / 255 = 257; rounded to nearest.
        grey = (_pixels(message, "u2", 1).astype(np.uint32) + 128) // 257
        return cv2.cvtColor(grey.astype(np.uint8), cv2.COLOR_GRAY2RGB)
    if encoding not in _COLOUR_CHANNELS:
        known = ", ".join((*_COLOUR_CHANNELS, *_SIXTEEN_BIT))
        raise MessageError(f"encoding {encoding!r} is not understood: publish one of {known}")
    pixels = _pixels(message, "u1", _COLOUR_CHANNELS[encoding])
    if encoding == "rgb8":
        return np.ascontiguousarray(pixels)
    return cv2.cvtColor(pixels, _TO_RGB[encoding])


def ids_from_message(message: Image) -> np.ndarray:
    """The pixels of an instance-id image, uint8, uint16 or int32 [H, W]; shares the message's memory where it can.

    Raises MessageError.
    """
    if message.encoding not in _ID_TYPES:
        raise MessageError(
            f"encoding {message.encoding!r} is not understood as instance ids: publish one of {', '.join(_ID_TYPES)}"
        )
    return _pixels(message, _ID_TYPES[message.encoding], 1)


def frame_from_messages(image: Image, segmentation: Image, topics: tuple[str, str]) -> Frame:
    """The frame of an image and a segmentation of one stamp. Raises MessageError naming one of the two ``topics``."""
    try:
        topic = topics[0]
        rgb = rgb_from_message(image)
        topic = topics[1]
        ids = ids_from_message(segmentation)
    except MessageError as error:
        raise MessageError(f"{topic}: {error}") from error
    return Frame(stamp=stamp_of(image), frame_id=image.header.frame_id, rgb=rgb, ids=ids)


def image_message(pixels: np.ndarray, encoding: str, header: Header) -> Image:
    """An image message from an array [H, W] or [H, W, C] whose dtype fits the encoding; one copy."""
    pixels = np.ascontiguousarray(pixels)
    data = array.array("B")
    data.frombytes(pixels.data.cast("B"))
    return Image(
        header=header,
        height=pixels.shape[0],
        width=pixels.shape[1],
        encoding=encoding,
        is_bigendian=int(sys.byteorder == "big"),
        step=pixels.strides[0],
        data=data,
    )


def camera_info_message(camera_matrix: np.ndarray, width: int, height: int, header: Header) -> CameraInfo:
    """Calibration of a camera without distortion; ``camera_matrix`` is [3, 3] in pixels."""
    matrix = np.asarray(camera_matrix, np.float64)
    projection = np.hstack([matrix, np.zeros((3, 1))])
    return CameraInfo(
        header=header,
        height=height,
        width=width,
        distortion_model="plumb_bob",
        d=[0.0] * 5,
        k=matrix.ravel().tolist(),
        r=np.eye(3).ravel().tolist(),
        p=projection.ravel().tolist(),
    )


def objects_message(objects: Sequence[DescribedObject], header: Header) -> ObjectDescriptionArray:
    """The message that the node publishes for one frame."""
    return ObjectDescriptionArray(header=header, objects=[_object_message(o) for o in objects])


def _object_message(described: DescribedObject) -> ObjectDescription:
    x, y, width, height = described.box
    return ObjectDescription(
        instance_id=described.instance_id,
        roi=RegionOfInterest(x_offset=x, y_offset=y, width=width, height=height),
        area=described.area,
        category=described.category,
        description=described.description,
        confidence=described.confidence,
        described_at=time_message(described.described_at),
    )


def _pixels(message: Image, kind: str, channels: int) -> np.ndarray:
    """A view of the pixels, [H, W] or [H, W, C], past the padding of each row; a copy only to swap bytes."""
    height, width, step = message.height, message.width, message.step
    dtype = np.dtype(kind)
    row = width * channels * dtype.itemsize
    if height == 0 or width == 0:
        raise MessageError(f"the image is {width}x{height} pixels: there is nothing in it")
    if step < row:
        raise MessageError(f"step {step} is too small for {width} pixels of {message.encoding}, which need {row} bytes")
    # The last row may come without its padding.
    if len(message.data) < step * (height - 1) + row:
        raise MessageError(
            f"data holds {len(message.data)} bytes, a {width}x{height} image of step {step} needs {step * height}: "
            "the publisher fills the message wrongly"
        )
    raw = np.frombuffer(message.data, np.uint8)
    strides = (step, channels, 1)[: 2 if channels == 1 else 3]
    if dtype.itemsize == 1:
        shape = (height, width) if channels == 1 else (height, width, channels)
        return np.lib.stride_tricks.as_strided(raw, shape, strides, writeable=False)
    wide = dtype.newbyteorder(">" if message.is_bigendian else "<")
    rows = np.lib.stride_tricks.as_strided(raw, (height, row), (step, 1), writeable=False)
    if step % dtype.itemsize or raw.ctypes.data % dtype.itemsize:
        rows = np.ascontiguousarray(rows)
    return rows.view(wide).astype(dtype, copy=False)
