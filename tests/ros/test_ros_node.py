"""Outputs of the node and its reports about wrong input. The node is a process of its own, over real DDS."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ros_harness import BUNDLE, Client, osprey_node, ros_environment, tabletop
from sensor_msgs.msg import CameraInfo, Image
from visualization_msgs.msg import Marker, MarkerArray

from osprey_ros.messages import images
from osprey_ros.messages.stamps import stamp_of
from osprey_ros.ros.interfaces import Forget, SceneEvent
from osprey_ros.ros.outputs import messages
from osprey_ros.ros.outputs.detections import detection_type
from osprey_ros.viz.overlay import color_of
from osprey_sim.node_process import NodeProcess

IMAGE, IDS = tabletop()
STAMPS = count(1_000_000_000, 33_333_333)  # a new one for each frame, in nanoseconds


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with ros_environment(tmp_path_factory.mktemp("ros")) as environment:
        yield environment


@pytest.fixture
def own_env(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A DDS domain for one test, without the node that other tests share."""
    with ros_environment(tmp_path) as environment:
        yield environment


@pytest.fixture(scope="module")
def active(env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    """One node for all tests that do not change it."""
    folder = tmp_path_factory.mktemp("node")
    with osprey_node(env, folder, "autostart:=true", "max_new_tokens:=8", "threads:=1") as child:
        yield child


@pytest.fixture
def client(env: dict[str, str]) -> Iterator[Client]:
    client = Client(env)
    yield client
    client.close()


def test_every_region_is_described_with_the_header_of_the_frame(active: NodeProcess, client: Client) -> None:
    client.wait_until_heard()
    stamp = next(STAMPS)
    client.send(stamp, IMAGE, IDS)
    result = client.described(stamp)
    assert result.header.frame_id == "camera_optical_frame"
    assert [o.instance_id for o in result.objects] == [1, 2, 7]
    assert len({o.track_id for o in result.objects}) == 3
    for described in result.objects:
        inside = np.argwhere(described.instance_id == IDS)
        (top, left), (bottom, right) = inside.min(axis=0), inside.max(axis=0)
        assert described.roi.x_offset == left
        assert described.roi.y_offset == top
        assert (described.roi.height, described.roi.width) == (bottom - top + 1, right - left + 1)
        assert described.area == len(inside)
        assert described.description
        assert 0 < described.confidence <= 1
        assert described.state == described.FRESH
        assert described.described_at == described.first_seen == described.last_seen == result.header.stamp


def test_the_overlay_has_the_header_and_size_of_the_image(active: NodeProcess, client: Client) -> None:
    client.listen_to_overlay()
    client.wait_until_heard()

    def drawn_overlay() -> bool:
        client.send(next(STAMPS), IMAGE, IDS)  # again, until the node has discovered that someone listens
        return bool(client.overlays)

    client.wait_for(drawn_overlay, "the overlay comes")
    stamp, message = max(client.overlays.items())
    assert message.header == client.described(stamp).header
    drawn = images.rgb_from_message(message)
    assert drawn.shape == IMAGE.shape
    assert (drawn != IMAGE).any(axis=2)[IDS > 0].mean() > 0.5


def test_a_renumbering_segmentation_keeps_the_color_of_each_object(active: NodeProcess, client: Client) -> None:
    client.listen_to_overlay()
    client.wait_until_heard()
    colors: dict[int, set[tuple[int, int, int]]] = {}
    for offset in (0, 40):
        start = next(STAMPS)
        renumbered = np.where(IDS > 0, IDS + offset, 0).astype(IDS.dtype)

        def new_overlay(start: int = start, renumbered: np.ndarray = renumbered) -> int:
            client.send(next(STAMPS), IMAGE, renumbered)
            return max((stamp for stamp in client.overlays if stamp > start), default=0)

        stamp = client.wait_for(new_overlay, "the overlay comes")
        drawn = images.rgb_from_message(client.overlays[stamp])
        for described in client.described(stamp).objects:
            inside = drawn[renumbered == described.instance_id]
            assert (inside == color_of(described.track_id)).all(axis=1).any()  # its outline
            colors.setdefault(int(described.instance_id - offset), set()).add(color_of(described.track_id))
    assert [len(found) for found in colors.values()] == [1, 1, 1]


def test_a_segmentation_without_regions_gives_an_empty_array_and_a_warning(active: NodeProcess, client: Client) -> None:
    client.wait_until_heard()
    stamp = next(STAMPS)
    client.send(stamp, IMAGE, np.zeros_like(IDS))
    assert list(client.described(stamp).objects) == []
    client.wait_for(lambda: "/segmentation: the id image has no region" in active.output(), "the node warns")


def test_ids_of_another_resolution_are_resized_and_it_is_logged_once(active: NodeProcess, client: Client) -> None:
    client.wait_until_heard()
    for _ in range(2):
        stamp = next(STAMPS)
        client.send(stamp, IMAGE, IDS[::2, ::2])
        found = client.described(stamp).objects
        sizes = {o.instance_id: (o.roi.width, o.roi.height) for o in found}
        assert sizes == {1: (40, 50), 2: (50, 30), 7: (30, 40)}
    said = (
        "the regions of the segmentation are 80x60 pixels, the image is 160x120; they are resized by nearest neighbor"
    )
    client.wait_for(lambda: said in active.output(), "the node warns")
    assert active.output().count(said) == 1


@pytest.mark.parametrize(
    ("image", "ids", "encodings", "complaint"),
    [
        (
            IMAGE,
            IDS[::2],
            ("rgb8", "mono16"),
            "/image, /segmentation: the regions of the segmentation are 160x60 pixels, the image is 160x120, and the",
        ),
        (IMAGE, IMAGE, ("rgb8", "rgb8"), "/segmentation: encoding 'rgb8' is not supported for instance ids"),
        (IMAGE, IDS, ("nv24", "mono16"), "/image: encoding 'nv24' is not supported"),
    ],
)
def test_the_node_reports_wrong_input_and_continues(
    active: NodeProcess, client: Client, image: np.ndarray, ids: np.ndarray, encodings: tuple[str, str], complaint: str
) -> None:
    client.wait_until_heard()
    client.send(next(STAMPS), image, ids, encodings)
    client.wait_for(lambda: complaint in active.output(), "the node complains")
    stamp = next(STAMPS)
    client.send(stamp, IMAGE, IDS)
    assert client.described(stamp).objects
    assert active.status is None


def test_the_latest_frame_wins(active: NodeProcess, client: Client) -> None:
    client.wait_until_heard()
    stamps = [next(STAMPS) for _ in range(20)]
    for number, stamp in enumerate(stamps):
        client.send(stamp, np.roll(IMAGE, 8 * number, axis=1), IDS)  # none is like the one before, so each takes time
        client.executor.spin_once(timeout_sec=0)
    client.described(stamps[-1])
    published = list(client.results)
    assert published == sorted(published)
    assert len(published) < len(stamps)


def test_events_come_once_and_a_sentence_filters_them(active: NodeProcess, client: Client) -> None:
    events: list[SceneEvent] = []
    client.node.create_subscription(SceneEvent, "/osprey/events", events.append, 50)
    client.wait_until_heard()

    def shown_anew(least: int) -> list[SceneEvent]:
        """Events of a frame in which all objects are new; none until the node knows this subscriber."""
        client.call(Forget, "/osprey/forget", Forget.Request(everything=True))
        stamp = next(STAMPS)
        client.send(stamp, IMAGE, IDS)
        client.described(stamp)
        for _ in range(50):
            client.executor.spin_once(timeout_sec=0.02)
        found = [event for event in events if stamp_of(event) == stamp]
        return found if len(found) >= least else []

    found = client.wait_for(lambda: shown_anew(6), "events come")
    kinds = [event.kind for event in found]
    assert (kinds.count(SceneEvent.APPEARED), kinds.count(SceneEvent.DESCRIBED)) == (3, 3)
    assert len({event.track_id for event in found}) == 3
    assert all(event.header.frame_id == "camera_optical_frame" and event.why for event in found)
    assert not client.set_parameter("event_filter", "tell me when die rote Tasse neben dem Glas appears").successful
    assert client.set_parameter("event_filter", "tell me when something appears").successful
    try:
        found = client.wait_for(lambda: shown_anew(3), "the events that were asked for come")
        assert {event.kind for event in found} == {SceneEvent.APPEARED}
    finally:
        client.set_parameter("event_filter", "")


def test_markers_and_detections_agree_with_the_objects(own_env: dict[str, str], tmp_path: Path) -> None:
    depth = np.full(IDS.shape, 2.0, np.float32)
    matrix = np.array([[100.0, 0, 79.5], [0, 100.0, 59.5], [0, 0, 1]])
    client = Client(own_env)
    markers: dict[int, MarkerArray] = {}
    client.node.create_subscription(
        MarkerArray, "/osprey/markers", lambda m: markers.update({stamp_of(m.markers[0]): m}), 5
    )
    detections: dict[int, Any] = {}
    if detection_type() is not None:
        client.node.create_subscription(
            detection_type(), "/osprey/detections", lambda m: detections.update({stamp_of(m): m}), 5
        )
    kinds = {"depth": Image, "camera_info": CameraInfo}
    publishers = [client.node.create_publisher(kind, topic, 5) for topic, kind in kinds.items()]
    parameters = ("autostart:=true", "use_depth:=true", "max_new_tokens:=8", "max_regions:=2", "threads:=1")
    with osprey_node(own_env, tmp_path, *parameters, "remember:=false"):
        try:
            client.wait_until_heard()
            client.wait_for(lambda: all(p.get_subscription_count() for p in publishers), "depth is subscribed to")

            def answered() -> bool:
                stamp = next(STAMPS)
                header = messages.header_message(stamp, "camera_optical_frame")
                publishers[0].publish(messages.image_message(depth, "32FC1", header))
                publishers[1].publish(messages.camera_info_message(matrix, 160, 120, header))
                client.send(stamp, IMAGE, IDS)
                client.executor.spin_once(timeout_sec=0.05)
                # Repeat until the node has the calibration and knows its subscribers.
                known = any(len(array.markers) > 1 for array in markers.values())
                return known and (bool(detections) or detection_type() is None)

            client.wait_for(answered, "markers and detections come")
            stamp, array = max(markers.items())
            objects = client.described(stamp).objects
        finally:
            client.close()

    assert [o.has_position for o in objects] == [True, True, True]
    first = objects[0]
    # The patch of 40x50 pixels at (10, 10), 2 m away, seen with a focal length of 100 pixels.
    assert first.position.x == pytest.approx((29.5 - 79.5) / 100 * 2, abs=0.02)
    assert first.position.y == pytest.approx((34.5 - 59.5) / 100 * 2, abs=0.02)
    assert first.position.z == pytest.approx(2.0)
    assert first.size.x == pytest.approx(0.8, abs=0.05)
    assert [o.state for o in objects] == [first.FRESH, first.FRESH, first.SKIPPED]
    assert "max_regions" in objects[2].reason
    assert (objects[2].description, objects[2].confidence) == ("", 0.0)

    assert array.markers[0].action == Marker.DELETEALL
    boxes = {m.id: m for m in array.markers if m.ns == "boxes"}
    words = {m.id: m for m in array.markers if m.ns == "words"}
    assert list(boxes) == list(words) == [1, 2, 7]  # what is not remembered has the ids of the segmentation
    assert all(m.header.frame_id == "camera_optical_frame" and m.lifetime.sec for m in array.markers)
    assert boxes[1].pose.position == first.position
    assert boxes[1].scale.x == pytest.approx(first.size.x)
    assert words[1].text == first.description
    if detections:
        found = max(detections.items())[1]
        assert [d.id for d in found.detections] == ["1", "2"]
        assert found.detections[0].results[0].hypothesis.class_id == first.category
        assert found.detections[0].bbox.center.position.x == 29.5
        assert found.detections[0].bbox.size_y == 50


def test_each_name_is_a_topic_of_its_own_namespace(own_env: dict[str, str], tmp_path: Path) -> None:
    client = Client(own_env, publish=False)
    arguments = ["--ros-args", "-r", "__ns:=/left", "-p", f"bundle:={BUNDLE}", "-p", "autostart:=true"]
    with NodeProcess("osprey", "osprey_ros.ros.node", arguments, tmp_path / "osprey.log", own_env):
        try:
            wanted = {"/left/image", "/left/segmentation", "/left/osprey/objects", "/diagnostics"}
            client.wait_for(
                lambda: wanted <= {name for name, _ in client.node.get_topic_names_and_types()}, "the topics are there"
            )
        finally:
            client.close()
