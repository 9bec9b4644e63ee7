"""Measure a frame from pixels to text with a bundle's engines and with baselines: same weights, same run.

`python benchmarks/frame.py --bundle engines/nano --regions 1,4,16,32,64 --json build/frame.json --plot build/frame.png`

The baselines are PyTorch loops over the regions, with and without the libraries of the original demo, and a batch of
whole prompts in the same int4 decoder. Then peak memory is measured and `benchmarks/decode.py` runs.
`docs/benchmarks.md` describes each figure.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script from anywhere

from benchmarks.baselines.batched import BatchedSide
from benchmarks.baselines.torch_loop import DemoLoop, LoopAnswers, TorchLoop
from benchmarks.baselines.weights import read_llama
from benchmarks.decode import numbers
from benchmarks.images import MAX_REGIONS, Frame, crowded_frame
from benchmarks.interleaved_timing import Spread, in_turns
from benchmarks.memory import PeakMemory, measure_memory
from osprey_ros.bundle.bundle import Bundle
from osprey_ros.cli._edge import command
from osprey_ros.cli._output import write_figures
from osprey_ros.decoding.config import GenerationConfig
from osprey_ros.decoding.prompt import QUESTIONS
from osprey_ros.describer import Describer
from osprey_ros.engines.base import DEVICES
from osprey_ros.errors import InputError
from osprey_ros.results import Result
from osprey_ros.vision.preprocess import MODES

STYLE = "detailed"  # answers exceed the token limit, so that all sides generate the same number of tokens
STAGES = ("preprocess", "vision", "regions", "prefix", "branches")
LOOPS = ("demo", "loop")
PARTS = (*LOOPS, "batched", "memory", "decode")


@dataclass(frozen=True)
class Compared:
    """A baseline: seconds of the whole frame, and their ratio to those of the engines in each round."""

    seconds: Spread
    ratio: Spread
    one_encoding: float | None  # of a loop: median with a single encoding of the image
    same_tokens: float  # share of the regions with the same tokens as the engines


@dataclass(frozen=True)
class Measured:
    """Figures for one number of regions. Times in seconds, of the whole frame."""

    regions: int
    engines: Spread
    stages: dict[str, float]  # medians
    in_engines: float  # median share of the frame inside of the engines
    new_tokens: int
    loop_regions: int  # number of regions of the loops, whose times are scaled to all regions
    others: dict[str, Compared]  # without the omitted ones


class Sides:
    """The engines and the available baselines, with the reasons why others are not available."""

    def __init__(self, bundle: Bundle, arguments: argparse.Namespace, folder: Path) -> None:
        self.describer = Describer(bundle, threads=arguments.threads, preprocessing=arguments.preprocessing)
        self.skipped: dict[str, str] = {}
        self.loops: dict[str, TorchLoop] = {}
        self.batched: BatchedSide | None = None
        if {*LOOPS, "batched"} <= set(arguments.without):
            return
        device = bundle.engine("decoder").device
        loop = TorchLoop(bundle, device)
        if "demo" not in arguments.without:
            self.loops["demo"] = DemoLoop(bundle, device, loop.model)
        if "loop" not in arguments.without:
            self.loops["loop"] = loop
        if "batched" not in arguments.without:
            try:
                weights = read_llama(bundle)
                self.batched = BatchedSide(weights, loop, folder, arguments.threads, device)
            except InputError as error:
                self.skipped["batched"] = str(error)

    def measure(self, frame: Frame, count: int, arguments: argparse.Namespace) -> Measured:
        """Run all sides in turns. A first round, which is not timed, gives the tokens for the comparison."""
        regions = frame.regions(count)
        part = regions.select([int(i) for i in regions.ids[: arguments.loop_regions or count]])
        limit = arguments.new_tokens
        config = GenerationConfig(max_new_tokens=limit)
        timings: list[dict[str, Any]] = []
        answers: dict[str, list[LoopAnswers]] = {name: [] for name in self.loops}

        def describe() -> Result:
            self.describer.set_image(frame.rgb)
            return self.describer.describe(regions, STYLE, config)

        def engines() -> None:
            timing = describe().timing
            timings.append(asdict(self.describer.image_timing + timing))

        def loop(name: str) -> None:
            answers[name].append(self.loops[name](frame.rgb, part, QUESTIONS[STYLE], limit))

        expected = [d.tokens.tolist() for d in describe()]
        calls: dict[str, Callable[[], object]] = {"engines": engines}
        # The first call of a turn is slower, because the caches hold the weights of another side.
        before: dict[str, Callable[[], object]] = {"engines": describe}
        tokens: dict[str, list[list[int]]] = {}
        one = part.select([int(part.ids[0])])
        for name, side in self.loops.items():
            loop(name)
            tokens[name] = answers[name].pop().tokens
            calls[name] = partial(loop, name)
            before[name] = partial(side, frame.rgb, one, QUESTIONS[STYLE], limit)
        batched = self.batched
        if batched is not None:
            try:
                prompts = batched.prompts(frame.rgb, regions, QUESTIONS[STYLE], limit)
                tokens["batched"] = batched.generate(prompts, limit)
                calls["batched"] = before["batched"] = partial(batched.generate, prompts, limit)
            except InputError as error:
                self.skipped[f"batched, {count} regions"] = str(error)

        seconds = in_turns(calls, arguments.runs, before)
        stages = {name: statistics.median(t[name] for t in timings) for name in STAGES}
        # The batched decoder uses the same preprocessing, vision and regions: add their times of this run.
        encoding = stages["preprocess"] + stages["vision"] + stages["regions"]
        scale = count / len(part)
        others = {}
        for name, found in tokens.items():
            whole = [scale * s if name in answers else encoding + s for s in seconds[name]]
            ratios = [other / own for other, own in zip(whole, seconds["engines"], strict=True)]
            one_encoding = _one_encoding(answers[name], count) if name in answers else None
            others[name] = Compared(Spread.of(whole), Spread.of(ratios), one_encoding, _share_equal(expected, found))
        return Measured(
            regions=count,
            engines=Spread.of(seconds["engines"]),
            stages=stages,
            in_engines=statistics.median(t["engine"] / t["total"] for t in timings),
            new_tokens=timings[-1]["new_tokens"],
            loop_regions=len(part),
            others=others,
        )


def _one_encoding(runs: Sequence[LoopAnswers], count: int) -> float:
    """Return the median seconds of a loop over `count` regions with a single encoding of the image."""
    each = [((run.seconds - run.encoding_seconds) * count + run.encoding_seconds) / len(run.tokens) for run in runs]
    return statistics.median(each)


def _share_equal(expected: Sequence[list[int]], found: Sequence[list[int]]) -> float:
    """Return the share of equal answers among the regions that were found."""
    return sum(a == b for a, b in zip(expected, found, strict=False)) / len(found)


def describe_measured(one: Measured) -> str:
    """Return the figures as lines of text."""
    total = one.engines.median
    stages = " ".join(f"{name} {1e3 * value:.1f}" for name, value in one.stages.items())
    lines = [
        f"{one.regions} regions, {one.new_tokens} new tokens",
        f"  engines  {1e3 * total:10.1f} ms ({1e3 * one.engines.low:.1f} to {1e3 * one.engines.high:.1f}), "
        f"{one.regions / total:.1f} regions/s: {stages}; {one.in_engines:.0%} inside engines",
    ]
    for name, other in one.others.items():
        took, ratio = other.seconds, other.ratio
        line = (
            f"  {name:8} {1e3 * took.median:10.1f} ms ({1e3 * took.low:.1f} to {1e3 * took.high:.1f}), "
            f"{ratio.median:.1f} times ({ratio.low:.1f} to {ratio.high:.1f}); same tokens for {other.same_tokens:.0%}"
        )
        if other.one_encoding is not None:
            line += f"; image encoded once {1e3 * other.one_encoding:.1f}, {other.one_encoding / total:.1f} times"
            line += f"; scaled from {one.loop_regions} regions" if one.loop_regions != one.regions else ""
        lines.append(line)
    return "\n".join(lines)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run all measurements, print them, and return the data of `--json`."""
    bundle = Bundle.open(arguments.bundle).on_device(arguments.device)
    frame = crowded_frame()
    print(
        f"{bundle.manifest.name}, {arguments.threads} threads, {arguments.preprocessing} preprocessing, "
        f"load {os.getloadavg()[0]:.1f}, medians of {arguments.runs} runs (quartiles)"
    )
    result: dict[str, Any] = {
        "bundle": bundle.manifest.name,
        "threads": arguments.threads,
        "runs": arguments.runs,
        "preprocessing": arguments.preprocessing,
    }
    with tempfile.TemporaryDirectory() as folder:
        sides = Sides(bundle, arguments, Path(folder))
        measured = []
        for count in arguments.regions:
            measured.append(sides.measure(frame, count, arguments))
            print(describe_measured(measured[-1]), flush=True)
        for name, reason in sides.skipped.items():
            print(f"{name} is omitted: {reason}")
        result |= {"frames": [asdict(one) for one in measured], "skipped": sides.skipped}
        del sides
    peaks: list[PeakMemory] = []
    if "memory" not in arguments.without:
        peaks = measure_memory(
            str(bundle.root), arguments.device, frame, arguments.regions, STYLE, arguments.new_tokens, arguments.threads
        )
        for one in peaks:
            print(
                f"peak memory with {one.regions} regions {one.peak / 1e6:.0f} MB, {one.peak / peaks[0].peak:.2f} times "
                f"that with {peaks[0].regions}; bundle opened {one.opened / 1e6:.0f} MB"
            )
        result["memory"] = [asdict(one) for one in peaks]
    if "decode" not in arguments.without:
        result["decode"] = _decode(arguments, str(bundle.root))
    if arguments.plot:
        _plot(arguments.plot, result["bundle"], measured, peaks)
    return result


