"""Make instruction data like Osprey-724K from masks and their facts, or from simulated scenes.

    python -m training.instructions --source coco_instances instances.json imgs --templates --output build/made
    python -m training.instructions --scenes 300 --templates --output build/scenes
    python -m training.instructions --source visual_genome vg.json imgs --output build/made \\
        --endpoint http://localhost:8000/v1 --model NAME --most-tokens 2000000

Writes osprey_*.json in the layout of Osprey-724K, which the readers of the same names read back, and masks.json, a COCO
file for the reader own_masks. A restarted run does not repeat requests to the endpoint.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from osprey_ros.cli._edge import command
from osprey_ros.cli._options import Parser, add_count_option, positive
from osprey_ros.cli._output import write_figures
from osprey_ros.errors import InputError
from osprey_sim.scene import SPLITS
from osprey_torch.chat.options import add_endpoint_options, opened_writer, spending
from osprey_torch.readers.records import Skipped
from osprey_torch.readers.registry import READERS
from training.instructions.facts import KnownImage, images_from_records, images_from_scenes, vocabulary
from training.instructions.files import FILES, KINDS, write_files
from training.instructions.maker import Made, make

BOUND_REACHED = 3


@command("instructions")
def main(argv: Sequence[str] | None = None) -> int:
    """Return 0, 2 for input that cannot be used, or BOUND_REACHED if the budget was used up."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.endpoint and not arguments.model:
        parser.error("--endpoint needs --model")
    known = _images(arguments)
    names = vocabulary(known)
    known = known[: arguments.images]
    made, spent = _make(arguments, known, names)
    write_files(arguments.output, made.contents)
    summary = {
        "pictures": len(known),
        "samples": dict(made.samples),
        "left_out": dict(made.refused),
        "not_asked": made.not_asked,
        **spent,
    }
    write_figures(arguments.output / "summary.json", summary)
    for kind, count in made.samples.items():
        print(f"{arguments.output / FILES[kind]}: {count} samples")
    for reason, count in sorted(made.refused.items()):
        print(f"left out, {reason}: {count}")
    if spent:
        print(
            f"{spent['tokens_sent']} tokens sent, {spent['tokens_received']} received, {spent['dollars']:.2f} dollars"
        )
    if made.not_asked:
        print(f"{made.not_asked} requests were not made: they could have passed the bound on spending")
        return BOUND_REACHED
    return 0


def _images(arguments: argparse.Namespace) -> list[KnownImage]:
    if arguments.scenes:
        scenes = images_from_scenes(arguments.scenes, arguments.split, arguments.output / "images", arguments.first)
        return list(tqdm(scenes, total=arguments.scenes, desc="scenes", mininterval=5, file=sys.stderr))
    reader, file, images = arguments.source
    if reader not in READERS:
        raise InputError(f"--source: unknown reader {reader!r}; known are {', '.join(READERS)}")
    skipped = Skipped()
    known = images_from_records(READERS[reader](Path(file), Path(images), skipped), Path(images), skipped)
    print(f"{file}: {len(known)} images; {skipped.summary()}", file=sys.stderr)
    if not known:
        raise InputError(f"{file}: no record says what a single region is, so there is nothing to make words from")
    return known


def _make(
    arguments: argparse.Namespace, known: list[KnownImage], names: Sequence[str]
) -> tuple[Made, dict[str, float]]:
    options = {"kinds": arguments.kinds, "seed": arguments.seed, "max_regions": arguments.max_regions}
    if arguments.templates:
        return make(known, names, **options), {}
    with opened_writer(arguments, arguments.output / "answers.jsonl") as writer:
        made = make(known, names, **options, writer=writer)
        return made, spending(writer)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m training.instructions",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--source", nargs=3, metavar=("READER", "FILE", "IMAGES"), help="a data set: its reader, annotations, images"
    )
    what.add_argument("--scenes", type=positive, metavar="N", help="N simulated scenes, rendered to OUTPUT/images")
    parser.add_argument("--split", choices=tuple(SPLITS), default="train", help="of the scenes (%(default)s)")
    parser.add_argument("--first", type=int, default=0, metavar="SEED", help="of the scenes (%(default)s)")
    parser.add_argument(
        "--images", "--pictures", type=positive, metavar="N", help="use the first N images of the data set"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), metavar="KIND", help=" ".join(KINDS))
    add_count_option(parser, "--max-regions", 8, "most regions of a record")
    parser.add_argument("--seed", type=int, default=0)
    words = parser.add_mutually_exclusive_group(required=True)
    words.add_argument("--templates", action="store_true", help="all words by templates")
    words.add_argument("--endpoint", metavar="URL", help="descriptions and conversations by a language model")
    group = parser.add_argument_group("with --endpoint")
    add_endpoint_options(group)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
