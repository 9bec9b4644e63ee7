"""Calibrate confidences: `python -m evaluation.calibration --bundle engines/nano [--write] [--plot FILE]`.

Asks a bundle about each object of simulated validation scenes and fits the share of right answers to the confidence
(isotonic regression). Prints the expected calibration error on test scenes before and after: the mean distance between
confidence and share of right answers over 15 bins of equal width, weighted by their answers (Naeini et al., AAAI 2015;
Guo et al., arXiv 1706.04599). `--write` writes the calibration into the bundle.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from evaluation.options import add_min_area_option
from osprey_ros.bundle.bundle import write_calibration
from osprey_ros.bundle.calibration import ATTRIBUTE, CATEGORY, DESCRIPTION, Calibration, Curve
from osprey_ros.cli._edge import command
from osprey_ros.cli._options import Parser, add_bundle_option, add_count_option, add_figures_option
from osprey_ros.cli._output import write_figures
from osprey_ros.decoding.prompt import QUESTIONS
from osprey_ros.describer import Describer
from osprey_ros.errors import InputError
from osprey_ros.regions.regions import regions_from_id_image
from osprey_ros.scene.attributes import AttributeSpec
from osprey_sim.dialogues import COLOR_QUESTION, region_facts
from osprey_sim.render import MIN_AREA, render_scenes
from osprey_sim.words import COLORS

BINS = 15
_BLOCK = 30  # least number of answers of a point of a curve; fewer give a noisy share


@dataclass(frozen=True)
class Answers:
    """Answers of one kind: raw confidences float64 [n], and bool [n] whether they are right."""

    confidences: np.ndarray
    right: np.ndarray

    @classmethod
    def of(cls, pairs: Sequence[tuple[float, bool]]) -> Answers:
        """Return the answers of pairs of a confidence and whether the answer is right."""
        return cls(np.array([confidence for confidence, _ in pairs]), np.array([right for _, right in pairs], bool))

    def calibrated(self, calibration: Calibration, kind: str) -> Answers:
        """Return these answers with calibrated confidences."""
        return Answers(np.array([calibration.apply(kind, float(c)) for c in self.confidences]), self.right)


@dataclass(frozen=True)
class Bin:
    """Answers with similar confidences: their number, mean confidence and share of right ones."""

    count: int
    confidence: float
    share: float


def answers_of_scenes(
    describer: Describer, seeds: Iterable[int], split: str, min_area: int = MIN_AREA
) -> dict[str, Answers]:
    """Ask for category, short description and color of each object with more than `min_area` visible pixels.

    Return the answers by kind. Colors are chosen from a list.
    """
    color = AttributeSpec("color", COLOR_QUESTION, COLORS)
    questions = [QUESTIONS["category"], QUESTIONS["short"], color.question]
    kinds = (CATEGORY, DESCRIPTION, ATTRIBUTE)
    found: dict[str, list[tuple[float, bool]]] = {kind: [] for kind in kinds}
    for scene, frame in render_scenes(split, seeds):
        objects = {f.id: f for f in region_facts(scene, frame) if f.kind == "object" and f.area > min_area}
        if not objects:
            continue
        describer.set_image(frame.rgb)
        regions = regions_from_id_image(frame.instance_ids, only=list(objects), masks_anyway=True)
        results = describer.answer(regions, questions, constraints=[None, None, color.constraint])
        for kind, result in zip(kinds, results, strict=True):
            for answer in result:
                facts = objects[answer.region_id]
                truth = {CATEGORY: facts.category, DESCRIPTION: facts.short, ATTRIBUTE: facts.color}[kind]
                found[kind].append((answer.raw_confidence, answer.text == truth))
    return {kind: Answers.of(pairs) for kind, pairs in found.items()}


def fit(answers: Answers) -> Curve:
    """Return the isotonic regression of right answers on confidence (pool adjacent violators).

    A pool of n answers, k of them right, has the share (k + 1) / (n + 2), which is never 0 or 1. Answers with equal
    confidence are in one pool.

    Raises:
        BundleError: There are no answers.
    """
    order = np.argsort(answers.confidences, kind="stable")
    confidences, right = answers.confidences[order], answers.right[order]
    pools: list[tuple[float, int, int]] = []  # sum of confidences, right ones, all
    start = 0
    while start < len(order):
        last = min(start + _BLOCK, len(order)) - 1
        end = int(np.searchsorted(confidences, confidences[last], side="right"))  # include equal confidences
        pools.append((float(confidences[start:end].sum()), int(right[start:end].sum()), end - start))
        start = end
        # Merge pools of equal mean as well: confidences must ascend.
        while len(pools) > 1 and (
            _share(pools[-2]) >= _share(pools[-1]) or _mean(pools[-2]) >= _mean(pools[-1]) or pools[-1][2] < _BLOCK
        ):
            (a, b, c), (d, e, f) = pools[-2:]
            pools[-2:] = [(a + d, b + e, c + f)]
    return Curve(tuple(_mean(pool) for pool in pools), tuple(_share(pool) for pool in pools))


def reliability(answers: Answers, bins: int = BINS) -> list[Bin]:
    """Return the bins of equal width that are not empty, by ascending confidence."""
    number = np.minimum((answers.confidences * bins).astype(int), bins - 1)
    return [
        Bin(int(inside.sum()), float(answers.confidences[inside].mean()), float(answers.right[inside].mean()))
        for inside in (number == n for n in range(bins))
        if inside.any()
    ]


def expected_calibration_error(answers: Answers, bins: int = BINS) -> float:
    """Return the mean distance between confidence and share over the bins, weighted by their answers.

    Raises:
        ValueError: There are no answers.
    """
    if not len(answers.right):
        raise InputError("no answers to judge; use more scenes or questions")
    parts = reliability(answers, bins)
    return sum(part.count * abs(part.confidence - part.share) for part in parts) / sum(part.count for part in parts)


def draw(before: Mapping[str, Answers], after: Mapping[str, Answers], path: Path) -> None:
    """Write a reliability diagram of each kind of answer to an image file."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(before), figsize=(4 * len(before), 4), squeeze=False)
    for axis, kind in zip(axes[0], before, strict=True):
        axis.plot([0, 1], [0, 1], color="0.7", linewidth=1)
        for name, answers in (("raw", before[kind]), ("calibrated", after[kind])):
            parts = reliability(answers)
            error = expected_calibration_error(answers)
            axis.plot(
                [part.confidence for part in parts],
                [part.share for part in parts],
                marker="o",
                label=f"{name}: ECE {error:.3f}",
            )
        axis.set(title=kind, xlabel="confidence", ylabel="share of right answers", xlim=(0, 1), ylim=(0, 1))
        axis.legend(loc="upper left")
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def _mean(pool: tuple[float, int, int]) -> float:
    total, _, count = pool
    return total / count


