"""The command line ``osprey``: descriptions of pictures and of recordings without a robot, and questions to one."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from osprey_ros.cli._options import positive
from osprey_ros.cli.ask import add_arguments as add_ask_arguments
from osprey_ros.cli.bag import add_arguments as add_bag_arguments
from osprey_ros.decoding.prompt import QUESTIONS
from osprey_ros.errors import OspreyError

if TYPE_CHECKING:
    from osprey_ros.bundle.manifest import Manifest
    from osprey_ros.regions.regions import Regions
    from osprey_ros.results import Result

USAGE_ERROR = 2
# What a shell reports for a program that a signal ended: SIGINT, SIGPIPE.
INTERRUPTED = 130
OUTPUT_CLOSED = 141


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command. Returns the exit status: that of the command, 0 unless its help says more.

    It is 2, with one line on standard error, for input that is no good.
    """
    arguments = _parser().parse_args(argv)
    try:
        status = arguments.run(arguments)
        sys.stdout.flush()
    except OspreyError as error:
        print(f"osprey: error: {error}", file=sys.stderr)
        return USAGE_ERROR
    except BrokenPipeError:
        # Whoever read the output has had enough, as `| head` does. Python flushes once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OUTPUT_CLOSED
    except KeyboardInterrupt:
        return INTERRUPTED
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="osprey", description="Describes the objects of a picture, given their masks."
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_describe(commands)
    _add_bundle(commands)
    _add_bag(commands)
    _add_ask(commands)
    return parser


def _add_describe(commands: Any) -> None:
    command = commands.add_parser(
        "describe",
        help="words about every region of a picture",
        description="Prints words about every region of a picture, all regions computed together.",
    )
    command.add_argument("--image", required=True, type=Path, metavar="PATH", help="the picture, of any common format")
    command.add_argument(
        "--masks",
        required=True,
        type=Path,
        metavar="PATH",
        help="a grey PNG (up to 16 bits) whose values are region ids with 0 as background, or a folder of binary PNGs",
    )
    command.add_argument(
        "--bundle", default="nano", metavar="DIR", help="folder or name of the engine bundle (default: %(default)s)"
    )
    question = command.add_mutually_exclusive_group()
    question.add_argument(
        "--style", default="short", choices=tuple(QUESTIONS), help="which description (default: %(default)s)"
    )
    question.add_argument(
        "--ask", metavar="QUESTION", help="ask this about every region; <mask><pos> in it is where the region is named"
    )
    command.add_argument("--max-new-tokens", type=positive, metavar="N", help="longest answer, in tokens")
    command.add_argument("--threads", type=positive, metavar="N", help="CPU threads (default: one per core)")
    command.add_argument("--json", action="store_true", help="print one JSON object, with boxes, areas and timing")
    command.add_argument(
        "--overlay", type=Path, metavar="OUT", help="also write the picture with regions and words drawn"
    )
    command.set_defaults(run=_describe)


def _add_bundle(commands: Any) -> None:
    parser = commands.add_parser(
        "bundle", help="what an engine bundle is, and whether it is whole", description="Looks into engine bundles."
    )
    bundle_commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    show = bundle_commands.add_parser(
        "show",
        help="engines, files, precisions and verification figures",
        description="Prints what a bundle says of itself. Only the sizes of its files are checked.",
    )
    verify = bundle_commands.add_parser(
        "verify",
        help="read every file again and compare it with the manifest",
        description="Reads every file of a bundle, compares it with the manifest, and prints every fault. "
        "Exit status: 0 if the bundle is whole, 1 if it has faults, 2 if there is no bundle to check.",
    )
    for command, run in ((show, _show_bundle), (verify, _verify_bundle)):
        command.add_argument("bundle", metavar="DIR", help="folder or name of the engine bundle")
        command.add_argument("--json", action="store_true", help="print one JSON object")
        command.set_defaults(run=run)


