"""Measure a bundle on photographs with masks and names: `python -m evaluation.photographs --bundle DIR --data DIR`.

Each folder of `--data` with `annotations.json` in COCO's layout and `images/` is a pack. Each object is asked what it
is, without back-off and with it. An answer without back-off is right if it is the true kind, a synonym of it, or the
name of its near-synonym group; with back-off, also if it is a true more general word. "unknown" is never right.
The general level is that of "container, tool, food, clothing, animal ...", as the tree of kinds lists it.
Intervals are 95 % bootstrap intervals over images.

Objects of kinds that are held out of training are left out of these figures. They, and the cut-outs of `--stamps`, show
how often something never seen gets a wrong specific name, and how well "unlike training" separates it from the rest.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from evaluation.figures import RESAMPLES, Bootstrap, Figure, calibration_error
from evaluation.kind_names import GENERAL, ROOT, KindNames, near_synonyms
from evaluation.options import add_data_option, add_kinds_option, add_packs_option
from evaluation.photograph_answers import Asker, Judged, images_of, judge_images
from evaluation.rooms import room_objects
from evaluation.unseen import stamp_answers, stamp_files, stamp_words, unseen_figures
from osprey_ros.cli._edge import command
from osprey_ros.cli._options import (
    Parser,
    add_bundle_option,
    add_count_option,
    add_crops_option,
    add_preprocessing_option,
    add_threads_option,
    positive,
)
from osprey_ros.cli._output import write_figures
from osprey_ros.describer import Describer
from osprey_ros.errors import InputError
from osprey_ros.scene.types import UNKNOWN
from osprey_sim.object_sets import TABLETOP
from osprey_torch.readers.packs import SPLITS, TEST, PackObject, pack_folders, pack_objects
from osprey_torch.readers.records import Skipped
from training.home.kinds import load_kinds

CONFIDENT = 0.8
# Share of the image's area, by the name of the size: the least and the first that is larger.
SIZES = {"< 1 %": (0.0, 0.01), "1-3 %": (0.01, 0.03), "3-10 %": (0.03, 0.1), "> 10 %": (0.1, 1.01)}
# The columns of the table, by the keys of the report.
_COLUMNS = {"kind_right": "kind right", "right_or_general": "right or true general"}
_LEVELS = {"general": "general level", "above_general": "above general", "object": "object", "unknown": "unknown"}
_CALIBRATION = {
    "confident_right": "right among confidence >= 0.8",
    "calibration_error": "calibration error, 10 bins",
    "mean_confidence": "mean confidence",
    "back_off_confident_right": "with back-off: right or general among >= 0.8",
    "back_off_calibration_error": "with back-off: calibration error",
}
_UNSEEN = {
    "wrong_specific": "wrong specific kind, confidence > 0.5",
    "auroc": "unlike training, AUROC against known ones",
}


def summary(judged: Sequence[Judged], bootstrap: Bootstrap, among: np.ndarray) -> dict[str, Figure]:
    """Return the figures of some of the answers.

    Args:
        judged: All answers, n of them.
        bootstrap: Draws of their images.
        among: Which answers count, bool [n].
    """
    plain = np.array([one.plain.confidence for one in judged])
    backed_off = np.array([one.backed_off.confidence for one in judged])
    right = np.array([one.right for one in judged], bool)
    general = np.array([one.right_or_general for one in judged], bool)

    def error(confidences: np.ndarray, outcome: np.ndarray) -> Figure:
        return bootstrap.statistic(lambda rows: calibration_error(confidences[rows], outcome[rows]), among)

    return {
        "kind_right": bootstrap.mean(right, among),
        "right_or_general": bootstrap.mean(general, among),
        "general": bootstrap.mean(np.array([one.level == GENERAL for one in judged]), among),
        "above_general": bootstrap.mean(np.array([one.above_general for one in judged]), among),
        "object": bootstrap.mean(np.array([one.level == ROOT for one in judged]), among),
        "unknown": bootstrap.mean(np.array([one.level == UNKNOWN for one in judged]), among),
        "confident_right": bootstrap.mean(right, among & (plain >= CONFIDENT)),
        "calibration_error": error(plain, right),
        "mean_confidence": bootstrap.mean(plain, among),
        "back_off_confident_right": bootstrap.mean(general, among & (backed_off >= CONFIDENT)),
        "back_off_calibration_error": error(backed_off, general),
    }


def groups(judged: Sequence[Judged]) -> dict[str, dict[str, np.ndarray]]:
    """Return which answers belong to each group, bool [n], by "all", pack and size."""
    packs = np.array([one.pack for one in judged])
    areas = np.array([one.area_share for one in judged])
    return {
        "all": {"all": np.ones(len(judged), bool)},
        "packs": {pack: packs == pack for pack in sorted(set(packs.tolist()))},
        "sizes": {name: (areas >= least) & (areas < most) for name, (least, most) in SIZES.items()},
    }


def read_packs(
    data: Path, packs: Sequence[str] | None, limit: int | None, skipped: Skipped
) -> tuple[list[PackObject], list[str]]:
    """Return the objects of the packs, and the names of absent packs.

    Args:
        data: Folder of packs.
        packs: Their names; None for all.
        limit: Keep at most this number of images of each split of a pack, chosen by a hash of their names.
        skipped: Counts what cannot be used.

    Raises:
        InputError: No pack is there.
    """
    folders, absent = pack_folders(data, packs)
    if not folders:
        wanted = f" of the packs {', '.join(packs)}" if packs else ", a folder with annotations.json"
        raise InputError(f"{data} has none{wanted}; give the folder of the packs")
    objects = [obj for folder in folders for obj in pack_objects(folder, skipped)]
    return (objects if limit is None else _limited(objects, limit)), absent


def _limited(objects: Sequence[PackObject], limit: int) -> list[PackObject]:
    images = dict.fromkeys((obj.pack, obj.split, obj.file_name) for obj in objects)
    kept: set[tuple[str, str, str]] = set()
    for part in dict.fromkeys(image[:2] for image in images):
        own = [image for image in images if image[:2] == part]
        kept.update(sorted(own, key=lambda image: hashlib.sha256("/".join(image).encode()).digest())[:limit])
    return [obj for obj in objects if (obj.pack, obj.split, obj.file_name) in kept]


def _parser() -> Parser:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_bundle_option(parser)
    add_data_option(parser)
    add_packs_option(parser)
    parser.add_argument(
        "--split",
        choices=SPLITS,
        default=TEST,
        help="which images; validation is a tenth of the train images, by a fixed seed (default: %(default)s)",
    )
    add_crops_option(parser)
    parser.add_argument("--limit", type=positive, metavar="N", help="use at most N images of each split of a pack")
    add_kinds_option(parser)
    parser.add_argument(
        "--tabletops",
        type=positive,
        metavar="N",
        help="also separate the photographs from N simulated test scenes, as if only the scenes were known",
    )
    parser.add_argument(
        "--stamps",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="folder of cut-outs, PNG files with alpha; may be given more than once",
    )
    add_count_option(parser, "--resamples", RESAMPLES, "draws of images for the intervals")
    add_threads_option(parser)
    add_preprocessing_option(parser)
    parser.add_argument("--json", "--output", type=Path, metavar="FILE", help="write figures and answers to this file")
    return parser


@command("photographs")
def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    skipped = Skipped()
    objects, absent = read_packs(arguments.data, arguments.packs, arguments.limit, skipped)
    describer = Describer(arguments.bundle, arguments.threads, preprocessing=arguments.preprocessing)
    names = KindNames(load_kinds(arguments.kinds), describer.bundle.kinds(), near_synonyms())
    asker = Asker(describer, arguments.crops)
    unseen = [obj for obj in objects if names.held_out(names.kind(obj.name, obj.pack))]
    new = {(obj.pack, obj.id) for obj in unseen}
    known = [obj for obj in objects if obj.split == arguments.split and (obj.pack, obj.id) not in new]

    def ask(wanted: Iterable[PackObject], name: str) -> list[Judged]:
        images = list(images_of(wanted))
        return list(judge_images(asker, names, tqdm(images, name, unit="image", file=sys.stderr), skipped))

    judged = ask(known, arguments.split)
    if not judged:
        raise InputError(f"nothing to judge: {arguments.data} has no usable object in the {arguments.split} split")
    others = {"held-out kinds": ask(unseen, "held out")}
    if arguments.stamps:
        files = tqdm(stamp_files(arguments.stamps), "stamps", unit="image", file=sys.stderr)
        stamps = list(stamp_answers(asker, names, files, known, skipped))
        untrained = [one for one in stamps if not names.trained(names.kind(stamp_words(Path(one.image))[0]))]
        others |= {"stamps": stamps, "stamps of other than known kinds": untrained}
    left_out = sum(obj.split == arguments.split for obj in unseen)
    figures, apart = all_figures(judged, others, arguments.resamples)
    if arguments.tabletops is not None:
        seeds = tqdm(range(arguments.tabletops), "tabletops", unit="scene", file=sys.stderr)
        scenes = room_objects(describer, names, TABLETOP, TEST, seeds, crops=arguments.crops)
        known_scenes = [one.judged for one in scenes]
        apart["photographs against tabletops"] = unseen_figures(known_scenes, judged, arguments.resamples)
    images = {(one.pack, one.image) for one in judged}
    print(
        f"{arguments.bundle}: {len(judged)} objects in {len(images)} {arguments.split} images of "
        f"{len(figures['packs'])} packs, crops {arguments.crops}; {left_out} objects of held-out kinds left out"
    )
    if absent:
        print(f"absent packs: {', '.join(absent)}")
    print(table(figures, apart))
    if skipped.total:
        print(skipped.summary(), file=sys.stderr)
    report = {
        "bundle": str(arguments.bundle),
        "split": arguments.split,
        "crops": arguments.crops,
        "absent": absent,
        "left_out": left_out,
        **{kind: {name: _plain(one) for name, one in members.items()} for kind, members in figures.items()},
        "unseen": {name: _plain(one) for name, one in apart.items()},
        "answers": [one.to_json() for one in judged],
        "unseen_answers": {name: [one.to_json() for one in found] for name, found in others.items()},
    }
    write_figures(arguments.json, report)
    return 0


def all_figures(
    judged: Sequence[Judged], others: Mapping[str, Sequence[Judged]], resamples: int
) -> tuple[dict[str, dict[str, dict[str, Figure]]], dict[str, dict[str, Figure]]]:
    """Return the figures by group and member, and those of each of the other sets that has answers."""
    bootstrap = Bootstrap([(one.pack, one.image) for one in judged], resamples)
    figures = {
        kind: {name: summary(judged, bootstrap, among) for name, among in members.items()}
        for kind, members in groups(judged).items()
    }
    return figures, {name: unseen_figures(judged, found, resamples) for name, found in others.items() if found}


def table(figures: dict[str, dict[str, dict[str, Figure]]], unseen: dict[str, dict[str, Figure]]) -> str:
    """Return the figures as text: shares by group, calibration of all, and what was never seen."""
    titles = [f"{title:24s}" for title in _COLUMNS.values()] + [f"{title:>15s}" for title in _LEVELS.values()]
    lines = ["".join([f"{'':20s}{'objects':>8s}  ", *titles])]
    for members in figures.values():
        for name, own in members.items():
            if own["kind_right"].count:
                shares = [f"{own[key].text():24s}" for key in _COLUMNS] + [f"{own[key].value:15.1%}" for key in _LEVELS]
                lines.append("".join([f"{name:20s}{own['kind_right'].count:8d}  ", *shares]))
    every = figures["all"]["all"]
    for key, title in _CALIBRATION.items():
        lines.append(f"{title:52s}{every[key].text(not key.endswith(('error', 'confidence')))} of {every[key].count}")
    for name, own in unseen.items():
        lines.append(f"{name}, {own['wrong_specific'].count} objects")
        lines += [f"  {title:50s}{own[key].text(key != 'auroc')}" for key, title in _UNSEEN.items()]
    return "\n".join(lines)


def _plain(figures: dict[str, Figure]) -> dict[str, Any]:
    return {name: figure.to_json() for name, figure in figures.items()}


if __name__ == "__main__":
    raise SystemExit(main())
