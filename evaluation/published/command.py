"""The command of every task: read the data, get or make answers, score them, and show the figures."""

from __future__ import annotations

import argparse
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.figures import RESAMPLES, Figure
from evaluation.published import comparison
from evaluation.published.answers import Answers, read_answers
from evaluation.published.asking import Asking, Journal, Workers, ask_bundle, by_image
from evaluation.published.items import Item, Scored
from evaluation.published.ray_workers import LOCAL, RayWorkers
from evaluation.published.report import WORST, write_report
from osprey_ros.bundle.bundle import Bundle
from osprey_ros.cli._options import Parser, add_count_option, add_threads_option, positive
from osprey_ros.cli._output import write_figures
from osprey_ros.decoding.prompt import OPENINGS
from osprey_ros.errors import InputError
from osprey_torch.readers.records import Skipped


class Task(ABC):
    """A task: how its data are read and its answers scored.

    Attributes:
        name: Its name, as in `osprey eval NAME`.
        about: What it measures, for --help.
    """

    name: str
    about: str

    def add_options(self, parser: argparse.ArgumentParser) -> None:  # noqa: B027
        """Add options of this task alone."""

    def check(self, arguments: argparse.Namespace) -> None:  # noqa: B027
        """Raise InputError before any work if something is missing that the task needs."""

    @abstractmethod
    def read(self, arguments: argparse.Namespace, skipped: Skipped) -> Any:
        """Return the data, a dataclass with a field ``items``; broken records are counted in ``skipped``."""

    @abstractmethod
    def score(self, data: Any, answers: Answers, arguments: argparse.Namespace, skipped: Skipped, name: str) -> Scored:
        """Return the scores of one set of answers; ``name`` is that of the set."""

    def limited(self, data: Any, items: Sequence[Item]) -> Any:
        """Return the data with these items only."""
        return replace(data, items=items)


def run_task(
    task: Task, argv: Sequence[str] | None, parse: Callable[[argparse.Namespace, str], None] | None = None
) -> int:
    """Run the command of a task and return its exit status.

    Args:
        task: The task.
        argv: Its arguments.
        parse: Parses the replies of --parse, for a task that has this option.
    """
    arguments = _parser(task).parse_args(argv)
    if parse is not None and arguments.parse is not None:
        parse(arguments, task.name)
        return 0
    if arguments.data is None:
        raise InputError("--data is missing; give the folder of the data set")
    if not arguments.answers and not arguments.bundle:
        raise InputError("nothing to score; give --answers FILE, or --bundle DIR to ask a bundle")
    task.check(arguments)
    skipped = Skipped(arguments.strict)
    data = task.read(arguments, skipped)
    if arguments.limit is not None:
        data = task.limited(data, [item for group in by_image(data.items)[: arguments.limit] for item in group])
    if not data.items:
        raise InputError(f"{arguments.data} has no usable item; {skipped.summary()}")
    sets = dict(_answer_sets(task, arguments, data.items, skipped))
    scored = {name: task.score(data, answers, arguments, skipped, name) for name, answers in sets.items()}
    _show(task, arguments, data.items, sets, scored, skipped)
    return 0


def _parser(task: Task) -> Parser:
    parser = Parser(description=task.about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of the data set")
    parser.add_argument("--images", type=Path, metavar="DIR", help="folder of the images (default: below --data)")
    parser.add_argument(
        "--annotations", type=Path, metavar="FILE", help="file of the questions (default: found below --data)"
    )
    parser.add_argument(
        "--answers", type=Path, action="append", default=[], metavar="FILE", help="score these answers; repeatable"
    )
    parser.add_argument("--allow-missing", action="store_true", help="leave out and count items without an answer")
    parser.add_argument(
        "--bundle", action="append", default=[], metavar="DIR", help="folder or name of a bundle to ask; repeatable"
    )
    parser.add_argument("--limit", type=positive, metavar="N", help="use the first N images only")
    parser.add_argument("--strict", action="store_true", help="stop at the first broken record")
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("build/eval"),
        metavar="DIR",
        help="folder of the answers of bundles, from which a run that was stopped continues (default: %(default)s)",
    )
    parser.add_argument(
        "--opening",
        choices=tuple(OPENINGS),
        help="text between role and question (default: that of the published code for this task)",
    )
    parser.add_argument("--sample", action="store_true", help="sample at a temperature of 0.2, as the published code")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of --sample (default: %(default)s)")
    parser.add_argument("--max-new-tokens", type=positive, metavar="N", help="longest answer in tokens")
    add_threads_option(parser)
    parser.add_argument(
        "--ray",
        nargs="?",
        const=LOCAL,
        metavar="ADDRESS",
        help="ask bundles on the workers of a Ray cluster, without an address on processes of this machine",
    )
    add_count_option(parser, "--workers", 2, "workers of --ray")
    add_count_option(parser, "--resamples", RESAMPLES, "draws of images for the intervals")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write items, totals and figures to this file")
    parser.add_argument("--report", type=Path, metavar="DIR", help="write an HTML report with the worst cases")
    task.add_options(parser)
    return parser


def _answer_sets(
    task: Task, arguments: argparse.Namespace, items: Sequence[Item], skipped: Skipped
) -> Sequence[tuple[str, Answers]]:
    """Return name and answers of each file and each bundle."""
    sets = [(str(path), read_answers(path, items, arguments.allow_missing)) for path in arguments.answers]
    asking = Asking(arguments.opening, arguments.sample, arguments.seed, arguments.max_new_tokens, arguments.threads)
    if not arguments.bundle:
        return _checked(sets)
    with RayWorkers(arguments.ray, arguments.workers) if arguments.ray else nullcontext() as workers:
        sets += [_asked(task, arguments, bundle, asking, items, skipped, workers) for bundle in arguments.bundle]
    return _checked(sets)


