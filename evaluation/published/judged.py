"""Answers that a language model judges against reference answers: detailed description and Ferret-Bench.

The replies of the judge come from an endpoint, which keeps them in a file, or from files of earlier judgments.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.published import judge
from evaluation.published.answers import Answers
from evaluation.published.command import Task
from evaluation.published.items import Item, Measure, Scored
from evaluation.published.texts import prompt_text
from osprey_ros.errors import InputError
from osprey_ros.files import write_json
from osprey_torch.chat.endpoint import Request
from osprey_torch.chat.options import add_endpoint_options, opened_writer, spending
from osprey_torch.readers.files import read_json
from osprey_torch.readers.records import Skipped

JUDGE_TEMPERATURE = 0.2  # of Ferret's script; Osprey's leaves it to the user


@dataclass(frozen=True)
class JudgedItem:
    """What the judge reads about an item, besides the answer.

    Attributes:
        category: Chooses the rule.
        context: What is in the image.
        question: The question as the judge reads it.
        reference: The reference answer.
        role, rule: From the rule file.
    """

    category: str
    context: str
    question: str
    reference: str
    role: str
    rule: str


@dataclass(frozen=True)
class JudgedData:
    """The questions, and what the judge reads of each; nothing where the judge's files are absent."""

    items: Sequence[Item]
    judged: Mapping[str, JudgedItem]


def add_judge_options(parser: argparse.ArgumentParser, replies: str, parse: str) -> Any:
    """Add the options of a judge, replies of before or an endpoint, and return their group.

    ``replies`` and ``parse`` say which forms --replies and --parse take.
    """
    group = parser.add_argument_group("judge")
    group.add_argument(
        "--replies",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help=f"replies of a judge: {replies}; one file for each set of answers, in their order",
    )
    group.add_argument("--endpoint", metavar="URL", help="ask a judge behind an OpenAI-compatible endpoint")
    add_endpoint_options(group)
    group.add_argument("--parse", type=Path, metavar="FILE", help=f"parse {parse}, and do no more")
    return group


def check_judge_options(arguments: argparse.Namespace) -> None:
    """Raise InputError for options of the judge that do not belong together."""
    if arguments.endpoint and not arguments.model:
        raise InputError("--endpoint needs --model, the name of the judge")
    sets = len(arguments.answers) + len(arguments.bundle)
    if arguments.replies and len(arguments.replies) != sets:
        raise InputError(f"{len(arguments.replies)} files of --replies for {sets} sets of answers; give one for each")


def recorded(arguments: argparse.Namespace, name: str) -> tuple[Path, str] | None:
    """Return the file of recorded replies to a set of answers, and the name of the judge; None without --replies."""
    if not arguments.replies:
        return None
    file: Path = arguments.replies[[*map(str, arguments.answers), *arguments.bundle].index(name)]
    return file, arguments.model or file.name


def read_replies(path: Path, items: Sequence[Item]) -> dict[str, str]:
    """Return the recorded replies of a judge by item.

    Forms: a JSON object {item id: reply}, or the JSON lines of the published scripts, with "content", in the order of
    the items. Raises InputError for other files.
    """
    text = path.read_text(encoding="utf-8")
    try:
        data = json.loads(text)
        if isinstance(data, dict) and "content" not in data:
            return {str(key): _reply(path, key, value) for key, value in data.items()}
        lines = data if isinstance(data, list) else [data]
    except ValueError:
        lines = []
        for number, line in enumerate(text.splitlines(), 1):
            try:
                lines.append(json.loads(line))
            except ValueError as error:
                raise InputError(f"{path}, line {number} is not JSON: {error}") from error
    if len(lines) > len(items):
        raise InputError(f"{path} has {len(lines)} replies, there are {len(items)} items; give those of these data")
    pairs = zip(items, lines, strict=False)
    return {
        item.id: _reply(path, item.id, line.get("content") if isinstance(line, dict) else line) for item, line in pairs
    }


def _reply(path: Path, item: object, value: Any) -> str:
    if not isinstance(value, str):
        raise InputError(f"{path}, {item}: the reply is {value!r}; give a text")
    return value


def parse_file(arguments: argparse.Namespace, task: str) -> None:
    """Parse the replies of --parse and write {"parser": {key: [first, second]}} to --json, or print it."""
    data = read_json(arguments.parse)
    if not isinstance(data, dict):
        raise InputError(f"{arguments.parse} must hold an object of replies")
    parsed = {
        key: [_number(one) for one in judge.parse_scores(_reply(arguments.parse, key, value))]
        for key, value in data.items()
    }
    if arguments.json is None:
        print(json.dumps(parsed, indent=1))
    else:
        write_json(arguments.json, {"task": task, "parser": parsed})


