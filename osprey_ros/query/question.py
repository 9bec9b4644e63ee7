"""What a question asks for, as data: phrases with conditions, which `osprey_ros.query.grammar` reads from words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias


class Relation(Enum):
    """Where one object is from another, as seen from the camera."""

    NEXT_TO = "next to"
    LEFT = "to the left of"
    RIGHT = "to the right of"
    FRONT = "in front of"
    BEHIND = "behind"
    ON = "on"
    UNDER = "under"
    IN = "in"
    BETWEEN = "between"


class Order(Enum):
    """What a superlative or an ordinal sorts objects by. The value names the object that comes first."""

    LEFT = "leftmost"
    RIGHT = "rightmost"
    TOP = "topmost"
    BOTTOM = "bottommost"
    NEAR = "nearest"
    FAR = "farthest"
    LARGE = "largest"
    SMALL = "smallest"
    TALL = "tallest"
    SHORT = "shortest"

    @property
    def opposite(self) -> Order:
        """The order that starts at the other end."""
        return _OPPOSITES[self]


_PAIRS = (
    (Order.LEFT, Order.RIGHT),
    (Order.TOP, Order.BOTTOM),
    (Order.NEAR, Order.FAR),
    (Order.LARGE, Order.SMALL),
    (Order.TALL, Order.SHORT),
)
_OPPOSITES = dict(_PAIRS) | {b: a for a, b in _PAIRS}


@dataclass(frozen=True)
class Rank:
    """The place of an object among those that a phrase describes: 1 is the first in this order.

    ``reference``: for NEAR and FAR, what the distance is measured from; None for the camera.
    """

    order: Order
    place: int = 1
    reference: Phrase | None = None


@dataclass(frozen=True)
class Quality:
    """The object has one of these attribute values, or none of them if negated."""

    values: tuple[str, ...]
    negated: bool = False


@dataclass(frozen=True)
class Part:
    """The object has a part with one of these names, or has none of them if negated."""

    names: tuple[str, ...]
    negated: bool = False


@dataclass(frozen=True)
class Located:
    """The object is in a relation to the references: two for BETWEEN, none for a side of the image, else one."""

    relation: Relation
    references: tuple[Phrase, ...] = ()
    negated: bool = False


@dataclass(frozen=True)
class Like:
    """The object is what another phrase describes, or is not if negated."""

    phrase: Phrase
    negated: bool = False


Condition: TypeAlias = "Quality | Part | Located | Like"


@dataclass(frozen=True)
class Phrase:
    """One kind of object that is asked for.

    Attributes:
        text: the words without article.
        head: the noun, "" if any object will do ("the red one").
        name: the noun with the words before it that are not known attribute values, such as "coffee mug".
        conditions: all of them must hold.
        rank: which one of the objects that meet the conditions, None for all of them.
        free_text: words without a noun that the grammar cannot read, such as "something to drink from"; else "".
        left_out: words that the grammar cannot read and that are not in ``free_text``.
    """

    text: str = field(compare=False)
    head: str = ""
    name: str = ""
    conditions: tuple[Condition, ...] = ()
    rank: Rank | None = None
    free_text: str = ""
    left_out: tuple[str, ...] = ()

    def inner(self) -> Iterator[Phrase]:
        """Yield this phrase and all phrases in its conditions and its rank."""
        yield self
        inner = [] if self.rank is None or self.rank.reference is None else [self.rank.reference]
        for condition in self.conditions:
            if isinstance(condition, Located):
                inner += condition.references
            elif isinstance(condition, Like):
                inner.append(condition.phrase)
        for phrase in inner:
            yield from phrase.inner()


@dataclass(frozen=True)
class Reading:
    """One way to read a question: an object is asked for if it is what any of the phrases describes."""

    phrases: tuple[Phrase, ...]

    def left_out(self) -> tuple[str, ...]:
        """Return the words that this reading leaves out, in the order of the question."""
        return tuple(word for phrase in self.phrases for inner in phrase.inner() for word in inner.left_out)


@dataclass(frozen=True)
class Query:
    """A question and its readings: two if it is ambiguous what its last words refer to."""

    text: str
    readings: tuple[Reading, ...]
