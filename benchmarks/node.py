"""Measure the node with a camera at full rate: memory, age of its results, drops, and overhead over the engines.

    python benchmarks/node.py --bundle engines/nano --seconds 60 --json build/node.json

One process publishes 1280x720 images with id images at 30 Hz, a second one runs the node. This process subscribes to
the results and reads the node's memory. The age of a result is the time from the stamp, taken before publishing, to its
arrival here. The exit status is 1 if a limit is exceeded.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from osprey_ros.cli._edge import command
from osprey_ros.cli._output import write_figures
from osprey_ros.errors import OspreyError
from osprey_ros.vision.preprocess import MODES
from osprey_sim.node_process import NodeProcess

SETTLED = 10.0  # seconds until the reference measurement of memory
GROWTH = 5.0  # MB, limit of the growth of memory
OVERHEAD = 12.0  # ms per frame, limit of the time outside of the engines
PROFILE = """<?xml version="1.0" encoding="UTF-8"?>
<profiles xmlns="http://www.eprosima.com">
  <transport_descriptors>
    <transport_descriptor>
      <transport_id>large_memory</transport_id>
      <type>SHM</type>
      <segment_size>67108864</segment_size>
      <maxMessageSize>8388608</maxMessageSize>
    </transport_descriptor>
    <transport_descriptor>
      <transport_id>udp</transport_id>
      <type>UDPv4</type>
    </transport_descriptor>
  </transport_descriptors>
  <participant profile_name="large_images" is_default_profile="true">
    <rtps>
      <userTransports>
        <transport_id>large_memory</transport_id>
        <transport_id>udp</transport_id>
      </userTransports>
      <useBuiltinTransports>false</useBuiltinTransports>
    </rtps>
  </participant>
