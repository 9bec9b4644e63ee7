"""Lifecycle of the node: transitions, failures, signals and freed memory. The node is a process, over real DDS."""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from ros_harness import BUNDLE, DEADLINE, Client, osprey_node, process_group_is_gone, ros_environment, tabletop
from sensor_msgs.msg import Image

from osprey_ros.ros import interfaces
from osprey_ros.ros.outputs import messages
from osprey_sim.node_process import NodeProcess

IMAGE, IDS = tabletop()
STAMPS = count(1_000_000_000, 33_333_333)
MIB = 1 << 20


@pytest.fixture
def env(tmp_path: Path) -> Iterator[dict[str, str]]:
    with ros_environment(tmp_path) as environment:
        yield environment


@pytest.fixture
def client(env: dict[str, str]) -> Iterator[Client]:
    client = Client(env)
    client.listen_to_diagnostics()
    yield client
    client.close()


def resident(child: NodeProcess) -> int:
    """Return the bytes of anonymous memory that a process holds."""
    lines = Path(f"/proc/{child.pid}/status").read_text().splitlines()
    (anonymous,) = (line.split()[1] for line in lines if line.startswith("RssAnon:"))
    return int(anonymous) * 1024


def describes(client: Client) -> bool:
    client.wait_until_heard()
    stamp = next(STAMPS)
    client.send(stamp, IMAGE, IDS)
    return bool(client.described(stamp).objects)


