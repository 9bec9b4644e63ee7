"""Measure whether the right objects are found by words: `python -m evaluation.queries --bundle engines/nano`.

Asks about simulated test scenes, which are drawn from other seeds than training and validation scenes. 300 questions:
half of them by category and color, a quarter by a relation to another object, a quarter about objects that are not
there. The first match counts; if the object is not there, any match is wrong. 60 more questions have negation,
superlatives, ordinals and clauses; for these, wrong matches with a score over 0.5 are counted as well.
`--fit` fits the calibration of scores on validation scenes and writes it into the bundle.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from tqdm import tqdm

from evaluation.curves import Answers, expected_calibration_error, fit
from evaluation.options import add_split_option
from evaluation.query_forms import FORMS, FormQuestions
from evaluation.query_questions import ABSENT, NAMED, RELATED, Question, Questions
from osprey_ros.bundle.bundle import write_calibration
from osprey_ros.bundle.calibration import QUERY, Curve
from osprey_ros.cli._edge import command
from osprey_ros.cli._options import Parser, add_bundle_option, add_count_option, add_figures_option, fraction
from osprey_ros.cli._output import write_figures
from osprey_ros.describer import Describer
from osprey_ros.frame import Frame
from osprey_ros.pipeline import Pipeline
from osprey_ros.query.finder import COLOR, MIN_SCORE, Finder
from osprey_ros.regions.regions import regions_from_id_image
from osprey_ros.scene.history import ObservedFrame
from osprey_ros.scene.settings import StepSettings
from osprey_ros.scene.types import SceneObject
from osprey_sim.render import MIN_AREA, render_scenes
from osprey_sim.scene import Scene

Objects = tuple[SceneObject, ...]

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
    describer: Describer, split: str, depth: bool, seeds: Iterable[int] | None = None
) -> Iterator[tuple[Scene, Objects, ObservedFrame]]:
    """Yield scenes with the objects that the pipeline found and the observed frame."""
    settings = StepSettings(attributes=(COLOR,), remember=False)
    for scene, rendered in render_scenes(split, seeds, depth=True):
        large = rendered.objects(MIN_AREA)
        if len(large) > 2:
            regions = regions_from_id_image(rendered.instance_ids, only=large, masks_anyway=True)
            frame = Frame(scene.seed + 1, "camera", rendered.rgb, regions)
            if depth:
                frame = replace(frame, depth=rendered.depth, camera_matrix=rendered.ros_camera_matrix)
            pipeline = Pipeline(describer)
            result = pipeline.step(frame, settings)
            if pipeline.memory.latest is not None:
                yield scene, result.objects, pipeline.memory.latest


def draw_questions(
    describer: Describer, wanted: Sequence[str], each: int, source: type[Questions], split: str, depth: bool
) -> Iterator[tuple[int, Question, Objects, ObservedFrame]]:
    """Yield a question of each wanted kind in order, up to ``each`` about a scene, with the seed and what was found."""
    left = list(reversed(wanted))
    for scene, objects, seen in seen_scenes(describer, split, depth):
        visible = {thing.instance_id for thing in objects}
        questions = source(scene, visible, np.random.default_rng([scene.seed, source.salt]))
        for _ in range(each):
            question = next((q for q in (questions.draw(left[-1]) for _ in range(60)) if q), None)
            if question is None:
                break
            left.pop()
            yield scene.seed, question, objects, seen
            if not left:
                return


def ask(describer: Describer, count: int, split: str, depth: bool = True, min_score: float = MIN_SCORE) -> list[Asked]:
    """Ask ``count`` questions, a few about each scene, and compare the answers with the simulator's truth."""
    asked: list[Asked] = []
    finder = Finder(describer, min_score=min_score)
    drawn = draw_questions(describer, kinds(count), _A_SCENE, Questions, split, depth)
    for seed, question, objects, seen in tqdm(drawn, total=count, unit="question", file=sys.stderr, mininterval=5):
        instance = {thing.track_id: thing.instance_id for thing in objects}
        ids = tuple(instance[match.track_id] for match in finder.find(question.text, objects, seen).matches)
        right = ids[0] in question.right if ids and question.right else not ids and not question.right
        scores = tuple(finder.scores(question.text, objects, seen).tolist())
        meant = tuple(thing.instance_id in question.right for thing in objects)
        asked.append(Asked(seed, question.kind, question.text, ids, right, scores, meant))
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
    wanted = [FORMS[n % len(FORMS)] for n in range(count)]
    for seed, question, objects, seen in draw_questions(describer, wanted, _FORMS_A_SCENE, FormQuestions, split, depth):
        instance = {thing.track_id: thing.instance_id for thing in objects}
        found = finder.find(question.text, objects, seen)
        matches = tuple((instance[match.track_id], match.score) for match in found.matches)
        right = matches[0][0] in question.right if matches else not question.right
        if question.complete:
            right = right and {number for number, _ in matches} >= question.right
        wrong = any(score > MIN_SCORE and number not in question.right for number, score in matches)
        meant = tuple(sorted(question.right))
        asked.append(FormAsked(seed, question.kind, question.text, meant, matches, right, wrong))
    return asked


