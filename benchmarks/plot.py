"""Plots the time of a frame against its number of regions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # before pyplot: no screen is needed

from matplotlib import pyplot


def draw(
    path: Path,
    title: str,
    counts: Sequence[int],
    seconds: Mapping[str, Sequence[float | None]],
    stages: Mapping[str, Sequence[float]],
    peak_bytes: Mapping[int, int],
) -> None:
    """Write an image with two panels: everybody's seconds for each count, and the stages of the engines with memory.

    A contender may lack counts (None). peak_bytes: by count, may be empty.
    """
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.8), layout="constrained")
    figure.suptitle(title)
    for name, values in seconds.items():
        points = [(count, value) for count, value in zip(counts, values, strict=True) if value is not None]
        if points:
            left.plot(*zip(*points, strict=True), marker="o", label=name)
    left.set(xscale="log", yscale="log", xlabel="regions", ylabel="seconds a frame", title="pixels to words")
    left.set_xticks(counts, labels=[str(count) for count in counts])
    left.minorticks_off()
    left.grid(alpha=0.3)
    left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)

    right.stackplot(counts, [[1e3 * value for value in values] for values in stages.values()], labels=list(stages))
    right.set(xlabel="regions", ylabel="milliseconds a frame", title="stages of the engines", xticks=counts)
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
