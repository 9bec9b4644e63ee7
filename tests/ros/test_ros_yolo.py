"""Messages of yolo_ros through the node: words for each detection, the tracker's ids, masks to the pixel."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import message_packages
import numpy as np
import pytest
from nano import folder_without_score
from ros_harness import Client, osprey_node, ros_environment
from sensor_msgs.msg import Image

from osprey_ros.errors import InputError
from osprey_ros.frame import RegionLabel
from osprey_ros.messages.frames import YOLO, RawFrame, frame_from_messages
from osprey_ros.messages.regions import regions_from_yolo
from osprey_ros.regions.regions import Regions
from osprey_ros.ros.inputs.frame_inputs import FrameInputs
from osprey_ros.ros.inputs.settings import InputSettings
from osprey_ros.ros.outputs import messages

HEIGHT, WIDTH = 120, 160


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Environment in which yolo_msgs can be imported; it can in this process, too."""
    folder = message_packages.ROOT / "build" / "tests" / "yolo_msgs"
    if not str(folder).isascii():  # rosidl drops other characters from paths
        folder = tmp_path_factory.mktemp("yolo_msgs")
    prefix = message_packages.built(folder)
    with (
        ros_environment(tmp_path_factory.mktemp("logs")) as environment,
        message_packages.importable(prefix, environment) as complete,
    ):
        yield complete


@pytest.fixture
def blobs() -> dict[int, np.ndarray]:
    """Masks without holes by track id, bool [H, W]: of curved outlines, one at the border, two that touch."""
    masks = {}
    for number, center, axes, angle in (
        (4, (40, 40), (30, 18), 30),
        (17, (95, 70), (22, 35), 10),
        (9, (150, 20), (25, 15), 0),
    ):
        canvas = np.zeros((HEIGHT, WIDTH), np.uint8)
        cv2.ellipse(canvas, center, axes, angle, 0, 360, 1, -1)
        masks[number] = canvas.astype(bool)
    return masks


def detection(number: str, name: str, mask: np.ndarray | None, box: tuple[float, float, float, float]) -> Any:
    """Return a detection as yolo_node and tracking_node fill it: center and size of the box, outline of the mask."""
    from yolo_msgs.msg import BoundingBox2D, Detection, Mask, Point2D

    found = Detection(class_id=3, class_name=name, score=0.75, id=number, bbox=BoundingBox2D())
    found.bbox.center.position.x, found.bbox.center.position.y, found.bbox.size.x, found.bbox.size.y = box
    if mask is not None:
        (outline,), _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        points = [Point2D(x=float(x), y=float(y)) for x, y in outline[:, 0]]
        found.mask = Mask(height=mask.shape[0], width=mask.shape[1], data=points)
    return found


def array_of(*detections: Any, stamp: int = 1) -> Any:
    from yolo_msgs.msg import DetectionArray

    return DetectionArray(header=messages.header_message(stamp, "camera"), detections=list(detections))


def masks_of(regions: Regions) -> dict[int, np.ndarray]:
    """Return the mask of each region by its id, bool [H, W]."""
    masks = {}
    for row, (x, y, width, height) in enumerate(regions.boxes.tolist()):
        masks[int(regions.ids[row])] = np.zeros(regions.shape, bool)
        masks[int(regions.ids[row])][y : y + height, x : x + width] = regions.crop(row)
    return masks


def test_outlines_become_the_masks_that_they_are_of(env: dict[str, str], blobs: dict[int, np.ndarray]) -> None:
    box = (80.0, 60.0, 20.0, 10.0)
    message = array_of(*(detection(str(number), f"thing {number}", mask, box) for number, mask in blobs.items()))
    regions, labels = regions_from_yolo(message, HEIGHT, WIDTH)
    assert regions.ids.tolist() == list(blobs)
    for number, mask in masks_of(regions).items():
        np.testing.assert_array_equal(mask, blobs[number])
    assert labels == {number: RegionLabel(f"thing {number}", 0.75) for number in blobs}


def test_detections_without_masks_are_boxes_and_without_a_tracker_are_numbered(env: dict[str, str]) -> None:
    message = array_of(*(detection("", "cup", None, (x, 30.0, 20.0, 10.0)) for x in (40.0, 100.0)))
    regions, _ = regions_from_yolo(message, HEIGHT, WIDTH)
    assert regions.ids.tolist() == [1, 2]
    assert regions.boxes.tolist() == [[30, 25, 20, 10], [90, 25, 20, 10]]


