"""Attributes of objects from the configuration: their questions and the answers they allow."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from osprey_ros.decoding.constraints import Constraint, Matching, OneOf
from osprey_ros.decoding.prompt import REGION_TEXT
from osprey_ros.errors import InputError, PromptError

_NAME = re.compile(r"[^\W\d]\w*")
_KEYS = ("name", "question", "values", "pattern")
_ENTRY = re.compile(
    r"\s*(?P<name>[^=;]*?)\s*(?:=\s*(?:/(?P<pattern>.*)/|(?P<values>[^/;][^;]*))\s*)?(?:;(?P<question>.*))?"
)
_QUESTION_SPELLING = {"colour": "color"}  # of published data sets


@dataclass(frozen=True)
class AttributeSpec:
    """An attribute that is asked of every object.

    Attributes:
        name: letters, digits and underscores, a letter first.
        question: its text with ``<mask><pos>`` for the object; by default "What <name> is <mask><pos>?".
        values: the answers to choose from, () for other answers.
        pattern: the regular expression that answers match, "" without one.

    Raises InputError for an invalid name, for values together with a pattern, and for invalid values or patterns.
    """

    name: str
    question: str = ""
    values: tuple[str, ...] = ()
    pattern: str = ""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise InputError(f"attribute {self.name!r}: a name is letters, digits and _, a letter first")
        if self.values and self.pattern:
            raise InputError(f"attribute {self.name}: give values or a pattern, not both")
        if not self.question:
            asked = _QUESTION_SPELLING.get(self.name, self.name.replace("_", " "))
            object.__setattr__(self, "question", f"What {asked} is {REGION_TEXT}?")
        try:
            _ = self.constraint
        except PromptError as error:
            raise InputError(f"attribute {self.name}: {error}") from error

    @property
    def constraint(self) -> Constraint | None:
        """The constraint on answers, None if any text is allowed."""
        if self.values:
            return OneOf(self.values)
        return Matching(self.pattern) if self.pattern else None


def attributes_from(entries: Iterable[str | Mapping[str, Any]]) -> tuple[AttributeSpec, ...]:
    """Return the attributes of a configuration.

    Args:
        entries: mappings with the fields of `AttributeSpec`, or lines: ``NAME``, ``NAME = RED | GREEN | BLUE`` for a
            list of values or ``NAME = /REGULAR EXPRESSION/`` for a pattern, each with an optional ``; QUESTION``.

    Raises InputError for other entries and for duplicate names.
    """
    specs = [_from_line(entry) if isinstance(entry, str) else _from_mapping(entry) for entry in entries]
    names = [spec.name for spec in specs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"attribute {', '.join(twice)} is given more than once: give every name once")
    return tuple(specs)


def _from_line(line: str) -> AttributeSpec:
    found = _ENTRY.fullmatch(line)
    if found is None or not found["name"]:
        raise InputError(
            f"attribute {line!r}: write NAME, NAME = RED | GREEN | BLUE or NAME = /PATTERN/, and then ; QUESTION if any"
        )
    values = tuple(value.strip() for value in found["values"].split("|")) if found["values"] else ()
    return AttributeSpec(found["name"], (found["question"] or "").strip(), values, found["pattern"] or "")


def _from_mapping(entry: Mapping[str, Any]) -> AttributeSpec:
    if not isinstance(entry, Mapping) or "name" not in entry or not set(entry) <= set(_KEYS):
        raise InputError(f"attribute {entry!r}: give a mapping with name and any of {', '.join(_KEYS[1:])}")
    for key in ("name", "question", "pattern"):
        if not isinstance(entry.get(key, ""), str):
            raise InputError(
                f"attribute {entry['name']}: {key} {entry[key]!r} must be text (quote yes, no, null and numbers)"
            )
    values = entry.get("values", ())
    if (
        isinstance(values, str)
        or not isinstance(values, Sequence)
        or not all(isinstance(value, str) for value in values)
    ):
        raise InputError(
            f"attribute {entry['name']}: values {values!r} must be a list of texts (quote yes, no and numbers)"
        )
    return AttributeSpec(entry["name"], entry.get("question", ""), tuple(values), entry.get("pattern", ""))
