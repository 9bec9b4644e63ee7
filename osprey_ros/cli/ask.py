"""The command ``osprey ask``: find the objects that a phrase refers to, in an image or among those of a node."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from osprey_ros.cli._options import (
    above_zero,
    add_attributes_option,
    add_back_off_option,
    add_crops_option,
    add_engine_options,
    add_image_options,
    add_json_option,
    add_max_new_tokens_option,
    add_region_options,
    add_style_option,
    add_verbose_option,
    positive,
)
from osprey_ros.cli._output import box_text, file_width, warn_about_regions, warn_if_unverified
from osprey_ros.cli._segments import add_segment_option, image_with_regions
from osprey_ros.decoding.prompt import check_text
from osprey_ros.errors import InputError
from osprey_ros.file_errors import native_path
from osprey_ros.strict_json import to_json

if TYPE_CHECKING:
    from osprey_ros.scene.types import SceneObject

NOTHING_FOUND = 1
TIMEOUT = 10.0  # seconds


def add_command(commands: Any) -> None:
    """Add ``osprey ask`` to the commands."""
    command = commands.add_parser(
        "ask",
        help="find the objects that a phrase refers to",
        description="Find the objects that a phrase refers to, and print the most likely ones first; or answer how "
        "many there are, what has changed, or when an object was last seen. The objects are those of a running node, "
        "or those of an image if one is given. Exit status: 0, or 1 if nothing is found.",
    )
    command.add_argument("question", help="phrase or question about an object, such as 'where is the red mug?'")
    command.add_argument("--limit", type=positive, default=0, metavar="N", help="print at most N objects")
    add_json_option(command)
    node = command.add_argument_group("objects of a running node (needs ROS 2)")
    node.add_argument("--node", default="/osprey", metavar="NAME", help="full name of the node (default: %(default)s)")
    node.add_argument(
        "--timeout",
        type=above_zero,
        default=TIMEOUT,
        metavar="SECONDS",
        help="how long to wait for the node, and for its answer (default: %(default)g)",
    )
    image = command.add_argument_group("objects of an image")
    add_image_options(image, required=False)
    add_segment_option(image)
    add_style_option(image)
    add_back_off_option(image)
    add_max_new_tokens_option(image)
    add_attributes_option(image)
    add_region_options(image)
    add_crops_option(image)
    add_engine_options(image)
    add_verbose_option(command)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run ``osprey ask``.

    Returns:
        The exit status: 0, or NOTHING_FOUND.

    Raises:
        OspreyError: The question, the image, the bundle or the node cannot be used.
    """
    if arguments.image is None and (arguments.masks is not None or arguments.segment is not None):
        raise InputError("--masks and --segment are for an image; give --image, or leave them out to ask a node")
    check_text(arguments.question, "the question")
    answer = _ask_node(arguments) if arguments.image is None else _ask_image(arguments)
    if arguments.json:
        print(to_json(answer, indent=2))
    else:
        _print_table(answer)
    return 0 if answer["matches"] else NOTHING_FOUND


def _ask_image(arguments: argparse.Namespace) -> dict[str, Any]:
    from osprey_ros.bundle.bundle import Bundle
    from osprey_ros.describer import Describer
    from osprey_ros.frame import Frame
    from osprey_ros.pipeline import Pipeline
    from osprey_ros.query.finder import Finder
    from osprey_ros.query.world import World
    from osprey_ros.scene.attributes import attributes_from
    from osprey_ros.scene.settings import MAX_REGIONS, StepSettings

    attributes = attributes_from(arguments.attributes)
    rgb, masks = image_with_regions(arguments)
    frame = Frame(stamp=0, frame_id="", rgb=rgb, regions=masks.regions)
    bundle = Bundle.open(arguments.bundle).on_device(arguments.device)
    describer = Describer(bundle, threads=arguments.threads, preprocessing=arguments.preprocessing)
    pipeline, finder = Pipeline(describer), Finder(describer)
    warn_if_unverified(bundle.manifest)
    describer.check((), crops=arguments.crops)
    finder.check(arguments.question)  # before the regions are described
    settings = StepSettings(
        style=arguments.style,
        back_off=arguments.back_off,
        attributes=attributes,
        min_area=arguments.min_area,
        max_regions=arguments.max_regions or min(len(masks.regions), MAX_REGIONS),
        max_new_tokens=arguments.max_new_tokens or 0,
        crops=arguments.crops,
        remember=False,  # so that track ids, which reasons name, are the ids of the masks
    )
    result = pipeline.step(frame, settings)
    memory = pipeline.memory
    answer = World(finder).answer(arguments.question, memory.snapshot(), memory.latest, limit=arguments.limit)
    found = answer.found
    objects = {thing.track_id: thing for thing in result.objects}
    files = dict(zip(masks.regions.ids.tolist(), masks.files, strict=True))
    warn_about_regions({thing.instance_id: thing.caption.reason for thing in result.objects if thing.caption}, files)
    return {
        "question": arguments.question,
        "image": native_path(arguments.image),
        "bundle": bundle.manifest.name,
        "answer": answer.text,
        "score": round(answer.score, 4),
        "message": found.message,
        "matches": [
            _entry(objects[match.track_id], match.score, match.reason, files[objects[match.track_id].instance_id])
            for match in found.matches
        ],
    }


