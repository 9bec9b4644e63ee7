"""Generate questions about simulated regions with their true answers: the texts of training samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from osprey_ros.decoding.prompt import QUESTIONS, REGION_TEXT
from osprey_ros.query.word_forms import with_article
from osprey_sim import words
from osprey_sim.render import Frame
from osprey_sim.scene import Scene

COLOR_QUESTION = f"What color is {REGION_TEXT}?"
RELATION_QUESTION = f"Where is {REGION_TEXT}?"
PAIR_QUESTION = f"Where is {REGION_TEXT} relative to {REGION_TEXT}?"
PART_QUESTION = "Does {region} have {part}?"
CLASS_QUESTION = "Is {region} {thing}?"

# Kinds of dialogues. Answers in PLACED are true for the whole image only, in SIZED for images that are not enlarged,
# and in COLORED for images with unchanged colors.
KINDS = ("category", "short", "detailed", "color", "class", "part", "relation", "pair")
PLACED = frozenset({"detailed", "relation", "pair"})
SIZED = frozenset({"short", "detailed", "relation", "pair"})
COLORED = frozenset({"color", *SIZED})

# Shares of questions about parts. Half of the answers are then "yes", although a third of the classes has no parts.
_ASK_PARTLESS = 0.5  # of the objects without parts
_ASK_PRESENT = 0.625  # of the questions about objects with parts, ask for a part that exists


@dataclass(frozen=True)
class RegionFacts:
    """Ground truth of one region: plain data, stored as JSON next to the images."""

    kind: str  # "object" or "part"
    id: int  # value in the instance-id image, or in the part-id image
    area: int  # visible pixels
    category: str
    short: str
    detailed: str = ""  # this and the following: objects only
    color: str = ""
    size: str = ""
    parts: tuple[str, ...] = field(default=())
    table: str = ""
    relations: tuple[tuple[str, int], ...] = field(default=())  # (relation, id of the other object)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RegionFacts:
        """Return the facts of a JSON object. The key "colour" of files before 0.2 is accepted."""
        return cls(**{"color" if key == "colour" else key: value for key, value in data.items()})


def region_facts(scene: Scene, frame: Frame) -> list[RegionFacts]:
    """Return the facts of each visible object and part of a frame: objects first, each by ascending id."""
    areas = np.bincount(frame.instance_ids.ravel(), minlength=1)
    part_areas = np.bincount(frame.part_ids.ravel(), minlength=1)
    objects = {obj.instance_id: obj for obj in scene.objects}
    related = words.relations(scene, frame)
    facts = [
        RegionFacts(
            kind="object",
            id=number,
            area=int(areas[number]),
            category=obj.category,
            short=words.short(obj),
            detailed=words.detailed(scene, frame, obj),
            color=obj.color,
            size=obj.size,
            parts=tuple(part.name for part in obj.parts),
            table=scene.table.kind,
            relations=tuple((relation, there) for here, relation, there in related if here == number),
        )
        for number, obj in sorted(objects.items())
        if number < len(areas) and areas[number]
    ]
    for number, (instance_id, name) in sorted(frame.parts.items()):
        if number < len(part_areas) and part_areas[number]:
            obj = objects[instance_id]
            part = next(p for p in obj.parts if p.name == name)
            facts.append(
                RegionFacts(
                    kind="part",
                    id=number,
                    area=int(part_areas[number]),
                    category=name,
                    short=words.part_short(obj, part),
                )
            )
    return facts


class Dialogue(NamedTuple):
    """A question about one region or about two, and its true answer."""

    question: str
    answer: str
    other: int | None = None  # id of the second object of the question


def dialogues(
    facts: RegionFacts,
    rng: np.random.Generator,
    weights: Mapping[str, float] | None = None,
    without: frozenset[str] = frozenset(),
    beside: Sequence[RegionFacts] = (),
) -> list[Dialogue]:
    """Return true dialogues about a region in random order, at most one of each kind.

    Args:
        facts: Ground truth of the region.
        rng: Draws the yes-or-no questions, the pairs and the order.
        weights: Weight of each kind (default 1). Kinds with a high weight tend to come first; weight 0 excludes a kind.
            If "relation" has weight 0, detailed descriptions omit the neighbor, because a small model would invent it.
        without: Kinds to exclude.
        beside: Objects of the same image. Half of the absent classes come from these, and pairs refer to them.
    """
    weights = weights or {}
    found = {
        "category": Dialogue(QUESTIONS["category"], facts.category),
        "short": Dialogue(QUESTIONS["short"], facts.short),
    }
    if facts.kind == "object":
        alone, comma, neighbor = facts.detailed.partition(", ")
        found["detailed"] = Dialogue(QUESTIONS["detailed"], facts.detailed if weights.get("relation", 1.0) else alone)
        found["color"] = Dialogue(COLOR_QUESTION, facts.color)
        found["class"] = Dialogue(*class_question(facts, rng, [f.category for f in beside]))
        if facts.parts or rng.random() < _ASK_PARTLESS:
            found["part"] = Dialogue(*part_question(facts, rng))
        if comma:
            found["relation"] = Dialogue(RELATION_QUESTION, neighbor)
        pairs = pair_questions(facts, beside)
        if pairs:
            found["pair"] = pairs[int(rng.integers(len(pairs)))]
    shares = {kind: weights.get(kind, 1.0) for kind in found if kind not in without}
    kinds = [kind for kind, share in shares.items() if share > 0]
    # Sorting by exponential variates equals weighted draws without replacement.
    keys = rng.exponential(size=len(kinds)) / [shares[kind] for kind in kinds]
    return [found[kinds[i]] for i in np.argsort(keys)]


def all_texts(facts: RegionFacts) -> Iterator[str]:
    """Yield the texts about a region, to train a tokenizer."""
    rng = np.random.default_rng(facts.id)
    yield PAIR_QUESTION
    for question, answer, _ in dialogues(facts, rng):
        yield question
        yield answer


def pair_questions(facts: RegionFacts, others: Sequence[RegionFacts]) -> list[Dialogue]:
    """Return a dialogue about an object's relation to each of the others that it has one to."""
    shown = {other.id: other for other in others}
    return [
        Dialogue(PAIR_QUESTION, f"{relation} {shown[there].short}", there)
        for relation, there in facts.relations
        if there in shown
    ]


def class_question(facts: RegionFacts, rng: np.random.Generator, beside: Sequence[str] = ()) -> tuple[str, str]:
    """Return a question whether an object is of a class, and its answer. Half are "yes". beside: as in `dialogues`."""
    asked = facts.category
    if rng.random() < 0.5:
        others = [name for name in words.CLASSES if name != facts.category]
        near = [name for name in others if name in beside]
        asked = str(rng.choice(near if near and rng.random() < 0.5 else others))
    question = CLASS_QUESTION.format(region=REGION_TEXT, thing=with_article(asked))
    return question, "yes" if asked == facts.category else "no"


def part_question(facts: RegionFacts, rng: np.random.Generator) -> tuple[str, str]:
    """Return a question whether an object has a part, and its answer. About half are "yes"."""
    present = bool(facts.parts) and rng.random() < _ASK_PRESENT
    absent = [name for name in words.PARTS if name not in facts.parts]
    asked = str(rng.choice(facts.parts if present else absent))
    question = PART_QUESTION.format(region=REGION_TEXT, part=with_article(asked))
    return question, "yes" if present else "no"
