"""The command ``osprey bag``: describe the objects of a recording."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from osprey_ros.cli._options import (
    above_zero,
    add_attributes_option,
    add_back_off_option,
    add_crops_option,
    add_engine_options,
    add_json_option,
    add_max_new_tokens_option,
    add_min_confidence_option,
    add_region_options,
    add_style_option,
    add_verbose_option,
    not_negative,
    positive,
)
from osprey_ros.cli._output import warn_if_unverified
from osprey_ros.cli._signals import stop_on_signals
from osprey_ros.errors import OspreyError
from osprey_ros.messages.synchronizer import MAX_SLOP
from osprey_ros.regions.label_values import INSTANCES, MEANINGS, LabelValues
from osprey_ros.strict_json import to_json

if TYPE_CHECKING:
    from osprey_ros.recording.annotate import Report
    from osprey_ros.recording.frames import Plan
    from osprey_ros.recording.reader import Recording

INCOMPLETE = 1  # some frames could not be described
_INSTALL = "pip install rosbags mcap"
_LIBRARIES = ("rosbags", "mcap", "ruamel", "apsw", "lz4", "zstandard", "backports")


def add_command(commands: Any) -> None:
    """Add ``osprey bag`` to the commands."""
    command = commands.add_parser(
        "bag",
        help="describe the objects of a recording (rosbag2)",
        description="Copy a recording to MCAP and add a topic with described objects. ROS is not needed. "
        "Exit status: 0; 1 if some frames could not be described; 130 after Ctrl-C and 143 after SIGTERM, which leave "
        "a readable output with the frames until then; 2 for errors, which leave no output.",
    )
    command.add_argument("recording", type=Path, metavar="IN", help="a .mcap or .db3 file, or a rosbag2 folder")
    command.add_argument("--image", required=True, metavar="TOPIC", help="the images: Image or CompressedImage")
    command.add_argument(
        "--segmentation",
        required=True,
        metavar="TOPIC",
        help="their regions: an image of instance ids (raw, or compressed as PNG), RegionArray or Detection2DArray",
    )
    command.add_argument(
        "--output", required=True, type=Path, metavar="OUT", help="a new file NAME.mcap, or a new folder"
    )
    command.add_argument(
        "--segmentation-values",
        default=INSTANCES,
        choices=MEANINGS,
        help="meaning of the values of a segmentation: instances (ids), classes (each connected piece of a class is a "
        "region) or panoptic (class << 16 | instance) (default: %(default)s)",
    )
    command.add_argument(
        "--class-names", default="", metavar="NAMES", help="names of the classes 0, 1, 2 ..., separated by commas"
    )
    command.add_argument(
        "--background-classes",
        default="",
        metavar="NAMES",
        help="names or numbers of classes that are background, separated by commas",
    )
    command.add_argument(
        "--slop",
        default=0.0,
        type=_slop,
        metavar="S",
        help="largest difference in seconds between the stamps of image and segmentation, up to "
        f"{MAX_SLOP:g} (default: 0, equal stamps)",
    )
    some = command.add_mutually_exclusive_group()
    some.add_argument("--every", default=1, type=positive, metavar="N", help="describe each N-th frame only")
    some.add_argument(
        "--rate", default=0.0, type=above_zero, metavar="HZ", help="describe at most HZ frames per second"
    )
    command.add_argument("--overlay", action="store_true", help="also add images with regions and descriptions drawn")
    command.add_argument(
        "--node",
        default="/osprey",
        metavar="NAME",
        help="add the topics NAME/objects and NAME/overlay/compressed (default: %(default)s)",
    )
    command.add_argument(
        "--no-memory", action="store_true", help="describe each frame by itself, without earlier descriptions"
    )
    add_style_option(command)
    add_back_off_option(command)
    add_max_new_tokens_option(command)
    add_attributes_option(command)
    add_min_confidence_option(command)
    add_region_options(command, min_area=50, max_regions=32)
    add_crops_option(command)
    add_engine_options(command)
    add_json_option(command)
    add_verbose_option(command)
    command.set_defaults(run=run)


def _slop(text: str) -> float:
    """Return the seconds that a text stands for.

    Raises:
        argparse.ArgumentTypeError: The text is not a number, or larger than `MAX_SLOP`.
    """
    value = not_negative(text)
    if value > MAX_SLOP:
        raise argparse.ArgumentTypeError(
            f"{text!r} is more than {MAX_SLOP:g} s, which would match images with regions of other scenes"
        )
    return value


def run(arguments: argparse.Namespace) -> int:
    """Run ``osprey bag``.

    Options, bundle and topics are checked before the messages are read.

    Returns:
        The exit status: 0, INCOMPLETE, or that of the signal that ended the work (130, 143).

    Raises:
        OspreyError: Options, bundle, recording or output cannot be used.
    """
    try:
        from osprey_ros.recording.annotate import Annotator
        from osprey_ros.recording.frames import plan_frames
        from osprey_ros.recording.reader import Recording
        from osprey_ros.recording.types import MessageTypes, stamp_text
        from osprey_ros.recording.writer import check_output
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in _LIBRARIES:
            raise
        raise OspreyError(f"recordings need the library {error.name}, which is not installed; {_INSTALL}") from error
    from osprey_ros.bundle.bundle import Bundle
    from osprey_ros.cli._progress import progress_bar
    from osprey_ros.describer import Describer
    from osprey_ros.scene.attributes import attributes_from
    from osprey_ros.scene.settings import StepSettings
    from osprey_ros.system.cancellation import PolledToken

    check_output(arguments.output)
    values = LabelValues.of_texts(arguments.segmentation_values, arguments.class_names, arguments.background_classes)
    step = StepSettings(
        style=arguments.style,
        back_off=arguments.back_off,
        attributes=attributes_from(arguments.attributes),
        min_area=arguments.min_area,
        masks_anyway=arguments.masks_anyway,
        max_regions=arguments.max_regions,
        max_new_tokens=arguments.max_new_tokens or 0,
        crops=arguments.crops,
        min_confidence=arguments.min_confidence,
        remember=not arguments.no_memory,
    )
    bundle = Bundle.open(arguments.bundle).on_device(arguments.device)
    types, topics = MessageTypes(), (arguments.image, arguments.segmentation)
    with Recording(arguments.recording, types) as recording:
        annotator = Annotator(recording, *topics, types, step, arguments.node, arguments.overlay, values)
        describer = Describer(bundle, threads=arguments.threads, preprocessing=arguments.preprocessing)
        describer.check(
            [one.constraint for one in step.attributes], [one.question for one in step.attributes], arguments.crops
        )
        warn_if_unverified(bundle.manifest)
        with progress_bar("reading stamps", " messages", recording.message_count) as bar:
            plan = plan_frames(recording, *topics, arguments.slop, arguments.every, arguments.rate, progress=bar.update)
        with stop_on_signals() as stop, progress_bar("describing", " frames", len(plan.frames)) as bar:
            failed = 0

            def show(report: Report) -> None:
                nonlocal failed
                for stamp, reason in report.failed[failed:]:
                    bar.write(f"osprey: frame {stamp_text(stamp)} not described: {reason}", file=sys.stderr)
                failed = len(report.failed)
                bar.update(report.described + failed - bar.n)

            report = annotator.run(describer, plan, arguments.output, show, PolledToken(stop.is_set))
        _print_summary(arguments, recording, plan, report, annotator.objects_topic)
    if report.stopped:
        return stop.status
    return INCOMPLETE if report.failed else 0


def _print_summary(arguments: argparse.Namespace, recording: Recording, plan: Plan, report: Report, topic: str) -> None:
    frames, notes = len(plan.frames), list(_notes(arguments, recording, plan, report))
    if arguments.json:
        named = {"output": str(arguments.output), "bundle": arguments.bundle, "topic": topic, "frames": frames}
        summary = {**named, **asdict(report), "notes": notes}
        summary["failed"] = [{"stamp": stamp, "reason": reason} for stamp, reason in report.failed]
        print(to_json(summary, indent=2))
        return
    empty = f" ({report.empty} of them without a region)" if report.empty else ""
    print(
        f"{arguments.output}: {report.described} of {frames} frames described{empty} with bundle {arguments.bundle}; "
        f"{report.objects} objects on {topic}, {report.descriptions} of them with a new description; "
        f"{report.kept} messages kept"
    )
    for note in notes:
        print(f"osprey: {note}", file=sys.stderr)


def _notes(arguments: argparse.Namespace, recording: Recording, plan: Plan, report: Report) -> Iterator[str]:
    from osprey_ros.recording.types import stamp_text

    yield from recording.notes
    if report.failed:
        yield f"{len(report.failed)} frames could not be described (named above)"
    if len(plan.frames) < plan.matched:
        yield f"{plan.matched - len(plan.frames)} frames left out by --every or --rate"
    for role, other in (("image", "segmentation"), ("segmentation", "image")):
        topic, stamps = getattr(arguments, role), plan.alone[role]
        if stamps:
            yield (
                f"{len(stamps)} messages of {topic} have no {other} within {arguments.slop:g} s "
                f"(stamps {stamp_text(stamps[0])} to {stamp_text(stamps[-1])})"
            )
        if plan.unstamped[role]:
            yield f"{plan.unstamped[role]} messages of {topic} have no stamp (it is 0), so they match no {other}"
        if plan.unreadable[role]:
            yield f"{plan.unreadable[role]} messages of {topic} are too short to have a stamp"
    if report.untyped:
        yield f"topics without a definition, which Foxglove cannot show: {', '.join(report.untyped)}"
    if report.stopped:
        yield "interrupted: the output is readable and ends there"
        return
    if recording.cut_off:
        yield f"{recording.path} ends in the middle of a record; the messages before it are kept"
    yield from recording.missing(report.kept)
