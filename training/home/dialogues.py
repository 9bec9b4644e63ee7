"""Questions about objects of views with their true answers: the texts of training samples of home."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from osprey_ros.decoding.prompt import QUESTIONS, REGION_TEXT
from osprey_ros.query.word_forms import with_article
from osprey_sim.colors import BASIC_COLORS
from osprey_sim.dialogues import CLASS_QUESTION, COLOR_QUESTION, PAIR_QUESTION, PART_QUESTION, RELATION_QUESTION
from training.home.features import ObjectFacts
from training.home.kinds import KindFacts, Kinds

MATERIAL_QUESTION = f"What is {REGION_TEXT} made of?"
_COLUMNS = ("left", "middle", "right")
_ROWS = ("top", "middle", "bottom")
_REPEATED = 50


def phrase(kind: KindFacts, color: str = "") -> str:
    """Return a kind with its article and a color: "a red coffee mug", "blue scissors", "bread"."""
    words = f"{color} {kind.name}".strip()
    return words if kind.plural or kind.mass else with_article(words)


def place(box: Sequence[float]) -> str:
    """Return where in the image a box is: "at the top left of the image"."""
    column, row = (
        names[min(2, int(3 * (low + high) / 2))]
        for names, low, high in ((_COLUMNS, box[0], box[2]), (_ROWS, box[1], box[3]))
    )
    if column == row == "middle":
        return "in the middle of the image"
    return f"at the {' '.join(word for word in (row, column) if word != 'middle')} of the image"


def detailed(kind: KindFacts, facts: ObjectFacts) -> str:
    """Return a detailed description: kind, color, parts, material and place, as far as they are known."""
    text = phrase(kind, facts.color)
    if kind.parts:
        parts = [part if part.endswith("s") else with_article(part) for part in kind.parts[:3]]
        text += " with " + (parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1])
    if len(kind.materials) == 1:
        text += f", made of {kind.materials[0]}"
    return f"{text}, {place(facts.box)}"


def relation(box: Sequence[float], other: Sequence[float]) -> str | None:
    """Return where a box is relative to another one, or None if neither direction is clear."""
    across = (box[0] + box[2] - other[0] - other[2]) / 2
    down = (box[1] + box[3] - other[1] - other[3]) / 2
    if max(abs(across), abs(down)) < 0.1 or 0.67 < abs(across) / max(abs(down), 1e-6) < 1.5:
        return None
    if abs(across) > abs(down):
        return "left of" if across < 0 else "right of"
    return "above" if down < 0 else "below"


class DialogueMaker:
    """Makes dialogues about the objects of a view.

    Args:
        kinds: The tree with the facts about each kind.
        weights: Weight of each of `training.data.DIALOGUES`, 1 by default. Kinds with a high weight tend to come
            first; weight 0 excludes a kind.
    """

    def __init__(self, kinds: Kinds, weights: Mapping[str, float]) -> None:
        self.kinds, self.weights = kinds, weights
        self._names = tuple(kinds.facts)
        self._parts = tuple(sorted({part for kind in kinds.facts.values() for part in kind.parts}))

    def of(
        self, objects: Sequence[ObjectFacts], row: int, rng: np.random.Generator, most: int
    ) -> list[tuple[str, str, int | None]]:
        """Return (question, answer, row of a second object or None) for an object, at most one of each kind.

        Args:
            objects: All objects of the view.
            row: The object.
            rng: Draws the dialogues.
            most: The largest number of dialogues.
        """
        facts = objects[row]
        kind = self.kinds.facts[facts.kind]
        found: dict[str, tuple[str, str, int | None]] = {
            "category": (QUESTIONS["category"], kind.name, None),
            "short": (QUESTIONS["short"], phrase(kind, facts.color), None),
            "detailed": (QUESTIONS["detailed"], detailed(kind, facts), None),
            "class": (*self._class_question(kind, rng), None),
            "relation": (RELATION_QUESTION, place(facts.box), None),
        }
        if facts.color:
            found["color"] = (COLOR_QUESTION, facts.color, None)
        if kind.parts:
            found["part"] = (*self._part_question(kind, rng), None)
        if len(kind.materials) == 1:
            found["material"] = (MATERIAL_QUESTION, kind.materials[0], None)
        if len(objects) > 1:
            other = int(rng.integers(len(objects) - 1))
            other += other >= row
            words = relation(facts.box, objects[other].box)
            if words is not None:
                answer = f"{words} {phrase(self.kinds.facts[objects[other].kind], objects[other].color)}"
                found["pair"] = (PAIR_QUESTION, answer, other)
        names = [name for name in found if self.weights.get(name, 1.0) > 0]
        keys = rng.exponential(size=len(names)) / [self.weights.get(name, 1.0) for name in names]
        return [found[names[i]] for i in np.argsort(keys)[:most]]

    def texts(self) -> Iterator[str]:
        """Yield the texts about all kinds, to train a tokenizer."""
        rng = np.random.default_rng(0)
        for number, kind in enumerate(self.kinds.facts.values()):
            color = BASIC_COLORS[number % len(BASIC_COLORS)]
            box = tuple(float(value) for value in np.sort(rng.uniform(0, 1, (2, 2)), axis=0).ravel())
            facts = ObjectFacts(kind.name, color, box, 0.1)  # type: ignore[arg-type]
            yield from (detailed(kind, facts), phrase(kind, color), place(box))
            yield from (word for word in (*self._class_question(kind, rng), *kind.synonyms, *kind.materials))
            yield from (f"{word} {phrase(kind)}" for word in ("left of", "right of", "above", "below"))
        # Questions are long and frequent: each of their words becomes a token.
        asked = (*QUESTIONS.values(), COLOR_QUESTION, PAIR_QUESTION, RELATION_QUESTION, MATERIAL_QUESTION)
        yield from asked * _REPEATED
        yield from ("yes", "no", *BASIC_COLORS)
        yield from (PART_QUESTION.format(region=REGION_TEXT, part=with_article(part)) for part in self._parts)

    def _class_question(self, kind: KindFacts, rng: np.random.Generator) -> tuple[str, str]:
        """Return whether an object is of a kind, asked by one of its words or a more general one; half are "yes"."""
        lineage = (kind.name, *self.kinds.ancestors(kind.name)[:-1])
        if rng.random() < 0.5:
            asked = str(lineage[int(rng.integers(len(lineage)))])
            words = self.kinds.facts[asked]
            if words.synonyms and rng.random() < 0.3:
                name = str(rng.choice(words.synonyms))
                thing = name if words.plural or words.mass else with_article(name)
            else:
                thing = phrase(words)
            return CLASS_QUESTION.format(region=REGION_TEXT, thing=thing), "yes"
        while True:
            asked = self._names[int(rng.integers(len(self._names)))]
            if asked not in lineage and kind.name not in self.kinds.ancestors(asked):
                return CLASS_QUESTION.format(region=REGION_TEXT, thing=phrase(self.kinds.facts[asked])), "no"

    def _part_question(self, kind: KindFacts, rng: np.random.Generator) -> tuple[str, str]:
        present = rng.random() < 0.5
        known = {
            part for name in (kind.name, *self.kinds.ancestors(kind.name)[:-1]) for part in self.kinds.facts[name].parts
        }
        asked = str(rng.choice(kind.parts if present else [part for part in self._parts if part not in known]))
        part = asked if asked.endswith("s") else with_article(asked)
        return PART_QUESTION.format(region=REGION_TEXT, part=part), "yes" if present else "no"
