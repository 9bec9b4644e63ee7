"""Records what the simulated camera publishes, as rosbag2 does it: for `osprey bag`, `ros2 bag` and Foxglove."""

from __future__ import annotations

import time
from itertools import count
from pathlib import Path

from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import String

from osprey_ros.messages.stamps import stamp_of
from osprey_ros.recording.reader import About, Entry, Topic
from osprey_ros.recording.types import MessageTypes
from osprey_ros.recording.writer import BagWriter, new_topic

_QOS_DEPTH = 10


class CameraRecorder:
    """Writes the messages of a camera, as they come in, to an mcap recording. Needs `requirements/bag.txt`.

    Args:
        node: makes the subscriptions; its executor does the work.
        output: a file NAME.mcap, or a folder to be made.
        camera: namespace of the camera, such as "/camera".

    Raises StorageError for an output that cannot be written.
    """

    def __init__(self, node: Node, output: Path, camera: str) -> None:
        about, types = About(), MessageTypes()
        self._writer = BagWriter(output, about)
        self._numbers = count()
        self._stamps: dict[str, set[int]] = {}  # of what was written, by topics whose messages begin with a header
        kinds = {
            "image": Image,
            "segmentation": Image,
            "depth": Image,
            "camera_info": CameraInfo,
            "camera/truth": String,
        }
        for name, kind in kinds.items():
            package, message = kind.__module__.split(".")[0], kind.__name__
            topic = new_topic(f"{camera}/{name}", f"{package}/msg/{message}", types, about.version)
            self._writer.add_topic(topic)
            if kind is not String:
                self._stamps[topic.name] = set()
            # Raw: the bytes are written as they came.
            node.create_subscription(
                kind, topic.name, lambda data, topic=topic: self._write(topic, data), _QOS_DEPTH, raw=True
            )

    def frames(self) -> set[int]:
        """Stamps, in nanoseconds, of the frames that are recorded as a whole.

        The first ones may lack a message: topics are discovered one after another.
        """
        return set.intersection(*self._stamps.values())

    def close(self) -> None:
        """Completes the recording. Raises StorageError."""
        self._writer.close()

    def abort(self) -> None:
        """Leaves nothing behind."""
        self._writer.abort()

    def _write(self, topic: Topic, data: bytes) -> None:
        now = time.time_ns()
        if topic.name in self._stamps:
            self._stamps[topic.name].add(stamp_of(data))
        self._writer.write(Entry(topic, now, now, next(self._numbers), data))
