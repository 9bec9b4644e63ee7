"""Rules of /diagnostics, statistics and memory figures; no ROS."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from osprey_ros.bundle.bundle import Bundle
from osprey_ros.ros.diagnostics.input_status import InputState, TopicState
from osprey_ros.ros.diagnostics.statistics import DURATIONS_KEPT, ObjectCounts, Spread, Statistics, Summary
from osprey_ros.ros.diagnostics.status import (
    Level,
    bundle_status,
    frames_status,
    inputs_status,
    lifecycle_status,
    memory_status,
    scene_status,
    stages_status,
)
from osprey_ros.scene.settings import StepSettings
from osprey_ros.system.process_memory import MIB, available_memory, memory_shortage, process_memory

IMAGE = TopicState("image", "/image", "sensor_msgs/msg/Image", 1, (), 9, 0, 10**9, "reliable", ("reliable",), ())
FINE = InputState((IMAGE, replace(IMAGE, role="segmentation", name="/ids")), 9, 0, None, (), 0.0, 15)


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_no_ros_is_imported() -> None:
    names = ("ros.diagnostics.status", "ros.diagnostics.statistics", "system.process_memory", "ros.worker")
    modules = ", ".join(f"osprey_ros.{name}" for name in names)
    code = f"import sys, {modules}; sys.exit('rclpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_failed_transition_is_an_error_and_waiting_is_not() -> None:
    assert lifecycle_status("unconfigured", "configure failed: no bundle").level == Level.ERROR
    waiting = lifecycle_status("inactive", "")
    assert waiting.level == Level.OK
    assert "activate the node" in waiting.message


def test_inputs_say_what_is_missing() -> None:
    assert inputs_status(FINE, 0.1).level == Level.OK
    silent = inputs_status(FINE, 60.0)
    assert silent.level == Level.WARN
    assert "no complete frame for 60 s" in silent.message

    absent = inputs_status(replace(FINE, topics=(replace(IMAGE, publishers=0, received=0),)), 1.0)
    assert absent.level == Level.WARN
    assert "/image: no publisher" in absent.message

    deaf = replace(IMAGE, received=0, offered_reliability=("best effort",), incompatible_qos=("RELIABILITY",))
    refused = inputs_status(replace(FINE, topics=(deaf,)), 1.0)
    assert refused.level == Level.ERROR
    assert "RELIABILITY" in refused.message
    assert refused.values["/image incompatible QoS"] == "RELIABILITY"

    apart = inputs_status(replace(FINE, offset=40_000_000), 1.0)
    assert apart.level == Level.ERROR
    assert "stamps differ by at least 40 ms" in apart.message


def problems(*changes: dict, **of_state: object) -> list[str]:
    topics = [replace(topic, **change) for topic, change in zip(FINE.topics, changes, strict=False)]
    return replace(FINE, topics=(*topics, *FINE.topics[len(topics) :]), **of_state).problems()


def test_messages_without_a_stamp_are_named() -> None:
    reason = "messages have no stamp (header.stamp is 0), so they match nothing; set it to"
    assert problems({}, {"last_stamp": 0}, offset=2 * 10**18) == [
        f"/ids: {reason} the stamp of its image in the publisher"
    ]
    assert problems({"last_stamp": 0}, {"last_stamp": 0}) == [
        f"/image: {reason} the time of the image in the publisher",
        f"/ids: {reason} the stamp of its image in the publisher",
    ]
    assert problems({"role": "camera_info", "last_stamp": 0}) == []


@pytest.mark.parametrize(
    ("offset", "advice"),
    [
        (40_000_000, "or set slop to 0.06"),
        (8 * 10**9, "or set slop to 10"),
        (11 * 10**9, "with the stamp of the image"),
    ],
)
def test_no_slop_is_advised_beyond_its_limit(offset: int, advice: str) -> None:
    (problem,) = problems(offset=offset)
    assert problem.endswith(advice)


def test_no_queue_size_is_advised_beyond_its_limit() -> None:
    assert problems(late=("/ids",))[0].endswith("of 15; raise queue_size")
    assert problems(late=("/ids",), queue_size=500)[0].endswith("of 500; lower the rate of the images")


def test_transports_and_durabilities_are_named() -> None:
    none = {"publishers": 0, "received": 0}
    compressed = {**none, "other_types": ("sensor_msgs/msg/CompressedImage",)}
    published = "sensor_msgs/msg/CompressedImage is published, sensor_msgs/msg/Image is expected"
    assert problems({**compressed, "name": "/cam/compressed"}) == [
        f"/cam/compressed: {published}; set image_transport to compressed"
    ]
    assert problems(compressed) == [
        f"/image: {published}; set image_transport to compressed and publish it as /image/compressed"
    ]
    assert problems({**none, "other_transport": "raw"}) == [
        "/image: no publisher, but this image is published with another transport; set image_transport to raw"
    ]
    mixed = {"received": 0, "publishers": 2, "offered_durability": ("transient local", "volatile")}
    assert "some are transient local (latched) and some volatile" in problems(mixed)[0]


def test_latched_inputs_need_no_further_frames() -> None:
    latched = replace(IMAGE, offered_durability=("transient local",))
    moving = replace(IMAGE, role="camera_info", offered_durability=("volatile",))
    status = inputs_status(replace(FINE, topics=(latched, latched, moving)), 60.0)
    assert (status.level, status.message) == (Level.OK, "9 complete frames of latched topics")
    assert inputs_status(replace(FINE, topics=(latched, IMAGE)), 60.0).level == Level.WARN


@pytest.mark.parametrize(
    ("summary", "step", "text"),
    [
        (Summary(age=1.8e9), StepSettings(), "the stamps are of another clock: synchronize the clocks"),
        (Summary(age=9.0), StepSettings(), "lower max_regions or max_new_tokens, set time_budget, or use a smaller"),
        (Summary(age=9.0), StepSettings(max_regions=1), "; lower max_new_tokens, set time_budget"),
        (Summary(age=9.0), StepSettings(time_budget=0.1), "lower max_regions or max_new_tokens, lower time_budget"),
        (Summary(age=9.0), StepSettings(max_regions=1, max_new_tokens=1), "; set time_budget, or"),
        (Summary(age=9.0, seconds={"frame": Spread(0.2, 0.3)}), StepSettings(), "the node takes 0.2 s of it"),
    ],
)
def test_old_results_have_a_remedy_that_is_left(summary: Summary, step: StepSettings, text: str) -> None:
    status = frames_status(summary, max_age=5.0, interval=0.0, step=step)
    assert status.level == Level.WARN
    assert text in status.message
    assert ("max_regions" in status.message) == ("max_regions" in text)


@pytest.mark.parametrize(
    ("change", "level", "text"),
    [
        ({}, Level.OK, "0.100 s old"),
        ({"failure": "the sizes differ"}, Level.ERROR, "the sizes differ"),
        ({"empty_reason": "no region"}, Level.WARN, "no region; the results are empty"),
        ({"age": 7.0}, Level.WARN, "results are 7 s old, max_age is 5 s"),
        ({"age": -3.0}, Level.WARN, "3 s ahead of this machine's clock"),
        ({"silent_for": 9.0}, Level.WARN, "no result for 9 s although frames arrive"),
        ({"age": None}, Level.OK, "no frame described yet"),
    ],
)
def test_frames(change: dict, level: Level, text: str) -> None:
    status = frames_status(replace(Summary(age=0.1, rate_in=30.0), **change), max_age=5.0, interval=0.0)
    assert (status.level, text in status.message) == (level, True), status


def test_no_warning_without_an_age_limit_and_at_a_slow_rate() -> None:
    old = Summary(age=1e9, rate_in=30.0, silent_for=9.0)
    assert frames_status(old, max_age=0.0, interval=10.0).level == Level.OK


def test_bundles_and_memory() -> None:
    bundle = Bundle.open("nano", verify=False)
    good = bundle_status(replace(bundle.manifest, verification={"verified": True}), "here")
    assert good.level == Level.OK
    assert good.values["decoder"].startswith("onnxruntime on cpu")
    bad = bundle_status(replace(bundle.manifest, verification={"verified": False}), "here")
    assert bad.level == Level.WARN
    assert "was not verified against its PyTorch model" in bad.message

    assert memory_status(1 << 30, 1 << 30, 200 << 20).level == Level.OK
    assert memory_status(1 << 30, 100 << 20, 200 << 20).level == Level.WARN
    assert memory_status(None, None, 200 << 20).level == Level.OK


def test_the_scene() -> None:
    summary = Summary(objects=ObjectCounts(described=5, reused=20, skipped=1, known=7))
    fine = scene_status(summary, "/home/robot/scene.db", "")
    assert (fine.level, fine.values["known objects"], fine.values["skipped"]) == (Level.OK, "7", "1")
    assert fine.message == "7 known objects; 5 captions generated, 20 reused"
    assert scene_status(summary, "", "").values["file"] == "none"
    full = scene_status(summary, "/home/robot/scene.db", "the scene cannot be written: is the disk full?")
    assert (full.level, full.message) == (Level.ERROR, "the scene cannot be written: is the disk full?")


def test_memory_is_known_and_a_bundle_that_is_too_large_is_refused() -> None:
    bundle = Bundle.open("nano", verify=False)
    resident, available = process_memory(), available_memory()
    assert resident is not None
    assert available is not None
    assert resident > 10 * MIB
    assert available > 10 * MIB
    assert memory_shortage(bundle, reserve=0) == ""
    refused = memory_shortage(bundle, reserve=2 * available)
    assert f"bundle {bundle.manifest.name} needs about" in refused
    assert "lower memory_reserve" in refused


def test_rates_counts_and_percentiles() -> None:
    clock = Clock()
    statistics = Statistics(clock)
    for number in range(100):
        clock.now += 0.1
        statistics.matched()
        if number % 2:
            counts = ObjectCounts(described=1, reused=2, skipped=3, known=number)
            statistics.described(0.2, {"frame": 0.001 * number}, counts)
    summary = statistics.summary(replaced=3)
    assert summary.rate_in == pytest.approx(10, abs=0.5)
    assert summary.rate_out == pytest.approx(5, abs=0.5)
    assert (summary.matched, summary.described, summary.replaced) == (100, 50, 3)
    assert summary.objects == ObjectCounts(described=50, reused=100, skipped=150, known=99)
    assert summary.seconds["frame"].p50 == pytest.approx(0.050, abs=0.002)
    assert summary.seconds["frame"].p95 == pytest.approx(0.095, abs=0.003)
    assert stages_status(summary).values["frame p50"] == "50.00 ms"

    clock.now += 60
    later = statistics.summary()
    assert later.rate_in == later.rate_out == 0
    assert later.silent_for == pytest.approx(60)


def test_a_failure_is_remembered_until_a_frame_succeeds() -> None:
    statistics = Statistics(Clock())
    statistics.failed("sizes differ")
    assert statistics.summary().failure == "sizes differ"
    statistics.described(0.1, {})
    assert statistics.summary().failure == ""
    assert statistics.summary().failed == 1
    statistics.start()
    assert statistics.summary() == Summary()


def test_statistics_stay_bounded() -> None:
    statistics = Statistics(Clock())
    for number in range(5000):
        statistics.matched()
        statistics.described(0.0, {"frame": float(number)})
    # The median covers the latest durations only.
    assert statistics.summary().seconds["frame"].p50 == pytest.approx(5000 - DURATIONS_KEPT / 2, abs=1)
