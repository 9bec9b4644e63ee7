"""One frame through a bundle's engines, pixels to words, against what people would use instead: same weights, same run.

`python benchmarks/frame.py --bundle engines/nano --regions 1,4,16,32,64 --json build/frame.json --plot build/frame.png`

The engines are compared with PyTorch loops over the regions, by the libraries that the original demo calls and without
them, and with a batch of whole prompts through the same int4 decoder; then peak memory is taken and
`benchmarks/decode.py` run. `benchmarks/README.md` says how each figure is made.
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
from benchmarks.baselines.weights import BaselineError, read_llama
from benchmarks.bundles import open_bundle
from benchmarks.decode import numbers
from benchmarks.memory import PeakMemory, measure_memory
from benchmarks.pictures import MAX_REGIONS, Frame, crowded_frame
from benchmarks.rounds import Spread, in_turns
from osprey_ros.bundle import Bundle
from osprey_ros.describer import Describer, Result
from osprey_ros.engines import DEVICES
from osprey_ros.errors import OspreyError
from osprey_ros.image import MODES
from osprey_ros.prompt import QUESTIONS

STYLE = "detailed"  # answers longer than the limit on tokens: all sides then generate equally many for every region
STAGES = ("preprocess", "vision", "regions", "prefix", "branches")
LOOPS = ("demo", "loop")
PARTS = (*LOOPS, "batched", "memory", "decode")


@dataclass(frozen=True)
class LoopMeasured:
    """A loop over the regions. Times in seconds, of the whole frame."""

    seconds: Spread
    one_encoding: float  # median, had it encoded the picture once
    same_tokens: float  # share of the regions whose tokens are all equal to the engines'


@dataclass(frozen=True)
class Measured:
    """One number of regions. Times in seconds, of the whole frame; None where a side was left out."""

    regions: int
    engines: Spread
    first: Spread  # of the engines' frames that came right behind another side
    stages: dict[str, float]  # medians
    in_engines: float  # median share of the frame spent inside engines
    new_tokens: int
    loops: dict[str, LoopMeasured]
    loop_regions: int  # how many the loops were run on; their times are scaled up to all
    batched: Spread | None
    batched_same_tokens: float | None


class Sides:
    """The engines and those baselines that can be run, with the reasons of those that cannot."""

    def __init__(self, bundle: Bundle, arguments: argparse.Namespace, folder: Path) -> None:
        self.describer = Describer(bundle, threads=arguments.threads, preprocessing=arguments.preprocessing)
        self.skipped: dict[str, str] = {}
        self.loops: dict[str, TorchLoop] = {}
        self.batched: BatchedSide | None = None
        if {*LOOPS, "batched"} <= set(arguments.without):
            return
        device = bundle.engine("decoder").device
        loop = TorchLoop(bundle, device)
        each = {"demo": DemoLoop(bundle, device, loop.model), "loop": loop}
        self.loops = {name: one for name, one in each.items() if name not in arguments.without}
        if "batched" not in arguments.without:
            try:
                weights = read_llama(bundle)
                self.batched = BatchedSide(weights, loop, folder, arguments.threads, device)
            except BaselineError as error:
                self.skipped["batched"] = str(error)

    def measure(self, frame: Frame, count: int, arguments: argparse.Namespace) -> Measured:
        """Runs all sides in turns; the first round of each warms up and gives the tokens that are compared."""
        regions = frame.regions(count)
        limit = arguments.new_tokens
        results: list[Result] = []
        firsts: list[Result] = []
        answers: dict[str, list[LoopAnswers]] = {name: [] for name in self.loops}

        def describe() -> Result:
            self.describer.set_image(frame.rgb)
            return self.describer.describe(regions, style=STYLE, max_new_tokens=limit)

        calls: dict[str, Callable[[], object]] = {"engines": lambda: results.append(describe())}
        # What comes first in a turn finds the caches full of another side's weights.
        before: dict[str, Callable[[], object]] = {"engines": lambda: firsts.append(describe())}
        expected = [d.tokens.tolist() for d in describe()]

        part = regions.select([int(i) for i in regions.ids[: arguments.loop_regions or count]])
        one = part.select([int(part.ids[0])])
        for name, loop in self.loops.items():
            calls[name] = partial(_append, answers[name], partial(loop, frame.rgb, part, QUESTIONS[STYLE], limit))
            calls[name]()
            before[name] = partial(loop, frame.rgb, one, QUESTIONS[STYLE], limit)
        batched = self.batched
        batched_tokens: list[list[int]] = []
        if batched is not None:
            try:
                prompts = batched.prompts(frame.rgb, regions, QUESTIONS[STYLE], limit)
                calls["batched"] = before["batched"] = lambda: batched.generate(prompts, limit)
                batched_tokens = batched.generate(prompts, limit)
            except BaselineError as error:
                self.skipped[f"batched, {count} regions"] = str(error)

        seconds = in_turns(calls, arguments.runs, before)
        timings = [asdict(result.timing) for result in results]
        stages = {name: statistics.median(t[name] for t in timings) for name in STAGES}
        # The batched decoder stands behind the same pixels, vision and regions: what these took in the same run.
        encoding = stages["preprocess"] + stages["vision"] + stages["regions"]
        scale = count / len(part)
        return Measured(
            regions=count,
            engines=Spread.of(seconds["engines"]),
            first=Spread.of([result.timing.total for result in firsts]),
            stages=stages,
            in_engines=statistics.median(t["engine"] / t["total"] for t in timings),
            new_tokens=timings[-1]["new_tokens"],
            loops={
                name: LoopMeasured(
                    Spread.of([scale * s for s in seconds[name]]),
                    _one_encoding(runs[1:], count),
                    _share_equal(expected, runs[0].tokens),
                )
                for name, runs in answers.items()
            },
            loop_regions=len(part),
            batched=Spread.of([encoding + s for s in seconds["batched"]]) if batched_tokens else None,
            batched_same_tokens=_share_equal(expected, batched_tokens) if batched_tokens else None,
        )


def _append(answers: list[LoopAnswers], call: Callable[[], LoopAnswers]) -> None:
    answers.append(call())


def _one_encoding(runs: Sequence[LoopAnswers], count: int) -> float:
    """Median seconds of a loop over `count` regions, less all encodings of the picture but one."""
    each = [((run.seconds - run.encoding_seconds) * count + run.encoding_seconds) / len(run.tokens) for run in runs]
    return statistics.median(each)


def _share_equal(expected: Sequence[list[int]], found: Sequence[list[int]]) -> float:
    """Of the regions that were found; there may be fewer of them than expected."""
    return sum(a == b for a, b in zip(expected, found, strict=False)) / len(found)


def describe_measured(one: Measured) -> str:
    """Lines for people."""
    total = one.engines.median
    stages = " ".join(f"{name} {1e3 * value:.1f}" for name, value in one.stages.items())
    lines = [
        f"{one.regions} regions, {one.new_tokens} new tokens",
        f"  engines  {1e3 * total:10.1f} ms ({1e3 * one.engines.low:.1f} to {1e3 * one.engines.high:.1f}), "
        f"{one.regions / total:.1f} regions/s: {stages}; {one.in_engines:.0%} inside engines; "
        f"right behind another side {1e3 * one.first.median:.1f} ms",
    ]
    scaled = f", scaled from {one.loop_regions} regions" if one.loop_regions != one.regions else ""
    for name, loop in one.loops.items():
        took = loop.seconds
        lines.append(
            f"  {name:8} {1e3 * took.median:10.1f} ms ({1e3 * took.low:.1f} to {1e3 * took.high:.1f}), "
            f"{took.median / total:.1f} times; picture encoded once {1e3 * loop.one_encoding:.1f}, "
            f"{loop.one_encoding / total:.1f} times; same tokens for {loop.same_tokens:.0%}{scaled}"
        )
    if one.batched is not None:
        lines.append(
            f"  batched  {1e3 * one.batched.median:10.1f} ms "
            f"({1e3 * one.batched.low:.1f} to {1e3 * one.batched.high:.1f}), "
            f"{one.batched.median / total:.1f} times; same tokens for {one.batched_same_tokens:.0%}"
        )
    return "\n".join(lines)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measures everything, printing as it goes; returns what `--json` writes."""
    bundle = open_bundle(arguments.bundle, arguments.device)
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
            print(f"{name} is left out: {reason}")
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
    """Runs `decode.py` in a process of its own: libraries that bring their own runtimes do not disturb this one."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "decode.json"
        command = [sys.executable, Path(__file__).with_name("decode.py"), "--bundle", bundle, "--json", output]
        command += ["--threads", str(arguments.threads), "--runs", str(arguments.runs)]
        command += ["--device", arguments.device] if arguments.device else []
        sys.stdout.flush()
        done = subprocess.run(command, check=False)
        if done.returncode != 0:
            print(f"decode speed is left out: benchmarks/decode.py ended with {done.returncode}")
            return None
        return json.loads(output.read_text())


def _plot(path: Path, name: str, measured: Sequence[Measured], peaks: Sequence[PeakMemory]) -> None:
    try:
        from benchmarks.plot import draw
    except ImportError as error:
        print(f"no plot: {error} (requirements/bench.txt says what it needs)")
        return
    demo, loop = ([one.loops.get(name) for one in measured] for name in LOOPS)
    seconds = {
        "as the original demo": [one and one.seconds.median for one in demo],
        "PyTorch loop": [one and one.seconds.median for one in loop],
        "PyTorch loop, picture encoded once": [one and one.one_encoding for one in loop],
        "same int4 decoder, batched": [one.batched.median if one.batched else None for one in measured],
        "osprey_ros": [one.engines.median for one in measured],
    }
    stages = {stage: [one.stages[stage] for one in measured] for stage in STAGES}
    counts = [one.regions for one in measured]
    draw(path, f"{name}: cost of a frame", counts, seconds, stages, {one.regions: one.peak for one in peaks})
    print(f"plot: {path}")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="nano")
    parser.add_argument("--regions", type=numbers, default="1,4,16,32,64", help=f"how many, each at most {MAX_REGIONS}")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--new-tokens", type=int, default=12, help="tokens generated for each region")
    parser.add_argument("--loop-regions", type=int, default=0, metavar="N", help="run the loops on N regions and scale")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--device", choices=DEVICES, help="default: the bundle's")
    parser.add_argument(
        "--preprocessing",
        choices=MODES,
        default="exact",
        help="of the engines' pictures; the loops' are exact (%(default)s)",
    )
    parser.add_argument("--without", type=lambda text: text.split(","), default=[], help=f"any of {','.join(PARTS)}")
    parser.add_argument("--json", type=Path, metavar="OUT")
    parser.add_argument("--plot", type=Path, metavar="OUT.png")
    arguments = parser.parse_args(argv)
    unknown = set(arguments.without) - set(PARTS)
    if unknown:
        parser.error(f"--without {','.join(sorted(unknown))}: choose among {','.join(PARTS)}")
    torch.set_num_threads(arguments.threads)
    try:
        result = run(arguments)
    except (OspreyError, ValueError, RuntimeError) as error:
        print(f"frame: {error}", file=sys.stderr)
        return 2
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