def test_masks_of_another_size_are_resized_to_the_image(env: dict[str, str], blobs: dict[int, np.ndarray]) -> None:
    half = {number: mask[::2, ::2] for number, mask in blobs.items()}
    box = (40.0, 30.0, 10.0, 5.0)
    message = array_of(*(detection(str(number), "", mask, box) for number, mask in half.items()))
    image = messages.image_message(np.zeros((HEIGHT, WIDTH, 3), np.uint8), "rgb8", message.header)
    frame = frame_from_messages(RawFrame(image, message, YOLO, {"image": "/image", YOLO: "/yolo"}))
    regions, _ = frame.regions_above(1)
    for number, mask in masks_of(regions).items():
        np.testing.assert_array_equal(mask, half[number].repeat(2, 0).repeat(2, 1))


def test_bad_detections_are_left_out_and_mixed_sizes_refused(
    env: dict[str, str], blobs: dict[int, np.ndarray], caplog: pytest.LogCaptureFixture
) -> None:
    good, bad = detection("4", "", blobs[4], (1.0, 1.0, 1.0, 1.0)), detection("5", "", blobs[9], (1.0, 1.0, 1.0, 1.0))
    bad.mask.data = bad.mask.data[:2]
    assert regions_from_yolo(array_of(good, bad), HEIGHT, WIDTH)[0].ids.tolist() == [4]
    assert caplog.messages == ["detection 5 is left out: one of its outlines has 2 corners; give at least 3"]
    bad.mask.height = 64
    with pytest.raises(InputError, match=r"images of several sizes \(160x64, 160x120\)"):
        regions_from_yolo(array_of(good, bad), HEIGHT, WIDTH)


def test_the_node_gives_words_for_each_detection_and_keeps_its_ids(
    env: dict[str, str], blobs: dict[int, np.ndarray], tmp_path: Path
) -> None:
    from yolo_msgs.msg import DetectionArray

    rgb = np.full((HEIGHT, WIDTH, 3), 150, np.uint8)
    for mask, color in zip(blobs.values(), ((200, 30, 30), (20, 160, 40), (30, 40, 190)), strict=True):
        rgb[mask] = color
    client = Client(env, publish=False)
    image = client.node.create_publisher(Image, "image", 5)
    yolo = client.node.create_publisher(DetectionArray, "/yolo/tracking", 5)
    bundle = str(folder_without_score(tmp_path / "nano"))
    parameters = ("autostart:=true", "regions_from:=yolo")
    with osprey_node(env, tmp_path, *parameters, bundle=bundle, remapped={"yolo": "/yolo/tracking"}) as child:
        try:
            client.wait_for(lambda: image.get_subscription_count() and yolo.get_subscription_count(), "subscribed")
            client.wait_for(lambda: client.node.count_publishers("/osprey/objects"), "the node publishes")
            message = array_of(
                *(detection(str(number), "thing", mask, (1.0, 1.0, 1.0, 1.0)) for number, mask in blobs.items()),
                stamp=7_000_000_001,
            )
            image.publish(messages.image_message(rgb, "rgb8", message.header))
            yolo.publish(message)
            described = {found.instance_id: found for found in client.described(7_000_000_001).objects}
            assert set(described) == set(blobs)
            for number, found in described.items():
                assert found.description
                assert (found.label, found.score) == ("thing", 0.75)
                y, x = np.nonzero(blobs[number])
                roi = found.roi
                assert (roi.x_offset, roi.y_offset) == (x.min(), y.min())
                assert (roi.width, roi.height) == (x.max() - x.min() + 1, y.max() - y.min() + 1)
                assert found.area == blobs[number].sum()
        finally:
            client.close()
        assert child.stop() == 0


def test_without_yolo_msgs_the_node_says_what_to_build(env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(env)
    try:
        monkeypatch.setitem(sys.modules, "yolo_msgs.msg", None)
        with pytest.raises(InputError, match="yolo_msgs is not installed; build yolo_ros in this workspace"):
            FrameInputs(client.node, InputSettings(regions_from="yolo"), print)
    finally:
        client.close()
