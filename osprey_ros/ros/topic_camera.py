"""The latest image of a topic, for programs that are no node themselves."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any

import numpy as np
import rclpy
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image

from osprey_ros.errors import InputError
from osprey_ros.messages.images import rgb_from_compressed, rgb_from_message
from osprey_ros.ros.inputs.subscription import AdaptiveSubscription, compressed_transport

_WATCH_PERIOD = 1.0  # seconds between two checks of the publishers


class TopicCamera:
    """Subscribes to images in a thread of its own.

    Args:
        topic: A topic of sensor_msgs/Image, or of CompressedImage if its name ends in "/compressed".

    Attributes:
        name: Full name of the topic.

    Raises InputError if the topic cannot be subscribed to.
    """

    def __init__(self, topic: str) -> None:
        self._compressed = topic.endswith(f"/{compressed_transport('image')}")
        self._message: Any = None
        self._context = Context()
        rclpy.init(context=self._context, args=[])
        try:
            self._node = rclpy.create_node("osprey_web", context=self._context, start_parameter_services=False)
            self._subscription = _subscribed(self._node, topic, self._compressed, self._take)
        except BaseException:
            rclpy.try_shutdown(context=self._context)
            raise
        self.name = self._subscription.name
        self._node.create_timer(_WATCH_PERIOD, self._subscription.adapt)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._spin, name="osprey_topic", daemon=True)
        self._thread.start()

    def latest(self) -> np.ndarray:
        """Return the latest image, uint8 [H, W, 3]. It may be called in any thread.

        Raises InputError if none has arrived, if the topic has no publisher any more, and for an encoding that cannot
        be read; ImageError for damaged data.
        """
        message, state = self._message, self._subscription.state()
        if not state.publishers:
            other = f"; it has the type {state.other_types[0]}" if state.other_types else ""
            raise InputError(f"nothing publishes images on {self.name}{other}; start the camera, or correct --topic")
        if message is None:
            raise InputError(f"no image has arrived on {self.name} yet; try again in a moment")
        return rgb_from_compressed(message) if self._compressed else rgb_from_message(message)

    def close(self) -> None:
        """Unsubscribe, and end the thread."""
        self._executor.shutdown()
        self._thread.join()
        self._node.destroy_node()
        rclpy.try_shutdown(context=self._context)

    def _take(self, message: Any) -> None:
        self._message = message

    def _spin(self) -> None:
        with suppress(ExternalShutdownException):
            self._executor.spin()


def _subscribed(node: Node, topic: str, compressed: bool, take: Any) -> AdaptiveSubscription:
    kind = CompressedImage if compressed else Image
    try:
        return AdaptiveSubscription(node, "image", kind, topic, "auto", take)
    except Exception as error:
        raise InputError(f"the topic {topic!r} cannot be subscribed to ({error}); correct --topic") from error
