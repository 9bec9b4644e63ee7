"""The command ``osprey annotate``: describe folders of images, data sets, videos and recordings."""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from osprey_ros.annotation.formats import COCO, FORMATS, check_formats
from osprey_ros.cli._options import (
    add_attributes_option,
    add_back_off_option,
    add_bundle_option,
    add_crops_option,
    add_json_option,
    add_machine_options,
    add_max_new_tokens_option,
    add_min_confidence_option,
    add_preprocessing_option,
    add_region_options,
    add_style_option,
    add_verbose_option,
    positive,
)
from osprey_ros.cli._segments import add_segmenter_option
from osprey_ros.cli._signals import stop_on_signals
from osprey_ros.strict_json import to_json

if TYPE_CHECKING:
    from osprey_ros.annotation.items import Item
    from osprey_ros.annotation.journal import Journal
    from osprey_ros.annotation.worker import Settings
    from osprey_ros.cli._signals import StopRequest

INCOMPLETE = 1  # some items were set aside


def add_command(commands: Any) -> None:
    """Add ``osprey annotate`` to the commands."""
    command = commands.add_parser(
        "annotate",
        help="describe folders of images, data sets, videos and recordings",
        description="Describe the regions of many images, with several processes. A run that was ended goes on where "
        "it was when it is started again with the same options. Exit status: 0; 1 if items were set aside, which "
        "failed.jsonl in the output names with reasons; 130 after Ctrl-C and 143 after SIGTERM; 2 for errors.",
    )
    command.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="a folder, an image, a COCO data set (.json), a video, a recording, or a pattern such as 'bags/*.mcap'",
    )
    command.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder of the results")
    command.add_argument(
        "--format",
        nargs="+",
        default=[COCO],
        choices=FORMATS,
        help="results to write: annotations.json, annotations.parquet or shard-NNNNNN.tar (default: coco); recordings "
        "are copied to DIR/recordings with a topic of objects",
    )
    command.add_argument(
        "--masks",
        type=Path,
        metavar="FOLDER",
        help="masks of images: NAME.png, NAME.json or the folder NAME, as for `osprey describe` (default: everything "
        "that the segmenter finds)",
    )
    command.add_argument(
        "--images", type=Path, metavar="FOLDER", help="images of data sets (default: the folder of the .json file)"
    )
    _add_run_options(command)
    add_segmenter_option(command)
    add_style_option(command)
    add_back_off_option(command)
    add_max_new_tokens_option(command)
    add_attributes_option(command)
    add_min_confidence_option(command)
    add_region_options(command)
    add_crops_option(command)
    add_bundle_option(command)
    add_machine_options(command, threads=1)
    add_preprocessing_option(command)
    add_json_option(command)
    add_verbose_option(command)
    command.set_defaults(run=run)


def _add_run_options(command: Any) -> None:
    """Add the topics of recordings, and how the items are gone through."""
    command.add_argument("--image-topic", default="", metavar="TOPIC", help="images of recordings")
    command.add_argument("--segmentation-topic", default="", metavar="TOPIC", help="regions of recordings")
    command.add_argument(
        "--every",
        default=1,
        type=positive,
        metavar="N",
        help="describe each N-th frame of videos and recordings only (default: %(default)s)",
    )
    command.add_argument(
        "--workers",
        default=1,
        type=positive,
        metavar="N",
        help="processes, each with engines of its own; the results are the same (default: %(default)s)",
    )
    command.add_argument("--retry", action="store_true", help="also describe again what was set aside before")


def run(arguments: argparse.Namespace) -> int:
    """Run ``osprey annotate``.

    Returns:
        The exit status: 0, INCOMPLETE, or that of the signal that ended the work (130, 143).

    Raises:
        OspreyError: An input, an option, the bundle or the output cannot be used.
        OSError: A result cannot be written.
    """
    from osprey_ros.annotation.items import RECORDING, find_items
    from osprey_ros.annotation.journal import Journal
    from osprey_ros.annotation.outputs import FAILED, write_outputs
    from osprey_ros.errors import InputError

    check_formats(arguments.format)
    settings = _settings(arguments)
    items = find_items(arguments.inputs, arguments.masks, arguments.images)
    recordings = sum(item.kind == RECORDING for item in items)
    if recordings and not (settings.image_topic and settings.segmentation_topic):
        raise InputError(f"the inputs have {recordings} recordings; give --image-topic and --segmentation-topic")
    known = {**asdict(settings), **{name: str(getattr(arguments, name) or "") for name in ("masks", "images")}}
    with stop_on_signals() as stop, Journal(arguments.output, known) as journal:
        left = [item for item in items if item.key not in journal or (arguments.retry and journal.failed(item.key))]
        rates = _describe(arguments, settings, left, journal, stop)
        summary: dict[str, Any] = {
            "output": str(arguments.output),
            "items": len(items),
            "done_before": len(items) - len(left),
            "done_now": sum(rate["items"] for rate in rates),
            "workers": rates,
        }
        stopped = stop.is_set()
        if not stopped:
            summary["set_aside"] = write_outputs(arguments.output, items, journal, arguments.format)
    if arguments.json:
        print(to_json(summary, indent=2))
    else:
        done = summary["done_before"] + summary["done_now"]
        print(f"{arguments.output}: {done} of {len(items)} items, {summary['done_before']} of them in earlier runs")
        for rate in rates:
            print(f"  process {rate['process']}: {rate['items']} items, {rate['items_per_second']:.2f} per second")
    if stopped:
        print("osprey: interrupted; the same command goes on from here", file=sys.stderr)
        return stop.status
    if summary["set_aside"]:
        print(f"osprey: {summary['set_aside']} set aside, see {arguments.output / FAILED}", file=sys.stderr)
        return INCOMPLETE
    return 0


def _settings(arguments: argparse.Namespace) -> Settings:
    from osprey_ros.annotation.worker import Settings

    names = [name for name in Settings.__dataclass_fields__ if name != "attributes"]
    return Settings(attributes=tuple(arguments.attributes), **{name: getattr(arguments, name) for name in names})


def _describe(
    arguments: argparse.Namespace, settings: Settings, left: list[Item], journal: Journal, stop: StopRequest
) -> list[dict[str, Any]]:
    """Describe items, add them to the journal, and return what each process did."""
    from osprey_ros.annotation.processes import describe_items
    from osprey_ros.cli._progress import progress_bar

    counts: dict[int, int] = defaultdict(int)
    seconds: dict[int, float] = defaultdict(float)
    if not left:
        return []
    with progress_bar("describing", " items", len(left)) as bar:
        for item, outcome in describe_items(left, settings, arguments.output, arguments.workers, stop.is_set):
            if outcome.record is None:
                journal.add(item.key, {"reason": outcome.reason})
                bar.write(f"osprey: {item.key} set aside: {outcome.reason}", file=sys.stderr)
            else:
                journal.add(item.key, {"record": outcome.record})
            counts[outcome.worker] += 1
            seconds[outcome.worker] += outcome.seconds
            bar.update(1)
    return [
        {
            "process": process,
            "items": counts[process],
            "seconds": round(seconds[process], 3),
            "items_per_second": round(counts[process] / seconds[process], 3) if seconds[process] else 0.0,
        }
        for process in sorted(counts)
    ]