def _add_bag(commands: Any) -> None:
    command = commands.add_parser(
        "bag",
        help="describe the objects of a recording (rosbag2)",
        description="Copy a recording to MCAP and add a topic with described objects. ROS is not needed. "
        "Exit status: 0; 1 if some frames could not be described; 130 after Ctrl-C, which leaves a readable "
        "output with the frames until then; 2 for errors, which leave no output.",
    )
    add_bag_arguments(command)
    command.set_defaults(run=_annotate_bag)


def _add_ask(commands: Any) -> None:
    command = commands.add_parser(
        "ask",
        help="which object is meant by some words, of a running node or of a picture",
        description="Finds objects by words and prints the likeliest first. Exit status: 0, or 1 if nothing is found.",
    )
    add_ask_arguments(command)
    command.set_defaults(run=_ask)


# What the commands need is imported in them: `osprey --help` needs neither numpy nor onnxruntime.


def _show_bundle(arguments: argparse.Namespace) -> int:
    from osprey_ros.cli.bundle import show

    return show(arguments)


def _verify_bundle(arguments: argparse.Namespace) -> int:
    from osprey_ros.cli.bundle import verify

    return verify(arguments)


def _annotate_bag(arguments: argparse.Namespace) -> int:
    from osprey_ros.cli.bag import annotate

    return annotate(arguments)


def _ask(arguments: argparse.Namespace) -> int:
    from osprey_ros.cli.ask import ask

    return ask(arguments)


def _describe(arguments: argparse.Namespace) -> int:
    from osprey_ros.cli.bundle import unverified_warning
    from osprey_ros.describer import Describer
    from osprey_ros.regions.files import load_regions
    from osprey_ros.vision.image_io import check_image_name, load_image, save_image
    from osprey_ros.viz.overlay import overlay

    if arguments.overlay is not None:
        check_image_name(arguments.overlay)
    rgb = load_image(arguments.image)
    regions = load_regions(arguments.masks)
    describer = Describer(arguments.bundle, threads=arguments.threads)
    describer.set_image(rgb)
    if arguments.ask is not None:
        result = describer.ask(regions, arguments.ask, arguments.max_new_tokens)
    else:
        result = describer.describe(regions, arguments.style, arguments.max_new_tokens)
    manifest = describer.bundle.manifest
    if not manifest.verified:
        print(unverified_warning(manifest), file=sys.stderr)
    if arguments.json:
        print(json.dumps(_report(arguments, manifest, regions, result), indent=2))
    else:
        _print_table(regions, result)
    # The words come first: should the picture fail, they are not lost.
    if arguments.overlay is not None:
        scale = max(1, 960 // max(rgb.shape[:2]))
        save_image(arguments.overlay, overlay(rgb, regions, [d.text for d in result], scale))
    return 0


def _report(arguments: argparse.Namespace, manifest: Manifest, regions: Regions, result: Result) -> dict[str, Any]:
    return {
        "image": str(arguments.image),
        "masks": str(arguments.masks),
        "bundle": manifest.name,
        "verified": manifest.verified,
        "question": result.question,
        "size": {"width": regions.shape[1], "height": regions.shape[0]},
        "regions": [
            {
                "id": description.region_id,
                "box": [int(v) for v in regions.boxes[row]],
                "area": int(regions.areas[row]),
                "text": description.text,
                "confidence": round(description.confidence, 6),
            }
            for row, description in enumerate(result)
        ],
        "timing": asdict(result.timing),
    }


def _print_table(regions: Regions, result: Result) -> None:
    print(f"{'id':>6}  {'x, y, width, height':<22}  {'sure':>4}  description")
    for row, description in enumerate(result):
        box = ", ".join(str(v) for v in regions.boxes[row])
        print(f"{description.region_id:>6}  {box:<22}  {description.confidence:>4.2f}  {description.text}")
    print(f"{len(result)} regions in {result.timing.total:.2f} s", file=sys.stderr)