def score(
    data: JudgedData,
    answers: Answers,
    stored: Mapping[str, str],
    shown: Mapping[str, str],
    replies: Mapping[str, str],
    digits: int,
    judged_by: str,
) -> Scored:
    """Return the messages to the judge, the scores of its replies, and the ratio of all.

    Args:
        data: The items.
        answers: The answers.
        stored: Text of each answer as the published script stores it.
        shown: Text of each answer as the judge reads it.
        replies: Reply of the judge to each item; items without one have no scores.
        digits: Places of the ratio.
        judged_by: Name of the judge, which is part of every figure.
    """
    fields: dict[str, dict[str, Any]] = {}
    scores: dict[str, tuple[float, float]] = {}
    for item in data.items:
        if item.id not in answers.texts:
            continue
        own = fields[item.id] = {
            "prompt": prompt_text(item.question, item.opening),
            "stored_text": stored[item.id],
        }
        known = data.judged.get(item.id)
        if known is not None:
            own["judge_user"] = message_of(known, shown[item.id])
        if item.id in replies:
            pair = judge.parse_scores(replies[item.id])
            scores[item.id] = pair
            own |= {"reply": replies[item.id], "scores": list(pair)}
    categories = {one: data.judged[one].category if one in data.judged else "all" for one in scores}
    ratios = judge.ratios(scores, categories, digits) if scores else {}
    image_of = {item.id: str(item.image) for item in data.items}
    ids = list(scores)
    table = np.array([scores[one] for one in ids]).reshape(-1, 2)

    def ratio(rows: np.ndarray) -> float:
        return judge.ratio([(a, b) for a, b in table[rows].tolist()], digits)

    measures = [Measure("score", [image_of[one] for one in ids], ratio, ids)] if ids else []
    failed = sum(pair == judge.FAILED for pair in scores.values())
    totals: dict[str, Any] = {"judge": judged_by, "replies": len(scores), "failed_replies": failed}
    if ratios:
        totals |= {"score": ratios["all"], "by_category": {k: v for k, v in ratios.items() if k != "all"}}
    shown_figures = {f"score, judged by {judged_by}": ratios["all"]} if ratios else {}
    worst = {one: pair[1] for one, pair in scores.items()}
    return Scored(fields, totals, shown_figures, measures, worst)


def message_of(known: JudgedItem, answer: str) -> str:
    """Return what the judge reads about an item."""
    return judge.message(known.context, known.question, known.reference, answer, known.role, known.rule)


class JudgedTask(Task):
    """A task whose answers are judged.

    Attributes:
        digits: Places of the ratio.
    """

    digits: int

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        forms = "a JSON object by item, or JSON lines as the published scripts write them"
        add_judge_options(parser, forms, "the replies of a JSON object")

    def check(self, arguments: argparse.Namespace) -> None:
        check_judge_options(arguments)

    def stored(self, answer: str) -> str:
        """Return an answer as the published script stores it."""
        raise NotImplementedError

    def shown(self, stored: str) -> str:
        """Return a stored answer as the judge reads it."""
        return stored

    def score(
        self, data: JudgedData, answers: Answers, arguments: argparse.Namespace, skipped: Skipped, name: str
    ) -> Scored:
        texts = answers.texts
        stored = {one: text if answers.stored else self.stored(text) for one, text in texts.items()}
        shown = {one: self.shown(text) for one, text in stored.items()}
        judged_by, replies = "nobody", {}
        kept = recorded(arguments, name)
        if kept is not None:
            replies, judged_by = read_replies(kept[0], data.items), kept[1]
        elif arguments.endpoint:
            judged_by = arguments.model
            replies = self._asked(data, shown, arguments, skipped)
        return score(data, answers, stored, shown, replies, self.digits, judged_by)

    def _asked(
        self, data: JudgedData, shown: Mapping[str, str], arguments: argparse.Namespace, skipped: Skipped
    ) -> dict[str, str]:
        requests = {
            one: Request(
                arguments.model, judge.SYSTEM, message_of(known, shown[one]), judge.MAX_TOKENS, JUDGE_TEMPERATURE
            )
            for one, known in data.judged.items()
            if one in shown
        }
        with opened_writer(arguments, arguments.work / self.name / "judge.jsonl") as writer:
            left = writer.ask_all(list(requests.values()))
            if left:
                skipped.leave_out(f"the bound on spending was reached: {left} items were not judged")
            found = {one: writer.ledger.get(request) for one, request in requests.items()}
            print(f"judge {arguments.model}: {spending(writer)}")
        return {one: reply.content for one, reply in found.items() if reply is not None}


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None