def _decode(arguments: argparse.Namespace, bundle: str) -> dict[str, Any] | None:
    """Run `decode.py` in a separate process, because its libraries load their own runtimes."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "decode.json"
        script = str(Path(__file__).with_name("decode.py"))
        command = [sys.executable, script, "--bundle", bundle, "--json", str(output)]
        command += ["--threads", str(arguments.threads), "--runs", str(arguments.runs)]
        command += ["--device", arguments.device] if arguments.device else []
        sys.stdout.flush()
        done = subprocess.run(command, check=False)
        if done.returncode != 0:
            print(f"decode speed is omitted: benchmarks/decode.py failed with status {done.returncode}")
            return None
        result: dict[str, Any] = json.loads(output.read_text())
        return result


def _plot(path: Path, name: str, measured: Sequence[Measured], peaks: Sequence[PeakMemory]) -> None:
    try:
        from benchmarks.plot import draw
    except ImportError as error:
        print(f"no plot: {error}; install requirements/bench.txt")
        return
    labels = {"demo": "as the original demo", "loop": "PyTorch loop", "batched": "same int4 decoder, batched"}
    others = {side: [one.others.get(side) for one in measured] for side in labels}
    seconds: dict[str, list[float | None]] = {
        label: [one.seconds.median if one else None for one in others[side]] for side, label in labels.items()
    }
    seconds["PyTorch loop, image encoded once"] = [one.one_encoding if one else None for one in others["loop"]]
    seconds["osprey_ros"] = [one.engines.median for one in measured]
    stages = {stage: [one.stages[stage] for one in measured] for stage in STAGES}
    counts = [one.regions for one in measured]
    draw(path, f"{name}: cost of a frame", counts, seconds, stages, {one.regions: one.peak for one in peaks})
    print(f"plot: {path}")


@command("frame")
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="nano")
    parser.add_argument("--regions", type=numbers, default="1,4,16,32,64", help=f"numbers, at most {MAX_REGIONS}")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--new-tokens", type=int, default=12, help="tokens generated for each region")
    parser.add_argument("--loop-regions", type=int, default=0, metavar="N", help="run the loops on N regions and scale")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--device", choices=DEVICES, help="default: the bundle's")
    parser.add_argument(
        "--preprocessing",
        choices=MODES,
        default="exact",
        help="of the engines; that of the loops is exact (%(default)s)",
    )
    parser.add_argument("--without", type=lambda text: text.split(","), default=[], help=f"any of {','.join(PARTS)}")
    parser.add_argument("--json", type=Path, metavar="OUT")
    parser.add_argument("--plot", type=Path, metavar="OUT.png")
    arguments = parser.parse_args(argv)
    unknown = set(arguments.without) - set(PARTS)
    if unknown:
        parser.error(f"--without {','.join(sorted(unknown))}: choose among {','.join(PARTS)}")
    torch.set_num_threads(arguments.threads)
    write_figures(arguments.json, run(arguments))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
