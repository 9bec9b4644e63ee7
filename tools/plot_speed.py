"""Draw docs/speed.png from the table of frames in docs/benchmark_results.md: `make docs-images`."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # before pyplot, to work without a display

from matplotlib import pyplot

ROOT = Path(__file__).resolve().parents[1]
COLUMN = "regions"
# Columns of the table, and their names in the figure.
CONTENDERS = {
    "engines": "osprey_ros",
    "batched": "int4, ordinary batch",
    "loop": "PyTorch, lean loop",
    "demo": "PyTorch, original demo",
}


def frame_times(markdown: str) -> dict[str, list[float]]:
    """Return the columns of numbers of the first table whose first column is "regions": milliseconds by contender.

    Raises:
        ValueError: There is no such table.
    """
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown.splitlines() if line[:1] == "|"]
    start = next((index for index, row in enumerate(rows) if row[0] == COLUMN), None)
    if start is None:
        raise ValueError(f"no table begins with the column {COLUMN!r}")
    body = []
    for row in rows[start + 2 :]:
        if not row[0].isdigit():
            break
        body.append(row)
    wanted = {name: rows[start].index(name) for name in (COLUMN, *CONTENDERS)}
    return {name: [_number(row[column]) for row in body] for name, column in wanted.items()}


def _number(cell: str) -> float:
    match = re.match(r"[\d.]+", cell)
    if match is None:
        raise ValueError(f"{cell!r} does not begin with a number")
    return float(match.group())


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the figure. Return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0])
    parser.add_argument("--results", type=Path, default=ROOT / "docs" / "benchmark_results.md", help="page to read")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "speed.png", help="file to write")
    options = parser.parse_args(arguments)
    times = frame_times(options.results.read_text(encoding="utf-8"))
    figure, axes = pyplot.subplots(figsize=(7, 3.4), layout="constrained")
    for name, label in CONTENDERS.items():
        axes.plot(times[COLUMN], times[name], marker="o", label=label)
    axes.set(xscale="log", yscale="log", xlabel="objects in one frame", ylabel="milliseconds, pixels to words")
    axes.set_xticks(times[COLUMN], labels=[f"{count:.0f}" for count in times[COLUMN]])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(options.output, dpi=110)
    return 0


if __name__ == "__main__":
    sys.exit(main())
