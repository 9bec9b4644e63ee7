"""A language model as judge of two answers: the message it reads, what is taken of its reply, and the final ratio.

Source: osprey/eval/eval_gpt.py and summarize_gpt_score.py of CircleRadon/Osprey, commit deb0e57, and the scripts of the
same names in ferret/eval of apple/ml-ferret. Both descend from LLaVA's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

SYSTEM = "You are a helpful and precise assistant for checking the quality of the answer."
MAX_TOKENS = 1024
FAILED = (-1.0, -1.0)
_BRACKETS = re.compile(r"\[.*?\]")


def message(context: str, question: str, first: str, second: str, role: str, rule: str) -> str:
    """Return what the judge reads.

    A backslash stands between "[Context]" and the context where a new line was meant; the question keeps its
    ``<region>``.

    Args:
        context: What is in the image.
        question: The question.
        first: The reference answer.
        second: The answer of the model.
        role: Name of both, from the rule file.
        rule: What to judge, from the rule file.
    """
    answers = "".join(
        f"[{role} {number}]\n{text}\n\n[End of {role} {number}]\n\n" for number, text in enumerate((first, second), 1)
    )
    return f"[Context]\\{context}\n\n[Question]\n{question}\n\n{answers}[System]\n{rule}\n\n"


def parse_scores(reply: str) -> tuple[float, float]:
    """Return the two scores of a reply's first line, `FAILED` where the published parser fails.

    Commas become spaces, and the line must then have exactly two fields between single spaces that Python's float
    reads: "7, 5" fails, "8,9" and "nan 5" pass.
    """
    fields = reply.split("\n")[0].replace(",", " ").split(" ")
    try:
        first, second = map(float, fields)
    except ValueError:
        return FAILED
    return first, second


def ratio(scores: Sequence[tuple[float, float]], digits: int) -> float:
    """Return the mean score of the model in percent of that of the reference.

    Failed replies count as -1. The two means are rounded to 3 places before they are divided.

    Args:
        scores: Reference and model, of each item.
        digits: Places of the result: 2 in Osprey's script, 1 in Ferret's.

    Returns NaN without scores, or if the reference has 0.
    """
    if not scores:
        return float("nan")
    first, second = (round(float(value), 3) for value in np.asarray(scores).mean(0))
    return round(second / first * 100, digits) if first else float("nan")


def ratios(scores: Mapping[str, tuple[float, float]], categories: Mapping[str, str], digits: int) -> dict[str, float]:
    """Return the ratio of each category and of all items, by name."""
    names = sorted(set(categories[one] for one in scores))
    by_name = {name: [pair for one, pair in scores.items() if categories[one] == name] for name in names}
    return {"all": ratio(list(scores.values()), digits), **{name: ratio(own, digits) for name, own in by_name.items()}}


def without_boxes(answer: str) -> str:
    """Return an answer as Ferret's judge reads it: without "[...]" where a space stands before it."""
    for match in _BRACKETS.findall(answer):
        answer = answer.replace(f" {match}", "")
    return answer
