"""Record the messages of the simulated camera for `osprey bag`, `ros2 bag` and Foxglove."""

from __future__ import annotations

import time
from pathlib import Path

from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import String

from osprey_ros.recording.topics import RecordedMessage, Topic
from osprey_ros.recording.types import MessageTypes, serialized_stamp
from osprey_ros.recording.writer import RecordingWriter, new_topic

_QOS_DEPTH = 10


class CameraRecorder:
    """Write the messages of a camera to an MCAP recording. Needs `requirements/bag.txt`.

    Args:
        node: Node of the subscriptions.
        output: A new file NAME.mcap, or a new folder.
        camera: Namespace of the camera, such as "/camera".

    Raises:
        StorageError: The output cannot be written.
    """

    def __init__(self, node: Node, output: Path, camera: str) -> None:
        types = MessageTypes()
        self._writer = RecordingWriter(output, types)
        self._stamps: dict[str, set[int]] = {}  # of the recorded messages, for topics whose messages have a header
        kinds = {
            "image": Image,
            "segmentation": Image,
            "depth": Image,
            "camera_info": CameraInfo,
            "camera/truth": String,
        }
        for name, kind in kinds.items():
            package, message = kind.__module__.split(".")[0], kind.__name__
            topic = new_topic(f"{camera}/{name}", f"{package}/msg/{message}", types)
            self._writer.add_topic(topic)
            if kind is not String:
                self._stamps[topic.name] = set()
            # Raw subscriptions: the received bytes are written.
            node.create_subscription(
                kind, topic.name, lambda data, topic=topic: self._write(topic, data), _QOS_DEPTH, raw=True
            )

    def frames(self) -> set[int]:
        """Return the stamps in nanoseconds of the frames whose messages are all recorded.

        The first frames may lack messages, because topics are discovered one after another.
        """
        return set.intersection(*self._stamps.values())

    def close(self) -> None:
        """Complete the recording.

        Raises:
            StorageError: The output cannot be written.
        """
        self._writer.close()

    def abort(self) -> None:
        """Remove everything that was written."""
        self._writer.abort()

    def _write(self, topic: Topic, data: bytes) -> None:
        if topic.name in self._stamps:
            self._stamps[topic.name].add(serialized_stamp(data))
        self._writer.write(RecordedMessage(topic, time.time_ns(), data))
