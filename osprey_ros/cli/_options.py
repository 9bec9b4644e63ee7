"""Options that several commands share, and the types of their values.

An option has the same name, help text and default in every command that has it.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

from osprey_ros.bundle.default import VARIABLE, default_bundle
from osprey_ros.decoding.config import CROPS
from osprey_ros.decoding.prompt import QUESTIONS


class Parser(argparse.ArgumentParser):
    """A parser that does not accept abbreviated options, so that a new option cannot change what an old line means."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **options})


def positive(text: str) -> int:
    """Return the whole number of at least 1 that a text stands for.

    Raises:
        argparse.ArgumentTypeError: The text is something else.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def above_zero(text: str) -> float:
    """Return the finite number above 0 that a text stands for.

    Raises:
        argparse.ArgumentTypeError: The text is something else.
    """
    value = _number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def not_negative(text: str) -> float:
    """Return the finite number of 0 or more that a text stands for.

    Raises:
        argparse.ArgumentTypeError: The text is something else.
    """
    value = _number(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of 0 or more")
    return value


def fraction(text: str) -> float:
    """Return the number from 0 to 1 that a text stands for.

    Raises:
        argparse.ArgumentTypeError: The text is something else.
    """
    value = _number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return value


def port_number(text: str) -> int:
    """Return the port, 0 to 65535, that a text stands for. Raises argparse.ArgumentTypeError."""
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port, 0 to 65535")
    return int(text)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def add_image_option(command: Any, required: bool) -> None:
    """Add --image."""
    command.add_argument(
        "--image", required=required, type=Path, metavar="PATH", help="image file (PNG, JPEG and other common formats)"
    )


def add_image_options(command: Any, required: bool) -> None:
    """Add --image and --masks."""
    add_image_option(command, required)
    command.add_argument(
        "--masks",
        type=Path,
        metavar="PATH",
        help="regions of the image: a gray or palette PNG (up to 16 bits) whose values are region ids, 0 for the "
        "background, a folder with one binary PNG per region, or a JSON file in COCO's layout (default: everything "
        "that the segmenter finds)",
    )


def add_bundle_option(command: Any) -> None:
    """Add --bundle."""
    command.add_argument(
        "--bundle",
        default=default_bundle(),
        metavar="DIR",
        help=f"folder or name of the engine bundle (default: %(default)s; the environment variable {VARIABLE} names "
        "another)",
    )


def add_threads_option(command: Any, threads: int | None = None) -> None:
    """Add --threads. ``threads``: the default, None for one per core."""
    default = "one per core" if threads is None else f"{threads}, for each process"
    command.add_argument(
        "--threads", default=threads, type=positive, metavar="N", help=f"CPU threads (default: {default})"
    )


def add_preprocessing_option(command: Any) -> None:
    """Add --preprocessing."""
    command.add_argument(
        "--preprocessing",
        default="exact",
        choices=("exact", "fast"),
        help="how images are resized; fast takes less time, is nearly the same, and is the default of the node "
        "(default: %(default)s)",
    )


def add_machine_options(command: Any, threads: int | None = None) -> None:
    """Add --device and --threads. ``threads``: as for `add_threads_option`."""
    command.add_argument(
        "--device", choices=("cpu", "cuda"), help="run the ONNX engines on this device (default: the bundle's own)"
    )
    add_threads_option(command, threads)


def add_engine_options(command: Any) -> None:
    """Add --bundle, --device, --threads and --preprocessing."""
    add_bundle_option(command)
    add_machine_options(command)
    add_preprocessing_option(command)


def add_region_options(command: Any, min_area: int = 1, max_regions: int | None = None) -> None:
    """Add --min-area, --masks-anyway and --max-regions. The defaults are those of an image."""
    command.add_argument(
        "--min-area",
        default=min_area,
        type=positive,
        metavar="N",
        help="ignore regions with fewer than N pixels (default: %(default)s)",
    )
    command.add_argument(
        "--masks-anyway",
        action="store_true",
        help="take an id image also if more than 64 of its ids cover fewer than 16 pixels each",
    )
    default = "all" if max_regions is None else max_regions
    command.add_argument(
        "--max-regions",
        default=max_regions,
        type=positive,
        metavar="N",
        help="describe at most N regions of an image and skip the others: large ones first, in a recording new ones "
        f"before changed ones (default: {default})",
    )


def add_style_option(command: Any) -> None:
    """Add --style."""
    command.add_argument(
        "--style", default="short", choices=tuple(QUESTIONS), help="kind of description (default: %(default)s)"
    )


def add_max_new_tokens_option(command: Any) -> None:
    """Add --max-new-tokens."""
    command.add_argument(
        "--max-new-tokens",
        type=positive,
        metavar="N",
        help="maximum length of an answer in tokens (default: depends on the question)",
    )


def add_back_off_option(command: Any) -> None:
    """Add --no-back-off."""
    command.add_argument(
        "--no-back-off",
        dest="back_off",
        action="store_false",
        help="name the category in the model's own word, also if the bundle has a tree of kinds (default: the most "
        "specific kind that is probable enough)",
    )


def add_crops_option(command: Any) -> None:
    """Add --crops."""
    command.add_argument(
        "--crops",
        default=CROPS[0],
        choices=CROPS,
        help="regions that the model reads a second time, in a crop of their own, for better answers; small: regions "
        "that are much larger in it; for bundles with an engine for crops (default: %(default)s)",
    )


def add_attributes_option(command: Any) -> None:
    """Add --attributes."""
    command.add_argument(
        "--attributes",
        action="append",
        default=[],
        metavar="ATTRIBUTE",
        help="also ask for an attribute of every object: NAME, 'NAME = RED | GREEN' or 'NAME = /PATTERN/', each "
        "optionally followed by '; QUESTION'; may be given more than once",
    )


def add_min_confidence_option(command: Any) -> None:
    """Add --min-confidence."""
    command.add_argument(
        "--min-confidence",
        type=fraction,
        default=0.0,
        metavar="P",
        help="replace answers with a lower confidence by 'unknown' (default: %(default)g)",
    )


def add_verbose_option(command: Any, name: str = "more_verbose") -> None:
    """Add --verbose, which is accepted before and behind the name of a command."""
    command.add_argument(
        "-v",
        "--verbose",
        action="count",
        default=0,
        dest=name,
        help="log what is done to standard error; twice: with details",
    )


def add_json_option(command: Any) -> None:
    """Add --json."""
    command.add_argument("--json", action="store_true", help="print one JSON object")


def add_count_option(command: Any, name: str, default: int, text: str) -> None:
    """Add an option for a whole number of at least 1; the default stands behind its help text."""
    command.add_argument(name, type=positive, default=default, metavar="N", help=f"{text} (default: %(default)s)")


def add_figures_option(command: Any) -> None:
    """Add --json of programs that measure."""
    command.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file")