</profiles>
"""


@dataclass(frozen=True)
class Figures:
    """Measured figures in seconds, MB and Hz; ``stages`` are p50 and p95 in ms.

    Ages and memory are measured after the first `SETTLED` seconds, ``memory_shared`` and ``newer`` over the whole time.
    Counts, rates and ``stages`` come from the node's last diagnostics: counts since its activation, rates over the last
    seconds, ``stages`` of the latest frames.
    """

    seconds: float
    published: int
    described: int
    dropped: int
    unmatched: int
    newer: bool  # each stamp is newer than the previous one
    age_p50: float
    age_p95: float
    age_max: float
    frame_p95: float  # of the processing time of a frame
    memory_settled: float
    memory_end: float
    memory_growth: float
    memory_shared: float  # maximum; not included in the other figures
    rate_in: float
    rate_out: float
    stages: dict[str, tuple[float, float]]


@command("node")
def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a table, and return 1 if a limit is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--bundle", default="nano", help="a folder or a name (%(default)s)")
    parser.add_argument("--seconds", type=float, default=60.0, help="duration, including the first 10 s (%(default)s)")
    parser.add_argument("--rate", type=float, default=30.0, help="frames per second (%(default)s)")
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=720)
    parser.add_argument("--regions", type=int, default=8, help="regions per frame (%(default)s)")
    parser.add_argument("--threads", type=int, default=0, help="threads of the engines; 0: one per core")
    parser.add_argument("--max-new-tokens", type=int, default=12)
    parser.add_argument("--preprocessing", choices=MODES, default="fast", help="the node's parameter (%(default)s)")
    parser.add_argument("--stock", action="store_true", help="use Fast DDS's default profile, with less shared memory")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--publish", action="store_true", help=argparse.SUPPRESS)  # this is the publishing process
    options = parser.parse_args(argv)
    if options.seconds <= SETTLED and not options.publish:
        parser.error(f"--seconds is {options.seconds:g}; use more than {SETTLED:g}, when memory is first measured")
    if options.publish:
        publish(options)
        return 0
    figures = measure(options)
    broken = verdict(figures, options.rate)
    print_table(figures)
    write_figures(options.json, {**asdict(figures), "broken": broken, "options": vars(options)})
    for line in broken:
        print(f"limit exceeded: {line}")
    return 1 if broken else 0


def publish(options: argparse.Namespace) -> None:
    """Publish frames until interrupted. The image shifts a little, so that all frames differ."""
    import rclpy
    from rclpy.executors import ExternalShutdownException
    from sensor_msgs.msg import Image

    from osprey_ros.ros.outputs import messages

    rgb, ids = image(options.width, options.height, options.regions)
    rclpy.init(args=[])
    node = rclpy.create_node("camera")
    publishers = [node.create_publisher(Image, topic, 5) for topic in ("image", "segmentation")]
    number = 0

    def send() -> None:
        nonlocal number
        number += 1
        header = messages.header_message(time.time_ns(), "camera")
        moved = np.roll(rgb, number % 32, axis=1)
        publishers[0].publish(messages.image_message(moved, "rgb8", header))
        publishers[1].publish(messages.image_message(ids, "mono16", header))

    node.create_timer(1.0 / options.rate, send)
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        rclpy.try_shutdown()


def image(width: int, height: int, regions: int) -> tuple[np.ndarray, np.ndarray]:
    """Return an image, uint8 [H, W, 3], of noise with colored boxes in a row, and their ids, uint16 [H, W]."""
    rng = np.random.default_rng(0)
    rgb = rng.integers(100, 140, (height, width, 3), np.uint8)
    ids = np.zeros((height, width), np.uint16)
    step = width // regions
    for number in range(regions):
        part = np.s_[height // 3 : 2 * height // 3, number * step + step // 8 : (number + 1) * step - step // 8]
        rgb[part] = rng.integers(0, 256, 3)
        ids[part] = number + 1
    return rgb, ids


def measure(options: argparse.Namespace) -> Figures:
    """Run both processes and collect results for ``options.seconds``. Raise OspreyError if a process ends."""
    with tempfile.TemporaryDirectory(prefix="osprey-benchmark-") as folder:
        os.environ["ROS_DOMAIN_ID"] = str(random.randint(1, 101))
        os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
        os.environ["ROS_LOG_DIR"] = folder
        if not options.stock:
            profile = Path(folder) / "fastdds.xml"
            profile.write_text(PROFILE)
            os.environ["FASTDDS_DEFAULT_PROFILES_FILE"] = str(profile)
        values = {
            "bundle": options.bundle,
            "autostart": "true",
            "threads": options.threads,
            "max_new_tokens": options.max_new_tokens,
            "preprocessing": options.preprocessing,
        }
        node = ["--ros-args", *(part for name, value in values.items() for part in ("-p", f"{name}:={value}"))]
        camera = ["--publish", "--rate", options.rate, "--width", options.width, "--height", options.height]
        camera += ["--regions", options.regions]
        with (
            NodeProcess("osprey", "osprey_ros.ros.node", node, Path(folder) / "osprey.log", os.environ) as osprey,
            NodeProcess(
                "camera", "benchmarks.node", list(map(str, camera)), Path(folder) / "camera.log", os.environ
            ) as sender,
        ):
            return listen(osprey, sender, options.seconds)


def listen(osprey: NodeProcess, sender: NodeProcess, seconds: float) -> Figures:
    """Collect the node's messages. The time starts with the first result."""
    import rclpy
    from diagnostic_msgs.msg import DiagnosticArray
    from rclpy.executors import SingleThreadedExecutor

    from osprey_ros.messages.stamps import stamp_of
    from osprey_ros.ros import interfaces

    results: list[tuple[float, int, float]] = []  # arrival (monotonic), stamp, age in seconds
    statuses: dict[str, dict[str, str]] = {}
    memory: list[tuple[float, float]] = []  # time (monotonic), MB
    shared = 0.0

    def on_objects(message: Any) -> None:
        stamp = stamp_of(message)
        results.append((time.monotonic(), stamp, (time.time_ns() - stamp) / 1e9))

    def on_diagnostics(message: DiagnosticArray) -> None:
        for status in message.status:
            statuses[status.name.split(": ")[1]] = {value.key: value.value for value in status.values}

    rclpy.init(args=[])
    client = rclpy.create_node("listener")
    try:
        client.create_subscription(interfaces.ObjectDescriptionArray, "/osprey/objects", on_objects, 50)
        client.create_subscription(DiagnosticArray, "/diagnostics", on_diagnostics, 10)
        executor = SingleThreadedExecutor()
        executor.add_node(client)
        deadline = time.monotonic() + 60
        while not results or time.monotonic() < results[0][0] + seconds:
            executor.spin_once(timeout_sec=0.05)
            now = time.monotonic()
            for child in (osprey, sender):
                if child.status is not None:
                    raise OspreyError(f"{child.name} ended with status {child.status}:\n{child.output()[-3000:]}")
            if not results and now > deadline:
                raise OspreyError(f"no result within 60 s:\n{osprey.output()[-3000:]}")
            if results and (not memory or now - memory[-1][0] >= 0.1):
                own, of_all = resident(osprey.pid)
                memory.append((now, own))
                shared = max(shared, of_all)
    finally:
        client.destroy_node()
        rclpy.try_shutdown()

    start = results[0][0]
    stamps = [stamp for _, stamp, _ in results]
    ages = [age for arrival, _, age in results if arrival >= start + SETTLED]
    # Images in the queues of the middleware change the memory by about 15 MB within seconds. The minimum of an interval
    # excludes them. Compare two intervals of equal length.
    stretch = min(SETTLED, (seconds - SETTLED) / 2)
    settled = min(mb for when, mb in memory if SETTLED <= when - start <= SETTLED + stretch)
    end = min(mb for when, mb in memory if when - start >= seconds - stretch)
    frames, inputs = statuses["frames"], statuses["inputs"]
    stages = milliseconds(statuses["stages"])
    return Figures(
        seconds=seconds,
        published=int(inputs["/image received"]),
        described=int(frames["described"]),
        dropped=int(frames["dropped for later frames"]),
        unmatched=int(inputs["dropped without a match"]),
        newer=all(later > earlier for earlier, later in pairwise(stamps)),
        age_p50=float(np.percentile(ages, 50)),
        age_p95=float(np.percentile(ages, 95)),
        age_max=max(ages),
        frame_p95=stages["frame"][1] / 1e3,
        memory_settled=settled,
        memory_end=end,
        memory_growth=end - settled,
        memory_shared=shared,
        rate_in=float(frames["rate in"].split()[0]),
        rate_out=float(frames["rate out"].split()[0]),
        stages=stages,
    )