def _asked(
    task: Task,
    arguments: argparse.Namespace,
    bundle: str,
    asking: Asking,
    items: Sequence[Item],
    skipped: Skipped,
    workers: Workers | None,
) -> tuple[str, Answers]:
    """Return name and answers of a bundle."""
    # The hashes of the files identify the weights.
    weights = {name: entry.sha256 for name, entry in sorted(Bundle.open(bundle).manifest.files.items())}
    header = {**asking.header(bundle, task.name), "files": weights}
    with Journal(arguments.work / task.name / f"{Path(bundle).name}.jsonl", header) as journal:
        return bundle, ask_bundle(bundle, items, asking, journal, skipped, workers)


def _checked(sets: list[tuple[str, Answers]]) -> list[tuple[str, Answers]]:
    if len(dict(sets)) < len(sets):
        raise InputError("a bundle or a file of answers is given twice; give each once")
    return sets


def _show(
    task: Task,
    arguments: argparse.Namespace,
    items: Sequence[Item],
    sets: Mapping[str, Answers],
    scored: Mapping[str, Scored],
    skipped: Skipped,
) -> None:
    """Print the figures, and write them and the report."""
    of_id = {item.id: item for item in items}
    figures = {name: comparison.figures(one, arguments.resamples) for name, one in scored.items()}
    parts = {name: comparison.parts(one, of_id, arguments.resamples) for name, one in scored.items()}
    names = list(scored)
    apart = {
        f"{other} minus {names[0]}": comparison.differences(scored[names[0]], scored[other], arguments.resamples)
        for other in names[1:]
    }
    tables = _tables(scored, figures, parts, apart)
    for heading, rows in tables:
        print(f"{heading}\n{_text_table(rows)}\n")
    missing = {name: len(items) - len(answers.texts) for name, answers in sets.items()}
    notes = [f"{name}: {count} of {len(items)} items have no answer" for name, count in missing.items() if count]
    notes += [skipped.summary()] if skipped.total else []
    for note in notes:
        print(note, file=sys.stderr)
    left_out = {"records": skipped.total, "reasons": dict(skipped.left_out), "broken": skipped.messages}
    common = {"task": task.name, "left_out": left_out, "missing_answers": missing}
    each = {
        name: {**one.to_json(), "figures": _plain(figures[name]), "parts": _plain(parts[name])}
        for name, one in scored.items()
    }
    single = len(each) == 1
    write_figures(
        arguments.json, {**each[names[0]], **common} if single else {"sets": each, "differences": apart, **common}
    )
    if arguments.json is not None:
        for number, one in enumerate(scored.values()):
            if one.arrays:
                arrays = {name: np.asarray(value) for name, value in one.arrays.items()}
                file = arguments.json.with_suffix(".npz" if single else f".{number}.npz")
                np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    if arguments.report is not None:
        cases = {name: _worst(one, of_id, sets[name]) for name, one in scored.items()}
        page = write_report(arguments.report, f"osprey eval {task.name}", tables, notes, cases)
        print(f"report: {page}")


def _tables(
    scored: Mapping[str, Scored],
    figures: Mapping[str, Mapping[str, Figure]],
    parts: Mapping[str, Mapping[str, Mapping[str, Mapping[str, Figure]]]],
    apart: Mapping[str, Mapping[str, Mapping[str, float]]],
) -> list[tuple[str, list[list[str]]]]:
    """Return heading and rows of each table."""
    names = list(scored)
    rows = [["figure", *names]]
    rows += [[key, *(_number(one.shown.get(key)) for one in scored.values())] for key in scored[names[0]].shown]
    tables = [("Figures", rows)]
    keys = list(dict.fromkeys(key for one in figures.values() for key in one))
    rows = [["95 % intervals over images", *names]]
    rows += [[key, *(_interval(figures[name].get(key)) for name in names)] for key in keys]
    tables.append(("Intervals", rows))
    for kind in dict.fromkeys(kind for one in parts.values() for kind in one):
        rows = [[kind, "figure", *names]]
        for part in dict.fromkeys(part for one in parts.values() for part in one.get(kind, {})):
            for key in keys:
                cells = [_interval(parts[name].get(kind, {}).get(part, {}).get(key)) for name in names]
                if any(cell != "-" for cell in cells):
                    rows.append([part, key, *cells])
        tables.append((f"By {kind}", rows))
    for title, own in apart.items():
        rows = [["figure", "difference", "p"]]
        rows += [
            [key, f"{_number(one['value'])} [{_number(one['low'])}, {_number(one['high'])}]", f"{one['p']:.4f}"]
            for key, one in own.items()
        ]
        tables.append((f"Paired difference, {title}", rows))
    return tables


def _text_table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _number(value: float | None) -> str:
    return "-" if value is None or np.isnan(value) else f"{value:.4g}" if abs(value) < 10 else f"{value:.2f}"


def _interval(figure: Figure | None) -> str:
    if figure is None or not figure.count or np.isnan(figure.value):
        return "-"
    return f"{_number(figure.value)} [{_number(figure.low)}, {_number(figure.high)}] of {figure.count}"


def _worst(scored: Scored, items: Mapping[str, Item], answers: Answers) -> list[tuple[Item, str, float]]:
    order: Callable[[str], tuple[float, str]] = lambda one: (scored.worst[one], one)  # noqa: E731
    return [(items[one], answers.texts[one], scored.worst[one]) for one in sorted(scored.worst, key=order)[:WORST]]


def _plain(value: Any) -> Any:
    if isinstance(value, Figure):
        return value.to_json()
    return {key: _plain(one) for key, one in value.items()}
