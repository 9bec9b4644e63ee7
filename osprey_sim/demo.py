"""Describe the objects of a simulated camera over ROS 2, and compare the descriptions with the truth.

``osprey demo --output build/demo``, or ``python -m osprey_sim.demo``, runs the camera and the node as two processes. It
prints a table of the described objects of a few frames, writes ``objects.json``, ``overlay.png`` and ``overlay.gif``,
and ends both processes.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from osprey_ros.bundle.bundle import Bundle
from osprey_ros.cli._edge import command
from osprey_ros.cli._options import Parser, above_zero, add_bundle_option, add_count_option
from osprey_ros.errors import InputError, OspreyError
from osprey_ros.files import write_json
from osprey_ros.messages import images
from osprey_ros.messages.stamps import stamp_of
from osprey_ros.scene.types import UNKNOWN
from osprey_ros.vision.image_io import save_image
from osprey_sim.demo_masks import MaskFrames, comparison, exact_categories
from osprey_sim.node_process import NodeProcess
from osprey_sim.object_sets import HOME, OBJECT_SETS
from osprey_sim.slides import write_gif

if TYPE_CHECKING:
    from osprey_ros.kinds.tree import KindTree
    from osprey_sim.recorder import CameraRecorder

RIGHT, GENERAL, UNSURE, WRONG, NOTHING = "right", "general", "unsure", "wrong", "no object"
MARKS = {RIGHT: "✓", GENERAL: "more general", UNSURE: "not sure", WRONG: "✗", NOTHING: "no object"}
EXACT, OWN = "exact", "own"  # whose masks: the camera's, or those of the shipped segmenter


_NO_TRUTH = {"category": "", "short": ""}  # of a mask that shows no object


@dataclass
class Collected:
    """Received messages of each frame by its stamp in nanoseconds.

    Attributes:
        recorder: Records the camera, None if it is not recorded.
        objects: Described objects of each frame.
        truths: Category and description of each object that the camera shows, by instance id.
        overlays: Images uint8 [H, W, 3] with the descriptions drawn on them.
        masks: Images and ids where a segmenter draws the masks, else None.
    """

    recorder: CameraRecorder | None = None
    objects: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    truths: dict[int, dict[int, dict[str, str]]] = field(default_factory=dict)
    overlays: dict[int, np.ndarray] = field(default_factory=dict)
    masks: MaskFrames | None = None

    def add_objects(self, message: Any) -> None:
        """Store the objects of an ObjectDescriptionArray."""
        self.objects[stamp_of(message)] = [
            {
                "instance_id": described.instance_id,
                "category": described.category,
                "description": described.description,
                "confidence": round(described.confidence, 4),
            }
            for described in message.objects
        ]

    def add_truth(self, message: Any) -> None:
        """Store the truth of a String message of the camera."""
        truth = json.loads(message.data)
        stamp = truth["stamp"]["sec"] * 1_000_000_000 + truth["stamp"]["nanosec"]
        self.truths[stamp] = {
            shown["instance_id"]: {"category": shown["category"], "short": shown["short"]} for shown in truth["objects"]
        }

    def add_overlay(self, message: Any) -> None:
        """Store an overlay image."""
        self.overlays[stamp_of(message)] = images.rgb_from_message(message)

    def complete(self) -> list[int]:
        """Return the ascending stamps of frames with objects, truth, overlay and, if recorded, all messages."""
        stamps = {s for s in self.objects if self.objects[s] and s in self.truths and s in self.overlays}
        for other in (self.recorder, self.masks):
            if other is not None:
                stamps &= other.frames()
        return sorted(stamps)


@command("demo failed")
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo and return the exit status."""
    parser = Parser(prog="osprey demo", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("build/demo"),
        metavar="DIR",
        help="folder for the results (default: %(default)s)",
    )
    add_bundle_option(parser)
    add_count_option(parser, "--frames", 3, "number of frames to show")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="number of the first test scene (default: %(default)s)"
    )
    parser.add_argument(
        "--objects",
        choices=OBJECT_SETS,
        default=HOME,
        help="models of real things in a room, or primitives on a table (default: %(default)s)",
    )
    parser.add_argument(
        "--masks",
        choices=(EXACT, OWN),
        default=EXACT,
        help="masks of the simulator, or those of the shipped segmenter (default: %(default)s)",
    )
    parser.add_argument(
        "--record",
        type=Path,
        metavar="OUT.mcap",
        help="also record what the camera publishes (needs pip install rosbags mcap)",
    )
    parser.add_argument(
        "--timeout",
        type=above_zero,
        default=60.0,
        metavar="SECONDS",
        help="how long to wait for the frames (default: %(default)g)",
    )
    options = parser.parse_args(arguments)
    try:
        run(
            options.output,
            options.bundle,
            options.frames,
            options.seed,
            options.timeout,
            options.record,
            options.objects,
            options.masks,
        )
    except ModuleNotFoundError as error:
        raise InputError(f"{error.name} is not installed; the demo needs ROS 2, mujoco and PyOpenGL") from error
    return 0


