"""Measure the accuracy of a bundle on simulated test scenes: `python -m evaluation.accuracy --bundle engines/nano`.

Each object or part with more than `--min-area` visible pixels counts once. Names, colors, short descriptions and
yes-or-no answers are right if they equal the simulator's text exactly. In answers to "Where is ...?" and in detailed
descriptions, each claim is checked against the scene (`osprey_sim.claims`).
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
from tqdm import tqdm

from evaluation.options import add_min_area_option, add_split_option
from osprey_ros.cli._edge import command
from osprey_ros.cli._options import (
    Parser,
    add_bundle_option,
    add_count_option,
    add_figures_option,
    add_preprocessing_option,
)
from osprey_ros.cli._output import write_figures
from osprey_ros.decoding.config import GenerationConfig
from osprey_ros.decoding.prompt import QUESTIONS
from osprey_ros.describer import Describer
from osprey_ros.errors import InputError
from osprey_ros.regions.regions import Regions, regions_from_id_image
from osprey_sim.catalog import HELD_OUT
from osprey_sim.claims import FORM, OBJECT, PART, PLACE, RELATION, TABLE, Claim, ClaimChecker
from osprey_sim.dialogues import (
    COLOR_QUESTION,
    RELATION_QUESTION,
    RegionFacts,
    class_question,
    pair_questions,
    part_question,
    region_facts,
)
from osprey_sim.render import Frame, render_scenes
from osprey_sim.scene import Scene
from osprey_sim.words import CLASSES, PARTS

_OWN_WORDS = GenerationConfig(back_off=False)  # a more general category would count as wrong
# By the keys of the report.
_SAME_FOR_ALL = {
    "category": QUESTIONS["category"],
    "colour": COLOR_QUESTION,
    "short": QUESTIONS["short"],
    "detailed": QUESTIONS["detailed"],
    "relation": RELATION_QUESTION,
}


@dataclass(frozen=True)
class Answer:
    """A question with its answer and the true answer. If `truth` is None, the claims decide whether it is right."""

    question: str
    text: str
    truth: str | None = None
    claims: tuple[Claim, ...] = ()

    @property
    def right(self) -> bool:
        return self.text == self.truth if self.truth is not None else all(claim.true for claim in self.claims)


@dataclass(frozen=True)
class Judged:
    """An object or part with its answers; of a part, only the category."""

    seed: int
    facts: RegionFacts
    confidence: float  # of the category
    answers: dict[str, Answer] = field(default_factory=dict)  # by kind of question

    @property
    def is_object(self) -> bool:
        return self.facts.kind == "object"

    @property
    def category(self) -> str:
        return self.answers["category"].text

    @property
    def held_out(self) -> bool:
        """Whether the training scenes have no object of this color and class."""
        return (self.facts.color, self.facts.category) in HELD_OUT


def judge_scenes(describer: Describer, seeds: Iterable[int], split: str, min_area: int) -> list[Judged]:
    """Ask all questions about each object and part of the scenes with more than `min_area` visible pixels."""
    return judge_rendered(describer, render_scenes(split, seeds), min_area)


def judge_rendered(describer: Describer, scenes: Iterable[tuple[Scene, Frame]], min_area: int) -> list[Judged]:
    """Ask the questions of `judge_scenes` about scenes that are rendered."""
    judged: list[Judged] = []
    for scene, frame in scenes:
        large = [f for f in region_facts(scene, frame) if f.area > min_area]
        describer.set_image(frame.rgb)
        objects = [f for f in large if f.kind == "object"]
        if objects:
            judged += _judged_objects(describer, scene, frame, objects)
        parts = {f.id: f for f in large if f.kind == "part"}
        if parts:
            question = QUESTIONS["category"]
            for result in describer.ask(
                regions_from_id_image(frame.part_ids, only=list(parts), masks_anyway=True), question, _OWN_WORDS
            ):
                facts = parts[result.region_id]
                answer = Answer(question, result.text, facts.category)
                judged.append(Judged(scene.seed, facts, result.raw_confidence, {"category": answer}))
    return judged


def _judged_objects(
    describer: Describer, scene: Scene, frame: Frame, objects: Sequence[RegionFacts]
) -> Iterator[Judged]:
    rng = np.random.default_rng(scene.seed)
    checker, scene_objects = ClaimChecker(scene, frame), {obj.instance_id: obj for obj in scene.objects}
    regions = _regions(frame, objects)
    results = describer.answer(regions, list(_SAME_FOR_ALL.values()), _OWN_WORDS)
    found = {kind: {d.region_id: d for d in result} for kind, result in zip(_SAME_FOR_ALL, results, strict=True)}
    beside = [facts.category for facts in objects]
    drawn = {
        "class": {facts.id: class_question(facts, rng, beside) for facts in objects},
        "part": {facts.id: part_question(facts, rng) for facts in objects},
    }
    yes_or_no = {kind: _one_each(describer, frame, objects, asked) for kind, asked in drawn.items()}
    for facts in objects:
        obj, texts = scene_objects[facts.id], {kind: by_id[facts.id].text for kind, by_id in found.items()}
        answers = {
            kind: Answer(_SAME_FOR_ALL[kind], texts[kind], truth)
            for kind, truth in (("category", facts.category), ("colour", facts.color), ("short", facts.short))
        }
        claims = {"detailed": checker.sentence(texts["detailed"], obj)}
        if checker.has_relation(obj):
            claims["relation"] = checker.relation(texts["relation"], obj)
        for kind, made in claims.items():
            answers[kind] = Answer(_SAME_FOR_ALL[kind], texts[kind], claims=made)
        for kind, asked in drawn.items():
            answers[kind] = Answer(asked[facts.id][0], yes_or_no[kind][facts.id], asked[facts.id][1])
        pairs = pair_questions(facts, objects)
        if pairs:
            pair = pairs[int(rng.integers(len(pairs)))]
            assert pair.other is not None
            both = regions.select([facts.id, pair.other])
            answers["pair"] = Answer(pair.question, describer.ask_together(both, pair.question).text, pair.answer)
        yield Judged(scene.seed, facts, found["category"][facts.id].raw_confidence, answers)


def _one_each(
    describer: Describer, frame: Frame, objects: Sequence[RegionFacts], asked: dict[int, tuple[str, str]]
) -> dict[int, str]:
    """Return answers by instance id; each object has its own question."""
    by_question: dict[str, list[RegionFacts]] = defaultdict(list)
    for facts in objects:
        by_question[asked[facts.id][0]].append(facts)
    return {
        answer.region_id: answer.text
        for question, members in by_question.items()
        for answer in describer.ask(_regions(frame, members), question)
    }


def _regions(frame: Frame, objects: Sequence[RegionFacts]) -> Regions:
    return regions_from_id_image(frame.instance_ids, only=[facts.id for facts in objects], masks_anyway=True)


@dataclass(frozen=True)
class Share:
    """Number of right answers and of all answers."""

    right: int
    of: int

    @classmethod
    def among(cls, outcomes: Iterable[bool]) -> Share:
        outcomes = list(outcomes)
        return cls(sum(outcomes), len(outcomes))

    def __float__(self) -> float:
        return self.right / self.of if self.of else float("nan")


def summary(judged: Sequence[Judged]) -> dict[str, Share]:
    """Return the shares of right answers by kind of question, also for color-class pairs held out of training.

    Raises:
        InputError: There is no object.
    """
    objects = [j for j in judged if j.is_object]
    if not objects:
        raise InputError("no scene has an object that is large enough; use more scenes or a smaller --min-area")

    def right(kind: str, among: Iterable[Judged] = objects) -> Share:
        return Share.among(j.answers[kind].right for j in among if kind in j.answers)

    held_out = [j for j in objects if j.held_out]
    shares = {
        "category": right("category"),
        "colour": right("colour"),
        "short": right("short"),
        "category, held-out pairs": right("category", held_out),
        "colour, held-out pairs": right("colour", held_out),
        "category of parts": right("category", (j for j in judged if not j.is_object)),
        "yes or no: is it a ...?": right("class"),
        "yes or no: does it have ...?": right("part"),
        "where is it from another?": right("pair"),
        "where is it?": right("relation"),
        "known class": Share.among(j.category in CLASSES for j in objects),
        "known class or part": Share.among(j.category in (*CLASSES, *PARTS) for j in judged),
    }
    claims = [claim for j in objects for claim in j.answers["detailed"].claims]
    for kind in (FORM, OBJECT, PART, PLACE, TABLE, RELATION):
        shares[f"detailed: {kind} true"] = Share.among(claim.true for claim in claims if claim.kind == kind)
    shares["detailed: all true"] = right("detailed")
    return shares


@command("accuracy")
def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_bundle_option(parser)
    add_split_option(parser)
    add_count_option(parser, "--scenes", 200, "number of scenes")
    add_min_area_option(parser)
    add_preprocessing_option(parser)
    add_figures_option(parser)
    arguments = parser.parse_args(argv)
    seeds = tqdm(range(arguments.scenes), unit="scene", file=sys.stderr)
    describer = Describer(arguments.bundle, preprocessing=arguments.preprocessing)
    judged = judge_scenes(describer, seeds, arguments.split, arguments.min_area)
    shares = summary(judged)
    objects = [j for j in judged if j.is_object]
    print(
        f"{arguments.bundle} on {arguments.scenes} {arguments.split} scenes: {len(objects)} objects, "
        f"{len(judged) - len(objects)} parts"
    )
    for name, share in shares.items():
        if share.of:
            print(f"  {name:28s} {float(share):6.1%} of {share.of:4d}")
    print("category by class:")
    for name in sorted({j.facts.category for j in objects}):
        found = [j.category for j in objects if j.facts.category == name]
        share = Share.among(category == name for category in found)
        wrong = ", ".join(sorted(set(found) - {name}))
        print(f"  {name:10s} {float(share):6.1%} of {share.of:4d}   {f'taken for: {wrong}' if wrong else ''}")
    report = {"shares": {name: asdict(share) for name, share in shares.items()}, "answers": [asdict(j) for j in judged]}
    write_figures(arguments.json, report)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
