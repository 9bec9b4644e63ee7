"""Construction of ROS messages from numbers, arrays and objects."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point, Pose, PoseWithCovariance, Quaternion, Vector3
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, RegionOfInterest
from std_msgs.msg import Header

from osprey_ros.messages.objects import object_message as make_object_message
from osprey_ros.messages.stamps import NANOSECONDS
from osprey_ros.ros.interfaces import Attribute, ObjectDescription, ObjectDescriptionArray, SceneEvent
from osprey_ros.scene import events
from osprey_ros.scene.types import SceneObject

_PARTS: dict[str, type] = {
    "builtin_interfaces/msg/Time": Time,
    "geometry_msgs/msg/Point": Point,
    "geometry_msgs/msg/Pose": Pose,
    "geometry_msgs/msg/PoseWithCovariance": PoseWithCovariance,
    "geometry_msgs/msg/Quaternion": Quaternion,
    "geometry_msgs/msg/Vector3": Vector3,
    "osprey_interfaces/msg/Attribute": Attribute,
    "osprey_interfaces/msg/ObjectDescription": ObjectDescription,
    "sensor_msgs/msg/RegionOfInterest": RegionOfInterest,
}


def time_message(stamp: int) -> Time:
    """Return a stamp in nanoseconds as a message."""
    return Time(sec=stamp // NANOSECONDS, nanosec=stamp % NANOSECONDS)


def header_message(stamp: int, frame_id: str) -> Header:
    """Return a header with a stamp in nanoseconds and a frame id."""
    return Header(stamp=time_message(stamp), frame_id=frame_id)


def image_message(pixels: np.ndarray, encoding: str, header: Header) -> Image:
    """Return an image message from an array [H, W] or [H, W, C] with the dtype of the encoding. Copies once."""
    pixels = np.ascontiguousarray(pixels)
    message = Image(
        header=header,
        height=pixels.shape[0],
        width=pixels.shape[1],
        encoding=encoding,
        is_bigendian=int(sys.byteorder == "big"),
        step=pixels.strides[0],
    )
    message.data.frombytes(pixels.data.cast("B"))  # an assignment would copy once more
    return message


def jpeg_message(file: bytes, header: Header) -> CompressedImage:
    """Return a JPEG file as a message."""
    return CompressedImage(header=header, format="jpeg", data=file)


def roi_message(box: Sequence[int]) -> RegionOfInterest:
    """Return a box x, y, width, height in pixels as a message."""
    return RegionOfInterest(**dict(zip(("x_offset", "y_offset", "width", "height"), box, strict=True)))


def camera_info_message(camera_matrix: np.ndarray, width: int, height: int, header: Header) -> CameraInfo:
    """Return the calibration of a camera without distortion; ``camera_matrix`` is [3, 3] in pixels."""
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


def objects_message(objects: Sequence[SceneObject], header: Header) -> ObjectDescriptionArray:
    """Return a message with all objects of one frame."""
    return ObjectDescriptionArray(header=header, objects=[object_message(thing) for thing in objects])


def object_message(thing: SceneObject) -> ObjectDescription:
    """Return a message with one object."""
    return make_object_message(thing, _make)


def event_message(event: events.SceneEvent, header: Header) -> SceneEvent:
    """Return a message with one event; ``header`` is that of the frame."""
    thing = object_message(event.object)
    return SceneEvent(
        header=header,
        kind=events.EVENT_NUMBERS[event.kind],
        why=event.why,
        track_id=thing.track_id,
        category=thing.category,
        description=thing.description,
        confidence=thing.confidence,
        has_position=thing.has_position,
        position=thing.position,
    )


def _make(name: str, /, **fields: Any) -> Any:
    return _PARTS[name](**fields)


def point_message(position: Sequence[float]) -> Point:
    """Return x, y and z as a point."""
    return Point(x=position[0], y=position[1], z=position[2])


def vector_message(size: Sequence[float]) -> Vector3:
    """x, y and z as a vector."""
    return Vector3(x=size[0], y=size[1], z=size[2])
