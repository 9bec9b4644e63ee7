"""Recordings for the tests: written with rosbags and mcap from rclpy's messages, and read back with mcap."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from conftest import SampleImage
from mcap.reader import make_reader
from mcap.writer import Writer as McapWriter
from rclpy.serialization import deserialize_message, serialize_message
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.rosbag2.metadata import dump_qos_v8
from rosbags.typesys import Stores, get_typestore
from std_msgs.msg import String

from osprey_interfaces.msg import ObjectDescriptionArray
from osprey_ros.recording.types import MessageTypes
from osprey_ros.ros.outputs import messages

IMAGE, SEGMENTATION, CHATTER = "/camera/image_raw", "/camera/segmentation", "/chatter"
OBJECTS = "/osprey/objects"
START, PERIOD = 1_700_000_000_000_000_000, 100_000_000
STORE = get_typestore(Stores.ROS2_HUMBLE)
QOS = Qos(
    QosHistory.KEEP_LAST,
    7,
    QosReliability.BEST_EFFORT,
    QosDurability.VOLATILE,
    QosTime(1, 2),
    QosTime(3, 4),
    QosLiveliness.AUTOMATIC,
    QosTime(5, 6),
    False,
)

# topic, type, serialized message, time of recording
Item = tuple[str, str, bytes, int]


def shifted(sample: SampleImage, number: int) -> np.ndarray:
    """Return the image of a frame; each frame has another one."""
    return np.roll(sample.rgb, 7 * number, axis=2 if number % 2 else 1).copy()


def header(stamp: int) -> Any:
    return messages.header_message(stamp, "camera_optical_frame")


def image_item(rgb: np.ndarray, stamp: int, delay: int = 10) -> Item:
    message = messages.image_message(rgb, "rgb8", header(stamp))
    return IMAGE, "sensor_msgs/msg/Image", serialize_message(message), stamp + delay


def ids_item(ids: np.ndarray, stamp: int, delay: int = 50_000_000) -> Item:
    encoding = "32FC1" if ids.dtype == np.float32 else "mono16"
    message = messages.image_message(ids, encoding, header(stamp))
    return SEGMENTATION, "sensor_msgs/msg/Image", serialize_message(message), stamp + delay


def chatter_item(text: str, time: int) -> Item:
    return CHATTER, "std_msgs/msg/String", serialize_message(String(data=text)), time


def frames(sample: SampleImage, count: int = 4) -> list[Item]:
    """Return frames whose segmentations follow half a period later, and other messages between them."""
    items = []
    for number in range(count):
        stamp = START + number * PERIOD
        items.append(image_item(shifted(sample, number), stamp))
        items.append(chatter_item(f"number {number}", stamp + 20_000_000))
        items.append(ids_item(sample.ids, stamp))
    return items


def write_folder(folder: Path, items: list[Item], storage: str = "mcap", compression: str = "NONE") -> Path:
    writer = Writer(folder, version=8, storage_plugin=StoragePlugin[storage.upper()])
    writer.set_compression(CompressionMode[compression], CompressionFormat.ZSTD)
    with writer:
        connections: dict[str, Any] = {}
        for topic, kind, data, moment in items:
            if topic not in connections:
                store = MessageTypes()._store if kind.startswith("osprey_interfaces") else STORE
                connections[topic] = writer.add_connection(topic, kind, typestore=store, offered_qos_profiles=[QOS])
            writer.write(connections[topic], moment, data)
    return folder


def write_mcap(
    path: Path, items: list[Item], finish: bool = True, profile: str = "ros2", encoding: str = "ros2msg", **options: Any
) -> Path:
    """Write a file with the options of mcap's own writer."""
    with path.open("wb") as stream:
        writer = McapWriter(stream, chunk_size=20_000, **options)
        writer.start(profile=profile)
        channels: dict[str, int] = {}
        for topic, kind, data, moment in items:
            if topic not in channels:
                definition = STORE.generate_msgdef(kind, ros_version=2)[0]
                schema = writer.register_schema(kind, encoding, definition.encode())
                channels[topic] = writer.register_channel(
                    topic, "cdr", schema, {"offered_qos_profiles": dump_qos_v8([QOS])}
                )
            writer.add_message(channels[topic], moment, data, publish_time=moment - 3)
        if finish:
            writer.finish()
    return path


def read_mcap(file: Path) -> list[Item]:
    """Return all messages by mcap's own reader."""
    with file.open("rb") as stream:
        found = make_reader(stream, validate_crcs=True).iter_messages()
        return [(c.topic, s.name, m.data, m.log_time) for s, c, m in found if s is not None]


def recorded(file: Path) -> list[Item]:
    """Return the messages of an annotated recording without the added ones."""
    return [item for item in read_mcap(file) if not item[0].startswith("/osprey/")]


def arrays(file: Path) -> list[tuple[int, ObjectDescriptionArray]]:
    """Return time and message of the added objects."""
    found = [item for item in read_mcap(file) if item[0] == OBJECTS]
    assert {kind for _, kind, _, _ in found} <= {"osprey_interfaces/msg/ObjectDescriptionArray"}
    return [(moment, deserialize_message(data, ObjectDescriptionArray)) for _, _, data, moment in found]
