"""Each form of input, from the messages of another process to the captions of the node, over real DDS."""

from __future__ import annotations

import array
from collections.abc import Iterator
from itertools import count
from typing import Any

import cv2
import numpy as np
import pytest
from ros_harness import Client, osprey_node, ros_environment, tabletop
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, RegionOfInterest

from osprey_interfaces.msg import Region, RegionArray
from osprey_ros.regions.masks import rle_from_mask
from osprey_ros.ros.outputs import messages
from osprey_sim.node_process import NodeProcess

IMAGE, IDS = tabletop()
STAMPS = count(1_000_000_000, 100_000_000)  # a new one for each frame, in nanoseconds
DEFAULTS = {
    "image_transport": "raw",
    "segmentation_transport": "raw",
    "regions_from": "segmentation",
    "use_depth": False,
    "depth_transport": "raw",
    "slop": 0.0,
}


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with ros_environment(tmp_path_factory.mktemp("ros")) as environment:
        yield environment


@pytest.fixture(scope="module")
def node(env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    """One node, which subscribes again for each test."""
    folder = tmp_path_factory.mktemp("node")
    # Without memory, the captions of each test come from its own messages.
    parameters = ("autostart:=true", "max_new_tokens:=8", "remember:=false", "threads:=1")
    with osprey_node(env, folder, *parameters) as child:
        yield child


class Camera(Client):
    """A client that publishes any messages under any topic names."""

    def listen(self, **settings: Any) -> None:
        """Activate the node with these parameters."""
        if self.state() == "active":
            assert self.change_state("deactivate")
        for name, value in {**DEFAULTS, **settings}.items():
            assert self.set_parameter(name, value).successful
        assert self.change_state("activate")
        self.wait_for(lambda: self.node.count_publishers("/osprey/objects"), "the node publishes")

    def describe(self, stamp: int, sent: dict[str, Any]) -> list[Any]:
        """Publish messages by topic, and return the objects of the result."""
        publishers = {topic: self.node.create_publisher(type(message), topic, 5) for topic, message in sent.items()}
        heard = publishers.values()
        self.wait_for(lambda: all(p.get_subscription_count() for p in heard), "the node is subscribed")
        for topic, message in sent.items():
            publishers[topic].publish(message)
        try:
            return list(self.described(stamp).objects)
        finally:
            for publisher in heard:
                self.node.destroy_publisher(publisher)


@pytest.fixture
def camera(env: dict[str, str], node: NodeProcess) -> Iterator[Camera]:
    camera = Camera(env)
    yield camera
    camera.close()


@pytest.fixture(scope="module")
def expected(env: dict[str, str], node: NodeProcess) -> dict[int, str]:
    """Return the description of each id, from a raw image and a raw segmentation."""
    camera = Camera(env)
    try:
        camera.listen()
        stamp = next(STAMPS)
        objects = camera.describe(
            stamp, {"image": raw(IMAGE, "rgb8", stamp), "segmentation": raw(IDS, "mono16", stamp)}
        )
        return {o.instance_id: o.description for o in objects}
    finally:
        camera.close()


def raw(pixels: np.ndarray, encoding: str, stamp: int) -> Image:
    return messages.image_message(pixels, encoding, messages.header_message(stamp, "camera_optical_frame"))


def png(pixels: np.ndarray, format_text: str, stamp: int) -> CompressedImage:
    data = array.array("B", cv2.imencode(".png", pixels)[1].tobytes())
    return CompressedImage(header=messages.header_message(stamp, "camera"), format=format_text, data=data)


def words(objects: list[Any]) -> dict[int, str]:
    return {o.instance_id: o.description for o in objects}


def test_compressed_images_give_the_same_descriptions(camera: Camera, expected: dict[int, str]) -> None:
    camera.listen(image_transport="compressed", segmentation_transport="compressed")
    stamp = next(STAMPS)
    sent = {
        "image/compressed": png(IMAGE[..., ::-1], "rgb8; png compressed bgr8", stamp),
        "segmentation/compressed": png(IDS, "16UC1; png compressed ", stamp),
    }
    assert words(camera.describe(stamp, sent)) == expected


def test_a_jpeg_and_a_raw_segmentation_are_described(camera: Camera, expected: dict[int, str]) -> None:
    camera.listen(image_transport="compressed")
    stamp = next(STAMPS)
    data = array.array("B", cv2.imencode(".jpg", IMAGE[..., ::-1])[1].tobytes())
    image = CompressedImage(header=messages.header_message(stamp, "camera"), format="jpeg", data=data)
    found = words(camera.describe(stamp, {"image/compressed": image, "segmentation": raw(IDS, "mono16", stamp)}))
    assert found.keys() == expected.keys()
    assert all(found.values())


def test_raw_colors_of_a_sensor_are_described(camera: Camera, expected: dict[int, str]) -> None:
    camera.listen()
    mosaic = IMAGE[..., 1].copy()
    mosaic[::2, ::2], mosaic[1::2, 1::2] = IMAGE[::2, ::2, 0], IMAGE[1::2, 1::2, 2]
    stamp = next(STAMPS)
    sent = {"image": raw(mosaic, "bayer_rggb8", stamp), "segmentation": raw(IDS, "mono16", stamp)}
    found = words(camera.describe(stamp, sent))
    assert found.keys() == expected.keys()
    assert all(found.values())


def test_regions_that_overlap_are_described_with_their_labels(camera: Camera, expected: dict[int, str]) -> None:
    camera.listen(regions_from="regions")
    stamp = next(STAMPS)
    rle = Region(id=2, label="cup", score=0.5, encoding=Region.RLE, rle=array.array("I", rle_from_mask(IDS == 2)))
    contour, _ = cv2.findContours((IDS == 7).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    polygon = Region(id=7, encoding=Region.POLYGON, polygon=array.array("f", contour[0].reshape(-1).astype(float)))
    around = RegionOfInterest(x_offset=50, y_offset=50, width=100, height=60)
    message = RegionArray(
        header=messages.header_message(stamp, "camera"),
        height=IDS.shape[0],
        width=IDS.shape[1],
        regions=[rle, polygon, Region(id=40, encoding=Region.BOX, roi=around)],
    )
    objects = camera.describe(stamp, {"image": raw(IMAGE, "rgb8", stamp), "regions": message})
    found = words(objects)
    assert (found[2], found[7]) == (expected[2], expected[7])
    assert found[40]
    assert {o.instance_id: o.area for o in objects} == {2: 1500, 7: 1200, 40: 6000}
    assert {o.instance_id: (o.label, o.score) for o in objects} == {2: ("cup", 0.5), 7: ("", 0.0), 40: ("", 0.0)}


@pytest.mark.parametrize("encoding", ["16UC1", "32FC1", "16UC1; compressedDepth png"])
def test_depth_places_the_objects(camera: Camera, expected: dict[int, str], encoding: str) -> None:
    compressed = "compressed" in encoding
    camera.listen(use_depth=True, depth_transport="compressedDepth" if compressed else "raw")
    meters = np.where(IDS == 1, 0.8, 2.0).astype(np.float32)
    meters[IDS == 7] = 0
    depth = meters if encoding == "32FC1" else (meters * 1000).round().astype(np.uint16)
    matrix = np.array([[100.0, 0, 79.5], [0, 100.0, 59.5], [0, 0, 1]])
    info: CameraInfo = messages.camera_info_message(matrix, 160, 120, messages.header_message(0, "camera"))
    publisher = camera.node.create_publisher(CameraInfo, "camera_info", 5)
    camera.wait_for(publisher.get_subscription_count, "the node is subscribed to camera_info")

    def placed() -> list[Any]:
        # The calibration is not synchronized: a frame may arrive before it.
        stamp = next(STAMPS)
        publisher.publish(info)
        sent = {"image": raw(IMAGE, "rgb8", stamp), "segmentation": raw(IDS, "mono16", stamp)}
        if compressed:
            sent["depth/compressedDepth"] = png(depth, encoding, stamp)
            sent["depth/compressedDepth"].data = array.array("B", bytes(12)) + sent["depth/compressedDepth"].data
        else:
            sent["depth"] = raw(depth, encoding, stamp)
        objects = camera.describe(stamp, sent)
        return objects if any(o.has_position for o in objects) else []

    first, second, third = camera.wait_for(placed, "objects have places")
    assert words([first, second, third]) == expected
    # Pixels 10 to 49 across and 10 to 59 down, 0.8 m away.
    assert (first.position.x, first.position.y) == pytest.approx((-0.4, -0.2), abs=0.01)
    assert first.position.z == pytest.approx(0.8)
    assert (first.size.x, first.size.y) == pytest.approx((0.4 * 0.8 * 0.96, 0.5 * 0.8 * 0.96), abs=0.02)
    assert second.position.z == pytest.approx(2.0)
    assert not third.has_position


def test_stamps_may_differ_by_the_slop(camera: Camera, expected: dict[int, str]) -> None:
    camera.listen(slop=0.03)
    stamp = next(STAMPS)
    sent = {"image": raw(IMAGE, "rgb8", stamp), "segmentation": raw(IDS, "mono16", stamp + 20_000_000)}
    assert words(camera.describe(stamp, sent)) == expected


def test_depth_of_another_size_is_named(camera: Camera, node: NodeProcess) -> None:
    camera.listen(use_depth=True)
    stamp = next(STAMPS)
    depth = camera.node.create_publisher(Image, "depth", 5)
    for publisher in (camera.image, camera.segmentation, depth):
        camera.wait_for(publisher.get_subscription_count, "the node is subscribed")
    depth.publish(raw(np.ones((60, 80), np.float32), "32FC1", stamp))
    camera.send(stamp, IMAGE, IDS)
    complaint = "the depth is 80x60 pixels and the image 160x120: publish depth that is registered to the image"
    camera.wait_for(lambda: complaint in node.output(), "the node complains")
