"""Parameters that change while the node runs take effect or are refused. The node is a process, over real DDS."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import numpy as np
import pytest
from nano import folder_without_score
from rcl_interfaces.srv import DescribeParameters
from ros_harness import Client, osprey_node, ros_environment, tabletop

from osprey_ros.ros.parameters import PARAMETERS
from osprey_sim.node_process import NodeProcess

IMAGE, IDS = tabletop()
# Twelve patches, for what concerns many regions.
MANY = np.kron(np.arange(1, 13, dtype=np.uint16).reshape(3, 4), np.ones((40, 40), np.uint16))
STAMPS = count(1_000_000_000, 33_333_333)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A client of one node that runs for all tests here."""
    folder = tmp_path_factory.mktemp("parameters")
    with ros_environment(folder) as env:
        client = Client(env)
        # Without memory, each frame shows the effect of a value.
        parameters = ("autostart:=true", "max_new_tokens:=8", "remember:=false", "threads:=1")
        # The patches of color are unlike anything that nano was trained on.
        with osprey_node(env, folder, *parameters, bundle=str(folder_without_score(folder / "nano"))) as child:
            client.node_log = child
            try:
                client.wait_until_heard()
                yield client
            finally:
                client.close()


@contextmanager
def changed(client: Client, **values: Any) -> Iterator[None]:
    """Set parameters until the end of the block."""
    defaults = {
        "style": "short",
        "categories": True,
        "min_area": 50,
        "max_regions": 32,
        "max_new_tokens": 8,
        "min_confidence": 0.0,
        "rate_limit": 0.0,
        "time_budget": 0.0,
        "overlay": True,
        "remember": False,
        "appearance_change": 0.2,
        "view_change": 2.0,
        "still_difference": 10.0,
    }
    try:
        for name, value in values.items():
            result = client.set_parameter(name, value)
            assert result.successful, result.reason
        yield
    finally:
        for name in values:
            assert client.set_parameter(name, defaults[name]).successful


def described(client: Client, ids: np.ndarray = IDS, image: np.ndarray = IMAGE) -> list[Any]:
    stamp = next(STAMPS)
    client.send(stamp, image, ids)
    return list(client.described(stamp).objects)


def test_style_and_categories(client: Client) -> None:
    usual = described(client)
    with changed(client, style="category"):
        assert [o.description for o in described(client)] == [o.category for o in usual]
    with changed(client, categories=False):
        plain = described(client)
        assert [o.category for o in plain] == ["", "", ""]
        assert [o.description for o in plain] == [o.description for o in usual]
    with changed(client, style="detailed", max_new_tokens=64):
        assert all(len(o.description) > len(u.description) for o, u in zip(described(client), usual, strict=True))


def test_which_regions(client: Client) -> None:
    with changed(client, min_area=1400):
        assert [o.instance_id for o in described(client)] == [1, 2]
    with changed(client, max_regions=1):
        objects = described(client)
        assert [bool(o.description) for o in objects] == [True, False, False]
        assert "max_regions" in objects[1].reason


def test_how_many_tokens(client: Client) -> None:
    usual = described(client)
    with changed(client, max_new_tokens=1):
        short = described(client)
    assert all(len(a.description) < len(b.description) for a, b in zip(short, usual, strict=True))


def test_confidence_threshold(client: Client) -> None:
    with changed(client, min_confidence=1.0):
        objects = described(client)
        assert {o.description for o in objects} == {o.category for o in objects} == {"unknown"}
        assert all(0 < o.confidence < 1 for o in objects)


def test_time_budget(client: Client) -> None:
    assert all(o.state == o.FRESH for o in described(client, MANY))
    with changed(client, time_budget=0.001):
        skipped = [o.reason for o in described(client, MANY) if o.state == o.SKIPPED]
        assert skipped
        assert "time_budget" in skipped[0]


def test_a_changed_object_gets_a_new_caption(client: Client) -> None:
    with changed(client, remember=True):
        first = described(client)
        again = described(client)
        assert [o.track_id for o in again] == [o.track_id for o in first]
        assert [o.described_at for o in again] == [o.described_at for o in first]
        dark = IMAGE // 3
        with changed(client, appearance_change=1.99):
            assert [o.described_at for o in described(client, image=dark)] == [o.described_at for o in first]
        before = {o.track_id: o.described_at for o in first}
        with changed(client, appearance_change=0.05):
            # The node may wait until the appearance is stable.
            client.wait_for(
                lambda: all(o.described_at != before.get(o.track_id) for o in described(client, image=dark)),
                "all are described again",
            )


def test_rate_limit(client: Client) -> None:
    with changed(client, rate_limit=4.0):
        arrived: dict[int, float] = {}

        def six_results() -> bool:
            client.send(next(STAMPS), IMAGE, IDS)
            for stamp in client.results:
                arrived.setdefault(stamp, time.monotonic())
            return len(arrived) >= 6

        client.results.clear()
        client.wait_for(six_results, "six frames are described")
        first, *_, last = arrived.values()
        # Five intervals of 0.25 s; the lower bound leaves room for delays of this process.
        assert last - first > 0.5


def test_overlay(client: Client) -> None:
    client.listen_to_overlay()

    def drawn() -> bool:
        described(client)
        return bool(client.overlays)

    client.wait_for(drawn, "the overlay comes")
    with changed(client, overlay=False):
        since = next(STAMPS)
        for _ in range(5):
            described(client)
        assert not [stamp for stamp in client.overlays if stamp > since]


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("style", "poem", "style is 'poem'; it must be one of short, detailed, category"),
        ("regions_from", "thin air", "regions_from is 'thin air'; it must be one of segmentation, regions, detections"),
        ("max_regions", 0, "max_regions"),
        ("max_new_tokens", 5000, "max_new_tokens"),
        ("min_area", -1, "min_area"),
        ("min_confidence", 1.5, "min_confidence"),
        ("rate_limit", -1.0, "rate_limit"),
        ("time_budget", -0.5, "time_budget"),
        ("appearance_change", 3.0, "appearance_change"),
        ("max_objects", 0, "max_objects"),
        ("attributes", ["color = red | green", "7up"], "attributes: attribute '7up': a name is letters, digits"),
        ("overlay", "yes", "overlay is 'yes', a text; set it to true or false"),
        ("slpo", 0.1, "there is no parameter 'slpo'; did you mean 'slop'?"),
        ("autostart", False, "autostart"),
    ],
)
def test_wrong_values_are_refused_with_the_reason(client: Client, name: str, value: Any, reason: str) -> None:
    before = described(client)
    refused = client.set_parameter(name, value)
    assert not refused.successful
    assert reason in refused.reason
    assert [o.description for o in described(client)] == [o.description for o in before]


def test_the_node_logs_when_a_parameter_takes_effect_later(client: Client) -> None:
    child: NodeProcess = client.node_log
    assert client.set_parameter("queue_size", 20).successful
    said = "queue_size: the new value takes effect when the node is activated again"
    client.wait_for(lambda: said in child.output(), "the log line appears")
    assert described(client)


def test_each_parameter_is_described(client: Client) -> None:
    request = DescribeParameters.Request(names=list(PARAMETERS))
    answer = client.call(DescribeParameters, "/osprey/describe_parameters", request)
    for info, found in zip(PARAMETERS.values(), answer.descriptors, strict=True):
        assert info.text in found.description
        assert bool(info.limits) == bool(found.integer_range or found.floating_point_range)
        assert all(choice in found.additional_constraints for choice in info.choices)
