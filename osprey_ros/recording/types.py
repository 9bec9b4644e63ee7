"""Message types of recordings without ROS: definitions, reading of messages, and the messages that are added."""

from __future__ import annotations

import os
import struct
import sys
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rosbags.typesys import Stores, TypesysError, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from osprey_ros.errors import StorageError
from osprey_ros.messages.objects import object_message, time_message
from osprey_ros.messages.stamps import NANOSECONDS
from osprey_ros.scene.types import SceneObject

OBJECTS_TYPE = "osprey_interfaces/msg/ObjectDescriptionArray"
OVERLAY_TYPE = "sensor_msgs/msg/CompressedImage"
_OWN_TYPES = ("Attribute", "ObjectDescription", "ObjectDescriptionArray", "Region", "RegionArray")
_IDL_START = "=" * 80 + "\nIDL: "  # definitions in .idl begin with it, as rosbag2 writes them
_JPEG_QUALITY = 90


class MessageTypes:
    """Types of osprey_interfaces and of the common packages, and the messages that annotated recordings gain."""

    def __init__(self) -> None:
        # Recordings without definitions are those of Humble or older. The types written here are the same in all
        # releases.
        self._store = get_typestore(Stores.ROS2_HUMBLE)
        folder = _interfaces_folder()
        for name in _OWN_TYPES:
            text = (folder / f"{name}.msg").read_text("utf-8")
            self._store.register(get_types_from_msg(text, f"osprey_interfaces/msg/{name}"))

    def definition(self, name: str) -> str:
        """Return the definition of a type and of its parts in the language of .msg files, "" if it is unknown."""
        if name not in self._store.fielddefs:
            return ""
        return self._store.generate_msgdef(name, ros_version=2)[0]

    def type_hash(self, name: str, definition: str) -> str:
        """Return the hash of a type (REP-2011) from its recorded definition, "" if that cannot be parsed."""
        try:
            return self._store_of(name, definition).hash_rihs01(name)
        except (StorageError, TypesysError, KeyError):
            return ""

    def reader(self, name: str, definition: str) -> Callable[[bytes], Any]:
        """Return a function that deserializes messages of a type.

        Args:
            name: The type, such as "sensor_msgs/msg/Image".
            definition: The recorded definition; "" takes the known one.

        Returns:
            A function from serialized messages to objects with their fields. Arrays of numbers share the memory of the
            bytes. It raises the errors of rosbags for bytes that are not such a message.

        Raises:
            StorageError: There is no definition, it cannot be parsed, or it lacks a field.
        """
        store = self._store_of(name, definition)
        self._check_fields(name, store)
        return lambda data: store.deserialize_cdr(memoryview(data), name)

    def objects(self, objects: Sequence[SceneObject], stamp: int, frame_id: str) -> bytes:
        """Return a serialized osprey_interfaces/ObjectDescriptionArray. ``stamp`` is in nanoseconds."""
        described = [object_message(thing, self._make) for thing in objects]
        message = self._make(OBJECTS_TYPE, header=self._header(stamp, frame_id), objects=described)
        return bytes(self._store.serialize_cdr(message, OBJECTS_TYPE))

    def overlay(self, rgb: np.ndarray, stamp: int, frame_id: str) -> bytes:
        """Return a serialized sensor_msgs/CompressedImage, as JPEG, of an image uint8 [H, W, 3]."""
        bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
        _, jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
        header = self._header(stamp, frame_id)
        message = self._make(OVERLAY_TYPE, header=header, format="rgb8; jpeg compressed bgr8", data=jpeg.ravel())
        return bytes(self._store.serialize_cdr(message, OVERLAY_TYPE))

    def _store_of(self, name: str, definition: str) -> Typestore:
        """Return a store with the type as it was recorded, or the store of known types if ``definition`` is empty."""
        store = self._store
        if definition:
            store = get_typestore(Stores.EMPTY)
            try:
                parsed = (
                    get_types_from_idl(definition)
                    if definition.startswith(_IDL_START)
                    else get_types_from_msg(definition, name)
                )
                store.register(parsed)
            except TypesysError as error:
                raise StorageError(
                    f"the recorded definition of {name} cannot be parsed; record it again, or convert the recording "
                    "with `ros2 bag convert` where the type is installed"
                ) from error
        if name not in store.fielddefs:
            raise StorageError(
                f"the recording has no definition of {name}; convert it with `ros2 bag convert` where the type is "
                "installed"
            )
        return store

    def _check_fields(self, name: str, store: Typestore) -> None:
        """Raise StorageError if a type was recorded without a field that its present definition has."""
        for part in store.fielddefs.keys() & self._store.fielddefs.keys():
            recorded = {field for field, _ in store.fielddefs[part][1]}
            missing = [field for field, _ in self._store.fielddefs[part][1] if field not in recorded]
            if missing:
                raise StorageError(
                    f"{name} was recorded with another definition: {part} has no field {', '.join(missing)}; record it "
                    "again with the present messages"
                )

    def _header(self, stamp: int, frame_id: str) -> Any:
        return self._make("std_msgs/msg/Header", stamp=time_message(stamp, self._make), frame_id=frame_id)

    def _make(self, name: str, /, **fields: Any) -> Any:
        # rosbags takes arrays of numbers as numpy arrays.
        arrays = {field: np.asarray(value) for field, value in fields.items() if isinstance(value, array)}
        return self._store.types[name](**fields | arrays)


def serialized_stamp(data: bytes) -> int:
    """Return the stamp in nanoseconds of the header at the start of a serialized message.

    Raises:
        struct.error: The message is too short.
    """
    order = "<" if data[1] & 1 else ">"  # byte order, from the second byte of CDR's encapsulation
    seconds, nanoseconds = struct.unpack_from(f"{order}iI", data, 4)
    return int(seconds * NANOSECONDS + nanoseconds)


def stamp_text(stamp: int) -> str:
    """Return a stamp in nanoseconds as seconds with nine decimal places."""
    return f"{stamp // NANOSECONDS}.{stamp % NANOSECONDS:09d}"


def _interfaces_folder() -> Path:
    here = Path(__file__).resolve()
    prefixes = [Path(p) for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    # An installed module is <prefix>/lib/pythonX.Y/site-packages/osprey_ros/recording/types.py (Debian:
    # <prefix>/local/lib/...).
    prefixes += [*here.parents[4:7], Path(sys.prefix)]
    folders = [here.parents[2] / "osprey_interfaces" / "msg"]
    for prefix in prefixes:
        folders += [prefix / "share" / "osprey_interfaces" / "msg", prefix / "share/osprey_ros/osprey_interfaces/msg"]
    for folder in folders:
        if all((folder / f"{name}.msg").is_file() for name in _OWN_TYPES):
            return folder
    places = ", ".join(str(folder) for folder in dict.fromkeys(folders))
    raise StorageError(f"the message definitions of osprey_interfaces are not installed (searched {places})")
