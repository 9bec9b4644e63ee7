"""Check of a running graph: is there an image and something with masks, does anybody listen where nobody speaks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from importlib.util import find_spec
from typing import Any

from osprey_ros.doctor import finding
from osprey_ros.doctor.finding import Finding
from osprey_ros.errors import one_line

ok, warning, problem = (partial(make, "graph") for make in (finding.ok, finding.warning, finding.problem))

_START = 30.0  # seconds that ROS may need
_IMAGES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
_MASKS = ("osprey_interfaces/msg/RegionArray", "vision_msgs/msg/Detection2DArray", "yolo_msgs/msg/DetectionArray")
# Words in the names of image topics that do not come from a color camera.
_MASK_WORDS = ("segment", "mask", "instance", "panoptic", "ids", "label")
_OTHER_WORDS = ("depth", "overlay", "disparity", "dbg", "debug")
_INPUTS = ("image", "segmentation", "regions", "detections", "depth", "camera_info")


def check_graph(seconds: float, env: Mapping[str, str] | None = None) -> Iterator[Finding]:
    """Yield findings about the nodes and topics that this machine sees; nothing without ROS 2.

    Args:
        seconds: How long topics are counted.
        env: Environment of the process that looks; that of this process by default.
    """
    if find_spec("rclpy") is None:
        return
    report = _report(seconds, env)
    if isinstance(report, Finding):
        yield report
    else:
        yield from judge(report)


def _report(seconds: float, env: Mapping[str, str] | None) -> dict[str, Any] | Finding:
    """Return what `osprey_ros.ros.graph_report` prints, or why it prints nothing."""
    command = [sys.executable, "-m", "osprey_ros.ros.graph_report", "--seconds", f"{seconds:g}"]
    remedy = "see the findings about ROS; `ros2 doctor --report` has more"
    try:
        done = subprocess.run(
            command,
            env=dict(os.environ if env is None else env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds + _START,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return problem("nodes", f"ROS 2 does not start within {_START:g} s", remedy)
    for line in reversed(done.stdout.decode(errors="replace").splitlines()):  # libraries may print others
        if line.startswith("{"):
            report: dict[str, Any] = json.loads(line)
            return report
    said = [line for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
    return problem("nodes", f"ROS 2 cannot be started: {one_line(said[-1] if said else 'no message')}", remedy)


def judge(report: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield findings about a report of `osprey_ros.ros.graph_report`."""
    nodes, offered = report["nodes"], [topic for topic in report["topics"] if topic["publishers"]]
    if not nodes:
        yield ok("nodes", "no other node is running in this domain")
        return
    yield ok("nodes", f"{len(nodes)} running: {_few(nodes)}")
    images = [topic for topic in offered if _shows(topic, report["osprey"]) == "image"]
    masks = [topic for topic in offered if _shows(topic, report["osprey"]) == "masks"]
    if images:
        yield from (_source("image", topic, report) for topic in images)
    else:
        yield warning("image", "no topic has images of a camera", "start the driver of the camera")
    if masks:
        yield from (_source("masks", topic, report) for topic in masks)
    else:
        remedy = "ros2 launch osprey_ros osprey.launch.py segmenter:=true image:=TOPIC, or a segmenter of your own"
        yield warning("masks", "no topic has masks or detections", remedy)
    yield from _inputs(report)
    for topic in report["topics"]:
        for reason in topic["refused"]:
            remedy = "give both the same reliability and durability; the node's own inputs adapt by themselves"
            yield warning("QoS", f"{topic['name']}: {reason}", remedy)


def _shows(topic: Mapping[str, Any], osprey: list[str]) -> str:
    """Return "image" or "masks" for a topic that a node can take, else ""."""
    if set(topic["types"]) & set(_MASKS):
        return "masks"
    own = any(topic["name"].startswith(f"{node}/") for node in osprey)
    name = topic["name"].lower()
    if own or not set(topic["types"]) & set(_IMAGES) or any(word in name for word in _OTHER_WORDS):
        return ""
    return "masks" if any(word in name for word in _MASK_WORDS) else "image"


def _source(name: str, topic: Mapping[str, Any], report: Mapping[str, Any]) -> Finding:
    rate, kind = report["rates"].get(topic["name"]), topic["types"][0].replace("/msg/", "/")
    text = f"{topic['name']}, {kind} of {_few(topic['publishers'])}, {' and '.join(topic['reliability'])}"
    if len(set(topic["types"])) > 1:
        return warning(name, f"{topic['name']} has several types: {', '.join(topic['types'])}", "rename one of them")
    if rate is None:
        return ok(name, text)
    if not rate and "reliable" not in topic["reliability"]:
        remedy = "large images of best effort need a Fast DDS profile with more shared memory; or nothing is published"
        return warning(name, f"{text}; nothing arrived in {report['seconds']:.1f} s", remedy)
    return ok(name, f"{text}, {rate:.1f} Hz" if rate else f"{text}; nothing arrived in {report['seconds']:.1f} s")


def _inputs(report: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield a warning for each input of an osprey node on which nobody publishes."""
    for topic in report["topics"]:
        listeners = sorted(set(topic["subscribers"]) & set(report["osprey"]))
        if listeners and not topic["publishers"] and set(topic["types"]) & {*_IMAGES, *_MASKS}:
            short = topic["name"].rpartition("/")[2]
            argument = short if short in _INPUTS else "image"
            yield warning(
                "inputs",
                f"{listeners[0]} listens to {topic['name']}, where nobody publishes",
                f"start its publisher, or name another topic: {argument}:=TOPIC (ros2 launch), -r {argument}:=TOPIC",
            )
    if report["osprey"]:
        yield ok("osprey", f"{', '.join(report['osprey'])}; `ros2 topic echo /diagnostics` says how it is")


def _few(names: list[str]) -> str:
    unique = list(dict.fromkeys(names))
    return ", ".join(unique[:4]) + (f" and {len(unique) - 4} more" if len(unique) > 4 else "")
