"""Requests to a language model with the facts about an image, and the checks of its answers."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from osprey_torch.chat.endpoint import Request
from training.instructions.facts import KnownImage, KnownRegion, named_in
from training.instructions.files import CONVERSATION, DESCRIPTION, SHORT_FORM
from training.instructions.templates import Pair, place

ASKED = (DESCRIPTION, CONVERSATION, SHORT_FORM)  # kinds whose texts a language model can write
MAX_TOKENS = {DESCRIPTION: 1200, CONVERSATION: 900, SHORT_FORM: 600}
SHORTEST = 4  # words of a description
LONGEST_SHORT = 5  # words of a short answer

_SYSTEM = (
    "You write training texts for a model that looks at regions of images. You are given what is known of the "
    "regions of one image; speak as if you saw the image, and never of these notes, of boxes or of coordinates. "
    "Say nothing that does not follow from what is given, and name no object that is not listed. Refer to regions as "
    "<region1>, <region2> and so on. Answer with one JSON object and nothing else."
)
_TASKS = {
    DESCRIPTION: (
        "Describe each region in two to four sentences: what it is, how it looks, where it is, and what is beside it. "
        'Answer as {"descriptions": {"1": "...", "2": "..."}} with every region.'
    ),
    CONVERSATION: (
        "Write a conversation of three to five questions and answers about these regions, in whole sentences. "
        'Answer as {"turns": [{"question": "...", "answer": "..."}]}.'
    ),
    SHORT_FORM: (
        f"Write four to six questions about these regions with answers of at most {LONGEST_SHORT} words. "
        'Answer as {"turns": [{"question": "...", "answer": "..."}]}.'
    ),
}
_TAG = re.compile(r"<region(\d+)>")
_NOTES = re.compile(r"\b(bounding box|coordinates?|annotations?|captions?|not provided|as an ai)\b", re.IGNORECASE)
_FENCE = re.compile(r"^\s*```(?:json)?\s*\n(.*)\n\s*```\s*$", re.DOTALL)


class UnfitAnswer(ValueError):
    """An answer that must not be used for training. `reason` is one of a few, to be counted."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


def request_for(kind: str, image: KnownImage, regions: Sequence[KnownRegion], model: str) -> Request:
    """Return the request for the words of one kind about regions of an image."""
    lines = [f"An image of {image.width}x{image.height} pixels."]
    for number, region in enumerate(regions, 1):
        x, y, width, height = region.box
        lines.append(
            f"<region{number}>: {region.category or 'object'}; "
            + "".join(f'"{caption}"; ' for caption in (*region.captions, region.detailed) if caption)
            + (f"color {region.color}; " if region.color else "")
            + (f"parts: {', '.join(region.parts)}; " if region.parts else "")
            + f"{place(image, region)} of the image, box x {x:.0f} to {x + width:.0f}, "
            f"y {y:.0f} to {y + height:.0f}"
        )
    return Request(model, _SYSTEM, "\n".join([*lines, "", _TASKS[kind]]), MAX_TOKENS[kind])


def read_descriptions(
    content: str, image: KnownImage, regions: Sequence[KnownRegion], names: Sequence[str]
) -> list[str]:
    """Return one description per region. Raises UnfitAnswer.

    names: categories of the whole data set; a description must not name one that the image does not have, nor
    another region's without its own.
    """
    found = _json(content).get("descriptions")
    if not isinstance(found, dict):
        raise UnfitAnswer("not the JSON that was asked for", "no 'descriptions'")
    texts = []
    for number, region in enumerate(regions, 1):
        text = _text(found.get(str(number)), f"region {number}")
        if len(text.split()) < SHORTEST:
            raise UnfitAnswer("empty or too short", f"region {number}: {text!r}")
        _check_words(text, image, regions, names)
        own, said = named_in(_said_of(region), names), named_in(text, names)
        if said and own and not said & own:
            raise UnfitAnswer("names another object", f"region {number} is {sorted(own)}, not {sorted(said)}")
        texts.append(_untagged(text, number))
    return texts


def read_turns(
    kind: str, content: str, image: KnownImage, regions: Sequence[KnownRegion], names: Sequence[str]
) -> list[Pair]:
    """Return questions and answers. Raises UnfitAnswer, also if no question names a region."""
    found = _json(content).get("turns")
    if not isinstance(found, list) or not found:
        raise UnfitAnswer("not the JSON that was asked for", "no 'turns'")
    pairs = []
    for turn in found:
        if not isinstance(turn, dict):
            raise UnfitAnswer("not the JSON that was asked for", f"a turn is {turn!r}")
        question, answer = _text(turn.get("question"), "a question"), _text(turn.get("answer"), "an answer")
        if kind == SHORT_FORM and len(answer.split()) > LONGEST_SHORT:
            raise UnfitAnswer("too long for a short answer", answer)
        _check_words(f"{question} {answer}", image, regions, names)
        pairs.append((question, answer))
    if not any(_TAG.search(question) for question, _ in pairs):
        raise UnfitAnswer("names no region")
    return pairs


def _untagged(text: str, own: int) -> str:
    """Return the text with regions as plain words; its own tag is the one that the file puts before it."""
    return _TAG.sub(lambda tag: "it" if int(tag[1]) == own else f"region{tag[1]}", text)


def _json(content: str) -> dict[str, Any]:
    if not content.strip():
        raise UnfitAnswer("empty or too short")
    fenced = _FENCE.match(content)
    try:
        data = json.loads(fenced[1] if fenced else content)
    except ValueError as error:
        raise UnfitAnswer("not the JSON that was asked for", str(error)) from error
    if not isinstance(data, dict):
        raise UnfitAnswer("not the JSON that was asked for", type(data).__name__)
    return data


def _text(value: object, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise UnfitAnswer("empty or too short", where)
    return value.strip()


def _check_words(text: str, image: KnownImage, regions: Sequence[KnownRegion], names: Sequence[str]) -> None:
    beyond = [tag for tag in _TAG.findall(text) if not 1 <= int(tag) <= len(regions)]
    if beyond:
        raise UnfitAnswer("names a region that is not there", f"<region{beyond[0]}> of {len(regions)}")
    notes = _NOTES.search(text)
    if notes:
        raise UnfitAnswer("speaks of the notes", notes[0])
    known = named_in(" ".join(_said_of(region) for region in image.regions), names)
    strangers = named_in(text, names) - known
    if strangers:
        raise UnfitAnswer("names another object", f"{sorted(strangers)} in {text!r}")


def _said_of(region: KnownRegion) -> str:
    return " ".join((region.category, region.part_of, *region.captions, region.detailed, *(region.parts or ())))
