"""The node `segmenter` beside the node `osprey`, over real DDS. The segmenter's masks are known (`color_segmenter`)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from color_segmenter import write_bundle
from geometry_msgs.msg import Point, PointStamped
from ros_harness import Client, osprey_node, ros_environment
from sensor_msgs.msg import CameraInfo, Image

from osprey_ros.errors import InputError
from osprey_ros.messages.images import ids_from_message
from osprey_ros.messages.stamps import stamp_of
from osprey_ros.ros import interfaces
from osprey_ros.ros.outputs import messages
from osprey_ros.ros.segmenter.clicks import pixel_of
from osprey_sim.node_process import NodeProcess

STAMPS = count(1_000_000_000, 33_333_333)  # a new one for each frame, in nanoseconds
RED, BLUE = (16, 8, 32, 32), (80, 60, 20, 12)  # x, y, width, height
CAMERA = "camera_optical_frame"


def painted(shift: int = 0) -> np.ndarray:
    """Return an image of a red and a blue rectangle on black, both ``shift`` pixels to the right."""
    rgb = np.zeros((96, 128, 3), np.uint8)
    for (x, y, width, height), color in ((RED, (200, 30, 30)), (BLUE, (30, 30, 200))):
        rgb[y : y + height, x + shift : x + shift + width] = color
    return rgb


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("segmenter")
    write_bundle(folder / "bundle", objectness=True)
    return folder


@pytest.fixture(params=["everything", "clicks"])
def source(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def client(folder: Path, tmp_path: Path, source: str) -> Iterator[SegmentingClient]:
    """A client of both nodes, which are processes of their own."""
    with ros_environment(tmp_path) as env:
        parameters = ("autostart:=true", "threads:=1", "rate_limit:=0.0", f"source:={source}")
        arguments = ["--ros-args", "-p", f"bundle:={folder / 'bundle'}"]
        for parameter in parameters:
            arguments += ["-p", parameter]
        with (
            NodeProcess("segmenter", "osprey_ros.ros.segmenter.node", arguments, tmp_path / "s.log", env) as segmenter,
            osprey_node(
                env,
                tmp_path,
                "autostart:=true",
                "max_new_tokens:=8",
                "threads:=1",
                remapped={"segmentation": "segmenter/ids"},
            ) as osprey,
        ):
            client = SegmentingClient(env)
            try:
                yield client
            except AssertionError as error:
                raise AssertionError(f"{error}\n{segmenter.output()}\n{osprey.output()}") from error
            finally:
                client.close()


class SegmentingClient(Client):
    """Publishes images and clicks, and keeps id images and answers."""

    def __init__(self, env: dict[str, str]) -> None:
        super().__init__(env)
        self.ids: dict[int, np.ndarray] = {}  # by stamp
        self.answers: list[Any] = []
        self.node.create_subscription(Image, "/segmenter/ids", self._keep, 10)
        self.node.create_subscription(interfaces.ObjectDescriptionArray, "/segmenter/clicked", self.answers.append, 10)
        self.click = self.node.create_publisher(PointStamped, "clicked_point", 10)
        ready = ("/segmenter/ids", "/segmenter/clicked", "/osprey/objects")
        self.wait_for(lambda: all(map(self.node.count_publishers, ready)), "both nodes publish")
        self.wait_for(lambda: self.image.get_subscription_count() == 2, "both nodes subscribe to the image")
        self.wait_for(self.click.get_subscription_count, "the segmenter subscribes to clicks")
        self.wait_for(lambda: self.node.count_subscribers("/segmenter/ids") == 2, "the describer subscribes to ids")

    def _keep(self, message: Image) -> None:
        assert message.header.frame_id == CAMERA
        self.ids[stamp_of(message)] = ids_from_message(message)

    def show(self, rgb: np.ndarray) -> int:
        """Publish an image and return its stamp."""
        stamp = next(STAMPS)
        self.image.publish(messages.image_message(rgb, "rgb8", messages.header_message(stamp, CAMERA)))
        return stamp

    def segmented(self, rgb: np.ndarray) -> np.ndarray:
        """Publish an image, and return its ids."""
        stamp = self.show(rgb)
        return self.wait_for(lambda: self.ids.get(stamp), f"the image {stamp} is segmented")

    def wait_for(self, condition: Any, what: str, seconds: float = 60.0) -> Any:
        """Wait as `Client` does; an array counts as there."""
        found: list[Any] = []

        def there() -> bool:
            value = condition()
            found[:] = [value]
            return value is not None and (isinstance(value, np.ndarray) or bool(value))

        super().wait_for(there, what, seconds)
        return found[0]


@pytest.mark.parametrize("source", ["everything"], indirect=True)
def test_ids_stay_with_their_objects(client: SegmentingClient) -> None:
    first = client.segmented(painted())
    assert first.dtype == np.uint16
    red, blue = int(first[20, 20]), int(first[65, 90])
    assert len({red, blue, int(first[0, 0])}) == 3
    assert first[0, 0] == 0
    for shift in (4, 8, 12):
        ids = client.segmented(painted(shift))
        assert (ids[20, 20 + shift], ids[65, 90 + shift]) == (red, blue)
        assert abs(int((ids == red).sum()) - RED[2] * RED[3]) <= 8


def test_a_click_gives_words_and_is_followed(client: SegmentingClient, source: str) -> None:
    stamp = client.show(painted())
    if source == "everything":
        client.described(stamp)
    client.click.publish(PointStamped(point=Point(x=90.0, y=65.0)))
    (answer,) = client.wait_for(lambda: client.answers, "the click is answered")
    (thing,) = answer.objects
    assert stamp_of(answer) == stamp
    assert answer.header.frame_id == CAMERA
    assert (thing.roi.x_offset, thing.roi.y_offset, thing.roi.width, thing.roi.height) == BLUE
    assert thing.description
    assert thing.instance_id > 0
    ids = client.segmented(painted(4))
    assert ids[65, 94] == thing.instance_id
    assert (ids[20, 24] > 0) == (source == "everything")
    client.described(max(client.ids))  # nothing is held back


def test_a_request_with_a_question_is_answered_in_one_call(client: SegmentingClient, source: str) -> None:
    stamp = client.show(painted())
    if source == "everything":
        client.described(stamp)
    name, kind = "/segmenter/describe_region", interfaces.DescribeRegion

    def ask(**fields: Any) -> Any:
        return client.call(kind, name, kind.Request(**fields))

    answer = ask(points=[Point(x=20.0, y=20.0)], question="What color is <mask><pos>?")
    assert answer.success, answer.message
    assert answer.text
    assert stamp_of(answer) == stamp
    box = interfaces.Region(encoding=interfaces.Region.BOX)
    box.roi.x_offset, box.roi.y_offset, box.roi.width, box.roi.height = 10, 4, 44, 44
    assert ask(regions=[box], style="category").success
    for fields, reason in (
        ({}, "the request is empty; set points or regions"),
        ({"points": [Point(x=500.0)]}, "the point 500, 0 is outside the image of 128x96 pixels"),
        ({"track_ids": [1]}, "the segmenter knows no track ids; send them to osprey"),
        ({"stamp": messages.time_message(5), "points": [Point()]}, "no image with the stamp 0.000 is kept"),
    ):
        refused = ask(**fields)
        assert not refused.success
        assert reason in refused.message


def test_a_click_without_a_node_that_describes(folder: Path, tmp_path: Path) -> None:
    arguments = ["--ros-args", "-p", f"bundle:={folder / 'bundle'}", "-p", "autostart:=true"]
    with (
        ros_environment(tmp_path) as env,
        NodeProcess("segmenter", "osprey_ros.ros.segmenter.node", arguments, tmp_path / "s.log", env),
    ):
        client = Client(env)
        kind = interfaces.DescribeRegion
        try:
            refused = client.call(kind, "/segmenter/describe_region", kind.Request(points=[Point()]))
        finally:
            client.close()
    assert not refused.success
    assert "no node offers /osprey/describe_region; start the node that describes" in refused.message


def test_what_the_node_cannot_start_with(tmp_path: Path) -> None:
    with ros_environment(tmp_path) as env:
        arguments = ["--ros-args", "-p", "source:=nothing"]
        with NodeProcess("segmenter", "osprey_ros.ros.segmenter.node", arguments, tmp_path / "s.log", env) as child:
            assert child.wait(60) == 2
            assert "source is 'nothing'; it must be one of everything, detections, clicks" in child.output()


def _click(x: float, y: float, z: float, frame_id: str = "") -> PointStamped:
    message = PointStamped(point=Point(x=x, y=y, z=z))
    message.header.frame_id = frame_id
    return message


def test_a_point_in_meters_is_projected() -> None:
    matrix = np.array([[100.0, 0, 64], [0, 100, 48], [0, 0, 1]])
    info = messages.camera_info_message(matrix, 128, 96, messages.header_message(1, CAMERA))
    assert pixel_of(_click(7, 9, 0, "any"), CAMERA, None, (96, 128)) == (7, 9)
    assert pixel_of(_click(0.5, -0.25, 2.5, CAMERA), CAMERA, info, (96, 128)) == pytest.approx((84, 38))


@pytest.mark.parametrize(
    ("click", "info", "reason"),
    [
        (_click(1, 1, 1, "map"), CameraInfo(), "is in the frame 'map' and the image in 'camera_optical_frame'"),
        (_click(1, 1, -1, CAMERA), CameraInfo(), "behind the camera"),
        (_click(1, 1, 1, CAMERA), None, "no camera_info arrived"),
    ],
)
def test_points_that_cannot_be_projected(click: PointStamped, info: CameraInfo | None, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        pixel_of(click, CAMERA, info, (96, 128))
