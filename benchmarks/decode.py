"""Measure the decode speed of the language model: the bundle's decoder, onnxruntime-genai and llama.cpp in turns.

`python benchmarks/decode.py --bundle engines/nano --json build/decode.json`

Each decodes one sequence, and 16 sequences with the same prefix, greedily. The prefix, as long as that of a described
region, and a first step are not timed. Contenders that are not installed are omitted with a message.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script from anywhere

from benchmarks.baselines.weights import LlamaWeights, read_llama
from benchmarks.decoder_side import OwnDecoder
from benchmarks.interleaved_timing import Spread, let_others_sleep
from benchmarks.machine import MachineLimits, measure_limits
from benchmarks.roofline import decode_step
from osprey_ros.bundle.bundle import Bundle
from osprey_ros.cli._edge import command
from osprey_ros.cli._output import write_figures
from osprey_ros.decoding.prompt import MASK, QUESTIONS, PromptBuilder
from osprey_ros.engines.base import DEVICES
from osprey_ros.errors import InputError

BRANCHES = (1, 16)


class Contender(Protocol):
    """A language model that decodes several sequences after a prefix of token ids."""

    name: str

    def prepare(self, first: np.ndarray) -> None:
        """Prepare to continue the prefix and the first token of each sequence, int64 [N]. Not timed."""

    def run(self) -> float:
        """Decode a first step and then the timed steps. Return the seconds of the timed steps."""

    def tokens(self, branches: int) -> np.ndarray:
        """Return the tokens of the last run, [steps + 1, branches]."""

    def close(self) -> None:
        """Free the memory."""


def prefix_length(bundle: Bundle) -> int:
    """Return the number of rows that all regions of an image share: the image, and the tokens before the region."""
    spec = bundle.manifest.model
    prompt = PromptBuilder(bundle.tokenizer(), spec).prompt(QUESTIONS["detailed"])
    return prompt.index(MASK) - 1 + spec.image_tokens


def contenders(
    bundle: Bundle, weights: LlamaWeights, folder: Path, prefix: np.ndarray, arguments: argparse.Namespace
) -> tuple[list[Contender], dict[str, str]]:
    """Return the contenders that can run here, and why the others cannot."""
    device = bundle.engine("decoder").device

    def own() -> Contender:
        return OwnDecoder(bundle, arguments.threads, prefix, arguments.steps)

    def genai(float32: bool = False) -> Contender:
        from benchmarks.baselines.genai import Genai

        files = folder / f"genai-{float32}"
        return Genai(weights, bundle, files, arguments.threads, prefix, arguments.steps, device, float32)

    def llama_cpp() -> Contender:
        from benchmarks.baselines.llama_cpp import LlamaCpp

        return LlamaCpp(weights, folder, arguments.threads, prefix, arguments.steps)

    makers: dict[str, Callable[[], Contender]] = {"osprey_ros": own, "onnxruntime-genai": genai}
    if not weights.levels:  # the products of this bundle are in float32
        makers["onnxruntime-genai-float32"] = partial(genai, float32=True)
    makers["llama.cpp"] = llama_cpp
    ready: list[Contender] = []
    skipped = {}
    for name, make in makers.items():
        if name in arguments.without:
            continue
        try:
            ready.append(make())
        except InputError as error:
            skipped[name] = str(error)
            print(f"{name} is omitted: {error}", flush=True)
    return ready, skipped


def measure(ready: list[Contender], branches: int, arguments: argparse.Namespace, vocab: int) -> dict[str, Any]:
    """Return by name the seconds of a step, tokens per second and share of tokens equal to the first contender's."""
    first = np.random.default_rng(1).integers(3, vocab, branches)
    seconds: dict[str, list[float]] = {c.name: [] for c in ready}
    outside: list[float] = []
    between: list[float] = []
    for run in range(arguments.runs + 1):
        for n in range(len(ready)):
            contender = ready[(n + run) % len(ready)]
            contender.prepare(first)
            let_others_sleep()
            elapsed = contender.run() / arguments.steps
            if run:  # the first round warms up
                seconds[contender.name].append(elapsed)
                if isinstance(contender, OwnDecoder):
                    outside.append(contender.outside)
                    between.append(contender.between)
    expected = ready[0].tokens(branches)
    results = {}
    for contender in ready:
        step = Spread.of(seconds[contender.name])
        results[contender.name] = {
            "step": asdict(step),
            "tokens_per_second": branches / step.median,
            "same_tokens": _agreement(expected, contender.tokens(branches)),
        }
        if isinstance(contender, OwnDecoder):
            results[contender.name]["between_runs"] = statistics.median(between)
            results[contender.name]["outside_engine"] = statistics.median(outside)
    return results