def test_lifecycle_from_a_bad_bundle_to_the_end(env: dict[str, str], client: Client, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(BUNDLE, damaged)
    (damaged / "decoder.onnx").write_bytes(b"nothing")
    with osprey_node(env, tmp_path, "max_new_tokens:=4", "threads:=1", bundle=str(tmp_path / "nowhere")) as child:
        assert client.state() == "unconfigured"
        client.status("lifecycle", DiagnosticStatus.OK, "unconfigured: no engines are loaded")
        for bundle, reason in (
            (tmp_path / "nowhere", f"no engine bundle '{tmp_path / 'nowhere'}'"),
            (damaged, "decoder.onnx has 7 bytes"),
        ):
            assert client.set_parameter("bundle", str(bundle)).successful
            assert not client.change_state("configure")
            assert client.state() == "unconfigured"
            assert reason in child.output()
            client.status("lifecycle", DiagnosticStatus.ERROR, reason)

        assert client.set_parameter("bundle", BUNDLE).successful
        assert client.set_parameter("memory_reserve", 1_000_000).successful
        assert not client.change_state("configure")
        client.status("lifecycle", DiagnosticStatus.ERROR, "MB are available and memory_reserve keeps 1000000 MB free")
        assert client.set_parameter("memory_reserve", 0).successful

        assert client.change_state("configure")
        assert client.state() == "inactive"
        assert "Configuring ..." in child.output()
        assert "loading the engines" in child.output()
        assert re.search(r"Configured in \d+\.\d s", child.output())
        assert client.image.get_subscription_count() == 0
        client.status("lifecycle", DiagnosticStatus.OK, "inactive: activate the node")

        assert client.change_state("activate")
        assert describes(client)
        client.wait_for(lambda: client.statuses["osprey: lifecycle"].message == "active", "it says that it is active")
        client.deactivate()
        assert client.change_state("activate")
        assert describes(client)
        assert client.change_state("deactivate")

        loaded = resident(child)
        assert client.change_state("cleanup")
        client.wait_for(lambda: client.node.count_publishers("/osprey/objects") == 0, "the publishers go")
        freed = resident(child)
        assert freed < loaded - 8 * MIB
        assert client.change_state("configure")
        assert client.change_state("cleanup")
        assert resident(child) < freed + 8 * MIB
        # A failed transition frees the engines that it has loaded.
        assert client.set_parameter("attributes", ["near; What is <image>?"]).successful
        assert not client.change_state("configure")
        client.status("lifecycle", DiagnosticStatus.ERROR, "configure failed: attribute near: ")
        assert resident(child) < freed + 8 * MIB
        assert client.set_parameter("attributes", [""]).successful

        assert client.change_state("configure")
        assert client.change_state("activate")
        assert describes(client)
        assert client.change_state("shutdown")
        assert client.state() == "finalized"
        client.status("lifecycle", DiagnosticStatus.OK, "finalized: the node was shut down; restart its process")
        asked = client.call(interfaces.GetScene, "/osprey/get_scene", interfaces.GetScene.Request())
        assert asked.message == "the node was shut down; restart its process"
        assert child.stop() == 0
    assert process_group_is_gone(child.pid)


def test_deactivation_does_not_wait_for_the_frame(env: dict[str, str], client: Client, tmp_path: Path) -> None:
    # Work for much longer than a few seconds: 1800 regions with a sentence each.
    ids = np.kron(np.arange(1, 1801, dtype=np.uint16).reshape(40, 45), np.ones((8, 8), np.uint16))
    image = np.full((*ids.shape, 3), 128, np.uint8)
    parameters = ("autostart:=true", "max_regions:=4096", "min_area:=1", "style:=detailed", "max_new_tokens:=256")
    with osprey_node(env, tmp_path, *parameters, "threads:=1") as child:
        assert describes(client)
        client.results.clear()
        client.send(next(STAMPS), image, ids)
        client.status("frames", DiagnosticStatus.WARN, "s old")
        before = processor_seconds(child)
        client.wait_for(lambda: processor_seconds(child) > before + 0.5, "the frame is being described")
        before = processor_seconds(child)
        client.deactivate()
        assert processor_seconds(child) - before < 3.0
        assert client.state() == "inactive"
        assert not client.results
        # The node describes the next frame.
        assert client.change_state("activate")
        assert describes(client)


def processor_seconds(child: NodeProcess) -> float:
    """Return the CPU time of a process in seconds."""
    fields = Path(f"/proc/{child.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_an_error_leads_to_a_state_from_which_configure_works(
    env: dict[str, str], client: Client, tmp_path: Path
) -> None:
    # The middleware refuses two types under one name: an unexpected error for the node.
    arguments = ["--ros-args", "-p", f"bundle:={BUNDLE}", "-r", "/osprey/markers:=/osprey/objects"]
    with NodeProcess("osprey", "osprey_ros.ros.node", arguments, tmp_path / "osprey.log", env) as child:
        for _ in range(2):
            assert not client.change_state("configure")
            assert client.state() == "unconfigured"
            client.status("lifecycle", DiagnosticStatus.ERROR, "configure failed: ")
            client.wait_for(lambda: client.node.count_publishers("/osprey/objects") == 0, "the publishers go")
        assert "Traceback" in child.output()
        assert child.status is None


def test_an_activation_that_fails_leaves_nothing_subscribed(
    env: dict[str, str], client: Client, tmp_path: Path
) -> None:
    arguments = ["--ros-args", "-p", f"bundle:={BUNDLE}", "-p", "use_depth:=true", "-r", "camera_info:=/depth"]
    with NodeProcess("osprey", "osprey_ros.ros.node", arguments, tmp_path / "osprey.log", env) as child:
        depth = client.node.create_publisher(Image, "depth", 5)
        assert client.change_state("configure")
        assert not client.change_state("activate")
        client.status("lifecycle", DiagnosticStatus.ERROR, "camera_info cannot be subscribed to: /depth as")
        stamp = next(STAMPS)
        client.send(stamp, IMAGE, IDS)
        header = messages.header_message(stamp, "camera_optical_frame")
        depth.publish(messages.image_message(np.ones((120, 160), np.float32), "32FC1", header))
        assert client.state() == "inactive"
        for publisher in (client.image, client.segmentation, depth):
            client.wait_for(lambda p=publisher: not p.get_subscription_count(), "nothing is subscribed")
        assert client.set_parameter("use_depth", False).successful
        assert client.change_state("activate")
        assert describes(client)
        assert child.status is None


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_a_frame_ends_the_node_with_status_0(
    env: dict[str, str], client: Client, tmp_path: Path, how: signal.Signals
) -> None:
    with osprey_node(env, tmp_path, "autostart:=true", "max_new_tokens:=64", "threads:=1") as child:
        client.wait_until_heard()
        for _ in range(3):
            client.send(next(STAMPS), IMAGE, IDS)
        client.wait_for(lambda: client.results, "a frame is described")
        assert child.stop(how) == 0
    assert "Traceback" not in child.output()
    assert process_group_is_gone(child.pid)


def test_a_second_signal_does_not_interrupt_the_cleanup(env: dict[str, str]) -> None:
    script = (
        "import sys; from rclpy.node import Node; from osprey_ros.ros.run import run_node\n"
        "def create(): node = Node('brief'); print('made', flush=True); return node\n"
        "status = run_node(create); print('ended', flush=True); sys.stdin.readline(); sys.exit(status)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        for line in ("made\n", "ended\n"):
            assert select.select([process.stdout], [], [], DEADLINE)[0], f"{line.strip()} is not told"
            assert process.stdout.readline() == line
            process.send_signal(signal.SIGTERM)
        process.communicate("\n", timeout=DEADLINE)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("variable", "value", "text"),
    [
        (
            "ROS_LOG_DIR",
            "/dev/null/logs",
            "the log folder /dev/null/logs cannot be written; set ROS_LOG_DIR to a folder",
        ),
        ("HOME", "/dev/null", "the log folder /dev/null/.ros/log cannot be written; set ROS_LOG_DIR to a folder"),
        ("ROS_DOMAIN_ID", "one", "ROS_DOMAIN_ID"),
    ],
)
def test_an_environment_that_ros_cannot_use_ends_the_start_with_one_line(
    env: dict[str, str], variable: str, value: str, text: str
) -> None:
    script = "import sys; from osprey_ros.ros.run import run_node; sys.exit(run_node(None))"
    env = {name: setting for name, setting in env.items() if name not in ("ROS_LOG_DIR", "ROS_HOME")}
    done = subprocess.run(
        [sys.executable, "-c", script], env={**env, variable: value}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("cannot start: ")
    assert text in line


def test_an_invalid_parameter_ends_the_start_with_status_2(env: dict[str, str], client: Client, tmp_path: Path) -> None:
    for parameter, reason in (("style:=poem", "style is 'poem'"), ("max_regions:=0", "max_regions")):
        with osprey_node(env, tmp_path, parameter) as child:
            client.wait_for(lambda child=child: child.status is not None, "the node ends")
            assert child.status == 2
            assert reason in child.output()
