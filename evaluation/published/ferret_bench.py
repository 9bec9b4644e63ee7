"""Ferret-Bench, judged: questions about regions against reference answers (arXiv 2310.07704).

Source: osprey/eval/ferret_bench_eval.py of CircleRadon/Osprey, commit deb0e57, which makes the answers, and
ferret/eval/eval_gpt_review_3newclass.py of apple/ml-ferret, commit 3c9e5c9, which has them judged.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from evaluation.published import judge
from evaluation.published.command import run_task
from evaluation.published.data import find_file, image_folder
from evaluation.published.gpt_description import region_items
from evaluation.published.judged import JudgedData, JudgedItem, JudgedTask, parse_file
from evaluation.published.texts import stripped
from osprey_ros.cli._edge import command
from osprey_ros.errors import InputError
from osprey_torch.readers.files import read_json, read_lines
from osprey_torch.readers.records import Skipped

# Category of the rule for each file of questions.
_RULES = {"box_refer_caption": "refer_desc", "box_refer_reason": "refer_reason"}
_FILES = ("question.jsonl", "context.jsonl", "answer.jsonl")


def read(
    data: Path, images: Path | None, annotations: Path | None, ferret: Path | None, skipped: Skipped
) -> JudgedData:
    """Read `box_refer_caption.json` or `box_refer_reason.json`, and Ferret's files for the judge.

    Args:
        data: Folder of the questions.
        images: Folder of the images.
        annotations: The file of the questions.
        ferret: Folder with question.jsonl, context.jsonl and answer.jsonl, in the order of the questions, and rule.json
            in it or above it; by default ``data``, if it has them. Without them only the answers can be made.
        skipped: Counts broken records.

    Raises InputError for files that do not belong together.
    """
    file = annotations or find_file(data, "box_refer_*.json", "--annotations")
    found = region_items(file, image_folder(data, images), skipped)
    items = [item for item, _, _ in found]
    folder = ferret or data
    if not all((folder / name).is_file() for name in _FILES):
        if ferret is not None:
            raise InputError(f"{ferret} lacks one of {', '.join(_FILES)}; give Ferret's folder of these questions")
        return JudgedData(items, {})
    questions, contexts, references = (read_lines(folder / name) for name in _FILES)
    of_image = {str(one["image"]): str(one["text"]) for one in contexts}
    rule_file = next((f / "rule.json" for f in (folder, folder.parent) if (f / "rule.json").is_file()), None)
    if rule_file is None:
        raise InputError(f"{folder} has no rule.json; copy Ferret's beside question.jsonl")
    needed = max((place for _, _, place in found), default=-1) + 1
    if min(len(questions), len(references)) < needed:
        raise InputError(f"{folder} has {len(questions)} questions and {len(references)} answers for {needed} items")
    rules = read_json(rule_file)
    judged = {}
    for item, _, place in found:
        category = str(questions[place].get("category", _RULES.get(file.stem)))
        if category not in rules:
            raise InputError(f"{rule_file} has no rule for the category {category!r}")
        image, rule = str(questions[place]["image"]), rules[category]
        if image not in of_image:
            raise InputError(f"{folder / 'context.jsonl'} has no context of {image}")
        judged[item.id] = JudgedItem(
            category,
            of_image[image],
            str(questions[place]["text"]),
            str(references[place]["text"]),
            rule["role"],
            rule["prompt"],
        )
    return JudgedData(items, judged)


class _FerretBench(JudgedTask):
    name = "ferret_bench"
    about = __doc__ or ""
    digits = 1

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        super().add_options(parser)
        parser.add_argument(
            "--ferret", type=Path, metavar="DIR", help="Ferret's question.jsonl, context.jsonl and answer.jsonl"
        )

    def stored(self, answer: str) -> str:
        return stripped(answer)

    def shown(self, stored: str) -> str:
        return judge.without_boxes(stored)

    def read(self, arguments: argparse.Namespace, skipped: Skipped) -> JudgedData:
        return read(arguments.data, arguments.images, arguments.annotations, arguments.ferret, skipped)


@command("osprey eval ferret_bench")
def main(argv: Sequence[str] | None = None) -> int:
    return run_task(_FerretBench(), argv, parse_file)


if __name__ == "__main__":
    raise SystemExit(main())
