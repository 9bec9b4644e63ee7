"""Measure whether the right objects are found by words: `python -m evaluation.queries --bundle engines/nano`.

Asks about simulated test scenes, which are drawn from other seeds than training and validation scenes. 300 questions:
half of them by category and color, a quarter by a relation to another object, a quarter about objects that are not
there. The first match counts; if the object is not there, any match is wrong. 60 more questions have negation,
superlatives, ordinals and clauses; for these, wrong matches with a score over 0.5 are counted as well.
`--fit` fits the calibration of scores on validation scenes and writes it into the bundle.
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
from evaluation.query_forms import FORMS, FormQuestions
from evaluation.query_questions import ABSENT, NAMED, RELATED, Questions
from osprey_ros.bundle.bundle import write_calibration
from osprey_ros.bundle.calibration import QUERY, Curve
from osprey_ros.cli._options import Parser, add_bundle_option, fraction, positive
from osprey_ros.describer import Describer
from osprey_ros.errors import OspreyError
from osprey_ros.frame import Frame
from osprey_ros.pipeline import Pipeline
from osprey_ros.query.finder import COLOR, MIN_SCORE, Finder
from osprey_ros.regions.regions import regions_from_id_image
from osprey_ros.scene.history import ObservedFrame
from osprey_ros.scene.settings import StepSettings
from osprey_ros.scene.types import SceneObject
from osprey_sim.render import HEIGHT, MIN_AREA, WIDTH, Renderer
from osprey_sim.scene import Scene, camera_matrix, sample_scene

TARGETS = {NAMED: ("top-1", 0.85), RELATED: ("top-1", 0.60), ABSENT: ("false finds", 0.10)}
_A_SCENE = 4  # questions
_FORMS_A_SCENE = 2  # questions of `FORMS`
FORM_TARGETS = (0.85, 0.03)  # least share of right answers, largest share of sure wrong ones
_PLAUSIBLE = 0.02  # least score of objects that calibration is fitted on


@dataclass(frozen=True)
class Asked:
    """A question about the scene of a seed, the instance ids of the matches, and whether the answer is right.

    ``scores``: of all objects, before calibration; ``meant``: which of them are right answers.
    """

    seed: int
    kind: str
    text: str
    found: tuple[int, ...]
    right: bool
    scores: tuple[float, ...]
    meant: tuple[bool, ...]


@dataclass(frozen=True)
class FormAsked:
    """A question of `FORMS` about the scene of a seed, the matches with their scores, and how good they are.

    ``right``: the first match is right, or there is none and should be none; if the question asks for several objects
    by name, all of them are found. ``surely_wrong``: any match with a score over 0.5 is wrong.
    """

    seed: int
    kind: str
    text: str
    meant: tuple[int, ...]
    found: tuple[tuple[int, float], ...]
    right: bool
    surely_wrong: bool


def kinds(count: int) -> list[str]:
    """Return the kinds of ``count`` questions: half `NAMED`, a quarter `RELATED`, a quarter `ABSENT`, in turns."""
    return [(NAMED, RELATED, NAMED, ABSENT)[n % 4] for n in range(count)]


def seen_scenes(
    describer: Describer, split: str, depth: bool, seed: int = 0
) -> Iterator[tuple[int, Scene, tuple[SceneObject, ...], ObservedFrame]]:
    """Yield scenes with their seeds, the objects that the pipeline found and the observed frame."""
    settings = StepSettings(attributes=(COLOR,), remember=False)
    with Renderer(WIDTH, HEIGHT) as renderer:
        while True:
            scene = sample_scene(seed, split)
            rendered = renderer.render(scene)
            areas = np.bincount(rendered.instance_ids.ravel())
            large = [n for n in range(1, len(areas)) if areas[n] > MIN_AREA]
            if len(large) > 2:
                matrix = camera_matrix(scene.camera, WIDTH, HEIGHT)
                matrix[:2, 2] -= 0.5  # center of the first pixel at (0, 0)
                regions = regions_from_id_image(rendered.instance_ids, only=large)
                frame = Frame(seed + 1, "camera", rendered.rgb, regions)
                if depth:
                    frame = replace(frame, depth=rendered.depth, camera_matrix=matrix)
                pipeline = Pipeline(describer)
                result = pipeline.step(frame, settings)
                if pipeline.memory.latest is not None:
                    yield seed, scene, result.objects, pipeline.memory.latest
            seed += 1


def ask(describer: Describer, count: int, split: str, depth: bool = True, min_score: float = MIN_SCORE) -> list[Asked]:
    """Ask ``count`` questions, a few about each scene, and compare the answers with the simulator's truth."""
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
    """Return the share of right first matches of each kind; for `ABSENT`, the share of questions with any match.

    Kinds without questions are left out.
    """
    shares = {}
    for kind in TARGETS:
        right = [one.right for one in asked if one.kind == kind]
        if right:
            share = sum(right) / len(right)
            shares[kind] = 1 - share if kind == ABSENT else share
    return shares


