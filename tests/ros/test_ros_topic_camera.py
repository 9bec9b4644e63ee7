"""The latest image of a topic, raw and compressed, as the web page takes it."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import rclpy
from PIL import Image as PillowImage
from rclpy.context import Context
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from ros_harness import DEADLINE, ros_environment
from sensor_msgs.msg import CompressedImage, Image

from osprey_ros.errors import InputError
from osprey_ros.ros.topic_camera import TopicCamera

RGB = np.random.default_rng(1).integers(0, 256, (6, 8, 3), np.uint8)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with ros_environment(tmp_path_factory.mktemp("ros")) as env, pytest.MonkeyPatch.context() as patch:
        for name in ("ROS_DOMAIN_ID", "ROS_AUTOMATIC_DISCOVERY_RANGE", "ROS_LOG_DIR"):
            patch.setenv(name, env[name])
        context = Context()
        rclpy.init(context=context, args=[])
        yield rclpy.create_node("camera", context=context)
        rclpy.try_shutdown(context=context)


def _raw() -> Image:
    return Image(height=6, width=8, encoding="rgb8", step=24, data=RGB.tobytes())


def _compressed() -> CompressedImage:
    file = io.BytesIO()
    PillowImage.fromarray(RGB).save(file, "PNG")
    return CompressedImage(format="png", data=file.getvalue())


@pytest.mark.parametrize(("topic", "message"), [("/a/image", _raw), ("/a/image/compressed", _compressed)])
def test_latest_image(node: Node, topic: str, message: Callable[[], Any]) -> None:
    camera = TopicCamera(topic)
    try:
        assert camera.name == topic
        with pytest.raises(InputError, match=f"nothing publishes images on {topic}; start the camera"):
            camera.latest()
        publisher = node.create_publisher(type(message()), topic, qos_profile_sensor_data)
        end, found = time.monotonic() + DEADLINE, None
        while found is None and time.monotonic() < end:
            publisher.publish(message())
            try:
                found = camera.latest()
            except InputError:
                time.sleep(0.1)  # it has not discovered the publisher yet
        assert found is not None
        assert (found == RGB).all()
    finally:
        camera.close()


def test_topics_that_cannot_be_used(node: Node) -> None:
    with pytest.raises(InputError, match="cannot be subscribed to"):
        TopicCamera("/not a topic")
