"""Time a segmenter against the vision engine of a bundle: `python benchmarks/segmenter.py`.

On a rendered image of 640x480: encoding it, one more click on the encoded image, and everything mode from the image to
regions at its size. All calls are timed in turns, so that other load affects them equally; ratios are of medians.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script from anywhere

from benchmarks.interleaved_timing import Spread, in_turns
from osprey_ros.bundle.bundle import Bundle
from osprey_ros.cli._edge import command
from osprey_ros.cli._options import Parser, add_count_option, add_figures_option, add_threads_option
from osprey_ros.cli._output import write_figures
from osprey_ros.engines.base import load_role
from osprey_ros.segmenter.segmenter import DEFAULT_BUNDLE, Segmenter
from osprey_sim.object_sets import HOME, SceneSource
from osprey_sim.render import Renderer

SIZE = (640, 480)


@command("segmenter")
def main(argv: Sequence[str] | None = None) -> int:
    """Measure and return the exit status."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--segmenter", default=DEFAULT_BUNDLE, metavar="DIR", help="segmenter (default: %(default)s)")
    parser.add_argument("--bundle", default="nano", metavar="DIR", help="vision engine (default: %(default)s)")
    add_count_option(parser, "--runs", 15, "number of rounds")
    add_threads_option(parser)
    add_figures_option(parser)
    arguments = parser.parse_args(argv)
    source = SceneSource(HOME)
    with Renderer(*SIZE) as renderer:
        _, frame = source.render(renderer, source.sample(0, "test"), depth=False)
    with Segmenter(arguments.segmenter, arguments.threads) as segmenter:
        segmenter.set_image(frame.rgb)
        regions = len(segmenter.segment_everything())
        row, column = np.argwhere(frame.instance_ids == frame.objects()[0]).mean(0)
        vision = _vision(arguments.bundle, arguments.threads)

        def everything() -> None:
            segmenter.set_image(frame.rgb)
            segmenter.segment_everything()

        calls = {
            "vision": vision,
            "encode": lambda: segmenter.set_image(frame.rgb),
            "click": lambda: segmenter.segment(points=[[column, row]]),
            "everything": everything,
        }
        for call in calls.values():
            call()
        seconds = in_turns(calls, arguments.runs)
    spreads = {name: Spread.of(values) for name, values in seconds.items()}
    base = spreads["vision"].median
    print(f"640x480, {len(frame.objects())} objects, {regions} regions in everything mode, {arguments.runs} rounds")
    words = {"vision": f"vision engine of {arguments.bundle}", "click": "one more click"}
    for name, spread in spreads.items():
        print(
            f"  {words.get(name, name):28s}{1e3 * spread.median:8.1f} ms "
            f"[{1e3 * spread.low:.1f}, {1e3 * spread.high:.1f}]  {spread.median / base:6.2f} times the vision engine"
        )
    write_figures(arguments.json, {name: asdict(spread) for name, spread in spreads.items()})
    return 0


def _vision(bundle: str, threads: int | None) -> Callable[[], object]:
    """Return a run of a bundle's vision engine on an image that is prepared already."""
    opened = Bundle.open(bundle)
    engine = load_role(opened, "vision", threads, "image_tokens")
    model = opened.manifest.model
    pixels = np.random.default_rng(0).normal(size=(1, 3, model.image_size, model.image_size)).astype(np.float32)
    names = list(engine.output_names)
    return lambda: engine.run({"pixels": pixels}, names)


if __name__ == "__main__":
    raise SystemExit(main())
