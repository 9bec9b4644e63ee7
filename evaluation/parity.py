"""Compare the engines with a plain PyTorch loop over regions: `python -m evaluation.parity --bundle DIR`.

Both sides have the same weights, those of the bundle's engines. The loop decodes region by region with a KV cache. The
engines decode in several ways that must give the same answers: all regions of an image at once, in another order, few
at a time (a waiting region replaces a finished one), and alone. Use a bundle in fp32
(`osprey build --llm fp32 --lm-head fp32`): int4 engines on the CPU can multiply in int8.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from tqdm import tqdm

from export.samples import scenes_of_test_split
from osprey_ros.bundle.bundle import Bundle
from osprey_ros.cli._edge import command
from osprey_ros.cli._options import (
    Parser,
    add_bundle_option,
    add_count_option,
    add_figures_option,
    add_style_option,
    add_threads_option,
)
from osprey_ros.cli._output import write_figures
from osprey_ros.decoding.config import GenerationConfig
from osprey_ros.decoding.prompt import QUESTIONS, PromptBuilder
from osprey_ros.describer import Describer
from osprey_ros.regions.regions import Regions, regions_from_id_image
from osprey_ros.results import Result
from osprey_ros.vision.preprocess import preprocess
from osprey_torch.model import Osprey
from osprey_torch.readback import model_from_bundle
from osprey_torch.reference import generate_region

FEW = 3  # regions that are decoded together in the way "few at a time"


@dataclass(frozen=True)
class Difference:
    """A region with different answers, and the gap of log-probabilities at the first different token."""

    seed: int
    region: int
    way: str
    engine: str
    loop: str
    step: int
    # Of the loop's token in the loop, minus that of the engines' token in the engines; None if one answer is longer.
    logprob_gap: float | None


@dataclass(frozen=True)
class Parity:
    """Numbers of compared regions and tokens, the ways, and the differences."""

    regions: int
    tokens: int
    ways: tuple[str, ...]
    largest_logprob_difference: float  # over all equal tokens
    differences: tuple[Difference, ...]


class Loop:
    """Answer a question region by region with the PyTorch model of a bundle."""

    def __init__(self, bundle: Bundle, question: str) -> None:
        self.model: Osprey = model_from_bundle(bundle)
        self.spec = bundle.manifest.model
        self.builder = PromptBuilder(bundle.tokenizer(), self.spec)
        self.prompt = self.builder.prompt(question)

    @torch.inference_mode()
    def __call__(self, rgb: np.ndarray, regions: Regions, new_tokens: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return tokens and log-probabilities of each region."""
        features, image_tokens = self.model.encode_image(torch.from_numpy(preprocess(rgb, self.spec)))
        answers = []
        for region in regions.ids:
            one = regions.select([int(region)])
            masks = [torch.from_numpy(mask) for mask in one.pooling_masks(self.spec.feature_sizes)]
            positions = torch.from_numpy(one.position_grids(self.spec.position_size))
            mask_tokens, position_tokens = self.model.encode_regions(features, masks, positions)
            answers.append(
                generate_region(
                    self.model, self.prompt, image_tokens[0], mask_tokens[0], position_tokens[0], new_tokens
                )
            )
        return answers


def compare(bundle: Bundle, regions: int, style: str, new_tokens: int, threads: int | None = None) -> Parity:
    """Compare the answers of the loop and the engines for this number of regions of test scenes."""
    question = QUESTIONS[style]
    loop = Loop(bundle, question)
    together, few = Describer(bundle, threads), Describer(bundle, threads, max_parallel=FEW)
    rng, config = np.random.default_rng(0), GenerationConfig(max_new_tokens=new_tokens, back_off=False)

    def shuffled(chosen: Regions) -> list[Result]:
        return [together.ask(chosen.select(rng.permutation(chosen.ids)), question, config)]

    def alone(chosen: Regions) -> list[Result]:
        return [together.ask(chosen.select([int(region)]), question, config) for region in chosen.ids]

    ways: dict[str, Callable[[Regions], list[Result]]] = {
        "all at once": lambda chosen: [together.ask(chosen, question, config)],
        "in another order": shuffled,
        f"{FEW} at a time": lambda chosen: [few.ask(chosen, question, config)],
        "alone": alone,
        # Both questions are decoded in one pass, with a shorter shared prefix.
        "with a second question": lambda chosen: [together.answer(chosen, [question, "Is it red?"], config)[0]],
    }
    compared = tokens = 0
    largest = 0.0
    differences: list[Difference] = []
    progress = tqdm(total=regions, unit="region", file=sys.stderr)
    for seed, sample in scenes_of_test_split(regions):
        chosen = regions_from_id_image(sample.ids, masks_anyway=True)
        expected = dict(zip(chosen.ids.tolist(), loop(sample.rgb, chosen, new_tokens), strict=True))
        together.set_image(sample.rgb)
        few.set_image(sample.rgb)
        for way, answer in ways.items():
            for description in (d for result in answer(chosen) for d in result):
                own, (other, other_logprobs) = description.tokens, expected[description.region_id]
                shared = min(len(own), len(other))
                unequal = np.flatnonzero(own[:shared] != other[:shared])
                step = int(unequal[0]) if len(unequal) else shared
                if step:
                    largest = max(largest, float(np.abs(description.logprobs[:step] - other_logprobs[:step]).max()))
                if len(unequal) or len(own) != len(other):
                    gap = float(other_logprobs[step] - description.logprobs[step]) if len(unequal) else None
                    words = (loop.builder.decode(own.tolist()), loop.builder.decode(other.tolist()))
                    differences.append(Difference(seed, description.region_id, way, *words, step, gap))
        compared += len(chosen)
        tokens += sum(len(answer) for answer, _ in expected.values())
        progress.update(len(chosen))
    progress.close()
    return Parity(compared, tokens, tuple(ways), largest, tuple(differences))


@command("parity")
def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_bundle_option(parser)
    add_count_option(parser, "--regions", 500, "number of regions to compare")
    add_style_option(parser)
    add_count_option(parser, "--new-tokens", 24, "longest answer in tokens")
    add_threads_option(parser)
    add_figures_option(parser)
    arguments = parser.parse_args(argv)
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    bundle = Bundle.open(arguments.bundle)
    parity = compare(bundle, arguments.regions, arguments.style, arguments.new_tokens, arguments.threads)
    print(
        f"{bundle.manifest.name}: {parity.regions} regions of test scenes, {parity.tokens} tokens, "
        f"{len(parity.ways)} ways ({', '.join(parity.ways)}): {len(parity.differences)} differences, "
        f"largest difference of a log-probability {parity.largest_logprob_difference:.1e}"
    )
    for one in parity.differences:
        print(f"  scene {one.seed} region {one.region} {one.way}: {one.engine!r}, loop {one.loop!r} at {one.step}")
    write_figures(arguments.json, asdict(parity))
    return 1 if parity.differences else 0


if __name__ == "__main__":
    raise SystemExit(main())
