"""What is asked about a simulated region and what is true about it: the text side of a training sample."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from osprey_ros.prompt import QUESTIONS, REGION_TEXT
from osprey_sim import words
from osprey_sim.render import Frame
from osprey_sim.scene import Scene

COLOUR_QUESTION = f"What color is {REGION_TEXT}?"
PART_QUESTION = "Does {region} have {part}?"
CLASS_QUESTION = "Is {region} {thing}?"


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


def region_facts(scene: Scene, frame: Frame) -> list[RegionFacts]:
    """Facts of every visible object and part of a frame, objects first, by id."""
    areas = np.bincount(frame.instance_ids.ravel(), minlength=1)
    part_areas = np.bincount(frame.part_ids.ravel(), minlength=1)
    objects = {obj.instance_id: obj for obj in scene.objects}
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


def dialogues(facts: RegionFacts, rng: np.random.Generator) -> list[tuple[str, str]]:
    """(question, answer) pairs that are true of a region, in random order of kind; yes/no questions drawn at random."""
    pairs = [(QUESTIONS["category"], facts.category), (QUESTIONS["short"], facts.short)]
    if facts.kind == "object":
        pairs.append((QUESTIONS["detailed"], facts.detailed))
        pairs.append((COLOUR_QUESTION, facts.colour))
        pairs.append(_is_it(facts, rng))
        pairs.append(_has_it(facts, rng))
    return [pairs[i] for i in rng.permutation(len(pairs))]


def all_texts(facts: RegionFacts) -> Iterator[str]:
    """Every text that can occur for a region: what a tokenizer must know."""
    rng = np.random.default_rng(facts.id)
    for question, answer in dialogues(facts, rng):
        yield question
        yield answer


def _is_it(facts: RegionFacts, rng: np.random.Generator) -> tuple[str, str]:
    asked = facts.category if rng.random() < 0.5 else str(rng.choice(words.CLASSES))
    question = CLASS_QUESTION.format(region=REGION_TEXT, thing=words.with_article(asked))
    return question, "yes" if asked == facts.category else "no"


def _has_it(facts: RegionFacts, rng: np.random.Generator) -> tuple[str, str]:
    present = bool(facts.parts) and rng.random() < 0.5
    asked = str(rng.choice(facts.parts if present else words.PARTS))
    question = PART_QUESTION.format(region=REGION_TEXT, part=words.with_article(asked))
    return question, "yes" if asked in facts.parts else "no"
