"""The command ``osprey describe``: describe every region of an image."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from osprey_ros.cli._options import (
    add_attributes_option,
    add_back_off_option,
    add_crops_option,
    add_engine_options,
    add_image_options,
    add_json_option,
    add_max_new_tokens_option,
    add_min_confidence_option,
    add_region_options,
    add_style_option,
    add_verbose_option,
)
from osprey_ros.cli._output import box_text, file_width, warn_about_regions, warn_if_unverified
from osprey_ros.cli._segments import add_segment_option, image_with_regions
from osprey_ros.file_errors import native_path
from osprey_ros.strict_json import to_json

if TYPE_CHECKING:
    from osprey_ros.bundle.manifest import Manifest
    from osprey_ros.regions.regions import Regions
    from osprey_ros.timing import Timing

OVERLAY_WIDTH = 960  # pixels; the text on smaller images would be hard to read


def add_command(commands: Any) -> None:
    """Add ``osprey describe`` to the commands."""
    command = commands.add_parser(
        "describe",
        help="describe every region of an image",
        description="Describe every region of an image, or ask a question about every region. All regions are "
        "computed together.",
    )
    add_image_options(command, required=True)
    add_segment_option(command)
    question = command.add_mutually_exclusive_group()
    add_style_option(question)
    question.add_argument(
        "--ask",
        metavar="QUESTION",
        help="ask this question about every region; <mask><pos> in it stands for the region",
    )
    add_back_off_option(command)
    add_max_new_tokens_option(command)
    add_attributes_option(command)
    add_min_confidence_option(command)
    add_region_options(command)
    add_crops_option(command)
    add_engine_options(command)
    add_json_option(command)
    command.add_argument(
        "--overlay", type=Path, metavar="OUT", help="also write the image with regions and descriptions drawn on it"
    )
    add_verbose_option(command)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run ``osprey describe``.

    Returns:
        The exit status, 0.

    Raises:
        OspreyError: The image, its masks, the bundle or the question cannot be used, or the overlay not be written.
    """
    from osprey_ros.annotation.answers import largest_regions, region_answers
    from osprey_ros.bundle.bundle import Bundle
    from osprey_ros.decoding.config import GenerationConfig
    from osprey_ros.decoding.prompt import QUESTIONS
    from osprey_ros.describer import Describer
    from osprey_ros.scene.attributes import attributes_from
    from osprey_ros.vision.image_io import check_image_name, save_image
    from osprey_ros.viz.overlay import overlay

    if arguments.overlay is not None:
        check_image_name(arguments.overlay)
    attributes = attributes_from(arguments.attributes)
    rgb, masks = image_with_regions(arguments)
    files = dict(zip(masks.regions.ids.tolist(), masks.files, strict=True))
    regions = largest_regions(masks.regions, arguments.min_area, arguments.max_regions)
    bundle = Bundle.open(arguments.bundle).on_device(arguments.device)
    describer = Describer(bundle, threads=arguments.threads, preprocessing=arguments.preprocessing)
    describer.check((), crops=arguments.crops)
    describer.set_image(rgb)
    questions = [QUESTIONS[arguments.style] if arguments.ask is None else arguments.ask]
    results = describer.answer(
        regions,
        [*questions, *(attribute.question for attribute in attributes)],
        GenerationConfig(max_new_tokens=arguments.max_new_tokens, back_off=arguments.back_off, crops=arguments.crops),
        [None, *(attribute.constraint for attribute in attributes)],
    )
    timing = describer.image_timing + results[0].timing
    answers = region_answers(results, attributes, arguments.min_confidence)
    names = [files[int(region)] for region in regions.ids]
    warn_about_regions({description.region_id: description.reason for description in results[0]}, files)
    warn_if_unverified(bundle.manifest)
    if arguments.json:
        known = [{"file": name, **answer} for name, answer in zip(names, answers, strict=True)]
        print(to_json(_report(arguments, bundle.manifest, regions, results[0].question, known, timing), indent=2))
    else:
        _print_table(regions, names, answers)
        print(f"{len(answers)} regions in {timing.total:.2f} s with bundle {bundle.manifest.name}", file=sys.stderr)
    # Last, so that the descriptions are not lost if the file cannot be written.
    if arguments.overlay is not None:
        scale = max(1, OVERLAY_WIDTH // max(rgb.shape[:2]))
        save_image(arguments.overlay, overlay(rgb, regions, [answer["text"] for answer in answers], scale))
    return 0


def _with_guess(answer: dict[str, Any]) -> str:
    """Return the text of an answer, with the most likely kind if that is more specific: "cup (coffee mug 0.45)"."""
    kinds, text = answer["kinds"], str(answer["text"])
    if not kinds or kinds[0]["name"] == text:
        return text
    return f"{text} ({kinds[0]['name']} {kinds[0]['probability']:.2f})"


def _report(
    arguments: argparse.Namespace,
    manifest: Manifest,
    regions: Regions,
    question: str,
    answers: Sequence[dict[str, Any]],
    timing: Timing,
) -> dict[str, Any]:
    return {
        "image": native_path(arguments.image),
        "masks": None if arguments.masks is None else native_path(arguments.masks),
        "bundle": manifest.name,
        "verified": manifest.verified,
        "question": question,
        "size": {"width": regions.shape[1], "height": regions.shape[0]},
        "regions": [
            {
                "id": int(regions.ids[row]),
                "box": [int(v) for v in regions.boxes[row]],
                "area": int(regions.areas[row]),
                **answer,
            }
            for row, answer in enumerate(answers)
        ],
        "timing": asdict(timing),
    }


def _print_table(regions: Regions, names: Sequence[str], answers: Sequence[dict[str, Any]]) -> None:
    wide = file_width(names)
    title = f"{'file':<{wide}}  " if wide else ""
    print(f"{'id':>6}  {title}{'x, y, width, height':<22}  {'confidence':>10}  description")
    for row, answer in enumerate(answers):
        text = "; ".join(
            [_with_guess(answer), *(f"{name}: {found['value']}" for name, found in answer["attributes"].items())]
        )
        file = f"{names[row]:<{wide}}  " if wide else ""
        box = box_text(regions.boxes[row])
        print(f"{regions.ids[row]:>6}  {file}{box:<22}  {answer['confidence']:>10.2f}  {text}")
