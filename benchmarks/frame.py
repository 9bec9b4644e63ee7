"""One frame through a bundle's engines against the plain PyTorch loop over its regions, same weights, same run.

`python benchmarks/frame.py --bundle engines/nano --regions 1,4,16 --json build/frame.json`

The loop does what the original demo does: for each region it encodes the picture, runs the prompt and generates token
by token with a KV cache, in fp32 PyTorch. Its weights are read back from the bundle (int4 weights dequantized), so that
both sides compute the same function. Runs of the two sides alternate; medians are reported.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script from anywhere

from export.readback import model_from_bundle
from osprey_ros.bundle import Bundle
from osprey_ros.describer import Describer, Timing
from osprey_ros.errors import OspreyError
from osprey_ros.image import preprocess
from osprey_ros.prompt import QUESTIONS, PromptBuilder
from osprey_ros.regions import Regions, regions_from_id_image
from osprey_sim.render import Renderer
from osprey_sim.scene import MAX_OBJECTS, sample_scene
from osprey_torch.model import Osprey
from osprey_torch.reference import generate_region

STYLE = "detailed"  # answers longer than the limit on tokens: both sides then generate equally many for every region


@dataclass(frozen=True)
class Measured:
    """Medians over the runs of one number of regions, in seconds."""

    regions: int
    seconds: float  # pixels to words through the engines
    loop_seconds: float  # the PyTorch loop, which encodes the picture for every region
    loop_shared_vision_seconds: float  # the same loop if it encoded the picture once
    speedup: float  # loop_seconds / seconds
    new_tokens: int
    same_words: float  # share of the regions that both sides describe in the same words
    stages: dict[str, float]


def scene_with(regions: int, width: int = 640, height: int = 480) -> tuple[np.ndarray, Regions]:
    """A simulated picture, uint8 [H, W, 3], and exactly `regions` regions of it.

    Raises:
        ValueError: no scene shows that many objects.
    """
    if not 1 <= regions <= MAX_OBJECTS:
        raise ValueError(f"{regions} regions: a simulated scene shows 1 to {MAX_OBJECTS} objects")
    with Renderer(width, height) as renderer:
        for seed in range(200):
            scene = sample_scene(seed, "test", objects=(regions, MAX_OBJECTS))
            frame = renderer.render(scene, depth=False)
            ids = [i for i in np.unique(frame.instance_ids) if i]
            if len(ids) >= regions:
                return frame.rgb, regions_from_id_image(frame.instance_ids, only=ids[:regions])
    raise ValueError(f"none of 200 simulated scenes shows {regions} objects at once")


def engine_frame(describer: Describer, rgb: np.ndarray, regions: Regions, new_tokens: int) -> tuple[list[str], Timing]:
    describer.set_image(rgb)
    result = describer.describe(regions, style=STYLE, max_new_tokens=new_tokens)
    return [d.text for d in result], result.timing


class TorchLoop:
    """The PyTorch side: one region after another."""

    def __init__(self, bundle: Bundle):
        self.model: Osprey = model_from_bundle(bundle)
        self.spec = bundle.manifest.model
        self.prompts = PromptBuilder(bundle.tokenizer(), self.spec)
        self.prompt = self.prompts.prompt(QUESTIONS[STYLE])

    @torch.inference_mode()
    def __call__(self, rgb: np.ndarray, regions: Regions, new_tokens: int, shared_vision: bool) -> list[str]:
        texts = []
        encoded = None
        for region_id in regions.ids:
            if encoded is None or not shared_vision:
                encoded = self.model.encode_image(torch.from_numpy(preprocess(rgb, self.spec)))
            features, image_tokens = encoded
            one = regions.select([int(region_id)])
            masks = [torch.from_numpy(m) for m in one.pooling_masks(self.spec.feature_sizes)]
            positions = torch.from_numpy(one.position_grids(self.spec.position_size))
            mask_tokens, position_tokens = self.model.encode_regions(features, masks, positions)
            tokens, _ = generate_region(
                self.model, self.prompt, image_tokens[0], mask_tokens[0], position_tokens[0], new_tokens
            )
            texts.append(self.prompts.decode(tokens))
        return texts


def measure(describer: Describer, loop: TorchLoop, regions: int, runs: int, new_tokens: int) -> Measured:
    rgb, chosen = scene_with(regions)
    engine_texts, _ = engine_frame(describer, rgb, chosen, new_tokens)
    loop_texts = loop(rgb, chosen, new_tokens, False)
    seconds: list[float] = []
    loop_seconds: list[float] = []
    shared_seconds: list[float] = []
    timings: list[Timing] = []
    for _ in range(runs):
        seconds.append(_timed(lambda: timings.append(engine_frame(describer, rgb, chosen, new_tokens)[1])))
        loop_seconds.append(_timed(lambda: loop(rgb, chosen, new_tokens, False)))
        shared_seconds.append(_timed(lambda: loop(rgb, chosen, new_tokens, True)))
    median = statistics.median
    stages = {
        name: median(float(asdict(t)[name]) for t in timings)
        for name in ("preprocess", "vision", "regions", "prefix", "branches")
    }
    return Measured(
        regions=regions,
        seconds=median(seconds),
        loop_seconds=median(loop_seconds),
        loop_shared_vision_seconds=median(shared_seconds),
        speedup=median(loop_seconds) / median(seconds),
        new_tokens=timings[-1].new_tokens,
        same_words=sum(a == b for a, b in zip(engine_texts, loop_texts, strict=True)) / regions,
        stages=stages,
    )


def _numbers(text: str) -> list[int]:
    """ "1,4,16" -> [1, 4, 16]."""
    return [int(number) for number in text.split(",")]


def _timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="nano")
    parser.add_argument("--regions", type=_numbers, default="1,4,16", help=f"how many, each at most {MAX_OBJECTS}")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--new-tokens", type=int, default=12, help="tokens generated for each region")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", type=Path, metavar="OUT")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    try:
        results = run(arguments)
    except (OspreyError, ValueError) as error:
        print(f"frame: {error}", file=sys.stderr)
        return 2
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps({"results": results}, indent=1) + "\n")
    return 0


def run(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure every number of regions, printing a line for each."""
    bundle = Bundle.open(arguments.bundle)
    describer, loop = Describer(bundle, threads=arguments.threads), TorchLoop(bundle)
    results = []
    print(f"{bundle.manifest.name}, {arguments.threads} threads, medians of {arguments.runs} runs, milliseconds")
    for count in arguments.regions:
        one = measure(describer, loop, count, arguments.runs, arguments.new_tokens)
        results.append(asdict(one))
        stages = " ".join(f"{name} {1e3 * value:.1f}" for name, value in one.stages.items())
        print(
            f"{count:3d} regions: {1e3 * one.seconds:8.1f} ({stages}) | loop {1e3 * one.loop_seconds:8.1f}, "
            f"picture encoded once {1e3 * one.loop_shared_vision_seconds:8.1f} | {one.speedup:5.1f} times faster, "
            f"{one.new_tokens} new tokens, same words for {one.same_words:.0%}",
            flush=True,
        )
    return results


if __name__ == "__main__":
    raise SystemExit(main())
