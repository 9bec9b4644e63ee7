"""DLC-Bench: multiple-choice questions to a judge about detailed descriptions of regions (arXiv 2504.16072).

Source: evaluation/eval_model_outputs.py of NVlabs/describe-anything, commit 153ad3d. The judge reads the description;
with --with-image also the image, which is not the official protocol.
"""

from __future__ import annotations

import argparse
import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from evaluation.published import multiple_choice
from evaluation.published.answers import Answers
from evaluation.published.command import Task, run_task
from evaluation.published.data import counted, image_folder, read_object
from evaluation.published.items import Item, Measure, Scored
from evaluation.published.judged import add_judge_options, check_judge_options, recorded
from evaluation.published.multiple_choice import NEGATIVE, POSITIVE
from osprey_ros.cli._edge import command
from osprey_ros.decoding.prompt import QUESTIONS
from osprey_ros.errors import InputError
from osprey_ros.files import write_json
from osprey_ros.regions.regions import regions_from_masks
from osprey_ros.vision.image_io import load_image
from osprey_ros.viz.overlay import overlay
from osprey_torch.chat.endpoint import Request
from osprey_torch.chat.options import opened_writer, spending
from osprey_torch.readers.coco import mask_of
from osprey_torch.readers.files import read_json
from osprey_torch.readers.records import Skipped

OPENING = "overview"
MAX_TOKENS = 300
_IMAGE_TOKENS = 4096  # upper bound of what an image costs
_Questions = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class DlcData:
    """The items, and the questions about each, that of recognition first."""

    items: Sequence[Item]
    questions: Mapping[str, _Questions]


def read(data: Path, images: Path | None, replies: Path | None, skipped: Skipped) -> DlcData:
    """Read `qa.json`, `class_names.json` and, for asking bundles, `annotations.json` in COCO's layout.

    If there is no qa.json, the questions are those of ``replies``, a file of evaluated outputs as Describe Anything
    publishes them. Raises InputError for missing files; broken entries are counted.
    """
    if (data / "qa.json").is_file():
        qa, names = read_json(data / "qa.json"), read_json(data / "class_names.json")
        questions: dict[str, _Questions] = {}
        for key, own in qa.items():
            with counted(f"{data / 'qa.json'}, {key}", skipped):
                for question in own:
                    _check(question)
                questions[str(key)] = [multiple_choice.recognition(str(names[str(key)])), *own]
    elif replies is not None:
        questions = _questions_of_replies(replies)
    else:
        raise InputError(f"{data} has no qa.json; give the folder of DLC-Bench, or --replies with evaluated outputs")
    regions: dict[str, Item] = {}
    if (data / "annotations.json").is_file():
        regions = _regions(data / "annotations.json", image_folder(data, images), skipped)
    items = [regions.get(key, Item(key, data / key, QUESTIONS["detailed"], OPENING)) for key in questions]
    return DlcData(items, questions)


def _check(question: Any) -> None:
    if question["type"] not in (POSITIVE, NEGATIVE):
        raise ValueError(f"the question {question['question']!r} has the type {question['type']!r}")
    if not 2 <= len(question["choices"]) <= len(multiple_choice.LETTERS):
        raise ValueError(f"the question {question['question']!r} has {len(question['choices'])} choices")
    if any(not isinstance(text, str) or isinstance(value, str) for text, value in question["choices"]):
        raise ValueError(f"the choices of {question['question']!r} are not pairs of text and score")


def _regions(file: Path, folder: Path, skipped: Skipped) -> dict[str, Item]:
    content = read_object(file, "images", "annotations")
    entries = {one["id"]: one for one in content["images"] if isinstance(one, dict) and "id" in one}
    regions = {}
    for index, annotation in enumerate(content["annotations"]):
        with counted(f"{file}, annotation {index}", skipped):
            entry = entries[annotation["image_id"]]
            mask = mask_of(annotation, int(entry["height"]), int(entry["width"]))
            key = str(annotation["id"])
            regions[key] = Item(key, folder / str(entry["file_name"]), QUESTIONS["detailed"], OPENING, mask)
    return regions