def ask_forms(describer: Describer, count: int, split: str, depth: bool = True) -> list[FormAsked]:
    """Ask ``count`` questions with negation, superlatives, ordinals and clauses, in turns, about scenes from seed 0."""
    asked: list[FormAsked] = []
    finder = Finder(describer)
    for seed, scene, objects, seen in seen_scenes(describer, split, depth):
        instance = {thing.track_id: thing.instance_id for thing in objects}
        questions = FormQuestions(scene, set(instance.values()), np.random.default_rng([seed, 11]))
        for _ in range(_FORMS_A_SCENE):
            if len(asked) == count:
                return asked
            kind = FORMS[len(asked) % len(FORMS)]
            question = next((q for q in (questions.draw(kind) for _ in range(60)) if q), None)
            if question is None:
                break
            found = finder.find(question.text, objects, seen)
            matches = tuple((instance[match.track_id], match.score) for match in found.matches)
            ids = {number for number, _ in matches}
            right = matches[0][0] in question.right if matches else not question.right
            if question.complete:
                right = right and ids >= question.right
            wrong = any(score > MIN_SCORE and number not in question.right for number, score in matches)
            meant = tuple(sorted(question.right))
            asked.append(FormAsked(seed, kind, question.text, meant, matches, right, wrong))
    return asked


def form_summary(asked: list[FormAsked]) -> tuple[float, float]:
    """Return the share of right answers and of those with a sure wrong match."""
    return (
        sum(one.right for one in asked) / max(1, len(asked)),
        sum(one.surely_wrong for one in asked) / max(1, len(asked)),
    )


def answers(asked: list[Asked]) -> Answers:
    """Return the scores of all objects that are plausible answers, and whether each is right."""
    pairs = [
        (score, meant)
        for one in asked
        for score, meant in zip(one.scores, one.meant, strict=True)
        if score >= _PLAUSIBLE
    ]
    return Answers(np.array([score for score, _ in pairs]), np.array([meant for _, meant in pairs], dtype=bool))


def main(argv: list[str] | None = None) -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_bundle_option(parser)
    parser.add_argument(
        "--split", choices=("test", "validation"), default="test", help="which scenes (default: %(default)s)"
    )
    parser.add_argument(
        "--questions", type=positive, default=300, metavar="N", help="number of questions (default: %(default)s)"
    )
    parser.add_argument(
        "--forms",
        type=positive,
        default=60,
        metavar="N",
        help="number of questions with negation, superlatives, ordinals or clauses (default: %(default)s)",
    )
    parser.add_argument("--no-depth", action="store_true", help="compare places in the image only")
    parser.add_argument(
        "--min-score",
        type=fraction,
        default=MIN_SCORE,
        metavar="P",
        help="ignore matches with a lower score (default: %(default)s)",
    )
    parser.add_argument(
        "--fit",
        action="store_true",
        help="first fit the calibration of scores on validation scenes and write it into the bundle",
    )
    parser.add_argument(
        "--fit-questions",
        type=positive,
        default=1000,
        metavar="N",
        help="questions for --fit (default: %(default)s)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures and all questions to this file")
    arguments = parser.parse_args(argv)
    try:
        describer = Describer(arguments.bundle)
        if arguments.fit:
            fitted = ask(describer, arguments.fit_questions, "validation", not arguments.no_depth)
            known = describer.bundle.calibration()
            curve = fit(answers(fitted))
            # A score of 0 means that nothing supports the object.
            curve = Curve((0.0, *curve.confidences), (0.0, *curve.shares))
            write_calibration(describer.bundle.root, replace(known, curves={**known.curves, QUERY: curve}))
            describer = Describer(arguments.bundle)
        asked = ask(describer, arguments.questions, arguments.split, not arguments.no_depth, arguments.min_score)
        forms = ask_forms(describer, arguments.forms, arguments.split, not arguments.no_depth)
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
    right, wrong = form_summary(forms)
    least, most = FORM_TARGETS
    print(f"{len(forms)} questions with negation, superlatives, ordinals and clauses:")
    print(f"  right {right:.1%} (target {least:.0%})")
    print(f"  wrong with a score over {MIN_SCORE}: {wrong:.1%} (target at most {most:.0%})")
    for form in FORMS:
        own = [one for one in forms if one.kind == form]
        shares_of_form = form_summary(own)
        print(f"  {form:20s} {len(own):4d}   right {shares_of_form[0]:6.1%}   surely wrong {shares_of_form[1]:6.1%}")
    report |= {"forms_right": right, "forms_surely_wrong": wrong}
    if arguments.json:
        report["forms"] = [asdict(one) for one in forms]
        report["asked"] = [asdict(one) for one in asked]
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
