"""What quantization costs: accuracy of bundles with fp32, fp16, int8 and int4 weights, side by side.

`osprey eval precisions --data DIR --write docs/accuracy.md` measures the bundles that ship on simulated test scenes and
on the test split of packs of photographs. The int4 column is the bundle itself. The others are built from a checkpoint,
or, without --checkpoint, from the weights of the bundle, which are rounded to int4 already.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from evaluation.accuracy import judge_rendered
from evaluation.figures import RESAMPLES, Bootstrap, Figure
from evaluation.kind_names import KindNames, near_synonyms
from evaluation.photograph_answers import Asker, images_of, judge_images
from evaluation.photographs import read_packs
from evaluation.rooms import objects_of_rooms, rooms
from export.build import build_bundle
from export.options import Precisions
from osprey_ros.bundle.bundle import Bundle, write_calibration, write_unlike_training
from osprey_ros.cli._edge import command
from osprey_ros.cli._options import Parser, add_count_option, add_figures_option, add_threads_option, positive
from osprey_ros.cli._output import write_figures
from osprey_ros.describer import Describer
from osprey_ros.errors import InputError
from osprey_ros.files import write_file
from osprey_sim.object_sets import HOME
from osprey_sim.render import MIN_AREA, render_scenes
from osprey_torch.checkpoint import save_checkpoint
from osprey_torch.readback import model_from_bundle
from osprey_torch.readers.packs import TEST, PackObject
from osprey_torch.readers.records import Skipped
from training.home.kinds import load_kinds

REFERENCE, SHIPPED = "fp32", "int4"
BUILT = {
    REFERENCE: Precisions("fp32", "fp32", "fp32", "fp32"),
    "fp16": Precisions("fp16", "fp16", "fp16", "fp16"),
    "int8": Precisions("fp32", "fp32", "int8", "int8"),
}
_QUESTIONS = {
    "category": "category",
    "colour": "color",
    "short": "short description",
    "detailed": "detailed description",
    "pair": "place relative to another object",
    "class": "yes or no: is it a ...?",
    "part": "yes or no: does it have ...?",
}
_POINT = 1.0  # percentage point within which int4 is as good as fp32


@dataclass(frozen=True)
class Outcomes:
    """Answers to one kind of question.

    Attributes:
        groups: Scene or image of each answer.
        right: bool [n].
        texts: The answers.
    """

    groups: Sequence[str]
    right: np.ndarray
    texts: Sequence[str]


@dataclass(frozen=True)
class Row:
    """One kind of question: the share of right answers by precision, and int4 minus fp32 in points."""

    name: str
    shares: Mapping[str, float]
    difference: Figure
    same: float

    @property
    def within(self) -> bool:
        """Whether int4 loses at most one point."""
        return self.difference.value >= -_POINT


def tabletop_measure(scenes: int) -> Callable[[Describer], dict[str, Outcomes]]:
    """Return what measures a bundle that knows rendered tabletops: outcomes by kind of question.

    The scenes are rendered once, for all precisions.
    """
    seeds = tqdm(range(scenes), "rendering", unit="scene", file=sys.stderr)
    rendered = list(render_scenes(TEST, seeds))

    def measure(describer: Describer) -> dict[str, Outcomes]:
        judged = judge_rendered(describer, tqdm(rendered, unit="scene", file=sys.stderr), MIN_AREA)
        result = {}
        for kind, name in _QUESTIONS.items():
            own = [(str(one.seed), one.answers[kind]) for one in judged if one.is_object and kind in one.answers]
            result[f"{name}, tabletops"] = _outcomes((seed, answer.right, answer.text) for seed, answer in own)
        return result

    return measure


def home_measure(
    names: KindNames, scenes: int, data: Path | None, limit: int | None, skipped: Skipped
) -> Callable[[Describer], dict[str, Outcomes]]:
    """Return what measures a bundle with a tree of kinds: in simulated homes, and on photographs of ``data``.

    Args:
        names: Decides what is right.
        scenes: Number of homes, which are rendered once.
        data: Folder of packs of photographs, or None.
        limit: Most images of each pack, or None.
        skipped: Counts what cannot be used.
    """
    seeds = tqdm(range(scenes), "rendering", unit="scene", file=sys.stderr)
    homes = list(rooms(names, HOME, TEST, seeds))
    photographs: list[list[PackObject]] = []
    if data is not None:
        objects, _ = read_packs(data, None, limit, skipped)
        known = [obj for obj in objects if obj.split == TEST and not names.held_out(names.kind(obj.name, obj.pack))]
        photographs = list(images_of(known))

    def measure(describer: Describer) -> dict[str, Outcomes]:
        shown = list(objects_of_rooms(describer, names, HOME, tqdm(homes, unit="scene", file=sys.stderr)))
        colored = ((one.judged.image, one.color_right, "") for one in shown if one.color)
        result = {"color, simulated homes": _outcomes(colored)}
        judged = {"simulated homes": [one.judged for one in shown]}
        if photographs:
            images = tqdm(photographs, "photographs", unit="image", file=sys.stderr)
            judged["photographs"] = list(judge_images(Asker(describer), names, images, skipped))
        for where, own in judged.items():
            result[f"kind, {where}"] = _outcomes((f"{one.pack} {one.image}", one.right, one.plain.text) for one in own)
            general = ((f"{one.pack} {one.image}", one.right_or_general, one.backed_off.text) for one in own)
            result[f"kind or a more general one, {where}"] = _outcomes(general)
        return result

    return measure


def _outcomes(found: Iterable[tuple[str, bool, str]]) -> Outcomes:
    groups, right, texts = zip(*found, strict=True)
    return Outcomes(groups, np.array(right, bool), texts)


def rows_of(measured: Mapping[str, Mapping[str, Outcomes]], resamples: int) -> list[Row]:
    """Return a row for each kind of question. The answers of all precisions must be about the same regions.

    Args:
        measured: Outcomes by precision and kind of question.
        resamples: Draws of scenes and images for the intervals.
    """
    rows = []
    for name, exact in measured[REFERENCE].items():
        own = measured[SHIPPED][name]
        if own.groups != exact.groups:
            raise InputError(f"{name}: the precisions were asked about other regions; measure again")
        apart = (own.right.astype(np.float64) - exact.right) * 100
        difference = Bootstrap(exact.groups, resamples).mean(apart, np.ones(len(apart), bool))
        shares = {precision: float(outcomes[name].right.mean()) for precision, outcomes in measured.items()}
        same = float(np.mean([a == b for a, b in zip(own.texts, exact.texts, strict=True)]))
        rows.append(Row(name, shares, difference, same))
    return rows


def markdown(title: str, sizes: Mapping[str, int], rows: Sequence[Row], notes: Sequence[str]) -> str:
    """Return one bundle's section: sizes, shares, and the difference of int4."""
    columns = list(rows[0].shares)
    lines = [f"## {title}", "", *notes, ""]
    lines += [
        f"| right answers | {' | '.join(columns)} | int4 - fp32, points | same answer as fp32 | within 1 point |",
        "|---|" + "---|" * (len(columns) + 3),
    ]
    for row in rows:
        shares = " | ".join(f"{row.shares[column]:.1%}" for column in columns)
        gap = f"{row.difference.value:+.2f} [{row.difference.low:+.2f}, {row.difference.high:+.2f}]"
        same = "-" if row.name.startswith("color, sim") else f"{row.same:.1%}"
        lines.append(
            f"| {row.name} ({row.difference.count}) | {shares} | {gap} | {same} | {'yes' if row.within else 'NO'} |"
        )
    lines.append(f"| size of the engines, MB | {' | '.join(f'{sizes[c] / 1e6:.1f}' for c in columns)} | | | |")
    return "\n".join(lines) + "\n"


