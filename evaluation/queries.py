"""Whether the right object is found by words: `python -m evaluation.queries --bundle engines/nano`.

Asks for things on simulated test scenes: half of the questions by category and colour, a quarter by a relation to
another object, a quarter for things that are not there. The first match counts; for what is not there, any is false.
`--fit` learns on validation scenes how often scores are right and puts that into the bundle's calibration.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from evaluation.calibration import Answers, expected_calibration_error, fit
from osprey_ros.bundle.bundle import write_calibration
from osprey_ros.bundle.calibration import QUERY, Curve
from osprey_ros.cli._options import positive
from osprey_ros.describer import Describer
from osprey_ros.errors import OspreyError
from osprey_ros.frame import Frame
from osprey_ros.pipeline import Pipeline, Seen, StepSettings
from osprey_ros.query.finder import COLOUR, MIN_SCORE, Finder
from osprey_ros.regions.regions import regions_from_id_image
from osprey_ros.scene.types import SceneObject
from osprey_sim import words
from osprey_sim.render import Renderer
from osprey_sim.scene import Scene, camera_matrix, camera_pose, object_center, sample_scene
from osprey_sim.scene import SceneObject as SimObject
from training.store import HEIGHT, WIDTH

MIN_AREA = 200
NAMED, RELATED, ABSENT = "category and colour", "relation", "not there"
TARGETS = {NAMED: ("top-1", 0.85), RELATED: ("top-1", 0.60), ABSENT: ("false finds", 0.10)}
_A_SCENE = 4  # questions
_IN_QUESTION = 0.02  # scores below it are of objects that nobody would take for what was asked
_NEXT_TO, _CLEARLY = 0.25, 1.5  # metres, and how much nearer than the next one


@dataclass(frozen=True)
class Question:
    """Words, what kind of question they are, and the instance ids that are a right answer (none: not there)."""

    kind: str
    text: str
    right: frozenset[int]


@dataclass(frozen=True)
class Asked:
    """A question about the scene of a seed, the answer, and whether it is right.

    ``scores``: of all objects, before calibration; ``meant``: which of them are right answers.
    """

    seed: int
    kind: str
    text: str
    found: tuple[int, ...]
    right: bool
    scores: tuple[float, ...]
    meant: tuple[bool, ...]


class Questions:
    """Questions about the visible objects of one scene, drawn with a generator."""

    def __init__(self, scene: Scene, visible: set[int], rng: np.random.Generator) -> None:
        self._objects = [obj for obj in scene.objects if obj.instance_id in visible]
        self._rng = rng
        rotation = camera_pose(scene.camera)[1]
        right = rotation[:, 0]
        away = np.array([-right[1], right[0], 0.0])
        self._place = {
            obj.instance_id: np.array([object_center(obj) @ right, object_center(obj) @ away]) for obj in self._objects
        }

    def draw(self, kind: str) -> Question | None:
        """A question of a kind; None where this scene does not lend itself to one that was drawn."""
        return {NAMED: self._named, RELATED: self._related, ABSENT: self._absent}[kind]()

    def _named(self) -> Question:
        target = self._pick(self._objects)
        noun = self._noun(target, int(self._rng.integers(3)))
        return Question(NAMED, f"the {noun}", self._ids(noun))

    def _absent(self) -> Question | None:
        """A category that is not there, with a colour or without one; or one that is there in another colour."""
        colour = str(self._rng.choice(words.COLOURS))
        if self._rng.random() < 0.5:
            category = self._pick(self._objects).category
        else:
            category = str(self._rng.choice(sorted(set(words.CLASSES) - {obj.category for obj in self._objects})))
            if self._rng.random() < 0.5:
                return Question(ABSENT, f"the {category}", frozenset())
        noun = f"{colour} {category}"
        return None if self._ids(noun) else Question(ABSENT, f"the {noun}", frozenset())

    def _related(self) -> Question | None:
        """The one thing of a kind that is in a relation to another, which no other thing can be taken for."""
        reference, target = self._pick(self._objects), self._pick(self._objects)
        about = f"{reference.colour} {reference.category}"
        if target is reference or len(self._ids(about)) > 1:
            return None
        noun = self._noun(target, int(self._rng.integers(4)))
        others = self._ids(noun) - {target.instance_id, reference.instance_id}
        if not others:
            return None  # it would be found without the relation
        relation = str(self._rng.choice([*words.RELATIONS, "next to", "between"]))
        if relation == "between":
            return self._between(target, noun, others, reference)
        if not self._is(relation, target.instance_id, reference.instance_id, others):
            return None
        return Question(RELATED, f"the {noun} {relation} the {about}", frozenset({target.instance_id}))

    def _between(self, target: SimObject, noun: str, others: frozenset[int], first: SimObject) -> Question | None:
        second = self._pick(self._objects)
        about = f"{second.colour} {second.category}"
        if len({target.instance_id, first.instance_id, second.instance_id}) < 3 or len(self._ids(about)) > 1:
            return None
        start, line = self._place[first.instance_id], self._place[second.instance_id] - self._place[first.instance_id]

        def off(instance: int) -> float:
            step = self._place[instance] - start
            along = float(step @ line / (line @ line))
            return float(np.linalg.norm(step - along * line)) if 0.2 < along < 0.8 else np.inf

        if off(target.instance_id) > 0.06 or any(off(o) < 0.15 for o in others - {second.instance_id}):
            return None
        text = f"the {noun} between the {first.colour} {first.category} and the {about}"
        return Question(RELATED, text, frozenset({target.instance_id}))

    def _is(self, relation: str, target: int, reference: int, others: frozenset[int]) -> bool:
        """Whether the target clearly is in the relation, and none of the others can be meant."""

        def step(instance: int) -> np.ndarray:
            return self._place[instance] - self._place[reference]

        if relation == "next to":
            distance = float(np.linalg.norm(step(target)))
            return distance < _NEXT_TO and all(np.linalg.norm(step(o)) > _CLEARLY * distance for o in others)
        axis = 0 if relation in (words.LEFT, words.RIGHT) else 1
        sign = -1 if relation in (words.LEFT, words.FRONT) else 1
        along, across = sign * step(target)[axis], abs(step(target)[1 - axis])
        return along > max(0.05, _CLEARLY * across) and all(sign * step(o)[axis] < 0 for o in others)

    def _noun(self, obj: SimObject, level: int) -> str:
        return (f"{obj.colour} {obj.category}", obj.category, f"{obj.colour} thing", "thing")[level]

    def _ids(self, noun: str) -> frozenset[int]:
        return frozenset(
            obj.instance_id for obj in self._objects if noun in {self._noun(obj, level) for level in range(4)}
        )

    def _pick(self, objects: list[SimObject]) -> SimObject:
        return objects[int(self._rng.integers(len(objects)))]


def kinds(count: int) -> list[str]:
    """Of ``count`` questions half by name, a quarter related and a quarter absent, mixed."""
    return [(NAMED, RELATED, NAMED, ABSENT)[n % 4] for n in range(count)]


def seen_scenes(
    describer: Describer, split: str, depth: bool, seed: int = 0
) -> Iterator[tuple[int, Scene, tuple[SceneObject, ...], Seen]]:
    """Scene after scene as the pipeline sees it, with the seed of each."""
    settings = StepSettings(attributes=(COLOUR,), remember=False)
    with Renderer(WIDTH, HEIGHT) as renderer:
        while True:
            scene = sample_scene(seed, split)
            picture = renderer.render(scene)
            areas = np.bincount(picture.instance_ids.ravel())
            large = [n for n in range(1, len(areas)) if areas[n] > MIN_AREA]
            if len(large) > 2:
                matrix = camera_matrix(scene.camera, WIDTH, HEIGHT)
                matrix[:2, 2] -= 0.5  # the centre of the first pixel at (0, 0)
                regions = regions_from_id_image(picture.instance_ids, only=large)
                frame = Frame(seed + 1, "camera", picture.rgb, regions)
                if depth:
                    frame = replace(frame, depth=picture.depth, camera_matrix=matrix)
                pipeline = Pipeline(describer)
                result = pipeline.step(frame, settings)
                if pipeline.latest is not None:
                    yield seed, scene, result.objects, pipeline.latest
            seed += 1


def ask(describer: Describer, count: int, split: str, depth: bool = True, min_score: float = MIN_SCORE) -> list[Asked]:
    """Asks ``count`` questions, a few of each scene, and judges the answers."""
    asked: list[Asked] = []
    wanted = kinds(count)
    finder = Finder(describer, min_score=min_score)
    bar = tqdm(total=count, unit="question", file=sys.stderr, mininterval=5)
    for seed, scene, objects, seen in seen_scenes(describer, split, depth):
        instance = {thing.track_id: thing.instance_id for thing in objects}
        questions = Questions(scene, set(instance.values()), np.random.default_rng([seed, 7]))
        for _ in range(_A_SCENE):
            if len(asked) == count:
                bar.close()
                return asked
            question = next((q for q in (questions.draw(wanted[len(asked)]) for _ in range(60)) if q), None)
            if question is None:
                break
            found = finder.find(question.text, objects, seen)
            ids = tuple(instance[match.track_id] for match in found.matches)
            right = ids[0] in question.right if ids and question.right else not ids and not question.right
            scores = tuple(finder.scores(question.text, objects, seen).tolist())
            meant = tuple(thing.instance_id in question.right for thing in objects)
            asked.append(Asked(seed, question.kind, question.text, ids, right, scores, meant))
            bar.update()
    return asked


def summary(asked: list[Asked]) -> dict[str, float]:
    """Share of right first matches of each kind; of things that are not there the share of false finds.

    A kind that was not asked for has none.
    """
    shares = {}
    for kind in TARGETS:
        right = [one.right for one in asked if one.kind == kind]
        if right:
            share = sum(right) / len(right)
            shares[kind] = 1 - share if kind == ABSENT else share
    return shares


def answers(asked: list[Asked]) -> Answers:
    """Scores of all objects that come into question for what was asked, and whether each is meant."""
    pairs = [
        (score, meant)
        for one in asked
        for score, meant in zip(one.scores, one.meant, strict=True)
        if score >= _IN_QUESTION
    ]
    return Answers(np.array([score for score, _ in pairs]), np.array([meant for _, meant in pairs], dtype=bool))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="nano")
    parser.add_argument("--split", choices=("test", "validation"), default="test")
    parser.add_argument("--questions", type=positive, default=300)
    parser.add_argument("--no-depth", action="store_true", help="judge relations by places in the picture alone")
    parser.add_argument("--min-score", type=float, default=MIN_SCORE)
    parser.add_argument("--fit", action="store_true", help="fit on validation scenes and write the bundle, first")
    parser.add_argument("--fit-questions", type=positive, default=1000)
    parser.add_argument("--json", type=Path, help="write the figures and every question there")
    arguments = parser.parse_args(argv)
    try:
        describer = Describer(arguments.bundle)
        if arguments.fit:
            fitted = ask(describer, arguments.fit_questions, "validation", not arguments.no_depth)
            known = describer.bundle.calibration()
            curve = fit(answers(fitted))
            # What nothing speaks for is not meant.
            curve = Curve((0.0, *curve.confidences), (0.0, *curve.shares))
            write_calibration(describer.bundle.root, replace(known, curves={**known.curves, QUERY: curve}))
            describer = Describer(arguments.bundle)
        asked = ask(describer, arguments.questions, arguments.split, not arguments.no_depth, arguments.min_score)
    except OspreyError as error:
        print(f"queries: {error}", file=sys.stderr)
        return 2
    shares = summary(asked)
    print(f"{arguments.bundle}: {len(asked)} questions about {arguments.split} scenes")
    for kind, share in shares.items():
        what, target = TARGETS[kind]
        count = sum(one.kind == kind for one in asked)
        print(f"  {kind:20s} {count:4d}   {what:12s} {share:6.1%}   (target {target:.0%})")
    report: dict[str, object] = {"shares": shares}
    raw = answers(asked)
    if len(raw.right):
        before = expected_calibration_error(raw)
        after = expected_calibration_error(raw.calibrated(describer.bundle.calibration(), QUERY))
        print(f"  scores of {len(raw.right)} objects: calibration error {before:.3f} before, {after:.3f} after")
        report |= {"ece_before": before, "ece_after": after}
    if arguments.json:
        report["asked"] = [asdict(one) for one in asked]
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
