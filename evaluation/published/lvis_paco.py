"""Referring classification on LVIS and PACO: semantic similarity and overlap of words with the true category.

Source: osprey/eval/lvis_paco_eval.py of CircleRadon/Osprey, commit deb0e57.
"""

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
from evaluation.published.items import Item, Scored, mean_measure
from evaluation.published.sentences import SentenceEncoder, add_sentence_model_option, sentence_model_folder
from evaluation.published.texts import between_colons, prompt_text, stripped
from osprey_ros.cli._edge import command
from osprey_ros.decoding.prompt import QUESTIONS
from osprey_torch.readers.coco import mask_of
from osprey_torch.readers.records import Skipped
from osprey_torch.readers.segmentation import Segmentation

OPENING = "overview"


@dataclass(frozen=True)
class CategoryData:
    """The questions, and the category of each object as the file has it."""

    items: Sequence[Item]
    categories: Mapping[str, str]


def read(data: Path, images: Path | None, annotations: Path | None, skipped: Skipped) -> CategoryData:
    """Read `lvis_val_1k_category.json` or `paco_val_1k_category.json`.

    It is a list of images {file_name, height, width, categories, annotations}, where categories and annotations are
    parallel. An item is "file_name#index". Raises InputError for a missing file; broken images and objects are counted.
    """
    file = annotations or find_file(data, "*_category.json", "--annotations")
    folder = image_folder(data, images)
    items: list[Item] = []
    categories: dict[str, str] = {}
    for origin, record in read_records(file, skipped):
        with origin:
            name, height, width = str(record["file_name"]), int(record["height"]), int(record["width"])
            names, objects = record["categories"], record["annotations"]
            if len(names) != len(objects):
                raise ValueError(f"{name} has {len(names)} categories and {len(objects)} annotations")
            image = find_image(folder, name)
            for index, (category, annotation) in enumerate(zip(names, objects, strict=True)):
                one = f"{name}#{index}"
                try:
                    mask = mask_of(annotation, height, width)
                except (KeyError, TypeError, ValueError) as error:
                    skipped.add(f"{file}, {one}", str(error))
                    continue
                items.append(
                    Item(one, image, QUESTIONS["category"], OPENING, mask, truth_of(category), crowd=len(names))
                )
                categories[one] = category
    return CategoryData(items, categories)


def truth_of(category: str) -> str:
    """Return the words of a category: "_" and ":" become spaces."""
    return category.replace("_", " ").replace(":", " ")


def cleaned(answer: str) -> str:
    """Return what the published script compares: the part between the first two colons, with spaces for ".:,"."""
    text = between_colons(stripped(answer))
    return text.replace(".", " ").replace(":", " ").replace(",", " ")


def semantic_iou(answer: str, truth: str) -> float:
    """Return the overlap of the sets of lower-case words, 0 to 1."""
    words, true = set(answer.lower().split()), set(truth.lower().split())
    return len(words & true) / len(words | true) if words | true else 0.0


def normalized(text: str) -> str:
    """Return a text for the later normalization: lower-case words without punctuation, on both sides."""
    return " ".join("".join(c if c.isalnum() else " " for c in text.lower()).split())


def score(data: CategoryData, answers: Answers, encoder: SentenceEncoder) -> Scored:
    """Return semantic similarity (ss) and semantic IoU (siou) of each object, and their means.

    ``ss`` of the totals is a sum of float32 as in the published script; ``ss_float64_mean`` is the exact mean.
    ``ss_normalized`` and ``siou_normalized`` compare both sides after `normalized`; they are not the published figures.
    """
    kept = [item for item in data.items if item.id in answers.texts]
    fields: dict[str, dict[str, Any]] = {}
    for item in kept:
        assert isinstance(item.mask, Segmentation)
        text = answers.texts[item.id] if answers.stored else cleaned(answers.texts[item.id])
        plain, truth = normalized(text), normalized(item.truth)
        fields[item.id] = {
            "text": text,
            "truth": item.truth,
            "ss": encoder.similarity(text, item.truth),
            "siou": semantic_iou(text, item.truth),
            "ss_normalized": encoder.similarity(plain, truth),
            "siou_normalized": semantic_iou(plain, truth),
            "mask_pixels": item.mask.area,
            "prompt": prompt_text(item.question, item.opening),
        }
    columns = {name: [fields[item.id][name] for item in kept] for name in _NAMES}
    means = {name: float(np.mean(values)) if kept else float("nan") for name, values in columns.items()}
    running = np.float32(0)
    for value in columns["ss"]:
        running += np.float32(value)
    ss = float(running / np.float32(len(kept))) if kept else float("nan")
    siou = sum(columns["siou"]) / len(kept) if kept else float("nan")
    totals = {
        "ss": ss,
        "siou": siou,
        "ss_percent": 100 * ss,
        "siou_percent": 100 * siou,
        "n": len(kept),
        "ss_float64_mean": means["ss"],
        "ss_normalized": means["ss_normalized"],
        "siou_normalized": means["siou_normalized"],
    }
    measures = [
        mean_measure(name, kept, {one: values[name] for one, values in fields.items()}, 100.0) for name in _NAMES
    ]
    shown = {"SS": 100 * ss, "S-IoU": 100 * siou}
    return Scored(fields, totals, shown, measures, {one: values["ss"] for one, values in fields.items()})


_NAMES = ("ss", "siou", "ss_normalized", "siou_normalized")


class _LvisPaco(Task):
    name = "lvis_paco"
    about = __doc__ or ""

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        add_sentence_model_option(parser)

    def check(self, arguments: argparse.Namespace) -> None:
        sentence_model_folder(arguments.sentence_model)

    def read(self, arguments: argparse.Namespace, skipped: Skipped) -> CategoryData:
        return read(arguments.data, arguments.images, arguments.annotations, skipped)

    def score(
        self, data: CategoryData, answers: Answers, arguments: argparse.Namespace, skipped: Skipped, name: str
    ) -> Scored:
        return score(data, answers, SentenceEncoder(arguments.sentence_model))


@command("osprey eval lvis_paco")
def main(argv: Sequence[str] | None = None) -> int:
    return run_task(_LvisPaco(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
