"""Subscriptions over real DDS: complete frames, reasons for incomplete ones, adaptation to publishers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from ros_harness import Client, ros_environment
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from osprey_interfaces.msg import RegionArray
from osprey_ros.errors import InputError
from osprey_ros.messages.frames import RawFrame
from osprey_ros.ros.diagnostics.input_status import TopicState
from osprey_ros.ros.inputs.frame_inputs import FrameInputs
from osprey_ros.ros.inputs.settings import InputSettings
from osprey_ros.ros.outputs import messages

MS = 1_000_000
PIXELS = np.zeros((6, 8), np.uint8)


class Listener:
    """A node with inputs, in its own DDS participant, and the frames it received."""

    def __init__(self, settings: InputSettings, *arguments: str) -> None:
        self.context = Context()
        rclpy.init(context=self.context, args=["--ros-args", *arguments] if arguments else [])
        self.node = rclpy.create_node("listener", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.frames: list[RawFrame] = []
        self.inputs = FrameInputs(self.node, settings, self.frames.append)

    def topic(self, role: str) -> TopicState:
        (found,) = [topic for topic in self.inputs.state().topics if topic.role == role]
        return found

    def close(self) -> None:
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    """The publishing side. Its executor runs only while a test waits."""
    with ros_environment(tmp_path) as environment:
        client = Client(environment)
        yield client
        client.close()


@contextmanager
def listening(client: Client, settings: InputSettings, *arguments: str) -> Iterator[Listener]:
    listener = Listener(settings, *arguments)
    try:
        yield listener
    finally:
        listener.inputs.close()
        listener.close()


def wait(client: Client, listener: Listener, condition: Callable[[], Any], what: str) -> None:
    def served() -> Any:
        listener.executor.spin_once(timeout_sec=0.02)
        return condition()

    client.wait_for(served, what)


def header(stamp: int) -> Header:
    return messages.header_message(stamp, "camera")


def image(stamp: int) -> Image:
    return messages.image_message(PIXELS, "mono8", header(stamp))


def send(client: Client, listener: Listener, messages_by_topic: dict[str, Any], repeat: Callable[[], Any]) -> None:
    """Publish on each topic once its publisher is connected, until ``repeat`` returns a true value."""
    publishers = {
        topic: client.node.create_publisher(type(message), topic, 5) for topic, message in messages_by_topic.items()
    }
    wait(client, listener, lambda: all(p.get_subscription_count() for p in publishers.values()), "all topics are heard")
    for topic, message in messages_by_topic.items():
        publishers[topic].publish(message)
    wait(client, listener, repeat, "it comes")


@pytest.mark.parametrize(
    ("settings", "sent"),
    [
        (InputSettings(), {"/image": Image, "/segmentation": Image}),
        (
            InputSettings(image_transport="compressed", segmentation_transport="compressed"),
            {"/image/compressed": CompressedImage, "/segmentation/compressed": CompressedImage},
        ),
        (InputSettings(regions_from="regions"), {"/image": Image, "/regions": RegionArray}),
        (
            InputSettings(segmentation_values="panoptic", class_names="wall, cup", background_classes="wall"),
            {"/image": Image, "/segmentation": Image},
        ),
        (
            InputSettings(image_transport="compressed", use_depth=True),
            {
                "/camera_info": CameraInfo,
                "/image/compressed": CompressedImage,
                "/segmentation": Image,
                "/depth": Image,
            },
        ),
    ],
)
def test_each_form_of_input_makes_a_frame(client: Client, settings: InputSettings, sent: dict[str, type]) -> None:
    with listening(client, settings) as listener:
        assert set(listener.inputs.topics.values()) == set(sent)
        everything = {topic: kind(header=header(7)) for topic, kind in sent.items()}
        send(client, listener, everything, lambda: all(topic.received for topic in listener.inputs.state().topics))
        (frame,) = listener.frames
        assert frame.stamp == 7
        assert isinstance(frame.image, sent.get("/image", CompressedImage))
        assert type(frame.regions) is sent[listener.inputs.topics[settings.regions_from]]
        assert (frame.depth is not None) == settings.use_depth
        values = frame.values
        given = ("panoptic", ("wall", "cup"), ("wall",)) if settings.class_names else ("instances", (), ())
        assert (values.meaning, values.class_names, values.background) == given
        state = listener.inputs.state()
        assert (state.matched, state.unmatched_dropped, state.problems()) == (1, 0, [])
        assert all((topic.received, topic.last_stamp) == (1, 7) for topic in state.topics)
        assert all(topic.publishers and not topic.other_types for topic in state.topics)


def test_the_compressed_topic_follows_the_remapped_one(client: Client) -> None:
    settings = InputSettings(image_transport="compressed")
    remaps = ("-r", "image:=/camera/color", "-r", "segmentation:=/sam/ids", "-r", "__ns:=/robot")
    with listening(client, settings, *remaps) as listener:
        assert dict(listener.inputs.topics) == {"image": "/camera/color/compressed", "segmentation": "/sam/ids"}
        sent = {
            "/camera/color/compressed": CompressedImage(header=header(7)),
            "/sam/ids": image(7),
        }
        send(client, listener, sent, lambda: listener.frames)


def test_a_compressed_topic_may_be_remapped_directly(client: Client) -> None:
    settings = InputSettings(image_transport="compressed", use_depth=True, depth_transport="compressedDepth")
    remaps = ("-r", "image:=/camera/color/compressed", "-r", "depth:=/camera/depth/compressedDepth")
    with listening(client, settings, *remaps) as listener:
        names = listener.inputs.topics
        assert (names["image"], names["depth"]) == ("/camera/color/compressed", "/camera/depth/compressedDepth")
        sent = {names[role]: CompressedImage(header=header(7)) for role in ("image", "depth")}
        send(client, listener, {**sent, "/segmentation": image(7)}, lambda: listener.frames)


def test_another_transport_is_named(client: Client) -> None:
    with listening(client, InputSettings(image_transport="compressed")) as listener:
        wait(client, listener, lambda: listener.topic("image").other_transport, "the raw image is found")
        assert listener.topic("image").other_transport == "raw"


LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def test_latched_messages_from_before_are_received_once(client: Client) -> None:
    for publisher in (client.image, client.segmentation):
        client.node.destroy_publisher(publisher)
    topics = {"image": Image, "segmentation": Image, "camera_info": CameraInfo, "depth": Image}
    publishers = {topic: client.node.create_publisher(kind, topic, LATCHED) for topic, kind in topics.items()}
    for topic in ("image", "segmentation", "depth"):
        publishers[topic].publish(image(7))
    publishers["camera_info"].publish(CameraInfo(header=header(7)))
    with listening(client, InputSettings(use_depth=True)) as listener:
        wait(client, listener, lambda: listener.frames and listener.topic("camera_info").received, "a frame comes")
        state = listener.inputs.state()
        assert [topic.received for topic in state.topics] == [1, 1, 1, 1]
        assert state.latched
        publishers["image"].publish(image(8))  # of the same publisher, and so after what it may send again
        wait(client, listener, lambda: listener.topic("image").received == 2, "the next image comes")
        assert len(listener.frames) == 1


def test_a_subscription_adapts_to_publishers_that_are_not_latched(client: Client) -> None:
    client.node.destroy_publisher(client.image)
    client.image = client.node.create_publisher(Image, "image", LATCHED)
    client.image.publish(image(7))
    with listening(client, InputSettings()) as listener:
        wait(client, listener, lambda: listener.topic("image").received, "the latched image comes")
        client.node.destroy_publisher(client.image)
        client.image = client.node.create_publisher(Image, "image", 5)

        def received() -> bool:
            client.image.publish(image(9))
            return listener.topic("image").last_stamp == 9

        wait(client, listener, received, "a volatile image comes")


def test_messages_without_a_stamp_match_nothing(client: Client) -> None:
    with listening(client, InputSettings()) as listener:
        for publisher in (client.image, client.segmentation):
            client.wait_for(publisher.get_subscription_count, "the listener is there")
            publisher.publish(image(0))
        roles = ("image", "segmentation")
        wait(client, listener, lambda: all(listener.topic(role).received for role in roles), "both come")
        assert not listener.frames
        found = [problem.partition(":")[0] for problem in listener.inputs.state().problems()]
        assert found == ["/image", "/segmentation"]


def test_frames_do_not_wait_for_the_calibration(client: Client) -> None:
    with listening(client, InputSettings(use_depth=True)) as listener:
        sent = {"/image": image(7), "/segmentation": image(7), "/depth": image(7)}
        send(client, listener, sent, lambda: listener.frames)
        assert listener.frames[0].camera_info is None
        (problem,) = listener.inputs.state().problems()
        assert problem == "/camera_info: no publisher; start one, or remap camera_info to an existing topic"


def test_stamps_within_the_slop_make_a_frame_and_others_are_measured(client: Client) -> None:
    with listening(client, InputSettings(slop=0.02)) as listener:
        client.wait_for(lambda: client.image.get_subscription_count(), "the listener is there")
        client.wait_for(lambda: client.segmentation.get_subscription_count(), "the listener is there")
        client.image.publish(image(1000 * MS))
        client.segmentation.publish(image(1015 * MS))
        wait(client, listener, lambda: listener.frames, "a frame comes")
        assert listener.frames[0].stamp == 1000 * MS

        for second in (2, 3, 4):
            client.image.publish(image(second * 1000 * MS))
            client.segmentation.publish(image(second * 1000 * MS + 33 * MS))
        for role in ("image", "segmentation"):
            wait(client, listener, lambda role=role: listener.topic(role).received == 4, "all come")
        state = listener.inputs.state()
        assert state.offset == 33 * MS
        (problem,) = state.problems()
        assert problem.startswith("stamps differ by at least 33 ms, slop allows 20 ms; ")
        assert problem.endswith("or set slop to 0.05")


def test_ids_that_arrive_too_late_for_the_queue_are_reported(client: Client) -> None:
    with listening(client, InputSettings(queue_size=2)) as listener:
        client.wait_for(lambda: client.image.get_subscription_count(), "the listener is there")
        client.wait_for(lambda: client.segmentation.get_subscription_count(), "the listener is there")
        for stamp in range(60, 100, 10):
            client.image.publish(image(stamp))
        wait(client, listener, lambda: listener.topic("image").received == 4, "images come")
        for stamp in (10, 20, 30):
            client.segmentation.publish(image(stamp))
        wait(client, listener, lambda: listener.topic("segmentation").received == 3, "ids come")
        state = listener.inputs.state()
        assert state.unmatched_dropped == 3
        (problem,) = state.problems()
        assert problem.startswith("/segmentation: messages arrive after the matching messages have left the queue of 2")


def test_missing_topics_are_reported(client: Client) -> None:
    client.node.destroy_publisher(client.segmentation)
    wrong = client.node.create_publisher(CompressedImage, "depth", 5)
    with listening(client, InputSettings(use_depth=True)) as listener:
        wait(client, listener, lambda: listener.topic("depth").other_types, "the wrong publisher is seen")
        wait(client, listener, lambda: listener.topic("image").publishers, "the image's publisher is seen")
        wait(client, listener, lambda: not listener.topic("segmentation").publishers, "the other one is gone")
        assert listener.inputs.state().problems() == [
            "/image: no message received from 1 publisher(s)",
            "/segmentation: no publisher; start one, or remap segmentation to an existing topic",
            "/depth: sensor_msgs/msg/CompressedImage is published, sensor_msgs/msg/Image is expected; set "
            "depth_transport to compressedDepth and publish it as /depth/compressedDepth",
            "/camera_info: no publisher; start one, or remap camera_info to an existing topic",
        ]
    client.node.destroy_publisher(wrong)


def best_effort_publisher(client: Client) -> None:
    client.node.destroy_publisher(client.image)
    qos = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
    client.image = client.node.create_publisher(Image, "image", qos)


def test_an_incompatible_policy_is_named(client: Client) -> None:
    best_effort_publisher(client)
    with listening(client, InputSettings(reliability="reliable")) as listener:
        wait(client, listener, lambda: listener.topic("image").incompatible_qos, "the policy is named")
        topic = listener.topic("image")
        assert topic.incompatible_qos == ("RELIABILITY",)
        assert (topic.requested_reliability, topic.offered_reliability) == ("reliable", ("best effort",))
        assert listener.inputs.state().problems()[0] == (
            "/image: QoS policy RELIABILITY is incompatible: a publisher offers best effort, the node requests "
            "reliable; set the parameter reliability to auto"
        )


def test_a_subscription_adapts_to_its_publishers_and_back(client: Client) -> None:
    with listening(client, InputSettings()) as listener:
        wait(client, listener, lambda: listener.topic("image").publishers, "the publisher is seen")
        assert listener.topic("image").requested_reliability == "reliable"
        best_effort_publisher(client)
        wait(client, listener, lambda: listener.topic("image").requested_reliability == "best effort", "it adapts")
        wait(client, listener, lambda: not listener.topic("image").incompatible_qos, "nothing is wrong then")

        def received() -> int:
            client.image.publish(image(5))
            return listener.topic("image").received

        wait(client, listener, received, "a best-effort message comes")
        client.node.destroy_publisher(client.image)
        client.image = client.node.create_publisher(Image, "image", 5)
        wait(client, listener, lambda: listener.topic("image").requested_reliability == "reliable", "it adapts back")


def test_detections_need_vision_msgs(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vision_msgs", None)
    node: Node = client.node
    with pytest.raises(InputError, match=r"vision_msgs is not installed; install ros-\$ROS_DISTRO-vision-msgs"):
        FrameInputs(node, InputSettings(regions_from="detections"), print)
    assert node.get_subscriptions_info_by_topic("/detections") == []


def test_a_topic_of_another_type_is_named_and_nothing_stays_subscribed(client: Client) -> None:
    node: Node = client.node
    node.create_publisher(Image, "camera_info", 5)
    before = list(node.subscriptions)
    reason = r"camera_info cannot be subscribed to: /camera_info as sensor_msgs/msg/CameraInfo; this process may"
    with pytest.raises(InputError, match=reason):
        FrameInputs(node, InputSettings(use_depth=True), print)
    assert list(node.subscriptions) == before


def test_closing_unsubscribes(client: Client) -> None:
    with listening(client, InputSettings()):
        client.wait_for(lambda: client.image.get_subscription_count() == 1, "the listener is there")
    client.wait_for(lambda: client.image.get_subscription_count() == 0, "the listener is gone")