def _share(pool: tuple[float, int, int]) -> float:
    _, right, count = pool
    return (right + 1) / (count + 2)


@command("calibration")
def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_bundle_option(parser)
    add_count_option(parser, "--fit-scenes", 300, "validation scenes to fit on")
    add_count_option(parser, "--scenes", 200, "test scenes to measure on")
    add_min_area_option(parser)
    parser.add_argument("--write", action="store_true", help="write the calibration into the bundle")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write the reliability diagram to this file")
    add_figures_option(parser)
    arguments = parser.parse_args(argv)
    describer = Describer(arguments.bundle)
    validation, test = (
        answers_of_scenes(
            describer, tqdm(range(scenes), split, unit="scene", file=sys.stderr), split, arguments.min_area
        )
        for split, scenes in (("validation", arguments.fit_scenes), ("test", arguments.scenes))
    )
    if not len(validation[CATEGORY].right) or not len(test[CATEGORY].right):
        raise InputError("no scene has an object that is large enough; use more scenes or a smaller --min-area")
    calibration = Calibration(
        {kind: fit(answers) for kind, answers in validation.items()},
        f"{arguments.fit_scenes} simulated validation scenes, {len(validation[CATEGORY].right)} objects",
    )
    after = {kind: answers.calibrated(calibration, kind) for kind, answers in test.items()}
    if arguments.write:
        # Keep the curves of other kinds, such as that of evaluation/queries.py.
        known = describer.bundle.calibration().curves
        write_calibration(describer.bundle.root, replace(calibration, curves={**known, **calibration.curves}))
    report = {
        kind: {
            "answers": len(test[kind].right),
            "right": float(test[kind].right.mean()),
            "ece_before": expected_calibration_error(test[kind]),
            "ece_after": expected_calibration_error(after[kind]),
        }
        for kind in test
    }
    print(f"{arguments.bundle}: fitted on {calibration.fitted}; measured on {arguments.scenes} test scenes")
    print(f"{'kind':14s}{'answers':>9s}{'right':>9s}{'ECE before':>12s}{'after':>8s}")
    for kind, row in report.items():
        print(f"{kind:14s}{row['answers']:9d}{row['right']:9.1%}{row['ece_before']:12.3f}{row['ece_after']:8.3f}")
    if arguments.plot:
        draw(test, after, arguments.plot)
    write_figures(arguments.json, {"fitted": calibration.fitted, "kinds": report})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