def _evaluated(file: Path) -> dict[str, Any]:
    """Return the evaluated outputs of a file, by item: those of Describe Anything, or of --json of this command."""
    content = read_json(file)
    if isinstance(content, dict) and isinstance(content.get("items"), dict):
        content = content["items"]
    if not isinstance(content, dict):
        raise InputError(f"{file} must hold an object of evaluated outputs")
    return {key: one for key, one in content.items() if isinstance(one, dict | list)}


def read_replies(file: Path) -> dict[str, list[str]]:
    """Return the replies to the questions of each item: lists, or objects with "response". Raises InputError."""
    result = {}
    for key, one in _evaluated(file).items():
        own = one if isinstance(one, list) else one.get("response")
        if not isinstance(own, list) or not all(isinstance(reply, str) for reply in own):
            raise InputError(f"{file}, {key}: give the replies as a list of texts, or under 'response'")
        result[key] = own
    return result


def _questions_of_replies(file: Path) -> dict[str, _Questions]:
    result: dict[str, _Questions] = {}
    for key, one in _evaluated(file).items():
        try:
            details = sorted(
                [*one["details_positives"], *one["details_negatives"]], key=lambda detail: int(detail["question_index"])
            )
            result[key] = [*one["details_recognition"], *details]
        except (KeyError, TypeError) as error:
            raise InputError(f"{file}, {key}: its questions are missing ({error}); give --data with qa.json") from error
    return result


def score(
    data: DlcData, answers: Answers, replies: Mapping[str, Sequence[str]], judged_by: str, skipped: Skipped
) -> Scored:
    """Return the scores of each description and their means.

    Objects without negative questions are left out of the mean of these. Items without replies have prompts only.
    """
    fields: dict[str, dict[str, Any]] = {}
    positive: dict[str, float] = {}
    negative: dict[str, float] = {}
    for item in data.items:
        if item.id not in answers.texts:
            continue
        questions, caption = data.questions[item.id], answers.texts[item.id]
        own = fields[item.id] = {
            "pred": caption,
            "prompt": [multiple_choice.prompt(caption, q) for q in questions],
        }
        if item.id not in replies:
            continue
        said = replies[item.id]
        if len(said) != len(questions):
            raise InputError(f"item {item.id} has {len(said)} replies to {len(questions)} questions; ask again")
        scored = multiple_choice.score_replies(questions, said)
        own |= {"response": list(said), **scored}
        positive[item.id] = scored["score_pos"]
        if scored["score_neg"] is not None:
            negative[item.id] = scored["score_neg"]
    if replies and len(positive) < len(fields):
        skipped.leave_out(f"{len(fields) - len(positive)} descriptions have no replies")
    avg_pos, avg_neg = (sum(own.values()) / len(own) if own else np.nan for own in (positive, negative))
    totals: dict[str, Any] = {
        "judge": judged_by,
        "avg_pos": avg_pos,
        "avg_neg": avg_neg,
        "avg": (avg_pos + avg_neg) / 2,
        "n": len(positive),
        "recognized": sum(bool(fields[one]["recognition_result"]) for one in positive),
    }
    ids = list(positive)
    table = np.array([[positive[one], negative.get(one, np.nan)] for one in ids]).reshape(-1, 2)
    image_of = {item.id: str(item.image) for item in data.items}

    def mean(rows: np.ndarray) -> float:
        if not len(rows) or np.isnan(table[rows, 1]).all():
            return np.nan
        return float((table[rows, 0].mean() + np.nanmean(table[rows, 1])) / 2)

    measures = [Measure("avg", [image_of[one] for one in ids], mean, ids)] if ids else []
    shown = {f"{name}, judged by {judged_by}": totals[name] for name in ("avg_pos", "avg_neg", "avg")} if ids else {}
    return Scored(fields, totals, shown, measures, {one: fields[one]["score"] for one in ids})


