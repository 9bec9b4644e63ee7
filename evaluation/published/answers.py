"""Files of answers: read in every form that the published code and this one write, and kept while a bundle runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.published.items import Item
from osprey_ros.errors import InputError
from osprey_ros.file_errors import read_text

_TEXT_KEYS = ("answer", "text", "caption")


@dataclass(frozen=True)
class Answers:
    """Answers by the ids of items.

    Attributes:
        texts: The answers.
        stored: Whether they are what the published scripts store, so that nothing is cut off them again.
    """

    texts: Mapping[str, str]
    stored: bool = False


def read_answers(path: Path, items: Sequence[Item], allow_missing: bool = False) -> Answers:
    """Return the answers of a file.

    Forms: a JSON object {item id: answer}; {image: {region: answer}} or {image: [answers in the order of asking]},
    where items are "image#region"; JSON lines {"item": id, "answer": text}, as this program keeps them; and the lists
    or JSON lines of records that the published scripts store, with "answer", "text" or "caption", in the order of the
    items.

    Args:
        path: The file.
        items: The items that are asked.
        allow_missing: Also take a file without an answer to each item.

    Raises InputError with the first item whose answer is missing, and for other files.
    """
    data = _parsed(path)
    known = {item.id for item in items}
    answers = _listed(path, data, items) if isinstance(data, list) else Answers(_by_id(path, data, items))
    unknown = [one for one in answers.texts if one not in known]
    if unknown and not any(one in known for one in answers.texts):
        raise InputError(
            f"{path}: no answer belongs to the data: it has {unknown[0]!r}, the data begin with {items[0].id!r}; "
            "give the answers to these data"
        )
    missing = [item.id for item in items if item.id not in answers.texts]
    if missing and not allow_missing:
        raise InputError(
            f"{path} has no answer to {len(missing)} of {len(items)} items, the first is {missing[0]!r}; complete it, "
            "or give --allow-missing to leave them out"
        )
    return Answers({one: text for one, text in answers.texts.items() if one in known}, answers.stored)


def _parsed(path: Path) -> Any:
    text = read_text(path, InputError, "give a file of answers")
    try:
        return json.loads(text)
    except ValueError:
        entries = []
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                try:
                    entries.append(json.loads(line))
                except ValueError as error:
                    raise InputError(f"{path}, line {number} is not JSON: {error}; correct it") from error
        return entries


def _by_id(path: Path, data: Any, items: Sequence[Item]) -> dict[str, str]:
    if not isinstance(data, dict):
        raise InputError(f"{path} holds a {type(data).__name__}; give an object or a list of answers")
    texts: dict[str, str] = {}
    images = {item.id.rpartition("#")[0] for item in items}
    short = {name: image for image in images for name in _short_names(image)}
    for given, value in data.items():
        key = str(given)
        if key not in images:
            key = short.get(key, key)
        if isinstance(value, str):
            texts[key] = value
        elif isinstance(value, dict):
            texts |= {f"{key}#{region}": _text(path, f"{key}#{region}", one) for region, one in value.items()}
        elif isinstance(value, list):
            own = [item.id for item in items if item.id.rpartition("#")[0] == key]
            if len(own) != len(value):
                raise InputError(f"{path}, {key}: {len(value)} answers for {len(own)} regions; give one for each")
            texts |= {one: _text(path, one, text) for one, text in zip(own, value, strict=True)}
        else:
            raise InputError(f"{path}, {key}: the answer is {value!r}; give a text")
    return texts


def _short_names(image: str) -> tuple[str, str]:
    """Return names under which files of answers have an image: without extension, and without Cityscapes' ending."""
    stem = Path(image).stem
    return stem, stem.removesuffix("_leftImg8bit")


def _listed(path: Path, data: list[Any], items: Sequence[Item]) -> Answers:
    if data and all(isinstance(one, dict) and "item" in one for one in data):
        return Answers({str(one["item"]): _text(path, one["item"], one.get("answer")) for one in data})
    if len(data) != len(items):
        raise InputError(
            f"{path} has {len(data)} answers in order, the data have {len(items)} items; give one for each"
        )
    texts = {}
    for item, record in zip(items, data, strict=True):
        value = record
        if isinstance(record, dict):
            value = next((record[key] for key in _TEXT_KEYS if key in record), None)
        texts[item.id] = _text(path, item.id, value)
    return Answers(texts, stored=True)


def _text(path: Path, item: object, value: Any) -> str:
    if not isinstance(value, str):
        raise InputError(f"{path}, {item}: the answer is {value!r}; give a text")
    return value
