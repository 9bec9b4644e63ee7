"""Run camera, segmenter, node and client for minutes with a fault every few seconds: `make soak MINUTES=30`.

Writes ``soak.json`` and ``soak.png``: memory, threads and file handles of the node and of the segmenter, the age of
results, and how long the node took to recover from each fault. The exit status is 1 if memory, threads or handles grew,
a process ended by itself or a fault was not recovered from.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.plot import draw_lines
from osprey_ros.cli._edge import command
from osprey_ros.cli._options import Parser
from osprey_ros.files import write_json
from osprey_sim.node_process import NodeProcess

if TYPE_CHECKING:
    from benchmarks.soak_client import SoakClient

WARM_UP = 60.0  # seconds whose memory, threads and handles are not judged
MEMORY_MARGIN = 10.0  # MB that memory may grow after the warm-up
HANDLE_MARGIN = 2  # threads or handles that may come and go, as DDS opens them for its peers
PATIENCE = 60.0  # seconds within which the node must give results again
PAUSE = 3.0  # seconds without a camera
SAMPLE = 1.0  # seconds between two samples


@dataclass(frozen=True)
class Sample:
    """One process at one moment: seconds since the start, MB of private memory, threads, open handles."""

    at: float
    memory: float
    threads: int
    handles: int


@dataclass
class Recovery:
    """A fault: when it began in seconds since the start, and seconds from its end to the next result, if any."""

    name: str
    at: float
    seconds: float | None = None


@dataclass
class Record:
    """What a run has seen.

    Attributes:
        samples: Of each process by its name.
        ages: Seconds since the start, and the age in seconds of the result that came then.
        faults: In order.
        ended: Names of processes that ended by themselves.
    """

    samples: dict[str, list[Sample]] = field(default_factory=dict)
    ages: list[tuple[float, float]] = field(default_factory=list)
    faults: list[Recovery] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)


def sample(pid: int, at: float) -> Sample:
    """Return a sample of a process. Raises OSError if it has ended."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    handles = len(os.listdir(f"/proc/{pid}/fd"))
    return Sample(at, int(lines["RssAnon"].split()[0]) / 1024, int(lines["Threads"]), handles)