class _DlcBench(Task):
    name = "dlc_bench"
    about = __doc__ or ""

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        forms = "evaluated outputs as Describe Anything publishes them, or lists of replies by item"
        group = add_judge_options(parser, forms, 'replies {key: {"reply": text, "choices": [texts]}}')
        group.add_argument(
            "--with-image", action="store_true", help="show the judge the image with the outlined region"
        )

    def check(self, arguments: argparse.Namespace) -> None:
        check_judge_options(arguments)
        if (arguments.data / "qa.json").is_file():
            multiple_choice.recognition("cup")

    def read(self, arguments: argparse.Namespace, skipped: Skipped) -> DlcData:
        return read(arguments.data, arguments.images, next(iter(arguments.replies), None), skipped)

    def score(
        self, data: DlcData, answers: Answers, arguments: argparse.Namespace, skipped: Skipped, name: str
    ) -> Scored:
        kept = recorded(arguments, name)
        if kept is not None:
            return score(data, answers, read_replies(kept[0]), kept[1], skipped)
        if not arguments.endpoint:
            return score(data, answers, {}, "nobody", skipped)
        judged_by = arguments.model + (" with the image" if arguments.with_image else "")
        return score(data, answers, self._asked(data, answers, arguments, skipped), judged_by, skipped)

    def _asked(
        self, data: DlcData, answers: Answers, arguments: argparse.Namespace, skipped: Skipped
    ) -> dict[str, list[str]]:
        """Return the judge's replies to all questions; items whose questions were not all asked are left out."""
        requests = {
            item.id: _requests(item, data.questions[item.id], answers.texts[item.id], arguments)
            for item in data.items
            if item.id in answers.texts
        }
        with opened_writer(arguments, arguments.work / self.name / "judge.jsonl") as writer:
            left = writer.ask_all([request for own in requests.values() for request in own])
            if left:
                skipped.leave_out(f"the bound on spending was reached: {left} questions were not asked")
            found = {one: [writer.ledger.get(request) for request in own] for one, own in requests.items()}
            print(f"judge {arguments.model}: {spending(writer)}")
        return {
            one: [reply.content for reply in own if reply is not None]
            for one, own in found.items()
            if all(reply is not None for reply in own)
        }


def _requests(item: Item, questions: _Questions, caption: str, arguments: argparse.Namespace) -> list[Request]:
    image, tokens = (_data_url(item), _IMAGE_TOKENS) if arguments.with_image else ("", 0)
    return [
        Request(arguments.model, "", multiple_choice.prompt(caption, question), MAX_TOKENS, 0.0, image, tokens)
        for question in questions
    ]


def _data_url(item: Item) -> str:
    """Return the image of an item with its region outlined, as a data URL."""
    if item.mask is None:
        raise InputError(f"item {item.id} has no region; --with-image needs annotations.json and the images")
    drawn = overlay(load_image(item.image), regions_from_masks(item.mask.decode()[None]), [""])
    done, encoded = cv2.imencode(".jpg", cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))
    assert done
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode()


def parse_file(arguments: argparse.Namespace, task: str) -> None:
    """Parse the replies of --parse: {"parser": {key: index, None, or "error"}} to --json, or print it."""
    data = read_json(arguments.parse)
    parsed: dict[str, Any] = {}
    for key, one in data.items():
        try:
            parsed[key] = multiple_choice.parse_choice(str(one["reply"]), [str(choice) for choice in one["choices"]])
        except IndexError:
            parsed[key] = "error"
        except (KeyError, TypeError) as error:
            raise InputError(f'{arguments.parse}, {key}: give {{"reply": text, "choices": [texts]}}') from error
    if arguments.json is None:
        print(json.dumps(parsed, indent=1))
    else:
        write_json(arguments.json, {"task": task, "parser": parsed})


@command("osprey eval dlc_bench")
def main(argv: Sequence[str] | None = None) -> int:
    return run_task(_DlcBench(), argv, parse_file)


if __name__ == "__main__":
    raise SystemExit(main())
