"""Attributes of objects from the configuration: their questions and the answers they allow."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from osprey_ros.decoding.constraints import Constraint, Matching, OneOf
from osprey_ros.decoding.prompt import REGION_TEXT
from osprey_ros.errors import InputError, PromptError

_NAME = re.compile(r"[^\W\d]\w*")
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


def attributes_from(lines: Iterable[str]) -> tuple[AttributeSpec, ...]:
    """Return the attributes of a configuration.

    Args:
        lines: ``NAME``, ``NAME = RED | GREEN | BLUE`` for a list of values or ``NAME = /REGULAR EXPRESSION/`` for a
            pattern, each with an optional ``; QUESTION``.

    Raises InputError for other lines and for duplicate names.
    """
    specs = [_from_line(line) for line in lines]
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
