"""`osprey ask`: which object is meant by some words, of a running node or of a picture with masks."""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from osprey_ros.cli._options import positive
from osprey_ros.decoding.prompt import check_text
from osprey_ros.errors import InputError

if TYPE_CHECKING:
    from osprey_ros.scene.types import SceneObject

NOTHING_FOUND = 1
TIMEOUT = 10.0  # seconds


def add_arguments(command: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    command.add_argument("question", help="words about an object, such as 'where is the red mug?'")
    command.add_argument("--limit", type=positive, default=0, metavar="N", help="print the N likeliest objects at most")
    command.add_argument("--json", action="store_true", help="print one JSON object")
    node = command.add_argument_group("a running node (ROS 2 is needed)")
    node.add_argument("--node", default="/osprey", metavar="NAME", help="full name of the node (default: %(default)s)")
    node.add_argument(
        "--timeout",
        type=_seconds,
        default=TIMEOUT,
        metavar="SECONDS",
        help="how long to wait for the node, and for its answer (default: %(default)g)",
    )
    picture = command.add_argument_group("or a picture")
    picture.add_argument("--image", type=Path, metavar="PATH", help="the picture, of any common format")
    picture.add_argument("--masks", type=Path, metavar="PATH", help="its regions, as of `osprey describe`")
    picture.add_argument(
        "--bundle", default="nano", metavar="DIR", help="folder or name of the engine bundle (default: %(default)s)"
    )
    picture.add_argument("--threads", type=positive, metavar="N", help="CPU threads (default: one per core)")


def ask(arguments: argparse.Namespace) -> int:
    """Prints what is found. Returns the exit status: 1 where nothing is."""
    if (arguments.image is None) != (arguments.masks is None):
        raise InputError("a picture is asked about with its regions: give both --image and --masks, or neither")
    check_text(arguments.question, "the question")
    answer = _ask_node(arguments) if arguments.image is None else _ask_picture(arguments)
    if arguments.json:
        print(json.dumps(answer, indent=2))
    else:
        _print_table(answer)
    return 0 if answer["matches"] else NOTHING_FOUND


def _ask_picture(arguments: argparse.Namespace) -> dict[str, Any]:
    from osprey_ros.cli.bundle import unverified_warning
    from osprey_ros.describer import Describer
    from osprey_ros.frame import Frame
    from osprey_ros.pipeline import Pipeline
    from osprey_ros.query.finder import Finder
    from osprey_ros.regions.files import load_regions
    from osprey_ros.scene.settings import StepSettings
    from osprey_ros.vision.image_io import load_image

    frame = Frame(stamp=0, frame_id="", rgb=load_image(arguments.image), regions=load_regions(arguments.masks))
    describer = Describer(arguments.bundle, threads=arguments.threads)
    pipeline, finder = Pipeline(describer), Finder(describer)
    manifest = describer.bundle.manifest
    if not manifest.verified:
        print(unverified_warning(manifest), file=sys.stderr)
    finder.check(arguments.question)  # before the regions are described
    # Without memory the objects' track ids, which reasons name, are the ids of the masks.
    settings = StepSettings(min_area=1, max_regions=len(frame.regions), remember=False)
    result = pipeline.step(frame, settings)
    found = finder.find(arguments.question, result.objects, pipeline.latest, arguments.limit)
    things = {thing.track_id: thing for thing in result.objects}
    return {
        "question": arguments.question,
        "image": str(arguments.image),
        "message": found.message,
        "matches": [_entry(things[match.track_id], match.score, match.reason) for match in found.matches],
    }


def _entry(thing: SceneObject, score: float, reason: str) -> dict[str, Any]:
    return {
        "id": thing.instance_id,
        "score": round(score, 4),
        "reason": reason,
        "category": thing.category,
        "description": thing.description,
        "confidence": round(thing.caption.confidence, 4) if thing.caption else 0.0,
        "box": list(thing.box),
    }


def _ask_node(arguments: argparse.Namespace) -> dict[str, Any]:
    try:
        from osprey_ros.ros.services.client import query_node
    except ImportError as error:
        raise InputError(
            f"a node can only be asked with ROS 2 ({error}): source it, or give --image and --masks"
        ) from error
    response = query_node(arguments.node, arguments.question, arguments.limit, arguments.timeout)
    if not response.success:
        raise InputError(f"{arguments.node} cannot answer: {response.message}")
    stamp = response.header.stamp
    return {
        "question": arguments.question,
        "node": arguments.node,
        "stamp": f"{stamp.sec}.{stamp.nanosec:09d}",
        "frame_id": response.header.frame_id,
        "message": response.message,
        "matches": [_message_entry(match) for match in response.matches],
    }


def _message_entry(match: Any) -> dict[str, Any]:
    thing = match.object
    roi, position = thing.roi, thing.position
    return {
        "id": thing.track_id,
        "score": round(match.score, 4),
        "reason": match.reason,
        "category": thing.category,
        "description": thing.description,
        "confidence": round(thing.confidence, 4),
        "box": [roi.x_offset, roi.y_offset, roi.width, roi.height],
        "visible": thing.visible,
        "position": [round(v, 4) for v in (position.x, position.y, position.z)] if thing.has_position else None,
    }


def _print_table(answer: dict[str, Any]) -> None:
    if answer["message"]:  # why nothing was found, or the words that were left out
        print(answer["message"])
    if not answer["matches"]:
        return
    print(f"{'score':>5}  {'id':>5}  {'x, y, width, height':<22}  {'place (m)':<20}  description")
    for entry in answer["matches"]:
        box = ", ".join(str(v) for v in entry["box"])
        position = entry.get("position")
        place = ", ".join(f"{v:.2f}" for v in position) if position else ""
        words = entry["description"] or entry["category"]
        if not entry.get("visible", True):
            words += " (not in view)"
        print(f"{entry['score']:>5.2f}  {entry['id']:>5}  {box:<22}  {place:<20}  {words}")


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is no time in seconds above 0")
    return value
