"""Measures regions per second in training: all regions of an image packed behind one prefix, or one region a sample.

`python -m training.packing_benchmark --regions 1,4,16`. One step is forward, backward and the optimizer's update, with
nano's shape and random weights, or with a checkpoint. All sides learn the same words of the same regions; their losses
are compared before they are timed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from osprey_ros.cli._edge import command
from osprey_ros.cli._options import Parser, add_count_option, add_figures_option
from osprey_ros.cli._output import write_figures
from osprey_ros.decoding.prompt import PromptBuilder
from osprey_ros.errors import InputError, OspreyError
from osprey_ros.regions.regions import regions_from_id_image
from osprey_ros.vision.preprocess import preprocess
from osprey_sim.dialogues import RegionFacts, all_texts, dialogues, region_facts
from osprey_sim.render import render_scenes
from osprey_sim.scene import MAX_OBJECTS
from osprey_torch.checkpoint import load_checkpoint
from osprey_torch.config import OSPREY_NANO
from osprey_torch.model import Osprey
from osprey_torch.packing import Sample, collate, pack
from training.data import Batch
from training.objective import Objective
from training.stages import freeze_all_but
from training.tokenizer import train_tokenizer

PACKED, ONE_BY_ONE = "packed", "one region a sample"
_SAME = 2e-3  # relative difference of two losses that are the same sum in another order


@dataclass(frozen=True)
class Result:
    """Figures of one side for a number of regions of one image."""

    side: str
    regions: int
    rows: int  # of the language model: image, questions and answers of all samples, with padding
    loss: float
    seconds: float  # median of a step
    quartiles: tuple[float, float]
    regions_a_second: float


@dataclass(frozen=True)
class Scene:
    """An image, pooling masks and position grids of its regions, and a dialogue about each."""

    pixels: torch.Tensor  # [1, 3, S, S]
    masks: list[torch.Tensor]  # four of [1, N, h, w]
    positions: torch.Tensor  # [1, N, P, P]
    samples: list[Sample]


def load(checkpoint: Path | None) -> tuple[Osprey, Tokenizer, list[RegionFacts], np.ndarray, np.ndarray]:
    """Return model, tokenizer, and the objects of an image (uint8 [H, W, 3]) with their id image."""
    ((scene, frame),) = render_scenes("train", [0], (640, 480), objects=(MAX_OBJECTS, MAX_OBJECTS))
    facts = [f for f in region_facts(scene, frame) if f.kind == "object"]
    if checkpoint is not None:
        model, tokenizer = load_checkpoint(checkpoint)
    else:
        texts = [text for f in facts for text in all_texts(f)]
        tokenizer = train_tokenizer(texts * 3, OSPREY_NANO.vocab_size)
        torch.manual_seed(0)
        mask_id = tokenizer.token_to_id("<mask>")
        assert mask_id is not None, "train_tokenizer adds <mask>"
        model = Osprey(OSPREY_NANO.with_vocabulary(mask_id))
    return model, tokenizer, facts, frame.rgb, frame.instance_ids


def scene_of(
    model: Osprey, tokenizer: Tokenizer, facts: Sequence[RegionFacts], rgb: np.ndarray, ids: np.ndarray
) -> Scene:
    """Return model inputs of an image and of those of its objects that are in `facts`."""
    spec = model.config.model_spec()
    prompts = PromptBuilder(tokenizer, spec)
    regions = regions_from_id_image(ids, only=[f.id for f in facts], masks_anyway=True)
    samples = []
    for number, f in enumerate(facts):
        question, answer, _ = dialogues(f, np.random.default_rng(f.id))[0]
        samples.append(Sample.of(prompts.prompt(question), prompts.answer(answer), number))
    return Scene(
        torch.from_numpy(preprocess(rgb, spec)).reshape(1, 3, spec.image_size, spec.image_size),
        [torch.from_numpy(mask)[None] for mask in regions.pooling_masks(spec.feature_sizes)],
        torch.from_numpy(regions.position_grids(spec.position_size))[None],
        samples,
    )


class Side:
    """One way to train on a scene: `step()` is what is timed."""

    def __init__(self, side: str, objective: Objective, scene: Scene, device: torch.device):
        image_tokens = objective.osprey.config.image_tokens
        samples, pixels, masks, positions = scene.samples, scene.pixels, scene.masks, scene.positions
        if side == PACKED:
            packed = collate([pack(samples, image_tokens)])
        else:  # row n of the batch holds the image and its n-th region alone
            packed = collate([pack([Sample(s.tokens, s.answers, (0,))], image_tokens) for s in samples])
            pixels, positions = pixels.repeat(len(samples), 1, 1, 1), positions.transpose(0, 1)
            masks = [mask.transpose(0, 1) for mask in masks]
        self.batch = Batch(pixels, masks, positions, {}, packed).to(device)
        self.rows = int(packed.tokens.numel())
        self.name, self.objective = side, objective
        parameters = [p for p in objective.osprey.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(parameters, lr=0.0)

    def loss(self) -> torch.Tensor:
        result: torch.Tensor = self.objective(self.batch)[0]
        return result

    def step(self) -> None:
        self.optimizer.zero_grad()
        self.loss().backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        if self.batch.pixels is not None and self.batch.pixels.is_cuda:
            torch.cuda.synchronize()


def compare(
    model: Osprey, tokenizer: Tokenizer, facts: Sequence[RegionFacts], rgb: np.ndarray, ids: np.ndarray, runs: int,
    device: torch.device,
) -> list[Result]:  # fmt: skip
    """Time a step of every side on the same regions, in turns. Raises OspreyError if their losses differ."""
    list(freeze_all_but(model, ("projector", "mask_extractor", "language_model")))  # as in the paper's last stage
    objective = Objective(model).to(device)
    scene = scene_of(model, tokenizer, facts, rgb, ids)
    sides = [Side(side, objective, scene, device) for side in (PACKED, ONE_BY_ONE)]
    with torch.no_grad():
        losses = [float(side.loss()) for side in sides]
    if max(losses) - min(losses) > _SAME * max(losses):
        raise OspreyError(f"losses of the sides differ: {losses}")
    for side in sides:
        side.step()  # the first step allocates
    seconds: list[list[float]] = [[] for _ in sides]
    for run in range(runs):
        for n in (np.arange(len(sides)) + run) % len(sides):  # every round begins with another side
            started = time.perf_counter()
            sides[n].step()
            seconds[n].append(time.perf_counter() - started)
    results = []
    for side, loss, times in zip(sides, losses, seconds, strict=True):
        low, median, high = statistics.quantiles(times, n=4, method="inclusive")
        results.append(Result(side.name, len(facts), side.rows, loss, median, (low, high), len(facts) / median))
    return results


@command("packing")
def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    text = "a shape and its weights (default: nano's, random)"
    parser.add_argument("--checkpoint", type=Path, metavar="DIR", help=text)
    parser.add_argument("--regions", default="1,4,16", metavar="N,N", help="regions of the image (%(default)s)")
    add_count_option(parser, "--runs", 7, "steps of each side, in turns")
    add_count_option(parser, "--threads", torch.get_num_threads(), "CPU threads")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (%(default)s)")
    add_figures_option(parser)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    model, tokenizer, facts, rgb, ids = load(arguments.checkpoint)
    counts = [int(text) if text.isdecimal() else 0 for text in arguments.regions.split(",")]
    if min(counts) < 1 or max(counts) > len(facts):
        raise InputError(f"--regions {arguments.regions}: the image has 1 to {len(facts)}")
    device = torch.device(arguments.device)
    results = [
        result
        for count in counts
        for result in compare(model, tokenizer, facts[:count], rgb, ids, arguments.runs, device)
    ]
    print("| regions | side | rows | a step | quartiles | regions a second |")
    print("|---|---|---|---|---|---|")
    for r in results:
        step = f"{1e3 * r.seconds:.0f} ms | {1e3 * r.quartiles[0]:.0f} to {1e3 * r.quartiles[1]:.0f}"
        print(f"| {r.regions} | {r.side} | {r.rows} | {step} | {r.regions_a_second:.1f} |")
    write_figures(arguments.json, [asdict(r) for r in results])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
