"""Evidence from what captions and labels say about objects, and names of phrases and objects for messages."""

from __future__ import annotations

from collections.abc import Sequence

from osprey_ros.query.question import Like, Part, Phrase, Quality
from osprey_ros.query.word_forms import mentions, with_article
from osprey_ros.scene.attributes import AttributeSpec
from osprey_ros.scene.types import UNKNOWN, SceneObject

UNCAPTIONED_PRIOR = 0.02  # probability that an object is something that its caption does not mention
UNSUPPORTED = 0.6  # factor for a word that nothing confirms or denies, such as "old"


def called(phrase: Phrase) -> str:
    """Return a phrase for a message, without places: "a red mug", "red", "something to drink from"."""
    qualities = [condition for condition in phrase.conditions if isinstance(condition, Quality)]
    said = " ".join(" or ".join(quality.values) for quality in qualities if not quality.negated)
    name = f"{said} {phrase.name}".strip()
    text = with_article(name) if phrase.name else phrase.free_text or name
    ends = [f"not {' or '.join(quality.values)}" for quality in qualities if quality.negated]
    for condition in phrase.conditions:
        if isinstance(condition, Part):
            parts = " or ".join(with_article(name) for name in condition.names)
            ends.append(f"{'without' if condition.negated else 'with'} {parts}")
        elif isinstance(condition, Like):
            ends.append(f"{'not ' if condition.negated else ''}{called(condition.phrase)}")
    return " and ".join(part for part in (text, *ends) if part) or "there"


def label_of(thing: SceneObject) -> str:
    """Return the name of an object for a message: "a red mug (track 3)"."""
    known = thing.description if thing.description not in ("", UNKNOWN) else thing.category or thing.label
    return f"{known or 'an object without caption'} (track {thing.track_id})"


def kind_from_captions(thing: SceneObject, names: Sequence[str]) -> float:
    """Return how likely an object is one of the named kinds, by its caption and its label."""
    words = thing.caption
    best = max(UNCAPTIONED_PRIOR, kind_from_tree(thing, names))
    if words and any(mentions(f"{words.category} {words.description}", name) for name in names):
        best = max(best, words.confidence)
    if any(mentions(thing.label, name) for name in names):
        best = max(best, thing.score)
    return best


def kind_from_tree(thing: SceneObject, names: Sequence[str]) -> float:
    """Return how likely an object is one of the named kinds, by the tree of kinds; 0 if it names none of them."""
    kinds = thing.caption.kinds if thing.caption else ()
    return max((kind.probability for kind in kinds if any(mentions(kind.name, name) for name in names)), default=0.0)


def attribute_from_captions(thing: SceneObject, spec: AttributeSpec, value: str) -> tuple[float, bool]:
    """Return how likely an attribute of an object has a value by its caption, and whether the caption tells it."""
    if thing.caption is None:
        return UNCAPTIONED_PRIOR, False
    for known in thing.caption.attributes:
        if known.name == spec.name:
            if known.value.lower() == value:
                return known.confidence, True
            return (UNCAPTIONED_PRIOR, True) if known.value != UNKNOWN else (UNSUPPORTED, False)
    if mentions(thing.caption.description, value):
        return thing.caption.confidence, True
    return UNCAPTIONED_PRIOR, any(mentions(thing.caption.description, other) for other in spec.values)
