"""The node as a process of its own, over real DDS: what it publishes, what it says of wrong input, its lifecycle."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from rclpy.qos import ReliabilityPolicy
from ros_harness import BUNDLE, Client, osprey_node, process_group_is_gone, ros_environment, tabletop

from osprey_ros.ros import messages
from osprey_sim.child import Child

IMAGE, IDS = tabletop()
STAMPS = count(1_000_000_000, 33_333_333)  # a new one for each frame, in nanoseconds


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with ros_environment(tmp_path_factory.mktemp("ros")) as environment:
        yield environment


@pytest.fixture
def own_env(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A domain for one test, where the node that the others share is not heard."""
    with ros_environment(tmp_path) as environment:
        yield environment


@pytest.fixture(scope="module")
def active(env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    """One node for all tests that leave it as it was."""
    folder = tmp_path_factory.mktemp("node")
    with osprey_node(env, folder, "autostart:=true", "max_new_tokens:=8", "threads:=1") as child:
        yield child


@pytest.fixture
def client(env: dict[str, str]) -> Iterator[Client]:
    client = Client(env)
    yield client
    client.close()


def test_every_region_is_described_with_the_header_of_the_frame(active: Child, client: Client) -> None:
    client.wait_until_heard()
    stamp = next(STAMPS)
    client.send(stamp, IMAGE, IDS)
    result = client.described(stamp)
    assert result.header.frame_id == "camera_optical_frame"
    assert [o.instance_id for o in result.objects] == [1, 2, 7]
    for described in result.objects:
        inside = np.argwhere(described.instance_id == IDS)
        (top, left), (bottom, right) = inside.min(axis=0), inside.max(axis=0)
        assert described.roi.x_offset == left
        assert described.roi.y_offset == top
        assert (described.roi.height, described.roi.width) == (bottom - top + 1, right - left + 1)
        assert described.area == len(inside)
        assert described.description
        assert 0 < described.confidence <= 1
        assert described.described_at == result.header.stamp


@pytest.mark.parametrize(
    ("encoding", "dtype"), [("mono8", np.uint8), ("8UC1", np.uint8), ("16UC1", np.uint16), ("32SC1", np.int32)]
)
def test_each_form_of_ids_gives_the_same_words(active: Child, client: Client, encoding: str, dtype: type) -> None:
    client.wait_until_heard()
    reference, stamp = next(STAMPS), next(STAMPS)
    client.send(reference, IMAGE, IDS)
    expected = client.described(reference).objects
    client.send(stamp, IMAGE[..., ::-1], IDS.astype(dtype), ("bgr8", encoding))
    found = client.described(stamp).objects
    assert [(o.instance_id, o.description) for o in found] == [(o.instance_id, o.description) for o in expected]


def test_the_overlay_has_the_header_and_size_of_the_image(active: Child, client: Client) -> None:
    client.listen_to_overlay()
    client.wait_until_heard()

    def drawn_overlay() -> bool:
        client.send(next(STAMPS), IMAGE, IDS)  # again, until the node has discovered that someone listens
        return bool(client.overlays)

    client.wait_for(drawn_overlay, "the overlay comes")
    stamp, message = max(client.overlays.items())
    assert message.header == client.described(stamp).header
    drawn = messages.rgb_from_message(message)
    assert drawn.shape == IMAGE.shape
    assert (drawn != IMAGE).any(axis=2)[IDS > 0].mean() > 0.5


def test_a_segmentation_without_regions_gives_an_empty_array_and_a_warning(active: Child, client: Client) -> None:
    client.wait_until_heard()
    stamp = next(STAMPS)
    client.send(stamp, IMAGE, np.zeros_like(IDS))
    assert list(client.described(stamp).objects) == []
    client.wait_for(lambda: "/segmentation: the id image has no region" in active.output(), "the node warns")


@pytest.mark.parametrize(
    ("image", "ids", "encodings", "complaint"),
    [
        (
            IMAGE,
            IDS[::2, ::2],
            ("rgb8", "mono16"),
            "/image, /segmentation: the segmentation is 80x60 pixels and the image 160x120",
        ),
        (IMAGE, IMAGE, ("rgb8", "rgb8"), "/segmentation: encoding 'rgb8' is not understood as instance ids"),
        (IDS, IDS, ("bayer_rggb16", "mono16"), "/image: encoding 'bayer_rggb16' is not understood"),
    ],
)
def test_wrong_input_is_named_and_survived(
    active: Child, client: Client, image: np.ndarray, ids: np.ndarray, encodings: tuple[str, str], complaint: str
) -> None:
    client.wait_until_heard()
    client.send(next(STAMPS), image, ids, encodings)
    client.wait_for(lambda: complaint in active.output(), "the node complains")
    stamp = next(STAMPS)
    client.send(stamp, IMAGE, IDS)
    assert client.described(stamp).objects
    assert active.status is None


def test_the_latest_frame_wins(active: Child, client: Client) -> None:
    client.wait_until_heard()
    stamps = [next(STAMPS) for _ in range(20)]
    for stamp in stamps:
        client.send(stamp, IMAGE, IDS)
        client.executor.spin_once(timeout_sec=0)
    client.described(stamps[-1])
    published = list(client.results)
    assert published == sorted(published)
    assert len(published) < len(stamps)


def test_parameters_change_while_it_runs(active: Child, client: Client) -> None:
    client.wait_until_heard()
    assert client.set_parameter("min_area", 1400).successful
    try:
        stamp = next(STAMPS)
        client.send(stamp, IMAGE, IDS)
        assert [o.instance_id for o in client.described(stamp).objects] == [1, 2]
    finally:
        assert client.set_parameter("min_area", 50).successful
    refused = client.set_parameter("style", "poem")
    assert not refused.successful
    assert refused.reason == "style is 'poem': it must be one of short, detailed, category"


def test_a_best_effort_publisher_is_heard(env: dict[str, str], active: Child) -> None:
    client = Client(env, ReliabilityPolicy.BEST_EFFORT)
    try:
        sent: list[int] = []

        def answered() -> bool:
            sent.append(next(STAMPS))
            client.send(sent[-1], IMAGE, IDS)
            return bool(client.results)

        client.wait_for(answered, "a best-effort frame is described")
        assert "/image: its publisher offers best effort, subscribing again with that" in active.output()
        assert set(client.results) <= set(sent)
    finally:
        client.close()


def test_lifecycle_from_a_bad_bundle_to_the_end(own_env: dict[str, str], tmp_path: Path) -> None:
    client = Client(own_env)
    with osprey_node(own_env, tmp_path, "max_new_tokens:=4", "threads:=1", bundle=str(tmp_path / "nowhere")) as child:
        try:
            assert client.state() == "unconfigured"
            assert not client.change_state("configure")
            assert client.state() == "unconfigured"
            assert f"no engine bundle '{tmp_path / 'nowhere'}'" in child.output()

            assert client.set_parameter("bundle", BUNDLE).successful
            assert client.change_state("configure")
            assert client.state() == "inactive"
            assert client.image.get_subscription_count() == 0

            assert client.change_state("activate")
            client.wait_until_heard()
            stamp = next(STAMPS)
            client.send(stamp, IMAGE, IDS)
            assert client.described(stamp).objects

            assert client.change_state("deactivate")
            client.wait_for(lambda: client.image.get_subscription_count() == 0, "the node unsubscribes")
            assert client.change_state("activate")
            client.wait_until_heard()
            stamp = next(STAMPS)
            client.send(stamp, IMAGE, IDS)
            assert client.described(stamp).objects

            assert client.change_state("deactivate")
            assert client.change_state("cleanup")
            client.wait_for(lambda: client.node.count_publishers("/osprey/objects") == 0, "the publishers go")
            assert client.change_state("configure")
            assert client.state() == "inactive"
        finally:
            client.close()
        assert child.stop() == 0
    assert process_group_is_gone(child.pid)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_it_describes_ends_it_with_0(
    own_env: dict[str, str], tmp_path: Path, how: signal.Signals
) -> None:
    client = Client(own_env)
    with osprey_node(own_env, tmp_path, "autostart:=true", "max_new_tokens:=64", "threads:=1") as child:
        try:
            client.wait_until_heard()
            for _ in range(3):
                client.send(next(STAMPS), IMAGE, IDS)
            client.wait_for(lambda: client.results, "a frame is described")
        finally:
            client.close()
        assert child.stop(how) == 0
    assert "Traceback" not in child.output()
    assert process_group_is_gone(child.pid)


def test_an_impossible_parameter_ends_the_start_with_2(own_env: dict[str, str], tmp_path: Path) -> None:
    client = Client(own_env)
    try:
        for parameter, reason in (("style:=poem", "style is 'poem'"), ("max_regions:=0", "max_regions")):
            with osprey_node(own_env, tmp_path, parameter) as child:
                client.wait_for(lambda child=child: child.status is not None, "the node ends")
                assert child.status == 2
                assert reason in child.output()
    finally:
        client.close()