def _parser() -> Parser:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", action="append", metavar="DIR", help="bundle to measure; repeatable (default: all)")
    parser.add_argument("--checkpoint", type=Path, metavar="DIR", help="weights before rounding, of one --bundle")
    parser.add_argument("--data", type=Path, metavar="DIR", help="packs of photographs, for bundles with kinds")
    add_count_option(parser, "--scenes", 500, "number of test scenes")
    parser.add_argument("--limit", type=positive, metavar="N", help="use at most N images of each pack")
    add_count_option(parser, "--resamples", RESAMPLES, "draws of scenes and images for the intervals")
    add_threads_option(parser)
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the tables as Markdown to this file")
    add_figures_option(parser)
    return parser


@command("precisions")
def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    names = arguments.bundle or ["nano", "home"]
    if arguments.checkpoint is not None and len(names) != 1:
        raise InputError("--checkpoint belongs to one bundle; give one --bundle")
    skipped = Skipped()
    sections: list[str] = []
    report: dict[str, Any] = {}
    for name in names:
        text, figures = _measured(name, arguments, skipped)
        sections.append(text)
        report[name] = figures
        print(text)
    if skipped.total:
        print(skipped.summary(), file=sys.stderr)
    if arguments.write is not None:
        write_file(arguments.write, _head(argv) + "\n".join(sections))
    write_figures(arguments.json, report)
    return 0