def _entry(thing: SceneObject, score: float, reason: str, file: str) -> dict[str, Any]:
    from osprey_ros.annotation.answers import kinds_json

    return {
        "id": thing.instance_id,
        "file": file,
        "score": round(score, 4),
        "reason": reason,
        "category": thing.category,
        "kinds": kinds_json((kind.name, kind.probability) for kind in thing.caption.kinds) if thing.caption else [],
        "description": thing.description,
        "confidence": round(thing.caption.confidence, 4) if thing.caption else 0.0,
        "raw_confidence": round(thing.caption.raw_confidence, 4) if thing.caption else 0.0,
        "unlike_training": round(thing.caption.unlike_training, 4) if thing.caption else 0.0,
        "box": list(thing.box),
    }


def _ask_node(arguments: argparse.Namespace) -> dict[str, Any]:
    try:
        from osprey_ros.ros.services.client import query_node
    except ImportError as error:
        raise InputError(f"questions to a node need ROS 2 ({error}); source its setup file, or give --image") from error
    response = query_node(arguments.node, arguments.question, arguments.limit, arguments.timeout)
    if not response.success:
        raise InputError(f"{arguments.node} cannot answer: {response.message}")
    stamp = response.header.stamp
    return {
        "question": arguments.question,
        "node": arguments.node,
        "stamp": f"{stamp.sec}.{stamp.nanosec:09d}",
        "frame_id": response.header.frame_id,
        "answer": response.answer,
        "score": round(response.score, 4),
        "message": response.message,
        "matches": [_message_entry(match) for match in response.matches],
    }


def _message_entry(match: Any) -> dict[str, Any]:
    thing = match.object
    roi, position = thing.roi, thing.position
    from osprey_ros.annotation.answers import kinds_json

    return {
        "id": thing.track_id,
        "score": round(match.score, 4),
        "reason": match.reason,
        "category": thing.category,
        "kinds": kinds_json(zip(thing.kinds, thing.kind_probabilities, strict=True)),
        "description": thing.description,
        "confidence": round(thing.confidence, 4),
        "raw_confidence": round(thing.raw_confidence, 4),
        "unlike_training": round(thing.unlike_training, 4),
        "box": [roi.x_offset, roi.y_offset, roi.width, roi.height],
        "visible": thing.visible,
        "position": [round(v, 4) for v in (position.x, position.y, position.z)] if thing.has_position else None,
    }


def _print_table(answer: dict[str, Any]) -> None:
    from osprey_ros.query.world import Sort, WorldQuestion

    if WorldQuestion.read(answer["question"]).sort is not Sort.WHICH:  # else the table is the answer
        print(answer["answer"])
    elif answer["message"]:  # why nothing was found, or the words that were left out
        print(answer["message"])
    if not answer["matches"]:
        return
    names = [entry.get("file", "") for entry in answer["matches"]]
    wide = file_width(names)
    title = f"{'file':<{wide}}  " if wide else ""
    print(f"{'score':>5}  {'id':>5}  {title}{'x, y, width, height':<22}  {'place (m)':<20}  description")
    for entry, name in zip(answer["matches"], names, strict=True):
        box = box_text(entry["box"])
        position = entry.get("position")
        place = ", ".join(f"{v:.2f}" for v in position) if position else ""
        words = entry["description"] or entry["category"]
        if not entry.get("visible", True):
            words += " (not in view)"
        file = f"{name:<{wide}}  " if wide else ""
        print(f"{entry['score']:>5.2f}  {entry['id']:>5}  {file}{box:<22}  {place:<20}  {words}")
