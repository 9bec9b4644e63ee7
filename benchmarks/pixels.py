"""Measure the steps before the engines, preprocessing and regions, and the effect of fast preprocessing.

`python benchmarks/pixels.py --json build/pixels.json`; `--scenes 0` measures only times.

All calls, including Pillow's resize of the same image, are timed in turns: wall time, and in brackets processor time,
which depends less on other load. OpenCV uses one thread; the other threads are those of
`osprey_ros.vision.preprocess.Preprocessor`. Fast and exact preprocessing are compared on rendered test scenes, by
pixels in levels of 8 bits and by short descriptions.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script from anywhere


from benchmarks.interleaved_timing import Spread, in_turns
from osprey_ros.bundle.bundle import Bundle
from osprey_ros.bundle.spec import ModelSpec
from osprey_ros.cli._edge import command
from osprey_ros.cli._output import write_figures
from osprey_ros.describer import Describer
from osprey_ros.regions.pooling import MaskPooler
from osprey_ros.regions.regions import regions_from_id_image, regions_from_masks
from osprey_ros.vision.preprocess import Preprocessor, resize_shortest_edge
from osprey_sim.render import Renderer
from osprey_sim.scene import sample_scene

COUNTS = (1, 4, 16, 64)
PUBLISHED = (512, 112)  # sides of the image and of the position grid in the published model
CASES = ((720, 1280, 512), (1280, 720, 512), (720, 1280, 192), (480, 640, 192))  # height, width, side of the square
HEIGHT, WIDTH = 720, 1280
MIN_AREA = 2400  # pixels; smaller objects are not described


@dataclass(frozen=True)
class Times:
    """Seconds of one call: wall time, and processor time of all threads."""

    wall: Spread
    cpu: Spread

    def __str__(self) -> str:
        return f"{1e3 * self.wall.median:.2f} ({1e3 * self.cpu.median:.2f})"

    def over(self, other: Times) -> str:
        """Return the ratio to the other times."""
        return f"{self.wall.median / other.wall.median:.2f} ({self.cpu.median / other.cpu.median:.2f})"


@dataclass(frozen=True)
class RegionTimes:
    """Seconds for one number of regions: in total, of the two parts, and for the same regions as a stack of masks."""

    regions: int
    total: Times
    found: Times  # areas, boxes and labels from the id image
    grids: Times  # masks at four scales and position grids
    stack: Times


@dataclass(frozen=True)
class ImageTimes:
    """Seconds for one image size."""

    height: int
    width: int
    side: int
    pillow: Times  # only the resize of a Pillow image
    exact: Times
    threaded: Times  # exact, with the given number of threads
    fast: Times


@dataclass(frozen=True)
class Difference:
    """Difference of fast and exact preprocessing over scenes, in levels of 8 bits.

    ``regions`` is the number of described regions, ``same_words`` that of equal descriptions; both are 0 if the side is
    not that of the model.
    """

    side: int
    scenes: int
    mean: float
    rms: float
    largest: float
    regions: int
    same_words: int


def drawn_ids(count: int) -> np.ndarray:
    """Draw an id image uint16 [HEIGHT, WIDTH] of `count` uneven round objects, as large as possible."""
    rng = np.random.default_rng(count)
    ids = np.zeros((HEIGHT, WIDTH), np.uint16)
    columns = int(np.ceil(np.sqrt(count * WIDTH / HEIGHT)))
    cell = min(WIDTH / columns, HEIGHT / -(-count // columns))
    angles = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    for number in range(count):
        row, column = divmod(number, columns)
        radius = 0.47 * cell * rng.uniform(0.7, 1, len(angles))
        outline = np.stack(
            [(column + 0.5) * cell + radius * np.cos(angles), (row + 0.5) * cell + radius * np.sin(angles)]
        )
        cv2.fillPoly(ids, [outline.T.astype(np.int32)], number + 1)
    return ids


def times_in_turns(calls: Mapping[str, Callable[[], object]], runs: int) -> dict[str, Times]:
    """Time of each call over `runs` rounds, after one that creates plans."""
    cpu: dict[str, list[float]] = {name: [] for name in calls}

    def clocked(name: str) -> Callable[[], object]:
        def call() -> None:
            start = time.process_time()
            calls[name]()
            cpu[name].append(time.process_time() - start)

        return call

    wall = in_turns({name: clocked(name) for name in calls}, runs + 1)
    return {name: Times(Spread.of(wall[name][1:]), Spread.of(cpu[name][1:])) for name in calls}


def measure_regions(side: int, position_size: int, runs: int) -> list[RegionTimes]:
    """Measure all counts in the same rounds, each in its own memory, as camera frames are; then the stacks."""
    sizes = [(side // stride, side // stride) for stride in (4, 8, 16, 32)]
    calls: dict[str, Callable[[], object]] = {}
    stacks: dict[str, Callable[[], object]] = {}
    for count in COUNTS:
        ids, grids = drawn_ids(count), MaskPooler(sizes, position_size)
        regions, masks = (
            regions_from_id_image(ids, masks_anyway=True),
            np.stack([ids == number for number in range(1, count + 1)]),
        )
        calls |= {
            f"total {count}": partial(_pool_ids, grids, ids),
            f"found {count}": partial(regions_from_id_image, ids),
            f"grids {count}": partial(grids.pool, regions),
        }
        stacks[f"stack {count}"] = partial(_pool_masks, grids, masks)
    times = times_in_turns(calls, runs) | times_in_turns(stacks, runs)
    return [
        RegionTimes(count, *(times[f"{part} {count}"] for part in ("total", "found", "grids", "stack")))
        for count in COUNTS
    ]


def _pool_ids(pooler: MaskPooler, ids: np.ndarray) -> object:
    return pooler.pool(regions_from_id_image(ids, masks_anyway=True))


def _pool_masks(pooler: MaskPooler, masks: np.ndarray) -> object:
    return pooler.pool(regions_from_masks(masks))


def measure_image(rgb: np.ndarray, spec: ModelSpec, threads: int, runs: int) -> ImageTimes:
    """Time the preprocessing of one image, uint8 [H, W, 3]."""
    pillow_image = Image.fromarray(rgb)
    small = resize_shortest_edge(rgb, spec.image_size).shape[1::-1]
    exact, threaded, fast = Preprocessor(spec), Preprocessor(spec, threads=threads), Preprocessor(spec, "fast")
    calls: dict[str, Callable[[], object]] = {
        "pillow": lambda: pillow_image.resize(small, Image.Resampling.BICUBIC),
        "exact": lambda: exact(rgb),
        "threaded": lambda: threaded(rgb),
        "fast": lambda: fast(rgb),
    }
    height, width = rgb.shape[:2]
    return ImageTimes(height, width, spec.image_size, **times_in_turns(calls, runs))


def compare_modes(bundle: Bundle, spec: ModelSpec, scenes: int) -> Difference:
    """Compare the fast mode with the exact one over test scenes of 1280x720; also words if `spec` is the bundle's."""
    exact, fast = Preprocessor(spec), Preprocessor(spec, "fast")
    levels = 255 * np.reshape(spec.image_std, (3, 1, 1))
    describers = [Describer(bundle, preprocessing=mode) for mode in ("exact", "fast")]
    words: list[list[str]] = [[], []]
    means, squares, largest = [], [], 0.0
    with Renderer(WIDTH, HEIGHT) as renderer:
        for seed in range(scenes):
            frame = renderer.render(sample_scene(seed, "test"), depth=False)
            difference = np.abs(fast(frame.rgb) - exact(frame.rgb)) * levels
            means.append(difference.mean())
            squares.append(np.square(difference).mean())
            largest = max(largest, float(difference.max()))
            ids, areas = np.unique(frame.instance_ids, return_counts=True)
            large = ids[(ids > 0) & (areas > MIN_AREA)]
            if spec == bundle.manifest.model and len(large):
                regions = regions_from_id_image(frame.instance_ids, only=large, masks_anyway=True)
                for describer, texts in zip(describers, words, strict=True):
                    describer.set_image(frame.rgb)
                    texts.extend(one.text for one in describer.describe(regions))
    same = sum(one == other for one, other in zip(*words, strict=True))
    rms = float(np.sqrt(np.mean(squares)))
    return Difference(spec.image_size, scenes, float(np.mean(means)), rms, largest, len(words[0]), same)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run all measurements, print them, and return the data of `--json`."""
    bundle = Bundle.open(arguments.bundle)
    spec = bundle.manifest.model
    load = os.getloadavg()[0]
    print(f"milliseconds, medians of {arguments.runs} runs: wall (processor); load before {load:.1f}")
    cv2.setNumThreads(1)
    regions = {}
    for side, position_size in (PUBLISHED, (spec.image_size, spec.position_size)):
        region_times = measure_regions(side, position_size, arguments.runs)
        regions[side] = region_times
        print(f"regions of a {WIDTH}x{HEIGHT} id image, model of {side} pixels")
        for count in region_times:
            base = region_times[1]
            print(
                f"  {count.regions:3d}: {count.total}, times that of {base.regions}: {count.total.over(base.total)}; "
                f"found {count.found}, grids {count.grids}; as a stack {count.stack}"
            )
    rng = np.random.default_rng(0)
    images = []
    for height, width, side in CASES:
        rgb = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        image = measure_image(rgb, replace(spec, image_size=side), arguments.threads, arguments.runs)
        images.append(image)
        print(f"{width}x{height} to {side}: Pillow's resize {image.pillow}")
        ways = {"exact": image.exact, f"exact, {arguments.threads} threads": image.threaded, "fast": image.fast}
        for name, times in ways.items():
            print(f"  {name} {times}, {times.over(image.pillow)} times Pillow's")
    differences = []
    for side in (PUBLISHED[0], spec.image_size) if arguments.scenes else ():
        one = compare_modes(bundle, replace(spec, image_size=side), arguments.scenes)
        differences.append(one)
        words = f"; same short description for {one.same_words} of {one.regions} regions" if one.regions else ""
        print(
            f"fast against exact, {one.scenes} scenes of {WIDTH}x{HEIGHT} to {side}: mean {one.mean:.3f}, "
            f"rms {one.rms:.3f}, largest {one.largest:.0f} levels of 8 bits{words}"
        )
    return {
        "runs": arguments.runs,
        "threads": arguments.threads,
        "load": load,
        "regions": {side: [asdict(one) for one in region_times] for side, region_times in regions.items()},
        "pictures": [asdict(one) for one in images],
        "differences": [asdict(one) for one in differences],
    }


@command("pixels")
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="nano", help="its model size is measured besides the published one")
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2, help="threads of the threaded exact preprocessing")
    parser.add_argument("--scenes", type=int, default=100, help="scenes for the comparison of the modes; 0: none")
    parser.add_argument("--json", type=Path, metavar="OUT")
    arguments = parser.parse_args(argv)
    write_figures(arguments.json, run(arguments))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
