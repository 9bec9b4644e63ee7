"""Measure accuracy on your own masks: `python -m evaluation.own_masks --bundle DIR --file JSON --images DIR`.

The file has the format of the reader own_masks: COCO annotations with a category and, optionally, a caption, a
description and attributes. An answer is right if it equals yours, except for upper case and a final period.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from osprey_ros.cli._edge import command
from osprey_ros.cli._options import Parser, add_figures_option
from osprey_ros.cli._output import write_figures
from osprey_ros.decoding.config import GenerationConfig
from osprey_ros.decoding.prompt import QUESTIONS
from osprey_ros.describer import Describer
from osprey_ros.errors import InputError, OspreyError
from osprey_ros.regions.regions import regions_from_masks
from osprey_ros.vision.image_io import load_image
from osprey_torch.readers.coco import own_masks
from osprey_torch.readers.records import Record, Skipped
from osprey_torch.readers.usable import decoded_masks, usable_records

_OWN_WORDS = GenerationConfig(back_off=False)  # a more general category would count as wrong


@dataclass(frozen=True)
class Share:
    """Result of a question about the regions of a category."""

    question: str
    category: str
    asked: int
    right: int
    instead: dict[str, int]  # the most frequent wrong answers with their counts


def judge(describer: Describer, records: Iterable[Record], skipped: Skipped) -> list[Share]:
    """Ask the questions of the records, and return shares by question and true category.

    All regions of an image are asked about together. Records that cannot be used are counted in ``skipped``.
    """
    answered: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for record in usable_records(records, skipped):
        wanted = {(turn.regions[0], turn.question): turn.answer for (turn,) in record.dialogues}
        rows = sorted({row for row, _ in wanted})
        try:
            rgb = load_image(record.image)
            masks = decoded_masks(record, rows, (rgb.shape[0], rgb.shape[1]))
        except OspreyError as error:
            skipped.add(record.origin, str(error))
            continue
        describer.set_image(rgb)
        questions = list(dict.fromkeys(question for _, question in wanted))
        answers = describer.answer(regions_from_masks(masks), questions, _OWN_WORDS)
        for question, results in zip(questions, answers, strict=True):
            for row, result in zip(rows, results, strict=True):
                key = (row, question)
                if key in wanted:
                    category = wanted[row, QUESTIONS["category"]]
                    answered[question, category].append((wanted[key], result.text))
    shares = []
    for (question, category), pairs in answered.items():
        wrong = Counter(found for true, found in pairs if _plain(found) != _plain(true))
        right = len(pairs) - wrong.total()
        shares.append(Share(question, category, len(pairs), right, dict(wrong.most_common(3))))
    return shares


@command("own_masks")
def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", required=True, metavar="DIR", help="folder or name of the engine bundle")
    parser.add_argument("--file", type=Path, required=True, metavar="JSON", help="annotations")
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="folder of the images")
    add_figures_option(parser)
    arguments = parser.parse_args(argv)
    skipped = Skipped()
    shares = judge(Describer(arguments.bundle), own_masks(arguments.file, arguments.images, skipped), skipped)
    if skipped.total:
        print(skipped.summary(), file=sys.stderr)
    if not shares:
        raise InputError(f"nothing to judge: {arguments.file} has no usable mask")
    for question in dict.fromkeys(share.question for share in shares):
        asked = [share for share in shares if share.question == question]
        right, count = sum(share.right for share in asked), sum(share.asked for share in asked)
        print(f"{question} {100 * right / count:.1f} % of {count}")
        for share in sorted(asked, key=lambda share: share.right / share.asked):
            instead = ", ".join(f"{text!r} {times}" for text, times in share.instead.items())
            print(f"  {share.category}: {share.right} of {share.asked}{f'; instead: {instead}' if instead else ''}")
    write_figures(arguments.json, [asdict(share) for share in shares])
    return 0


def _plain(text: str) -> str:
    return text.lower().strip().rstrip(".")


if __name__ == "__main__":
    raise SystemExit(main())