def run(
    output: Path,
    bundle: str,
    frames: int,
    seed: int,
    timeout: float,
    record: Path | None = None,
    objects: str = HOME,
    masks: str = EXACT,
) -> None:
    """Start the nodes, wait for described frames and write the results.

    Raises:
        OspreyError: The bundle cannot be opened, a node ended, the frames did not arrive in time, or the camera cannot
            be recorded.
    """
    opened = Bundle.open(bundle, verify=False)
    tree = opened.kinds()
    output.mkdir(parents=True, exist_ok=True)
    results = [output / name for name in ("objects.json", "overlay.png", "overlay.gif")]
    for stale in results:
        stale.unlink(missing_ok=True)
    with ExitStack() as stack:
        logs = stack.enter_context(tempfile.TemporaryDirectory(prefix="osprey-demo-"))
        os.environ["ROS_LOG_DIR"] = logs
        os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
        # A separate domain, unless one is set, so that other nodes on this machine are not disturbed.
        os.environ.setdefault("ROS_DOMAIN_ID", str(random.randint(1, 101)))
        nodes = [
            ("osprey", "osprey_ros.ros.node", _node_arguments(bundle, masks)),
            ("camera", "osprey_sim.camera_node", _camera_arguments(seed, objects)),
        ]
        if masks == OWN:
            nodes.insert(1, ("segmenter", "osprey_ros.ros.segmenter.node", _segmenter_arguments()))
        children = [
            stack.enter_context(NodeProcess(name, module, arguments, output / f"{name}.log", os.environ))
            for name, module, arguments in nodes
        ]
        print(
            f"ROS domain {os.environ['ROS_DOMAIN_ID']}: waiting for {frames} frames described by the bundle "
            f"{opened.manifest.name} in {opened.root}",
            flush=True,
        )
        collected = collect(children, frames, timeout, record, MaskFrames() if masks == OWN else None)
        statuses = {child.name: child.stop() for child in children}
    for child in children:
        if statuses[child.name]:
            raise OspreyError(f"the {child.name} node ended with status {statuses[child.name]}:\n{last_lines(child)}")

    stamps = collected.complete()[:frames]
    entries = [entry for stamp in stamps for entry in compared(stamp, collected, tree)]
    print_table(entries, first=stamps[0])
    write_json(output / "objects.json", entries)
    save_image(output / "overlay.png", collected.overlays[stamps[-1]])
    write_gif(output / "overlay.gif", [collected.overlays[stamp] for stamp in stamps])
    count = Counter(entry["category_is"] for entry in entries)
    print(
        f"{len(entries)} objects in {len(stamps)} frames, bundle {opened.manifest.name}: category right for "
        f"{count[RIGHT]}, true but more general for {count[GENERAL]}, not sure for {count[UNSURE]}, wrong for "
        f"{count[WRONG]}"
    )
    if collected.masks is not None:
        print(_compared_masks(bundle, collected.masks, collected, entries, stamps, tree))
    print(f"wrote {', '.join(map(str, results))}")
    if record is not None:
        print(
            f"recorded {record}; describe it with osprey bag {record} --image /camera/image "
            "--segmentation /camera/segmentation --output DESCRIBED.mcap"
        )


def _node_arguments(bundle: str, masks: str) -> list[str]:
    ids = "/segmenter/ids" if masks == OWN else "/camera/segmentation"
    remapped = ["-r", "image:=/camera/image", "-r", f"segmentation:={ids}"]
    # Every frame shows another table, so there is nothing to remember.
    return ["--ros-args", *remapped, *_parameters(bundle=bundle, autostart="true", remember="false")]


def _segmenter_arguments() -> list[str]:
    return ["--ros-args", "-r", "image:=/camera/image", *_parameters(autostart="true")]


def _camera_arguments(seed: int, objects: str) -> list[str]:
    parameters = _parameters(seed=str(seed), rate="2.0", frames_per_scene="1", objects=objects)
    return ["--ros-args", "-r", "__ns:=/camera", *parameters]


def _parameters(**values: str) -> list[str]:
    return [argument for name, value in values.items() for argument in ("-p", f"{name}:={value}")]


def collect(
    children: Sequence[NodeProcess],
    frames: int,
    timeout: float,
    record: Path | None = None,
    masks: MaskFrames | None = None,
) -> Collected:
    """Receive messages until enough frames are complete.

    Args:
        children: The nodes.
        frames: Number of frames.
        timeout: Seconds.
        record: File for a recording of the camera; None for none.
        masks: Gets images and ids of all frames, if a segmenter draws the masks.

    Raises:
        OspreyError: A node ended, ``timeout`` seconds passed, or the camera cannot be recorded.
    """
    # Not at the top, because rclpy reads the environment that run() prepares.
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.signals import SignalHandlerOptions
    from sensor_msgs.msg import Image
    from std_msgs.msg import String

    from osprey_ros.ros import interfaces

    collected = Collected(masks=masks)
    # The demo handles signals itself, and ends both nodes.
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node("demo")
    recorder = None
    try:
        if record is not None:
            recorder = collected.recorder = camera_recorder(node, record)
        node.create_subscription(interfaces.ObjectDescriptionArray, "/osprey/objects", collected.add_objects, 10)
        node.create_subscription(String, "/camera/camera/truth", collected.add_truth, 10)
        node.create_subscription(Image, "/osprey/overlay", collected.add_overlay, 5)
        if masks is not None:
            masks.subscribe(node, Image)
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        deadline = time.monotonic() + timeout
        while len(collected.complete()) < frames:
            executor.spin_once(timeout_sec=0.2)
            _check(children, collected, frames, time.monotonic() > deadline, timeout)
        if recorder is not None:
            recorder.close()
            recorder = None
        return collected
    finally:
        if recorder is not None:
            recorder.abort()
        node.destroy_node()
        rclpy.try_shutdown()


