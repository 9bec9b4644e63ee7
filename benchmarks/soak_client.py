"""The client of a soak test: receives results, calls services, and causes the faults that need ROS."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import rclpy
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.srv import SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image

from osprey_ros.messages.stamps import stamp_of
from osprey_ros.ros.interfaces import ObjectDescriptionArray, QueryScene
from osprey_ros.ros.outputs import messages

IMAGE, MASKS = "/camera/image", "/segmenter/ids"
ANSWER = 20.0  # seconds that a transition may take
FLOOD = 40  # calls of a service at once, more than the node lets wait


class SoakClient:
    """A node in this process. Everything runs in `turn`.

    Attributes:
        latest_stamp: Seconds, of the latest image with a result.
    """

    def __init__(self) -> None:
        rclpy.init()
        self.latest_stamp = 0.0
        self._ages: list[float] = []
        self._node = rclpy.create_node("soak_client")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._node.create_subscription(ObjectDescriptionArray, "/osprey/objects", self._note, 10)
        self._images = [self._node.create_publisher(Image, topic, 5) for topic in (IMAGE, MASKS)]
        self._transition: Any = self._node.create_client(ChangeState, "/osprey/change_state")
        self._parameters: Any = self._node.create_client(SetParameters, "/osprey/set_parameters")
        self._query: Any = self._node.create_client(QueryScene, "/osprey/query_scene")

    def turn(self) -> None:
        """Run one callback, or wait for a moment."""
        self._executor.spin_once(timeout_sec=0.05)

    def take_ages(self) -> list[float]:
        """Return the ages in seconds of the results since the last call."""
        ages, self._ages = self._ages, []
        return ages

    def close(self) -> None:
        """Leave the graph."""
        self._executor.shutdown()
        self._node.destroy_node()
        rclpy.try_shutdown()

    def faults(self) -> dict[str, Callable[[], None]]:
        """Return the faults by name."""
        return {
            "data too short": lambda: self._publish(lambda image: setattr(image, "data", image.data[:10])),
            "wrong step": lambda: self._publish(lambda image: setattr(image, "step", 1)),
            "unknown encoding": lambda: self._publish(lambda image: setattr(image, "encoding", "<mask>")),
            "size of 2^32 - 1": lambda: self._publish(lambda image: setattr(image, "height", 2**32 - 1)),
            "no stamp": lambda: self._publish(stamp=0),
            "stamp of tomorrow": lambda: self._publish(stamp=time.time_ns() + 86_400 * 10**9),
            "stamp of yesterday": lambda: self._publish(stamp=time.time_ns() - 86_400 * 10**9),
            "another size": lambda: self._publish(size=(37, 53)),
            "wrong parameters": self._wrong_parameters,
            "flood of calls": self._flood,
            "deactivated and activated": lambda: self._cycle("deactivate", "activate"),
            "cleaned up and configured": lambda: self._cycle("deactivate", "cleanup", "configure", "activate"),
        }

    def _note(self, message: Any) -> None:
        stamp, now = stamp_of(message) / 1e9, time.time()
        if 0 <= now - stamp < 3600:  # not of a fault
            self.latest_stamp = max(self.latest_stamp, stamp)
            self._ages.append(now - stamp)

    def _publish(
        self,
        spoil: Callable[[Image], None] = lambda image: None,
        stamp: int | None = None,
        size: tuple[int, int] = (48, 64),
    ) -> None:
        header = messages.header_message(time.time_ns() if stamp is None else stamp, "camera_optical_frame")
        image = messages.image_message(np.zeros((*size, 3), np.uint8), "rgb8", header)
        ids = messages.image_message(np.ones(size, np.uint16), "mono16", header)
        for publisher, message in zip(self._images, (image, ids), strict=True):
            spoil(message)
            publisher.publish(message)

    def _wait(self, futures: list[Any]) -> None:
        deadline = time.monotonic() + ANSWER
        while not all(future.done() for future in futures) and time.monotonic() < deadline:
            self.turn()
        for future in futures:
            future.cancel()

    def _wrong_parameters(self) -> None:
        changes: list[Parameter[Any]] = [
            Parameter("max_regions", value=-5),
            Parameter("slop", value=1e9),
            Parameter("nothing", value="x"),
        ]
        request = SetParameters.Request(parameters=[change.to_parameter_msg() for change in changes])
        self._wait([self._parameters.call_async(request)])

    def _flood(self) -> None:
        text = "the red cup </s> <mask><pos> " * 100
        self._wait([self._query.call_async(QueryScene.Request(text=text, limit=1)) for _ in range(FLOOD)])

    def _cycle(self, *labels: str) -> None:
        for label in labels:
            request = ChangeState.Request(transition=Transition(label=label))
            self._wait([self._transition.call_async(request)])
