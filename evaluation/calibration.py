"""Calibrate confidences: `python -m evaluation.calibration --bundle engines/nano [--write] [--plot FILE]`.

Asks a bundle about each object of simulated validation scenes and fits the share of right answers to the confidence
(isotonic regression). Prints the expected calibration error on test scenes before and after: the mean distance between
confidence and share of right answers over 15 bins of equal width, weighted by their answers (Naeini et al., AAAI 2015;
Guo et al., arXiv 1706.04599). `--write` writes the calibration into the bundle.

With `--photographs DIR`, packs of photographs as for `evaluation.photographs`, categories, short descriptions and the
kinds of the bundle's tree are fitted on their validation split in place of scenes, without held-out kinds, and so is
the threshold of the tree: the smallest one with which enough answers are right or truly more general and few are
"object". Their errors are those on the images of the fit; measure the test split with `evaluation.photographs`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from tqdm import tqdm

from evaluation.curves import Answers, expected_calibration_error, fit, reliability
from evaluation.kind_names import KindNames, near_synonyms
from evaluation.options import add_kinds_option, add_min_area_option, add_packs_option
from evaluation.photograph_answers import images_of
from evaluation.photograph_calibration import PhotographAnswers, Unfitted, answers_of_photographs, best_threshold
from evaluation.photographs import read_packs
from osprey_ros.bundle.bundle import Bundle, write_calibration, write_kinds
from osprey_ros.bundle.calibration import ATTRIBUTE, CATEGORY, DESCRIPTION, Calibration
from osprey_ros.cli._edge import command
from osprey_ros.cli._options import Parser, add_bundle_option, add_count_option, add_crops_option, add_figures_option
from osprey_ros.cli._output import write_figures
from osprey_ros.decoding.config import GenerationConfig
from osprey_ros.decoding.prompt import QUESTIONS
from osprey_ros.describer import Describer
from osprey_ros.errors import InputError
from osprey_ros.regions.regions import regions_from_id_image
from osprey_ros.scene.attributes import AttributeSpec
from osprey_sim.dialogues import COLOR_QUESTION, region_facts
from osprey_sim.render import MIN_AREA, render_scenes
from osprey_sim.words import COLORS
from osprey_torch.readers.packs import VALIDATION
from osprey_torch.readers.records import Skipped
from training.home.kinds import load_kinds


def answers_of_scenes(
    describer: Describer, seeds: Iterable[int], split: str, min_area: int = MIN_AREA
) -> dict[str, Answers]:
    """Ask for category, short description and color of each object with more than `min_area` visible pixels.

    Return the answers by kind. Colors are chosen from a list.
    """
    color = AttributeSpec("color", COLOR_QUESTION, COLORS)
    questions = [QUESTIONS["category"], QUESTIONS["short"], color.question]
    kinds = (CATEGORY, DESCRIPTION, ATTRIBUTE)
    config = GenerationConfig(back_off=False)  # the curve of categories is that of answers without back-off
    found: dict[str, list[tuple[float, bool]]] = {kind: [] for kind in kinds}
    for scene, frame in render_scenes(split, seeds):
        objects = {f.id: f for f in region_facts(scene, frame) if f.kind == "object" and f.area > min_area}
        if not objects:
            continue
        describer.set_image(frame.rgb)
        regions = regions_from_id_image(frame.instance_ids, only=list(objects), masks_anyway=True)
        results = describer.answer(regions, questions, config, constraints=[None, None, color.constraint])
        for kind, result in zip(kinds, results, strict=True):
            for answer in result:
                facts = objects[answer.region_id]
                truth = {CATEGORY: facts.category, DESCRIPTION: facts.short, ATTRIBUTE: facts.color}[kind]
                found[kind].append((answer.raw_confidence, answer.text == truth))
    return {kind: Answers.of(pairs) for kind, pairs in found.items()}


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


def _photographs(bundle: Bundle, arguments: argparse.Namespace) -> PhotographAnswers:
    """Return the answers about the objects of the validation split, without those of held-out kinds."""
    skipped = Skipped()
    objects, absent = read_packs(arguments.photographs, arguments.packs, None, skipped)
    names = KindNames(load_kinds(arguments.kinds), bundle.kinds(), near_synonyms())
    known = [o for o in objects if o.split == VALIDATION and not names.held_out(names.kind(o.name, o.pack))]
    images = tqdm(list(images_of(known)), "photographs", unit="image", file=sys.stderr)
    found = answers_of_photographs(bundle, images, names, skipped, crops=arguments.crops)
    if absent:
        print(f"absent packs: {', '.join(absent)}")
    if skipped.total:
        print(skipped.summary(), file=sys.stderr)
    return found


def _parser() -> Parser:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_bundle_option(parser)
    add_count_option(parser, "--fit-scenes", 300, "validation scenes to fit on")
    add_count_option(parser, "--scenes", 200, "test scenes to measure on")
    add_min_area_option(parser)
    parser.add_argument("--photographs", type=Path, metavar="DIR", help="fit on photographs: folder of their packs")
    add_packs_option(parser)
    add_crops_option(parser)
    add_kinds_option(parser)
    parser.add_argument("--write", action="store_true", help="write the calibration into the bundle")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write the reliability diagram to this file")
    add_figures_option(parser)
    return parser


def _errors(test: Mapping[str, Answers], after: Mapping[str, Answers]) -> dict[str, dict[str, float]]:
    return {
        kind: {
            "answers": len(test[kind].right),
            "right": float(test[kind].right.mean()),
            "ece_before": expected_calibration_error(test[kind]),
            "ece_after": expected_calibration_error(after[kind]),
        }
        for kind in test
    }


@command("calibration")
def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    bundle = Bundle.open(arguments.bundle)
    describer = Describer(Unfitted(bundle.root, bundle.manifest))
    validation, test = (
        answers_of_scenes(
            describer, tqdm(range(scenes), split, unit="scene", file=sys.stderr), split, arguments.min_area
        )
        for split, scenes in (("validation", arguments.fit_scenes), ("test", arguments.scenes))
    )
    if not len(validation[CATEGORY].right) or not len(test[CATEGORY].right):
        raise InputError("no scene has an object that is large enough; use more scenes or a smaller --min-area")
    fitted = f"{arguments.fit_scenes} simulated validation scenes, {len(validation[CATEGORY].right)} objects"
    photographs = None if arguments.photographs is None else _photographs(bundle, arguments)
    if photographs is not None:
        validation, test = ({**answers, **photographs.answers} for answers in (validation, test))
        fitted += f"; validation split of photographs, {len(validation[CATEGORY].right)} objects"
    calibration = Calibration({kind: fit(answers) for kind, answers in validation.items()}, fitted)
    chains = photographs.chains if photographs is not None else ()
    threshold = best_threshold(chains, calibration) if chains else None
    if arguments.write:
        # Keep the curves of other kinds, such as that of evaluation/queries.py.
        known = bundle.calibration().curves
        write_calibration(bundle.root, replace(calibration, curves={**known, **calibration.curves}))
        tree = bundle.kinds()
        if threshold is not None and tree is not None:
            write_kinds(bundle.root, replace(tree, threshold=threshold.value))
    after = {kind: answers.calibrated(calibration, kind) for kind, answers in test.items()}
    report = _errors(test, after)
    print(f"{arguments.bundle}: fitted on {calibration.fitted}; measured on {arguments.scenes} test scenes")
    print(f"{'kind':14s}{'answers':>9s}{'right':>9s}{'ECE before':>12s}{'after':>8s}")
    for kind, row in report.items():
        print(f"{kind:14s}{row['answers']:9d}{row['right']:9.1%}{row['ece_before']:12.3f}{row['ece_after']:8.3f}")
    if threshold is not None:
        print(
            f"threshold {threshold.value}: {threshold.right_or_general:.1%} right or truly more general, "
            f"{threshold.root:.1%} the root{'' if threshold.kept else '; NO THRESHOLD KEEPS BOTH TARGETS'}"
        )
    if arguments.plot:
        draw(test, after, arguments.plot)
    figures = {"fitted": calibration.fitted, "kinds": report}
    write_figures(arguments.json, figures | ({"threshold": asdict(threshold)} if threshold is not None else {}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