def growth(samples: Sequence[Sample], name: str) -> float:
    """Return how much a value grew after the warm-up: median of the last fifth less that of the first fifth."""
    values = [getattr(found, name) for found in samples if found.at >= WARM_UP]
    part = max(1, len(values) // 5)
    return float(median(values[-part:]) - median(values[:part])) if values else 0.0


def verdict(record: Record) -> list[str]:
    """Return what is wrong with a run; empty if nothing is."""
    problems = [f"the {name} ended by itself" for name in record.ended]
    for process, samples in record.samples.items():
        margins = {"memory": MEMORY_MARGIN, "threads": HANDLE_MARGIN, "handles": HANDLE_MARGIN}
        for name, margin in margins.items():
            if (grown := growth(samples, name)) > margin:
                problems.append(f"{name} of the {process} grew by {grown:.1f}")
    lost = [f"{fault.name} at {fault.at:.0f} s" for fault in record.faults if fault.seconds is None]
    return problems + [f"not recovered from: {name}" for name in lost]


class Soak:
    """A run: processes with a client, and faults until the time is over.

    Args:
        children: The nodes, by name: "camera" last.
        start: Starts a node again, by its name.
        client: Publishes wrong messages, calls services and receives results.
        seed: Of the choice of faults.
    """

    def __init__(
        self, children: dict[str, NodeProcess], start: Callable[[str], NodeProcess], client: SoakClient, seed: int
    ) -> None:
        self.record = Record()
        self._children, self._start, self._client = children, start, client
        self._random = random.Random(seed)
        self._began, self._sampled = time.monotonic(), 0.0
        self._watched = {name: child for name, child in children.items() if name != "camera"}
        own = {"camera killed": self._kill_camera, "camera paused": self._pause_camera}
        self._faults: dict[str, Callable[[], None]] = {**client.faults(), **own}

    def run(self, seconds: float, period: float) -> None:
        """Cause a fault every ``period`` seconds, and wait for the recovery from each."""
        self._await_result(3 * PATIENCE)
        self._began = time.monotonic()
        while (at := self._now()) < seconds and not self.record.ended:
            name = self._random.choice(sorted(self._faults))
            self._faults[name]()
            took = self._await_result(PATIENCE)
            self.record.faults.append(Recovery(name, at, took))
            self._pump(at + period)

    def _now(self) -> float:
        return time.monotonic() - self._began

    def _pump(self, until: float) -> None:
        while self._now() < until:
            self._turn()

    def _await_result(self, patience: float) -> float | None:
        """Return the seconds until a result that is newer than now, None if there is none in time."""
        asked, began = time.time(), time.monotonic()
        while time.monotonic() - began < patience and not self.record.ended:
            self._turn()
            if self._client.latest_stamp >= asked:
                return time.monotonic() - began
        return None

    def _turn(self) -> None:
        self._client.turn()
        now = self._now()
        self.record.ages += [(now, age) for age in self._client.take_ages()]
        if now - self._sampled < SAMPLE:
            return
        self._sampled = now
        for name, child in self._watched.items():
            if child.status is not None:
                self.record.ended.append(name)
                continue
            self.record.samples.setdefault(name, []).append(sample(child.pid, now))

    def _kill_camera(self) -> None:
        self._children["camera"].stop(signal.SIGKILL)
        self._children["camera"] = self._start("camera")

    def _pause_camera(self) -> None:
        os.kill(self._children["camera"].pid, signal.SIGSTOP)
        self._pump(self._now() + PAUSE)
        os.kill(self._children["camera"].pid, signal.SIGCONT)


def report(record: Record, output: Path) -> int:
    """Write the record and its plot, print the figures, and return the exit status."""
    output.mkdir(parents=True, exist_ok=True)
    problems = verdict(record)
    write_json(output / "soak.json", {"problems": problems, **asdict(record)})
    for process, samples in record.samples.items():
        last = samples[-1]
        print(
            f"{process}: {last.memory:.0f} MB ({growth(samples, 'memory'):+.1f} after {WARM_UP:.0f} s), {last.threads} "
            f"threads ({growth(samples, 'threads'):+.0f}), {last.handles} handles ({growth(samples, 'handles'):+.0f})"
        )
    for name in sorted({fault.name for fault in record.faults}):
        times = [fault.seconds for fault in record.faults if fault.name == name and fault.seconds is not None]
        if times:
            print(f"{name}: {len(times)} times, recovered in {median(times):.1f} s, at most {max(times):.1f} s")
    ages = [age for _, age in record.ages]
    if ages:
        print(f"{len(ages)} results, age {median(ages):.2f} s, at most {max(ages):.2f} s")
    lines: dict[str, dict[str, list[tuple[float, float]]]] = {"age of results (s)": {"node": record.ages}}
    for value in ("memory", "threads", "handles"):
        lines[value + (" (MB)" if value == "memory" else "")] = {
            process: [(found.at, getattr(found, value)) for found in samples]
            for process, samples in record.samples.items()
        }
    draw_lines(lines, [fault.at for fault in record.faults], output / "soak.png")
    print("; ".join(problems) or f"all {len(record.faults)} faults recovered; memory, threads and handles are flat")
    return 1 if problems else 0


def _arguments(name: str, bundle: str) -> tuple[str, list[str]]:
    """Return module and arguments of a node."""
    parameters: dict[str, Any] = {
        "camera": {"rate": "2.0", "frames_per_scene": "4", "width": "320", "height": "240"},
        "segmenter": {"autostart": "true", "threads": "1"},
        "osprey": {"autostart": "true", "threads": "1", "max_new_tokens": "8", "time_budget": "1.0", "bundle": bundle},
    }[name]
    modules = {"camera": "osprey_sim.camera_node", "segmenter": "osprey_ros.ros.segmenter.node"}
    given = [part for key, value in parameters.items() for part in ("-p", f"{key}:={value}")]
    remapped = ["-r", "image:=/camera/image", "-r", "segmentation:=/segmenter/ids"]
    if name == "camera":
        remapped = ["-r", "__ns:=/camera"]
    return modules.get(name, "osprey_ros.ros.node"), ["--ros-args", *remapped, *given]


@command("soak")
def main(argv: Sequence[str] | None = None) -> int:
    """Run it and return the exit status."""
    parser = Parser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--minutes", type=float, default=30.0, help="how long (default: %(default)g)")
    parser.add_argument("--period", type=float, default=5.0, help="seconds from fault to fault (default: %(default)g)")
    parser.add_argument("--seed", type=int, default=0, help="of the faults (default: %(default)d)")
    parser.add_argument("--bundle", default="nano", help="bundle of the node (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("build/soak"), help="folder (default: %(default)s)")
    options = parser.parse_args(argv)
    options.output.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        os.environ["ROS_LOG_DIR"] = stack.enter_context(tempfile.TemporaryDirectory(prefix="osprey-soak-"))
        os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
        os.environ.setdefault("ROS_DOMAIN_ID", str(random.randint(1, 101)))
        from benchmarks.soak_client import SoakClient  # DDS reads the environment

        def start(name: str) -> NodeProcess:
            module, arguments = _arguments(name, options.bundle)
            log = options.output / f"{name}.log"
            return stack.enter_context(NodeProcess(name, module, arguments, log, os.environ))

        children = {name: start(name) for name in ("osprey", "segmenter", "camera")}
        client = SoakClient()
        stack.callback(client.close)
        soak = Soak(children, start, client, options.seed)
        soak.run(options.minutes * 60, options.period)
    return report(soak.record, options.output)


if __name__ == "__main__":
    sys.exit(main())
