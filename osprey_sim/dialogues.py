"""What is asked about a simulated region and what is true about it: the text side of a training sample."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from osprey_ros.decoding.prompt import QUESTIONS, REGION_TEXT
from osprey_ros.query.word_forms import with_article
from osprey_sim import words
from osprey_sim.render import Frame
from osprey_sim.scene import Scene

COLOUR_QUESTION = f"What color is {REGION_TEXT}?"
RELATION_QUESTION = f"Where is {REGION_TEXT}?"
PAIR_QUESTION = f"Where is {REGION_TEXT} relative to {REGION_TEXT}?"
PART_QUESTION = "Does {region} have {part}?"
CLASS_QUESTION = "Is {region} {thing}?"

# Kinds of dialogues. What is said in PLACED is true of the whole picture only, in SIZED of unenlarged ones only, in
# COLOURED of those with their own colours only.
KINDS = ("category", "short", "detailed", "colour", "class", "part", "relation", "pair")
PLACED = frozenset({"detailed", "relation", "pair"})
SIZED = frozenset({"short", "detailed", "relation", "pair"})
COLOURED = frozenset({"colour", *SIZED})

# So that as many questions for parts are true as not, although a third of the classes has none.
_ASK_PARTLESS = 0.5
_ASK_PRESENT = 0.625


@dataclass(frozen=True)
class RegionFacts:
    """What the simulator knows of one region. Plain data, stored as JSON beside the pictures."""

    kind: str  # "object" or "part"
    id: int  # value in the instance-id image, or in the part-id image
    area: int  # visible pixels
    category: str
    short: str
    detailed: str = ""  # objects only, as the following
    colour: str = ""
    size: str = ""
    parts: tuple[str, ...] = field(default=())
    table: str = ""
    relations: tuple[tuple[str, int], ...] = field(default=())  # where it is from which other object's id


def region_facts(scene: Scene, frame: Frame) -> list[RegionFacts]:
    """Facts of every visible object and part of a frame, objects first, by id."""
    areas = np.bincount(frame.instance_ids.ravel(), minlength=1)
    part_areas = np.bincount(frame.part_ids.ravel(), minlength=1)
    objects = {obj.instance_id: obj for obj in scene.objects}
    related = words.relations(scene, frame)
    facts = [
        RegionFacts(
            kind="object",
            id=number,
            area=int(areas[number]),
            category=words.category(obj),
            short=words.short(obj),
            detailed=words.detailed(scene, frame, obj),
            colour=obj.colour,
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
                    category=words.part_category(part),
                    short=words.part_short(obj, part),
                )
            )
    return facts


class Dialogue(NamedTuple):
    """A question about a region, or about one and another, and its true answer."""

    question: str
    answer: str
    other: int | None = None  # the other object's id, where the question names two


def dialogues(
    facts: RegionFacts,
    rng: np.random.Generator,
    weights: Mapping[str, float] | None = None,
    without: frozenset[str] = frozenset(),
    beside: Sequence[RegionFacts] = (),
) -> list[Dialogue]:
    """What is true of a region, at most one dialogue of a kind; questions with yes or no, and pairs, are drawn.

    They come in random order: early ones are mostly of a kind with a high weight (1 where `weights` has none; none at
    all at 0). Kinds in `without` are left out. Where relations have no weight, detailed descriptions are silent about
    neighbours, too: a model too small to find them would make them up. beside: objects of the same picture; half of the
    classes that are denied are among these, and pairs are made with them.
    """
    weights = weights or {}
    told = {
        "category": Dialogue(QUESTIONS["category"], facts.category),
        "short": Dialogue(QUESTIONS["short"], facts.short),
    }
    if facts.kind == "object":
        alone, neighbours, neighbour = facts.detailed.partition(", ")
        told["detailed"] = Dialogue(QUESTIONS["detailed"], facts.detailed if weights.get("relation", 1.0) else alone)
        told["colour"] = Dialogue(COLOUR_QUESTION, facts.colour)
        told["class"] = Dialogue(*class_question(facts, rng, [f.category for f in beside]))
        if facts.parts or rng.random() < _ASK_PARTLESS:
            told["part"] = Dialogue(*part_question(facts, rng))
        if neighbours:
            told["relation"] = Dialogue(RELATION_QUESTION, neighbour)
        pairs = pair_questions(facts, beside)
        if pairs:
            told["pair"] = pairs[int(rng.integers(len(pairs)))]
    shares = {kind: weights.get(kind, 1.0) for kind in told if kind not in without}
    kinds = [kind for kind, share in shares.items() if share > 0]
    # The order of exponential waiting times is that of draws by weight without replacement.
    waits = rng.exponential(size=len(kinds)) / [shares[kind] for kind in kinds]
    return [told[kinds[i]] for i in np.argsort(waits)]


def all_texts(facts: RegionFacts) -> Iterator[str]:
    """Every text that can occur for a region: what a tokenizer must know."""
    rng = np.random.default_rng(facts.id)
    yield PAIR_QUESTION
    for question, answer, _ in dialogues(facts, rng):
        yield question
        yield answer


def pair_questions(facts: RegionFacts, others: Sequence[RegionFacts]) -> list[Dialogue]:
    """Where an object is from each of the others to which it stands in a relation."""
    shown = {other.id: other for other in others}
    return [
        Dialogue(PAIR_QUESTION, f"{relation} {shown[there].short}", there)
        for relation, there in facts.relations
        if there in shown
    ]


def class_question(facts: RegionFacts, rng: np.random.Generator, beside: Sequence[str] = ()) -> tuple[str, str]:
    """Whether an object is of a class, drawn so that half are, and the answer. beside: as for `dialogues`."""
    asked = facts.category
    if rng.random() < 0.5:
        others = [name for name in words.CLASSES if name != facts.category]
        near = [name for name in others if name in beside]
        asked = str(rng.choice(near if near and rng.random() < 0.5 else others))
    question = CLASS_QUESTION.format(region=REGION_TEXT, thing=with_article(asked))
    return question, "yes" if asked == facts.category else "no"


def part_question(facts: RegionFacts, rng: np.random.Generator) -> tuple[str, str]:
    """Whether an object has a part, drawn so that about half have, and the answer."""
    present = bool(facts.parts) and rng.random() < _ASK_PRESENT
    absent = [name for name in words.PARTS if name not in facts.parts]
    asked = str(rng.choice(facts.parts if present else absent))
    question = PART_QUESTION.format(region=REGION_TEXT, part=with_article(asked))
    return question, "yes" if present else "no"
