"""Entries of /diagnostics for provoked faults. The node is a process of its own, over real DDS."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from itertools import count

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.qos import QoSProfile, ReliabilityPolicy
from ros_harness import BUNDLE, Client, osprey_node, ros_environment, tabletop
from sensor_msgs.msg import Image
from std_msgs.msg import String

from osprey_ros.bundle.bundle import Bundle, write_manifest
from osprey_ros.ros.outputs import messages

IMAGE, IDS = tabletop()
STAMPS = count(1_000_000_000, 33_333_333)
OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A domain in which one node with an unverified bundle runs for all tests here."""
    folder = tmp_path_factory.mktemp("diagnostics")
    bundle = folder / "nano"
    shutil.copytree(BUNDLE, bundle)
    known = Bundle.open(bundle, verify=False).manifest
    write_manifest(
        bundle,
        name="rough",
        model=known.model,
        template=known.template,
        precisions=known.precisions,
        verification={"verified": False},
    )
    parameters = ("autostart:=true", "max_new_tokens:=8", "threads:=1")
    with (
        ros_environment(folder) as environment,
        osprey_node(environment, folder, *parameters, bundle=str(bundle)) as child,
    ):
        yield environment
        assert "[WARN]" in child.output()
        assert "bundle rough was not verified" in child.output()


@pytest.fixture
def client(env: dict[str, str]) -> Iterator[Client]:
    client = Client(env, publish=False)
    client.listen_to_diagnostics()
    yield client
    client.close()


def publish(client: Client, reliability: ReliabilityPolicy = ReliabilityPolicy.RELIABLE) -> None:
    qos = QoSProfile(depth=5, reliability=reliability)
    client.image = client.node.create_publisher(Image, "image", qos)
    client.segmentation = client.node.create_publisher(Image, "segmentation", qos)


def test_topics_without_a_publisher(client: Client) -> None:
    values = client.status("inputs", WARN, "/image: no publisher")
    assert "/segmentation: no publisher" in client.statuses["osprey: inputs"].message
    assert values["/image publishers"] == "0"
    assert values["/image type"] == "sensor_msgs/msg/Image"


def test_a_publisher_of_another_type(client: Client) -> None:
    client.node.create_publisher(String, "image", 5)
    client.status("inputs", ERROR, "std_msgs/msg/String is published, sensor_msgs/msg/Image is expected")


def test_incompatible_qos_is_named(client: Client) -> None:
    publish(client, ReliabilityPolicy.BEST_EFFORT)
    assert client.set_parameter("reliability", "reliable").successful
    try:
        assert client.change_state("deactivate")
        assert client.change_state("activate")
        values = client.status("inputs", ERROR, "QoS policy RELIABILITY is incompatible")
        assert "reliability to auto" in client.statuses["osprey: inputs"].message
        assert values["/image incompatible QoS"] == "RELIABILITY"
    finally:
        assert client.set_parameter("reliability", "auto").successful
        assert client.change_state("deactivate")
        assert client.change_state("activate")
    # And with auto the subscription adapts.
    client.status("inputs", OK, "complete frames", lambda: client.send(next(STAMPS), IMAGE, IDS))


def test_stamps_that_never_match(client: Client) -> None:
    publish(client)
    client.wait_until_heard()
    # Reset the counts of earlier tests.
    assert client.change_state("deactivate")
    assert client.change_state("activate")
    client.wait_until_heard()

    def forty_milliseconds_apart() -> None:
        stamp = next(STAMPS) * 10
        client.image.publish(messages.image_message(IMAGE, "rgb8", messages.header_message(stamp, "camera")))
        later = messages.header_message(stamp + 40_000_000, "camera")
        client.segmentation.publish(messages.image_message(IDS, "mono16", later))

    text = "stamps differ by at least 40 ms"
    values = client.status("inputs", ERROR, text, forty_milliseconds_apart, counted="dropped without a match")
    assert "set slop to" in client.statuses["osprey: inputs"].message
    assert values["stamp offset"] == "40.000 ms"


def test_sizes_that_differ(client: Client) -> None:
    publish(client)
    client.wait_until_heard()
    text = "80x120 pixels, the image is 160x120"
    client.status("frames", ERROR, text, lambda: client.send(next(STAMPS), IMAGE, IDS[:, ::2]), counted="failed")


def test_no_region(client: Client) -> None:
    publish(client)
    client.wait_until_heard()
    client.status("frames", WARN, "has no region", lambda: client.send(next(STAMPS), IMAGE, np.zeros_like(IDS)))


def test_age_of_the_results(client: Client) -> None:
    publish(client)
    client.wait_until_heard()

    def send(ago: float) -> None:
        client.send(time.time_ns() - round(ago * 1e9), IMAGE, IDS)

    values = client.status("frames", OK, "s old", lambda: send(0))
    assert 0 < float(values["age of the result"].split()[0]) < 5
    client.status("frames", WARN, "s old, max_age is 5 s", lambda: send(60))
    client.status("frames", WARN, "ahead of this machine's clock", lambda: send(-60))


def test_rates_drops_stages_memory_and_engines(client: Client) -> None:
    publish(client)
    client.wait_until_heard()
    assert client.set_parameter("rate_limit", 5.0).successful
    try:

        def values() -> dict[str, str]:
            status = client.statuses.get("osprey: frames")
            return {v.key: v.value for v in status.values} if status else {}

        def slower_out_than_in() -> bool:
            client.send(time.time_ns(), IMAGE, IDS)
            seen = values()
            if int(seen.get("dropped for later frames", 0)) <= 20:
                return False
            # The rates cover the last seconds: wait until these contain only frames after the new limit.
            rate_in, rate_out = (float(seen[f"rate {way}"].split()[0]) for way in ("in", "out"))
            return rate_in > 2 * rate_out > 0

        client.wait_for(slower_out_than_in, "frames are dropped")
    finally:
        assert client.set_parameter("rate_limit", 0.0).successful
    described = client.status("frames", OK, "Hz")["described"]
    assert int(described) > 0

    stages = client.status("stages", OK, "ms per frame")
    of_describer = ("preprocess", "vision", "regions", "prefix", "branches")
    parts = ("conversion", *of_describer, "scene", "publishing")
    for stage in (*parts, "engines", "overhead", "frame"):
        p50, p95 = (float(stages[f"{stage} {which}"].split()[0]) for which in ("p50", "p95"))
        assert 0 <= p50 <= p95 < 60_000, stage
        assert p50 > 0 or stage not in ("regions", "scene", "publishing"), stage
    assert float(stages["frame p50"].split()[0]) >= float(stages["engines p50"].split()[0])

    memory = client.status("memory", OK, "MB held")
    assert 50 < int(memory["resident"].split()[0]) < 2000

    bundle = client.status("bundle", WARN, "bundle rough was not verified against its PyTorch model")
    assert bundle["verified"] == "no"
    assert bundle["decoder"].startswith("onnxruntime on cpu, ")
    assert client.statuses["osprey: lifecycle"].message == "active"


def test_it_comes_once_a_second_and_stays_in_time(client: Client) -> None:
    arrived: list[float] = []
    client.node.create_subscription(DiagnosticArray, "/diagnostics", lambda _: arrived.append(time.monotonic()), 10)

    def a_second_apart() -> bool:
        return len(arrived) >= 4 and np.median(np.diff(arrived[-4:])) == pytest.approx(1.0, abs=0.2)

    client.wait_for(a_second_apart, "the messages come a second apart")