def resident(pid: int) -> tuple[float, float]:
    """Return the resident memory of a process in MB: private memory, and shared memory that it has accessed.

    The shared memory has a fixed size: the segment of the node's participant, and that of the camera's, from which
    images are read. The camera has already written these pages, so that reading more of them allocates no memory.
    """
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    kilobytes = {key: int(value.split()[0]) for key, value in (line.split(":") for line in lines if "kB" in line)}
    return (kilobytes["VmRSS"] - kilobytes["RssShmem"]) / 1024, kilobytes["RssShmem"] / 1024


def milliseconds(values: dict[str, str]) -> dict[str, tuple[float, float]]:
    """Return p50 and p95 of each stage."""
    names = [key.removesuffix(" p50") for key in values if key.endswith(" p50")]
    return {name: (float(values[f"{name} p50"].split()[0]), float(values[f"{name} p95"].split()[0])) for name in names}


def verdict(figures: Figures, rate: float) -> list[str]:
    """Return one line for each limit that is exceeded."""
    broken = []
    if figures.memory_growth > GROWTH:
        broken.append(f"memory grew by {figures.memory_growth:.1f} MB, limit {GROWTH:.0f} MB")
    if not figures.newer:
        broken.append("a published stamp is not newer than the previous one")
    allowed = figures.frame_p95 + 1 / rate
    if figures.age_p95 > allowed:
        broken.append(
            f"p95 of the age is {figures.age_p95 * 1e3:.0f} ms, more than the processing of a frame plus one period "
            f"({allowed * 1e3:.0f} ms)"
        )
    if figures.stages["overhead"][0] > OVERHEAD:
        broken.append(f"overhead p50 is {figures.stages['overhead'][0]:.1f} ms, limit {OVERHEAD:.0f} ms")
    return broken


def print_table(figures: Figures) -> None:
    """Print the figures as a table."""
    print(f"{'stage':<12}{'p50':>9}{'p95':>9}")
    for stage, (p50, p95) in figures.stages.items():
        print(f"{stage:<12}{p50:>6.1f} ms{p95:>6.1f} ms")
    print(f"age of the result: p50 {figures.age_p50 * 1e3:.0f} ms, p95 {figures.age_p95 * 1e3:.0f} ms")
    print(
        f"memory: {figures.memory_settled:.1f} MB settled, {figures.memory_growth:+.1f} MB at the end, plus at most "
        f"{figures.memory_shared:.1f} MB of shared memory"
    )
    print(
        f"{figures.published} images received, {figures.described} described, {figures.dropped} dropped for later ones"
        f", {figures.unmatched} messages without a match; {figures.rate_in:.1f} Hz in, {figures.rate_out:.1f} Hz out"
    )


if __name__ == "__main__":
    sys.exit(main())