def _check(children: Sequence[NodeProcess], collected: Collected, frames: int, late: bool, timeout: float) -> None:
    """Raise OspreyError if a node ended, or if it is too late."""
    for child in children:
        if child.status is not None:
            raise OspreyError(f"the {child.name} node ended with status {child.status}:\n{last_lines(child)}")
    if late:
        parts = (
            f"{len(collected.truths)} frames of the camera, {len(collected.objects)} described, "
            f"{len(collected.overlays)} overlays, {len(collected.complete())} complete"
        )
        logs = "\n".join(f"{child.name}:\n{last_lines(child)}" for child in children)
        raise OspreyError(f"{timeout:.0f} s were not enough for {frames} frames ({parts})\n{logs}")


def camera_recorder(node: Any, output: Path) -> CameraRecorder:
    """Return a recorder of the camera. Raises OspreyError if a package for recordings is not installed."""
    try:
        from osprey_sim.recorder import CameraRecorder
    except ImportError as error:
        raise OspreyError(f"--record needs {error.name}, which is not installed; pip install rosbags mcap") from error
    return CameraRecorder(node, output, "/camera")


def compared(stamp: int, collected: Collected, tree: KindTree | None = None) -> list[dict[str, Any]]:
    """Return the described objects of a frame with the truth about each, and whether the category is right.

    Args:
        stamp: The stamp of the frame.
        collected: The messages about it.
        tree: The kinds of the bundle, None if it has none.
    """
    truths = collected.truths[stamp]
    shown = None if collected.masks is None else collected.masks.shown(stamp)
    entries = []
    for described in collected.objects[stamp]:
        number = described["instance_id"]
        truth = truths.get(number if shown is None else shown.get(number, 0), _NO_TRUTH)
        verdict = judged(described["category"], truth["category"], tree) if truth is not _NO_TRUTH else NOTHING
        entries.append({"stamp": stamp / 1e9, **described, "truth": truth, "category_is": verdict})
    return entries


def _compared_masks(
    bundle: str,
    masks: MaskFrames,
    collected: Collected,
    entries: Sequence[dict[str, Any]],
    stamps: Sequence[int],
    tree: KindTree | None,
) -> str:
    """Return lines on how many objects have a mask, and on their categories with these and with exact masks."""
    own = Counter(str(entry["category_is"]) for entry in entries)
    others = own.pop(NOTHING, 0)
    exact = Counter(
        judged(category, collected.truths[stamp][number]["category"], tree)
        for stamp, number, category in exact_categories(bundle, masks, stamps)
        if number in collected.truths[stamp]
    )
    found = sum(len(set(masks.shown(stamp).values()) & set(masks.visible(stamp))) for stamp in stamps)
    visible = sum(len(masks.visible(stamp)) for stamp in stamps)
    return comparison({OWN: own, EXACT: exact}, found, visible, others)


def judged(category: str, truth: str, tree: KindTree | None = None) -> str:
    """Return whether a category is "right", "general" (a true kind above the right one), "unsure" or "wrong".

    Args:
        category: The answer. "unknown" and the root of the tree ("object") are "unsure".
        truth: The right category.
        tree: The kinds of the bundle, None if it has none.
    """
    if category == truth:
        return RIGHT
    if category == UNKNOWN or (tree is not None and category == tree.root):
        return UNSURE
    if tree is None:
        return WRONG
    named = tree.node_of(category)
    true = tree.node_of(truth) or tree.node_of(truth.removesuffix("s"))  # "shoes"
    if named is None or true is None:
        return WRONG
    if named == true:
        return RIGHT
    return GENERAL if tree.covers(named, true) else WRONG


def print_table(entries: Sequence[dict[str, Any]], first: int) -> None:
    """Print one line for each object. Times are seconds after the first frame."""
    rows = [("time", "id", "category", "description", "confidence", "truth", "")]
    for entry in entries:
        rows.append(
            (
                f"{entry['stamp'] - first / 1e9:.2f} s",
                str(entry["instance_id"]),
                entry["category"],
                entry["description"],
                f"{entry['confidence']:.2f}",
                entry["truth"]["short"],
                MARKS[entry["category_is"]],
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def last_lines(child: NodeProcess, count: int = 15) -> str:
    """Return the last lines of a node's output."""
    return "\n".join(child.output().splitlines()[-count:])


if __name__ == "__main__":
    sys.exit(main())