def form_summary(asked: list[FormAsked]) -> tuple[float, float]:
    """Return the share of right answers and of those with a sure wrong match."""
    return (
        sum(one.right for one in asked) / max(1, len(asked)),
        sum(one.surely_wrong for one in asked) / max(1, len(asked)),
    )


def answers(asked: list[Asked]) -> Answers:
    """Return the scores of all objects that are plausible answers, and whether each is right."""
    pairs = [pair for one in asked for pair in zip(one.scores, one.meant, strict=True)]
    return Answers.of([(score, meant) for score, meant in pairs if score >= _PLAUSIBLE])


def fit_scores(bundle: str, questions: int, depth: bool) -> None:
    """Fit the calibration of scores on validation scenes and write it into the bundle."""
    describer = Describer(bundle)
    known = describer.bundle.calibration()
    curve = fit(answers(ask(describer, questions, "validation", depth)))
    # A score of 0 means that nothing supports the object.
    curve = Curve((0.0, *curve.confidences), (0.0, *curve.shares))
    write_calibration(describer.bundle.root, replace(known, curves={**known.curves, QUERY: curve}))


@command("queries")
def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_bundle_option(parser)
    add_split_option(parser)
    add_count_option(parser, "--questions", 300, "number of questions")
    add_count_option(parser, "--forms", 60, "number of questions with negation, superlatives, ordinals or clauses")
    parser.add_argument("--no-depth", action="store_true", help="compare places in the image only")
    text = "ignore matches with a lower score (default: %(default)s)"
    parser.add_argument("--min-score", type=fraction, default=MIN_SCORE, metavar="P", help=text)
    text = "first fit the calibration of scores on validation scenes and write it into the bundle"
    parser.add_argument("--fit", action="store_true", help=text)
    add_count_option(parser, "--fit-questions", 1000, "questions for --fit")
    add_figures_option(parser)
    arguments = parser.parse_args(argv)
    depth = not arguments.no_depth
    if arguments.fit:
        fit_scores(arguments.bundle, arguments.fit_questions, depth)
    describer = Describer(arguments.bundle)
    asked = ask(describer, arguments.questions, arguments.split, depth, arguments.min_score)
    forms = ask_forms(describer, arguments.forms, arguments.split, depth)
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
    report |= print_forms(forms)
    report |= {"forms": [asdict(one) for one in forms], "asked": [asdict(one) for one in asked]}
    write_figures(arguments.json, report)
    return 0


def print_forms(forms: list[FormAsked]) -> dict[str, float]:
    """Print the figures of the questions of `FORMS`, and return those for the report."""
    right, wrong = form_summary(forms)
    least, most = FORM_TARGETS
    print(f"{len(forms)} questions with negation, superlatives, ordinals and clauses:")
    print(f"  right {right:.1%} (target {least:.0%})")
    print(f"  wrong with a score over {MIN_SCORE}: {wrong:.1%} (target at most {most:.0%})")
    for form in FORMS:
        own = [one for one in forms if one.kind == form]
        shares_of_form = form_summary(own)
        print(f"  {form:20s} {len(own):4d}   right {shares_of_form[0]:6.1%}   surely wrong {shares_of_form[1]:6.1%}")
    return {"forms_right": right, "forms_surely_wrong": wrong}


if __name__ == "__main__":
    raise SystemExit(main())
