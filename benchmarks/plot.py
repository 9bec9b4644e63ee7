"""Plots: the time of a frame over its number of regions, and values of a run over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # before pyplot, to work without a display

from matplotlib import pyplot


def draw(
    path: Path,
    title: str,
    counts: Sequence[int],
    seconds: Mapping[str, Sequence[float | None]],
    stages: Mapping[str, Sequence[float]],
    peak_bytes: Mapping[int, int],
) -> None:
    """Write an image with two panels: seconds of each contender, and stages and peak memory of the engines.

    Args:
        path: Image file.
        title: Title of the figure.
        counts: Numbers of regions.
        seconds: Seconds by contender for each count; None if not measured.
        stages: Seconds by stage for each count.
        peak_bytes: Peak memory in bytes by count; can be empty.
    """
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.8), layout="constrained")
    figure.suptitle(title)
    for name, values in seconds.items():
        points = [(count, value) for count, value in zip(counts, values, strict=True) if value is not None]
        if points:
            left.plot(*zip(*points, strict=True), marker="o", label=name)
    left.set(xscale="log", yscale="log", xlabel="regions", ylabel="seconds per frame", title="pixels to text")
    left.set_xticks(counts, labels=[str(count) for count in counts])
    left.minorticks_off()
    left.grid(alpha=0.3)
    left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)

    right.stackplot(counts, [[1e3 * value for value in values] for values in stages.values()], labels=list(stages))
    right.set(xlabel="regions", ylabel="milliseconds per frame", title="stages of the engines", xticks=counts)
    handles, labels = right.get_legend_handles_labels()
    if peak_bytes:
        memory = right.twinx()
        known = sorted(peak_bytes)
        (line,) = memory.plot(known, [peak_bytes[n] / 1e6 for n in known], color="black", marker="s", linestyle="--")
        memory.set(ylabel="peak memory, MB", ylim=(0, 1.3e-6 * max(peak_bytes.values())))
        handles, labels = [*handles, line], [*labels, "peak memory"]
    right.legend(handles, labels, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def draw_lines(
    panels: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]], events: Sequence[float], path: Path
) -> None:
    """Write an image with a panel for each value over time.

    Args:
        panels: Points (seconds, value) of each line, by panel and by line.
        events: Times in seconds that are marked in each panel.
        path: Image file.
    """
    figure, axes = pyplot.subplots(len(panels), 1, figsize=(10, 2.2 * len(panels)), sharex=True, layout="constrained")
    for axis, (name, lines) in zip(axes, panels.items(), strict=True):
        for label, points in lines.items():
            if points:
                axis.plot(*zip(*points, strict=True), label=label, linewidth=1)
        for moment in events:
            axis.axvline(moment, color="black", alpha=0.12, linewidth=0.8)
        axis.set(ylabel=name, ylim=(0, None))
        axis.grid(alpha=0.3)
        axis.legend(loc="lower right")
    axes[-1].set(xlabel="seconds; a vertical line is a fault")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
