"""POPE: is an object in the image, yes or no (arXiv 2305.10355), as scored by osprey/eval/pope/evaluate.py."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.published.answers import Answers
from evaluation.published.command import Task, run_task
from evaluation.published.data import find_file, find_image, image_folder, read_records
from evaluation.published.items import Item, Measure, Scored
from evaluation.published.texts import prompt_text
from osprey_ros.cli._edge import command
from osprey_torch.readers.records import Skipped

OPENING = "image"


@dataclass(frozen=True)
class PopeData:
    """The questions, and the label of each: whether the object is there."""

    items: Sequence[Item]
    labels: Mapping[str, bool]


def read(data: Path, images: Path | None, annotations: Path | None, skipped: Skipped) -> PopeData:
    """Read `coco_pope_*.json`, JSON lines of question_id, image, text and label.

    Any label but "no" stands for yes, as in the published code. Raises InputError for a missing file; broken lines are
    counted.
    """
    file = annotations or find_file(data, "coco_pope_*.json", "--annotations")
    folder = image_folder(data, images)
    items: list[Item] = []
    labels: dict[str, bool] = {}
    for origin, record in read_records(file, skipped):
        with origin:
            number = str(record.get("question_id", len(items) + 1))
            if number in labels:
                raise ValueError(f"the question_id {number} occurs twice")
            text, label = str(record["text"]), str(record["label"])
            items.append(Item(number, find_image(folder, str(record["image"])), text, OPENING, truth=label))
            labels[number] = label != "no"
    return PopeData(items, labels)


def says_yes(answer: str) -> bool:
    """Return whether an answer counts as yes: unless a word of its first sentence is "no", "No" or "not".

    A sentence ends at the first full stop. Commas are deleted, and words are split at single spaces only, so "no!" and
    an empty answer are a yes.
    """
    words = answer.split(".")[0].replace(",", "").split(" ")
    return not {"no", "No", "not"} & set(words)


def score(data: PopeData, answers: Answers) -> Scored:
    """Return accuracy, precision, recall, F1 (positive is yes) and the share of yes.

    Answers are lower-cased first. A ratio without a denominator is NaN; the published code stops there.
    """
    kept = [item for item in data.items if item.id in answers.texts]
    fields: dict[str, dict[str, Any]] = {}
    for item in kept:
        stored = answers.texts[item.id].lower()
        fields[item.id] = {
            "prompt": prompt_text(item.question, item.opening),
            "stored": {"question": item.question, "answer": stored},
            "pred": int(says_yes(stored)),
            "label": int(data.labels[item.id]),
        }
    says = np.array([fields[item.id]["pred"] for item in kept], bool)
    true = np.array([fields[item.id]["label"] for item in kept], bool)
    groups, ids = [str(item.image) for item in kept], [item.id for item in kept]

    def measure(name: str) -> Measure:
        def compute(rows: np.ndarray) -> float:
            return float(ratios(says[rows], true[rows])[name])

        values = (says == true).astype(np.float64) if name == "accuracy" else None
        return Measure(name, groups, compute, ids, values)

    totals = ratios(says, true)
    shown = {name: totals[name] for name in _RATIOS}
    worst = {one: float(fields[one]["pred"] == fields[one]["label"]) for one in ids}
    return Scored(fields, totals, shown, [measure(name) for name in _RATIOS], worst)


_RATIOS = ("accuracy", "precision", "recall", "f1", "yes_ratio")


def ratios(says: np.ndarray, true: np.ndarray) -> dict[str, Any]:
    """Return counts and ratios of predictions and labels, bool [n] each; NaN where there is nothing to divide by."""
    tp, fp = int((says & true).sum()), int((says & ~true).sum())
    tn, fn = int((~says & ~true).sum()), int((~says & true).sum())
    precision, recall = _share(tp, tp + fp), _share(tp, tp + fn)
    return {
        "TP": tp,
        "FP": fp,
        "TN": tn,
        "FN": fn,
        "accuracy": _share(tp + tn, len(says)),
        "precision": precision,
        "recall": recall,
        "f1": _share(2 * precision * recall, precision + recall),
        "yes_ratio": _share(tp + fp, len(says)),
    }


def _share(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


class _Pope(Task):
    name = "pope"
    about = __doc__ or ""

    def read(self, arguments: argparse.Namespace, skipped: Skipped) -> PopeData:
        return read(arguments.data, arguments.images, arguments.annotations, skipped)

    def score(
        self, data: PopeData, answers: Answers, arguments: argparse.Namespace, skipped: Skipped, name: str
    ) -> Scored:
        return score(data, answers)


@command("osprey eval pope")
def main(argv: Sequence[str] | None = None) -> int:
    return run_task(_Pope(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