def _measured(name: str, arguments: argparse.Namespace, skipped: Skipped) -> tuple[str, dict[str, Any]]:
    """Return the section and the figures of one bundle."""
    shipped = Bundle.open(name)
    with_kinds = shipped.kinds() is not None
    if with_kinds:
        names = KindNames(load_kinds(), shipped.kinds(), near_synonyms())
        measure = home_measure(names, arguments.scenes, arguments.data, arguments.limit, skipped)
    else:
        measure = tabletop_measure(arguments.scenes)
    measured: dict[str, dict[str, Outcomes]] = {}
    sizes: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        checkpoint = arguments.checkpoint
        if checkpoint is None:
            checkpoint = work / "checkpoint"
            save_checkpoint(model_from_bundle(shipped), shipped.tokenizer(), checkpoint, kinds=shipped.kinds())
        for precision in (*BUILT, SHIPPED):
            bundle = shipped
            if precision in BUILT:
                build_bundle(checkpoint, work / precision, verify=False, precisions=BUILT[precision])
                # The choice of a more general kind and "unknown" depend on them.
                write_calibration(work / precision, shipped.calibration())
                unlike = shipped.unlike_training()
                if unlike is not None:
                    write_unlike_training(work / precision, unlike)
                bundle = Bundle.open(work / precision)
            print(f"{name}, {precision}", file=sys.stderr)
            sizes[precision] = sum(bundle.path(engine).stat().st_size for engine in _engines(bundle))
            with Describer(bundle, arguments.threads) as describer:
                measured[precision] = measure(describer)
    rows = rows_of(measured, arguments.resamples)
    where = f"{arguments.scenes} simulated test scenes"
    if with_kinds:
        some = f", at most {arguments.limit} images of each" if arguments.limit else ""
        where += f" and the test split of packs of photographs{some}" if arguments.data else "; no photographs"
    origin = "a checkpoint" if arguments.checkpoint else "the rounded weights of the bundle itself"
    notes = [f"{where}.", f"fp32, fp16 and int8 are built from {origin}; int4 is the bundle that ships."]
    figures = {
        "sizes": sizes,
        "rows": {row.name: {**row.shares, "difference": row.difference.to_json(), "same": row.same} for row in rows},
    }
    return markdown(name, sizes, rows, notes), figures


def _engines(bundle: Bundle) -> list[str]:
    return [entry for entry in bundle.manifest.files if entry.endswith(".onnx")]


def _head(argv: Sequence[str] | None) -> str:
    line = " ".join(["osprey eval precisions", *(sys.argv[1:] if argv is None else argv)])
    return f"""# Accuracy by precision of the weights

Made by one command. Intervals are 95 % bootstrap intervals over scenes and images; the number of answers is in
parentheses.

    {line}

Without `--checkpoint` the columns fp32, fp16 and int8 hold the weights of the bundle in other formats. The last stage
of training rounds them to int4 in its forward pass, so the checkpoints of nano and home lie on this grid, too (see
their cards). What that stage costs, against a training in fp32 to the end, is not measured: there are no such weights.

"""


if __name__ == "__main__":
    raise SystemExit(main())
