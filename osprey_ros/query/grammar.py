"""English words for an object, read softly: what it is, what it is like, and where it is from something else.

"where is the small red mug next to the blue bowl?" is a mug, small and red, next to a bowl that is blue. What cannot be
taken apart stays whole: "something to drink from".
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum

_SPOKEN_WITH_Y = ("uni", "use", "eu")  # words that begin so begin with a consonant for the ear


class Relation(Enum):
    """Where one thing is from another, for someone at the camera."""

    NEXT_TO = "next to"
    LEFT = "to the left of"
    RIGHT = "to the right of"
    FRONT = "in front of"
    BEHIND = "behind"
    ON = "on"
    UNDER = "under"
    IN = "in"
    BETWEEN = "between"


@dataclass(frozen=True)
class Noun:
    """A thing that is asked for.

    ``text``: its words without article. ``head``: what it is, "" where any thing will do ("the red one").
    ``name``: the head with the words before it that are not in ``adjectives``, such as "coffee mug". ``free``: it could
    not be taken apart, and only the text counts.
    """

    text: str
    head: str
    name: str
    adjectives: tuple[str, ...] = ()
    free: bool = False


@dataclass(frozen=True)
class Query:
    """A thing, and where it is: from ``references``, two of BETWEEN, none where a side of the picture is meant."""

    text: str
    target: Noun
    relation: Relation | None = None
    references: tuple[Noun, ...] = ()


_ASKING = re.compile(
    r"^(?:please\s+)?(?:can you\s+|could you\s+)?(?:"
    r"where(?:'s| is| are)|which (?:one |thing |object )?(?:is|are)|what(?:'s| is| are)|is there|are there|do you see|"
    r"find|show|look for|search for|get|give|bring|fetch|pick up|take|point (?:to|at)|i (?:want|need)|"
    r"i(?:'m| am) looking for)\s+(?:me\s+)?",
)
_ARTICLE = re.compile(r"^(?:the|an?|some|any|this|that|these|those|my|your|another|one of the)\s+")
_ANY = frozenset({"thing", "things", "object", "objects", "item", "items", "one", "ones", "something", "anything"})
_CLAUSE = re.compile(r"\s+(?:that|which|who|with|without|for|to|of|made|i|you|we)\s+")
_RELATIONS: tuple[tuple[str, Relation], ...] = (
    (r"(?:to|on|at) the left(?: hand)?(?: side)? of|(?:just )?left of|left from", Relation.LEFT),
    (r"(?:to|on|at) the right(?: hand)?(?: side)? of|(?:just )?right of|right from", Relation.RIGHT),
    (r"in front of|before", Relation.FRONT),
    (r"at the back of|in back of|behind", Relation.BEHIND),
    (r"in between|between", Relation.BETWEEN),
    (r"(?:right )?next to|beside|besides|nearest to|closest to|close to|near to|near|by|adjacent to", Relation.NEXT_TO),
    (r"on top of|standing on|lying on|above|over|upon|on", Relation.ON),
    (r"underneath|beneath|below|under", Relation.UNDER),
    (r"inside of|inside|within|in", Relation.IN),
)
_SIDES: tuple[tuple[str, Relation], ...] = (
    (r"(?:to|on|at|in) the (?:far )?left(?: hand)?(?: side)?", Relation.LEFT),
    (r"(?:to|on|at|in) the (?:far )?right(?: hand)?(?: side)?", Relation.RIGHT),
    (r"(?:to|on|at|in) the (?:front|foreground)", Relation.FRONT),
    (r"(?:to|on|at|in) the (?:back|background|rear)", Relation.BEHIND),
)
_OUTERMOST = {"leftmost": Relation.LEFT, "rightmost": Relation.RIGHT, "nearest": Relation.FRONT}
_OUTERMOST |= {"closest": Relation.FRONT, "farthest": Relation.BEHIND, "furthest": Relation.BEHIND}
# What everything rests on or is in says nothing of where it is.
_RESTING = (Relation.ON, Relation.IN)
_GROUNDS = frozenset(
    {"table", "desk", "counter", "floor", "ground", "surface", "picture", "image", "scene", "room", "view"}
)
_GROUNDS |= {"middle", "center", "centre"}
_PLURALS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("ies", ("y",)),
    ("ves", ("f", "fe")),
    *((f"{ending}es", (ending,)) for ending in ("sh", "ch", "x", "s", "z", "o")),
)  # beside -s
_LINK = re.compile(r"\s+(?:that is|that are|which is|which are|that's|is|are|standing|lying|sitting)$")


def parse(text: str, adjectives: Collection[str] = ()) -> Query:
    """Takes words for an object apart. ``adjectives``: those known to say what things are like, in lower case.

    Of several relations the first counts: whether the second is about the thing or about what the first names, words do
    not tell. A side of the picture counts where there is no other.
    """
    words = re.sub(r"[\s,]+", " ", text.strip().lower()).strip(" ?!.")
    words = _ASKING.sub("", words, count=1) or words
    if not words:
        return Query(text, noun(""))
    words, side = _without_sides(words)
    while (first := _first_relation(words)) is not None:
        before, relation, after = first
        reference = _before_relation(after)
        if relation in _RESTING and noun(reference, adjectives).head in _GROUNDS:
            words = f"{before}{after[len(reference) :]}".strip()
            continue
        parts = [after]
        if relation is Relation.BETWEEN:
            parts = re.split(r"\s+and\s+", after, maxsplit=1)
            parts *= 3 - len(parts)  # "between the books"
        references = tuple(noun(_before_relation(part), adjectives) for part in parts)
        return Query(text, noun(_what(before), adjectives), relation, references)
    words = _what(words)
    if side is not None:
        return Query(text, noun(words, adjectives), side)
    bare = _ARTICLE.sub("", words).split()
    if len(bare) > 1 and bare[0] in _OUTERMOST:
        return Query(text, noun(" ".join(bare[1:]), adjectives), _OUTERMOST[bare[0]])
    return Query(text, noun(words, adjectives), None)


def noun(words: str, adjectives: Collection[str] = ()) -> Noun:
    """Words for one thing, in lower case and without a relation, taken apart."""
    text = words
    while (shorter := _ARTICLE.sub("", text)) != text:
        text = shorter
    start = text.split()
    if start and start[0] in _ANY and len(start) > 1:
        rest = start[1:]
        if all(word in adjectives for word in rest):  # "something red"
            return Noun(text, "", "", tuple(rest))
        return Noun(text, "", "", free=True)  # "something to drink from"
    clause = _CLAUSE.search(text)
    core = (text[: clause.start()] if clause else text).split()
    if not core:
        return Noun(text, "", "", free=True)
    described = tuple(word for word in core[:-1] if word in adjectives)
    if core[-1] in _ANY:
        unknown = [word for word in core[:-1] if word not in adjectives]
        return Noun(text, "", "", described, free=bool(unknown or clause))
    if core[-1] in adjectives:  # "the red"
        return Noun(text, "", "", (*described, core[-1]))
    name = " ".join(word for word in core if word not in adjectives)
    return Noun(text, core[-1], name, described)


def same_word(a: str, b: str) -> bool:
    """Whether two words are one, whatever their number."""
    return a == b or not {a, *singulars(a)}.isdisjoint((b, *singulars(b)))


def singulars(word: str) -> tuple[str, ...]:
    """What a word is without its plural ending, if it has one: the spelling does not tell cookie from cherry."""
    if len(word) < 3 or not word.endswith("s") or word.endswith("ss"):
        return ()
    found = [word[:-1]]
    for ending, endings in _PLURALS:
        if word.endswith(ending):
            found += [word[: -len(ending)] + instead for instead in endings]
    return tuple(found)


def mentions(text: str, name: str) -> bool:
    """Whether a text has these words in it, one behind the other, whatever their number."""
    words, wanted = re.findall(r"\w+", text.lower()), re.findall(r"\w+", name.lower())
    return bool(wanted) and any(
        all(same_word(word, other) for word, other in zip(words[start:], wanted, strict=False))
        for start in range(len(words) - len(wanted) + 1)
    )


def with_article(words: str) -> str:
    """The words with their article: "a mug", "an orange apple", "a uniform"; what looks like a plural takes none."""
    lowered = words.lower()
    if lowered.endswith("s") and not lowered.endswith(("ss", "us")):
        return words
    return f"{'an' if lowered[:1] in 'aeiou' and not lowered.startswith(_SPOKEN_WITH_Y) else 'a'} {words}"


def _without_sides(words: str) -> tuple[str, Relation | None]:
    """The words without a side of the picture ("on the left"), and that side."""
    for pattern, relation in _SIDES:
        whole = rf"(?:^|\s+)(?:{pattern})(?: of the (?:picture|image|table|scene|room))?(?=\s|$)(?!\s+of\s)"
        without, found = re.subn(whole, "", words)
        if found:
            return without.strip(), relation
    return words, None


def _before_relation(words: str) -> str:
    """Words up to where they go on with a relation."""
    first = _first_relation(words)
    return (first[0] if first else "") or words


def _what(words: str) -> str:
    """What is asked for, by the words before a relation: none in "what is behind the mug?"."""
    return _LINK.sub("", words) or "thing"


def _first_relation(words: str) -> tuple[str, Relation, str] | None:
    """What comes before the first relation, and behind it."""
    best: tuple[int, int, Relation, int] | None = None
    for pattern, relation in _RELATIONS:
        found = re.search(rf"(?<![^\s])(?:{pattern})(?=\s)", words)
        # At one place the longest: "on top of" before "on", "in front of" before "in".
        if found and (best is None or (found.start(), -len(found[0])) < best[:2]):
            best = (found.start(), -len(found[0]), relation, found.end())
    if best is None or not words[best[3] :].strip():
        return None
    return words[: best[0]].strip(), best[2], words[best[3] :].strip()
