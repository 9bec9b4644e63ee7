"""Message types of recordings without ROS: their definitions, reading such messages, and writing what is found."""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rosbags.typesys import Stores, TypesysError, get_types_from_idl, get_types_from_msg, get_typestore

from osprey_ros.errors import StorageError
from osprey_ros.messages.stamps import NANOSECONDS
from osprey_ros.scene.types import STATE_NUMBERS, SceneObject

OBJECTS_TYPE = "osprey_interfaces/msg/ObjectDescriptionArray"
OVERLAY_TYPE = "sensor_msgs/msg/CompressedImage"
MSG, IDL = "ros2msg", "ros2idl"  # how mcap names the two languages of definitions
_OUR_TYPES = ("Attribute", "ObjectDescription", "ObjectDescriptionArray", "Region", "RegionArray")
_JPEG_QUALITY = 90


class MessageTypes:
    """The types of osprey_interfaces and of the common packages, and the messages that an annotated recording gains."""

    def __init__(self) -> None:
        # Where a recording brings no definitions it is of Humble or older; the types that are written here are the same
        # in all releases.
        self._store = get_typestore(Stores.ROS2_HUMBLE)
        folder = _interfaces_folder()
        for name in _OUR_TYPES:
            text = (folder / f"{name}.msg").read_text("utf-8")
            self._store.register(get_types_from_msg(text, f"osprey_interfaces/msg/{name}"))

    def definition(self, name: str) -> str:
        """Definition of a type and of all that it is made of, in the language of .msg files; "" if it is not known."""
        if name not in self._store.fielddefs:
            return ""
        return self._store.generate_msgdef(name, ros_version=2)[0]

    def type_hash(self, name: str) -> str:
        """The hash by which ROS 2 tells versions of a type apart (REP-2011)."""
        return self._store.hash_rihs01(name)

    def reader(self, name: str, language: str, definition: str) -> Callable[[bytes], Any]:
        """Makes objects with a message's fields of serialized ones; arrays of numbers share the memory of the bytes.

        The ``definition`` that was recorded counts, in the ``language`` MSG or IDL; the one that is known here where
        there is none. The function raises what rosbags raises for bytes that are no such message. Raises StorageError.
        """
        parse = {MSG: get_types_from_msg, IDL: lambda text, _: get_types_from_idl(text)}.get(language)
        store = self._store
        if parse is not None and definition:
            store = get_typestore(Stores.EMPTY)
            try:
                store.register(parse(definition, name))
            except TypesysError as error:
                raise StorageError(f"the recorded definition of {name} cannot be understood: {error}") from error
        if name not in store.fielddefs:
            raise StorageError(f"the recording has no definition of {name}")
        return lambda data: store.deserialize_cdr(memoryview(data), name)

    def objects(self, objects: tuple[SceneObject, ...], stamp: int, frame_id: str) -> bytes:
        """A serialized osprey_interfaces/ObjectDescriptionArray. ``stamp`` is in nanoseconds."""
        array = self._make(
            OBJECTS_TYPE,
            header=self._header(stamp, frame_id),
            objects=[self._object(thing) for thing in objects],
        )
        return bytes(self._store.serialize_cdr(array, OBJECTS_TYPE))

    def overlay(self, rgb: np.ndarray, stamp: int, frame_id: str) -> bytes:
        """A serialized sensor_msgs/CompressedImage of a picture uint8 [H, W, 3], as JPEG."""
        bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
        _, jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
        image = self._make(
            OVERLAY_TYPE,
            header=self._header(stamp, frame_id),
            format="rgb8; jpeg compressed bgr8",
            data=jpeg.ravel(),
        )
        return bytes(self._store.serialize_cdr(image, OVERLAY_TYPE))

    def _object(self, thing: SceneObject) -> Any:
        x, y, width, height = thing.box
        position, size, words = thing.position or (0.0, 0.0, 0.0), thing.size or (0.0, 0.0, 0.0), thing.words
        return self._make(
            "osprey_interfaces/msg/ObjectDescription",
            track_id=thing.track_id,
            instance_id=thing.instance_id,
            visible=thing.visible,
            roi=self._make(
                "sensor_msgs/msg/RegionOfInterest",
                x_offset=x,
                y_offset=y,
                width=width,
                height=height,
                do_rectify=False,
            ),
            area=thing.area,
            label=thing.label,
            score=thing.score,
            state=STATE_NUMBERS[thing.state],
            reason=thing.reason,
            category=thing.category,
            description=thing.description,
            confidence=words.confidence if words else 0.0,
            attributes=[
                self._make("osprey_interfaces/msg/Attribute", name=a.name, value=a.value, confidence=a.confidence)
                for a in (words.attributes if words else ())
            ],
            described_at=self._time(words.described_at if words else 0),
            first_seen=self._time(thing.first_seen),
            last_seen=self._time(thing.last_seen),
            has_position=thing.position is not None and thing.size is not None,
            position=self._make("geometry_msgs/msg/Point", x=position[0], y=position[1], z=position[2]),
            size=self._make("geometry_msgs/msg/Vector3", x=size[0], y=size[1], z=size[2]),
        )

    def _header(self, stamp: int, frame_id: str) -> Any:
        return self._make("std_msgs/msg/Header", stamp=self._time(stamp), frame_id=frame_id)

    def _time(self, stamp: int) -> Any:
        return self._make("builtin_interfaces/msg/Time", sec=stamp // NANOSECONDS, nanosec=stamp % NANOSECONDS)

    def _make(self, name: str, /, **fields: Any) -> Any:
        return self._store.types[name](**fields)


def serialized_stamp(data: bytes) -> int:
    """Stamp, in nanoseconds, of the header that a serialized message begins with. Raises struct.error if cut off."""
    order = "<" if data[1] & 1 else ">"  # the second byte of CDR's four says which
    seconds, nanoseconds = struct.unpack_from(f"{order}iI", data, 4)
    return seconds * NANOSECONDS + nanoseconds


def stamp_text(stamp: int) -> str:
    """A stamp in nanoseconds as seconds, with all nine digits."""
    return f"{stamp // NANOSECONDS}.{stamp % NANOSECONDS:09d}"


def _interfaces_folder() -> Path:
    here = Path(__file__).resolve()
    prefixes = [Path(p) for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    # An installed package lies in <prefix>/lib/pythonX.Y/site-packages/osprey_ros (Debian: <prefix>/local/lib/...).
    prefixes += [*here.parents[4:7], Path(sys.prefix)]
    folders = [here.parents[2] / "osprey_interfaces" / "msg"]
    for prefix in prefixes:
        folders += [prefix / "share" / "osprey_interfaces" / "msg", prefix / "share/osprey_ros/osprey_interfaces/msg"]
    for folder in folders:
        if all((folder / f"{name}.msg").is_file() for name in _OUR_TYPES):
            return folder
    places = ", ".join(str(folder) for folder in dict.fromkeys(folders))
    raise StorageError(f"the message definitions of osprey_interfaces are not installed (looked for {places})")
