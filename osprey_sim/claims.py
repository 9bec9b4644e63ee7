"""Parse descriptions in the simulator's grammar and check each claim against a rendered scene."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from osprey_ros.query.word_forms import with_article
from osprey_sim import words
from osprey_sim.render import Frame
from osprey_sim.scene import Scene, SceneObject

# Kinds of claims. Each text has a claim "form", which is false if the text does not match the grammar.
FORM, OBJECT, PART, PLACE, TABLE, RELATION = "form", "thing", "part", "place", "table", "relation"


def _any_of(names: tuple[str, ...]) -> str:
    return "|".join(map(re.escape, sorted(names, key=len, reverse=True)))


_OBJECT = rf"(?:an? )?(?:(?:{_any_of(words.SIZES)}) )?(?:{_any_of(words.COLORS)}) (?:{_any_of(words.CLASSES)})"
_PART = rf"(?:an? )?(?:{_any_of(words.PARTS)})"
_NEIGHBOR = rf"(?P<relation>{_any_of(words.RELATIONS)}) (?P<other>{_OBJECT})"
_SENTENCE = re.compile(
    rf"(?P<object>{_OBJECT})(?: with (?P<parts>{_PART}(?: and {_PART})*))?(?: lying)? "
    rf"(?P<place>{_any_of(words.PLACES)}) (?P<table>{_any_of(words.TABLES)}) table(?:, {_NEIGHBOR})?"
)
_ANSWER = re.compile(_NEIGHBOR)


@dataclass(frozen=True)
class Claim:
    """A claim of a text, of one of the kinds above, and whether it is true."""

    kind: str
    text: str
    true: bool


class ClaimChecker:
    """Check claims against one rendered scene."""

    def __init__(self, scene: Scene, frame: Frame):
        self._scene, self._frame = scene, frame
        self._objects = {obj.instance_id: obj for obj in scene.objects}
        self._relations = set(words.relations(scene, frame))

    def has_relation(self, obj: SceneObject) -> bool:
        """Return whether this object has an unambiguous relation to another one."""
        return any(subject == obj.instance_id for subject, _, _ in self._relations)

    def sentence(self, text: str, obj: SceneObject) -> tuple[Claim, ...]:
        """Return the claims of a detailed description of an object.

        The place "on a" is not a claim.
        """
        match = _SENTENCE.fullmatch(text)
        return tuple(self._claims_of(match, obj)) if match else (Claim(FORM, text, False),)

    def relation(self, text: str, obj: SceneObject) -> tuple[Claim, ...]:
        """Return the claims of an answer to "Where is ...?": "behind a small red mug"."""
        match = _ANSWER.fullmatch(text)
        if match is None:
            return (Claim(FORM, text, False),)
        return (Claim(FORM, text, True), self._neighbor(match, obj))

    def _claims_of(self, match: re.Match[str], obj: SceneObject) -> Iterator[Claim]:
        yield Claim(FORM, match[0], True)
        yield Claim(OBJECT, match["object"], match["object"] == words.short(obj))
        visible = {with_article(name) for name in words.visible_parts(self._frame, obj)}
        for part in (match["parts"] or "").split(" and "):
            if part:
                yield Claim(PART, part, part in visible)
        if match["place"] != words.ON:
            yield Claim(PLACE, match["place"], match["place"] == words.place(self._scene, self._frame, obj))
        yield Claim(TABLE, match["table"], match["table"] == self._scene.table.kind)
        if match["relation"]:
            yield self._neighbor(match, obj)

    def _neighbor(self, match: re.Match[str], obj: SceneObject) -> Claim:
        """Return the claim that an object with the claimed phrase has the claimed relation to ``obj``."""
        claimed, phrase = match["relation"], match["other"]
        true = any(
            subject == obj.instance_id and relation == claimed and words.short(self._objects[other]) == phrase
            for subject, relation, other in self._relations
        )
        return Claim(RELATION, f"{claimed} {phrase}", true)
