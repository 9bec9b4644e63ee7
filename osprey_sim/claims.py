"""Reads sentences of the simulator's grammar back, and says which of their claims are true of a rendered scene."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from osprey_ros.query.word_forms import with_article
from osprey_sim import words
from osprey_sim.render import Frame
from osprey_sim.scene import Scene, SceneObject

# Kinds of claims. "form" is claimed by every text, and false of one that is not of the grammar.
FORM, THING, PART, PLACE, TABLE, RELATION = "form", "thing", "part", "place", "table", "relation"


def _any_of(names: tuple[str, ...]) -> str:
    return "|".join(map(re.escape, sorted(names, key=len, reverse=True)))


_THING = rf"(?:an? )?(?:(?:{_any_of(words.SIZES)}) )?(?:{_any_of(words.COLOURS)}) (?:{_any_of(words.CLASSES)})"
_PART = rf"(?:an? )?(?:{_any_of(words.PARTS)})"
_NEIGHBOUR = rf"(?P<relation>{_any_of(words.RELATIONS)}) (?P<other>{_THING})"
_SENTENCE = re.compile(
    rf"(?P<thing>{_THING})(?: with (?P<parts>{_PART}(?: and {_PART})*))?(?: lying)? "
    rf"(?P<place>{_any_of(words.PLACES)}) (?P<table>{_any_of(words.TABLES)}) table(?:, {_NEIGHBOUR})?"
)
_ANSWER = re.compile(_NEIGHBOUR)


@dataclass(frozen=True)
class Claim:
    """Something that a text says, of one of the kinds above, and whether it is so."""

    kind: str
    text: str
    true: bool


class Witness:
    """What is true of one rendered scene."""

    def __init__(self, scene: Scene, frame: Frame):
        self._scene, self._frame = scene, frame
        self._objects = {obj.instance_id: obj for obj in scene.objects}
        self._relations = set(words.relations(scene, frame))

    def has_relation(self, obj: SceneObject) -> bool:
        """Whether any relation of this object to another can be said."""
        return any(subject == obj.instance_id for subject, _, _ in self._relations)

    def sentence(self, text: str, obj: SceneObject) -> tuple[Claim, ...]:
        """The claims of a detailed description of an object.

        A place is claimed only by sentences that name one more exactly than "on a".
        """
        match = _SENTENCE.fullmatch(text)
        return tuple(self._claims_of(match, obj)) if match else (Claim(FORM, text, False),)

    def relation(self, text: str, obj: SceneObject) -> tuple[Claim, ...]:
        """The claims of an answer to where an object is: "behind a small red mug"."""
        match = _ANSWER.fullmatch(text)
        if match is None:
            return (Claim(FORM, text, False),)
        return (Claim(FORM, text, True), self._neighbour(match, obj))

    def _claims_of(self, match: re.Match[str], obj: SceneObject) -> Iterator[Claim]:
        yield Claim(FORM, match[0], True)
        yield Claim(THING, match["thing"], match["thing"] == words.short(obj))
        has = {with_article(name) for name in words.visible_parts(self._frame, obj)}
        for part in (match["parts"] or "").split(" and "):
            if part:
                yield Claim(PART, part, part in has)
        if match["place"] != words.ON:
            yield Claim(PLACE, match["place"], match["place"] == words.place(self._scene, self._frame, obj))
        yield Claim(TABLE, match["table"], match["table"] == self._scene.table.kind)
        if match["relation"]:
            yield self._neighbour(match, obj)

    def _neighbour(self, match: re.Match[str], obj: SceneObject) -> Claim:
        """True where one that looks as is said stands where it is said."""
        said, other = match["relation"], match["other"]
        true = any(
            subject == obj.instance_id and relation == said and words.short(self._objects[there]) == other
            for subject, relation, there in self._relations
        )
        return Claim(RELATION, f"{said} {other}", true)