def _agreement(expected: np.ndarray, found: np.ndarray) -> float:
    """Return the share of the tokens before the first difference of each sequence."""
    equal = np.logical_and.accumulate(expected == found, axis=0)
    return float(equal.mean())


def limits_of_a_step(
    limits: MachineLimits, weights: LlamaWeights, branches: int, prefix: int, steps: int
) -> dict[str, float]:
    """Return bytes and operations of the middle step, and the seconds that they take at the machine's rates."""
    cost = decode_step(weights, branches, prefix, steps // 2, cache_item=4)
    moved = cost.weight_bytes + cost.cache_bytes
    return {
        "weight_bytes": cost.weight_bytes,
        "cache_bytes": cost.cache_bytes,
        "operations": cost.operations,
        "read_seconds": moved / limits.read,
        "fp32_seconds": cost.operations / max(limits.fp32_gemm, limits.fp32_gemm_onnxruntime),
        "int8_seconds": cost.operations / limits.int8_gemm_onnxruntime,
    }


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run all measurements, print them, and return the data of `--json`."""
    bundle = Bundle.open(arguments.bundle).on_device(arguments.device)
    weights = read_llama(bundle)
    vocab = weights.config.vocab_size
    prefix = np.random.default_rng(0).integers(3, vocab, prefix_length(bundle))
    limits = measure_limits(arguments.threads)
    print(
        f"limits of {arguments.threads} threads: fp32 products {limits.fp32_gemm / 1e9:.0f} Gop/s in torch and "
        f"{limits.fp32_gemm_onnxruntime / 1e9:.0f} in onnxruntime, int8 {limits.int8_gemm_onnxruntime / 1e9:.0f}; "
        f"memory read {limits.read / 1e9:.1f} GB/s, copy {limits.copy / 1e9:.1f}, triad {limits.triad / 1e9:.1f}"
    )
    result: dict[str, Any] = {"bundle": bundle.manifest.name, "limits": asdict(limits), "branches": {}}
    with tempfile.TemporaryDirectory() as folder:
        ready, result["skipped"] = contenders(bundle, weights, Path(folder), prefix, arguments)
        print(f"prefix of {len(prefix)} rows, {arguments.steps} steps, medians of {arguments.runs} runs")
        for branches in arguments.branches:
            measured = measure(ready, branches, arguments, vocab)
            floor = limits_of_a_step(limits, weights, branches, len(prefix), arguments.steps)
            result["branches"][branches] = {"contenders": measured, "step": floor}
            _print(branches, measured, floor)
        for contender in ready:
            contender.close()
    return result


def _print(branches: int, measured: dict[str, Any], floor: dict[str, float]) -> None:
    print(
        f"{branches} branches: a step reads {(floor['weight_bytes'] + floor['cache_bytes']) / 1e6:.1f} MB "
        f"({1e3 * floor['read_seconds']:.2f} ms at the read rate) and computes {floor['operations'] / 1e9:.3f} Gop "
        f"({1e3 * floor['fp32_seconds']:.2f} ms in fp32, {1e3 * floor['int8_seconds']:.2f} ms in int8)"
    )
    for name, one in measured.items():
        step = one["step"]
        line = (
            f"  {name:26s} {1e3 * step['median']:8.2f} ms per step ({1e3 * step['low']:.2f} to "
            f"{1e3 * step['high']:.2f}), {one['tokens_per_second']:8.1f} tokens/s, same tokens {one['same_tokens']:.0%}"
        )
        if "between_runs" in one:
            line += (
                f"; {one['between_runs']:.1%} of a step is between runs of the engine, "
                f"{one['outside_engine']:.1%} of the whole call outside of them"
            )
        print(line, flush=True)


def numbers(text: str) -> list[int]:
    """Parse "1,4,16" to [1, 4, 16]."""
    return [int(number) for number in text.split(",")]


@command("decode")
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="nano")
    parser.add_argument("--branches", type=numbers, default=BRANCHES)
    parser.add_argument("--steps", type=int, default=16, help="timed steps of a run")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--device", choices=DEVICES, help="default: the bundle's")
    parser.add_argument("--without", type=lambda text: text.split(","), default=[], help="contenders to omit")
    parser.add_argument("--json", type=Path, metavar="OUT")
    arguments = parser.parse_args(argv)
    write_figures(arguments.json, run(arguments))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
