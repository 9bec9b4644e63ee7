"""Time the segmenter in turns with the vision engine of a describer: everything in an image, and one more click.

`python benchmarks/segmenter.py --json build/segmenter.json` renders simulated scenes; `--image FILE` takes an image.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

# Run as a script, Python searches modules beside this file; the packages are one folder up.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.interleaved_timing import Spread, in_turns
from osprey_ros import Segmenter, load_image
from osprey_ros.bundle.bundle import Bundle
from osprey_ros.cli._edge import command
from osprey_ros.cli._options import add_count_option, add_figures_option
from osprey_ros.cli._output import write_figures
from osprey_ros.engines.base import load_role
from osprey_ros.errors import RegionError
from osprey_ros.segmenter.segmenter import DEFAULT_BUNDLE
from osprey_ros.vision.preprocess import preprocess

WIDTH, HEIGHT = 640, 480


def measure(rgb: np.ndarray, bundle: Bundle, segmenter: Segmenter, threads: int, runs: int) -> dict[str, Any]:
    """Return the number of regions, and the milliseconds of each call on an image, uint8 [H, W, 3].

    Raises RegionError if the segmenter finds nothing.
    """
    vision = load_role(bundle, "vision", threads, "image_tokens")
    pixels = preprocess(rgb, bundle.manifest.model).astype(vision.input_dtypes["pixels"], copy=False)

    def everything() -> None:
        segmenter.set_image(rgb)
        segmenter.segment_everything()

    segmenter.set_image(rgb)
    found = segmenter.segment_everything()
    if not len(found):
        raise RegionError("the segmenter finds nothing in the image; give another one")
    x, y, width, height = found.boxes[0]
    click = [[x + width // 2, y + height // 2]]
    calls = {
        "vision engine": lambda: vision.run({"pixels": pixels}),
        "image": lambda: segmenter.set_image(rgb),
        "image and everything": everything,
        "click": lambda: segmenter.segment(points=click),
    }
    seconds = in_turns(calls, runs)
    return {"regions": len(found), "milliseconds": {k: [1e3 * s for s in values] for k, values in seconds.items()}}


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure each image and print the medians."""
    images = [load_image(path) for path in arguments.image] or _scenes(arguments.scenes)
    bundle = Bundle.open(arguments.bundle)
    with Segmenter(arguments.segmenter, threads=arguments.threads) as segmenter:
        measured = [measure(rgb, bundle, segmenter, arguments.threads, arguments.runs) for rgb in images]
    names = list(measured[0]["milliseconds"])
    all_times = {name: np.concatenate([one["milliseconds"][name] for one in measured]).tolist() for name in names}
    base = Spread.of(all_times["vision engine"]).median
    print(f"{sum(one['regions'] for one in measured)} regions in {len(images)} images; load {os.getloadavg()[0]:.1f}")
    print(f"{'':<22}{'median':>10}{'quartiles':>20}{'times vision':>14}")
    for name in names:
        spread = Spread.of(all_times[name])
        quartiles = f"{spread.low:.1f} to {spread.high:.1f}"
        print(f"{name:<22}{spread.median:>7.1f} ms{quartiles:>20}{spread.median / base:>14.1f}")
    return {"bundle": bundle.manifest.name, "threads": arguments.threads, "images": measured}


def _scenes(count: int) -> list[np.ndarray]:
    from osprey_sim.render import Renderer
    from osprey_sim.scene import sample_scene

    with Renderer(WIDTH, HEIGHT) as renderer:
        return [renderer.render(sample_scene(seed, "test"), depth=False).rgb for seed in range(count)]


@command("segmenter")
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="nano", help="describer whose vision engine is timed (%(default)s)")
    parser.add_argument("--segmenter", default=DEFAULT_BUNDLE, metavar="DIR", help="segmenter (%(default)s)")
    parser.add_argument("--image", type=Path, nargs="+", default=[], metavar="FILE", help="images in place of scenes")
    add_count_option(parser, "--scenes", 5, "simulated scenes")
    add_count_option(parser, "--runs", 9, "rounds for each image")
    add_count_option(parser, "--threads", 2, "threads of each engine")
    add_figures_option(parser)
    arguments = parser.parse_args(argv)
    write_figures(arguments.json, run(arguments))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
