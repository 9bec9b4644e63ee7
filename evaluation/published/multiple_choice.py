"""Multiple-choice questions about a description, as DLC-Bench asks a judge: prompts, and what a reply chooses.

Source: evaluation/eval_model_outputs.py of NVlabs/describe-anything, commit 153ad3d (arXiv 2504.16072).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from osprey_ros.errors import InputError

LETTERS = "ABCDE"
RECOGNITION, POSITIVE, NEGATIVE = "recognition", "positive", "negative"
_CORRECT, _INCORRECT = "correct", "incorrect"
INFLECT = "7.5.0"

# The wording is part of the published protocol: another one gives other replies.
_PROMPT = """Answer the multiple-choice question based on the text description of an object in an image. \
You need to follow these rules:
1. Do not output any reasoning. Do not perform correction. Please output exactly one answer from the choices for each \
question. Do not repeat the question.
2. There is no need for exact matching. Please choose the closest option based on the description.

The description is:
{caption}

From the description above, please answer the following question with one of the choices:
{question}
"""
_ONE = (
    "Is it likely that the object in the description is {} or an object of a similar type? Again, It does not have to "
    "be an exact match."
)
_SEVERAL = (
    "Is it likely that the objects in the description are {} or objects of a similar type? Again, It does not have to "
    "be an exact match."
)


def recognition(class_name: str) -> dict[str, Any]:
    """Return the question that comes first: whether the description is about this class.

    Plurals are those of inflect 7.5.0, where "wine glass" and "dress" are plural, except "bus". Later versions differ.

    Raises InputError if this version is not installed.
    """
    engine = _inflect()
    if class_name != "bus" and engine.singular_noun(class_name) is not False:
        question = _SEVERAL.format(class_name)
    else:
        question = _ONE.format(engine.a(class_name))
    return {"question": question, "choices": [["Yes", _CORRECT], ["No", _INCORRECT]], "type": RECOGNITION}


def _inflect() -> Any:
    from importlib.metadata import PackageNotFoundError, version

    try:
        found = version("inflect")
    except PackageNotFoundError:
        found = "not installed"
    if found != INFLECT:
        raise InputError(
            f"DLC-Bench needs inflect {INFLECT} (it is {found}), because later versions form other plurals; run "
            "`make eval-extras`"
        )
    import inflect

    return inflect.engine()


def prompt(caption: str, question: Mapping[str, Any]) -> str:
    """Return what the judge reads about one question."""
    choices = "".join(f"{LETTERS[n]}. {text}\n" for n, (text, _) in enumerate(question["choices"]))
    return _PROMPT.format(caption=caption, question=f"{question['question']}\n{choices}".strip())


def parse_choice(reply: str, choices: Sequence[str]) -> int | None:
    """Return the index of the choice of a reply, None if it has none; None scores 0.

    In this order: the choice, "x. choice" or the letter alone; the only choice that the reply contains; "x." at its
    beginning; the choice that occurs last, the longest of several there; the longest choice that contains the reply; a
    letter alone on the first line. Choices are found as parts of words, too: "unknown" contains "no".

    Raises IndexError for an empty reply, or a letter without a choice, as the published code does.
    """
    said = reply.strip().lower()
    texts = [choice.strip().lower() for choice in choices]
    letters = LETTERS.lower()
    found = []
    for index, choice in enumerate(texts):
        letter = letters[index]
        if said in (choice, f"{letter}. {choice}", letter):
            return index
        if choice in said:
            found.append(index)
    if len(found) == 1:
        return found[0]
    if said[0] in letters and said[1] == ".":
        return letters.index(said[0])
    if found:
        return max(found, key=lambda index: (said.index(texts[index]), len(texts[index]), -index))
    around = [index for index, choice in enumerate(texts) if said in choice]
    if around:
        return max(around, key=lambda index: (len(texts[index]), -index))
    if said[0] in letters and (len(said) == 1 or said[1] == "\n"):
        return letters.index(said[0])
    return None


def score_replies(questions: Sequence[Mapping[str, Any]], replies: Sequence[str]) -> dict[str, Any]:
    """Return the scores of one description.

    Args:
        questions: That of `recognition` first, then those of the data set.
        replies: A reply to each.

    Returns: `score` (mean of all), `score_pos` and `score_neg` (None without such questions), `neg_valid_num`,
    `recognition_result`, and `choices`, the index or None of each reply. If recognition fails, no question has more
    than 0.

    Raises InputError for a reply on which the published code stops.
    """
    chosen: list[int | None] = []
    scores: dict[str, list[float]] = {POSITIVE: [], NEGATIVE: []}
    recognized: bool | None = None
    for question, reply in zip(questions, replies, strict=True):
        choices = question["choices"]
        try:
            index = parse_choice(reply, [text for text, _ in choices])
            value = choices[index][1] if index is not None else 0
        except IndexError as error:
            raise InputError(
                f"the reply {reply!r} to {question['question']!r} is empty or a letter without a choice, where the "
                "published code stops; ask again"
            ) from error
        chosen.append(index)
        kind = question["type"]
        if kind == RECOGNITION:
            if value not in (_CORRECT, _INCORRECT):
                raise InputError(
                    f"the reply {reply!r} to {question['question']!r} is neither yes nor no, where the published code "
                    "stops; ask again"
                )
            recognized = value == _CORRECT
        elif recognized is None:
            raise InputError(f"the question {question['question']!r} comes before that of recognition")
        else:
            scores[kind].append(value if recognized else min(0, value))
    positive, negative = scores[POSITIVE], scores[NEGATIVE]
    if not positive:
        raise InputError("an object has no positive question, where the published code stops; correct qa.json")
    return {
        "score": sum(positive + negative) / len(positive + negative),
        "score_pos": sum(positive) / len(positive),
        "score_neg": sum(negative) / len(negative) if negative else None,
        "neg_valid_num": len(negative),
        "recognition_result": recognized,
        "choices": chosen,
    }
