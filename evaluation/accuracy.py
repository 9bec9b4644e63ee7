"""How often a bundle is right about simulated test scenes: `python -m evaluation.accuracy --bundle engines/nano`.

Every object with more than `--min-area` visible pixels counts once. An answer is right when it equals the simulator's
words to the letter.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from osprey_ros.describer import Describer
from osprey_ros.errors import OspreyError
from osprey_ros.prompt import QUESTIONS
from osprey_ros.regions import regions_from_id_image
from osprey_sim.catalog import HELD_OUT
from osprey_sim.render import Renderer
from osprey_sim.scene import sample_scene
from osprey_sim.words import CLASSES
from training.store import HEIGHT, WIDTH
from training.words import COLOUR_QUESTION, RegionFacts, region_facts

MIN_AREA = 200


@dataclass(frozen=True)
class Judged:
    """One object, what was said about it, and what is true."""

    seed: int
    facts: RegionFacts
    category: str
    colour: str
    short: str
    detailed: str
    confidence: float  # of the category

    @property
    def held_out(self) -> bool:
        """Whether no object of this colour and class was ever in training."""
        return (self.facts.colour, self.facts.category) in HELD_OUT

    @property
    def right(self) -> dict[str, bool]:
        return {
            "category": self.category == self.facts.category,
            "colour": self.colour == self.facts.colour,
            "short": self.short == self.facts.short,
            "detailed": self.detailed == self.facts.detailed,
            "known class": self.category in CLASSES,
        }


def judge_scenes(describer: Describer, seeds: Iterable[int], split: str, min_area: int) -> list[Judged]:
    """Ask four questions about every object of the scenes with more than `min_area` visible pixels."""
    questions = [QUESTIONS["category"], COLOUR_QUESTION, QUESTIONS["short"], QUESTIONS["detailed"]]
    judged = []
    with Renderer(WIDTH, HEIGHT) as renderer:
        for seed in seeds:
            scene = sample_scene(seed, split)
            frame = renderer.render(scene, depth=False)
            objects = {f.id: f for f in region_facts(scene, frame) if f.kind == "object" and f.area > min_area}
            if not objects:
                continue
            describer.set_image(frame.rgb)
            regions = regions_from_id_image(frame.instance_ids, only=list(objects))
            for category, colour, short, detailed in zip(*describer.answer(regions, questions), strict=True):
                facts = objects[category.region_id]
                texts = (category.text, colour.text, short.text, detailed.text)
                judged.append(Judged(seed, facts, *texts, category.confidence))
    return judged


def summary(judged: list[Judged]) -> dict[str, float]:
    """Share of right answers by question; of categories also for the colour-class pairs held out of training."""
    if not judged:
        raise ValueError("no objects to judge: no scene showed one that is large enough")
    shares = {name: sum(j.right[name] for j in judged) / len(judged) for name in judged[0].right}
    held_out = [j for j in judged if j.held_out]
    if held_out:
        shares["category, held-out pairs"] = sum(j.right["category"] for j in held_out) / len(held_out)
        shares["colour, held-out pairs"] = sum(j.right["colour"] for j in held_out) / len(held_out)
    return shares


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="nano")
    parser.add_argument("--split", choices=("test", "validation"), default="test")
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--min-area", type=int, default=MIN_AREA, help="pixels an object must exceed, of 320x240")
    parser.add_argument("--json", type=Path, help="write the figures and every answer there")
    arguments = parser.parse_args(argv)
    seeds = tqdm(range(arguments.scenes), unit="scene", file=sys.stderr)
    try:
        judged = judge_scenes(Describer(arguments.bundle), seeds, arguments.split, arguments.min_area)
        shares = summary(judged)
    except (OspreyError, ValueError) as error:
        print(f"accuracy: {error}", file=sys.stderr)
        return 2
    by_class: dict[str, list[Judged]] = defaultdict(list)
    for one in judged:
        by_class[one.facts.category].append(one)
    print(f"{arguments.bundle} on {arguments.scenes} {arguments.split} scenes: {len(judged)} objects")
    for name, share in shares.items():
        print(f"  {name:28s} {share:6.1%}")
    print("category by class:")
    for name, members in sorted(by_class.items()):
        wrong = sorted({j.category for j in members if not j.right["category"]})
        share = sum(j.right["category"] for j in members) / len(members)
        print(f"  {name:10s} {share:6.1%} of {len(members):4d}   {'taken for: ' + ', '.join(wrong) if wrong else ''}")
    if arguments.json:
        answers = [
            {
                "seed": j.seed,
                "instance_id": j.facts.id,
                "area": j.facts.area,
                "truth": {
                    "category": j.facts.category,
                    "colour": j.facts.colour,
                    "short": j.facts.short,
                    "detailed": j.facts.detailed,
                },
                "category": j.category,
                "colour": j.colour,
                "short": j.short,
                "detailed": j.detailed,
                "confidence": j.confidence,
            }
            for j in judged
        ]
        arguments.json.write_text(json.dumps({"shares": shares, "objects": len(judged), "answers": answers}, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
