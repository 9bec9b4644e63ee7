"""Fit "unlike training": `python -m evaluation.unlike_training --bundle engines/nano [--unknown DIR] [--write]`.

Models mask tokens of regions and statistics of images of train scenes, and takes the scale of the score from
validation scenes. Prints how many known regions of test scenes become "unknown" and, with photographs of things that
the model does not know, how well the score separates them (AUROC). `--data` adds packs of photographs that the model
was trained on, by their splits; kinds that are held out of training are left out. `--write` writes the score into the
bundle.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from evaluation.figures import auroc
from evaluation.kind_names import KindNames
from evaluation.options import add_kinds_option
from evaluation.photograph_answers import images_of
from evaluation.photographs import read_packs
from evaluation.unlike_fit import fit_unlike_training
from osprey_ros.bundle.bundle import write_unlike_training
from osprey_ros.bundle.unlike_training import UNKNOWN_FROM, UnlikeTraining, trust
from osprey_ros.cli._edge import command
from osprey_ros.cli._options import Parser, add_bundle_option, add_count_option, add_figures_option, positive
from osprey_ros.cli._output import write_figures
from osprey_ros.describer import Describer
from osprey_ros.errors import InputError, OspreyError
from osprey_ros.regions.regions import Regions, as_regions, regions_from_id_image
from osprey_ros.vision.image_io import load_image
from osprey_sim.dialogues import region_facts
from osprey_sim.object_sets import HOME, OBJECT_SETS, TABLETOP, SceneSource
from osprey_sim.render import HEIGHT, MIN_AREA, WIDTH, Frame, Renderer
from osprey_sim.scene import Scene
from osprey_torch.readers.packs import TEST, TRAIN, VALIDATION, PackObject
from osprey_torch.readers.records import Skipped
from training.home.kinds import load_kinds

# Sections of names.yaml with the names of the objects in scenes.
_SOURCES = {TABLETOP: "tabletops", HOME: "home_models"}
LIGHT = (1.0, 0.85, 1.1)  # brightness of known images in turns: that of a robot's camera is not that of the renderer


@dataclass(frozen=True)
class RegionImage:
    """An image with regions of known kinds: uint8 [H, W, 3], the regions, and the kind of each."""

    rgb: np.ndarray
    regions: Regions
    labels: Sequence[str]


@dataclass(frozen=True)
class Collected:
    """Regions as `fit_unlike_training` takes them.

    Attributes:
        tokens: float32 [N, hidden size].
        images: float32 [N, F], the statistics of the image of each region.
        labels: [N].
    """

    tokens: np.ndarray
    images: np.ndarray
    labels: np.ndarray

    def score(self, unlike_training: UnlikeTraining) -> np.ndarray:
        """Return the scores, float32 [N]."""
        return unlike_training.score(self.tokens, self.images)


def simulated(
    split: str, seeds: Iterable[int], objects: str = TABLETOP, models: Path | None = None
) -> Iterator[RegionImage]:
    """Yield scenes with their objects, then with their parts, of more than MIN_AREA visible pixels at 320x240.

    Test scenes are as they were rendered; others are darker or brighter in turns. ``objects`` is the set of objects of
    the scenes, ``models`` the folder of models for a home.
    """
    source, factor = SceneSource(objects, models), 2 if objects == HOME else 1
    for scene, frame in _rendered(source, split, seeds, (factor * WIDTH, factor * HEIGHT)):
        light = 1.0 if split == TEST else LIGHT[scene.seed % len(LIGHT)]
        rgb = np.clip(frame.rgb * light, 0, 255).astype(np.uint8)
        facts = [one for one in region_facts(scene, frame) if one.area > MIN_AREA * factor**2]
        for kind, ids in (("object", frame.instance_ids), ("part", frame.part_ids)):
            own = [one for one in facts if one.kind == kind]
            if own:
                regions = regions_from_id_image(ids, only=[one.id for one in own], masks_anyway=True)
                yield RegionImage(rgb, regions, [one.category for one in own])


def _rendered(
    source: SceneSource, split: str, seeds: Iterable[int], size: tuple[int, int]
) -> Iterator[tuple[Scene, Frame]]:
    with Renderer(*size) as renderer:
        source.preload(renderer)
        for seed in seeds:
            yield source.render(renderer, source.sample(seed, split), depth=False)


def photographs(objects: Iterable[PackObject], names: KindNames | None, skipped: Skipped) -> Iterator[RegionImage]:
    """Yield the images of packs with their objects; those that cannot be used are counted in ``skipped``."""
    for members in images_of(objects):
        first = members[0]
        try:
            rgb = load_image(first.image)
            regions = as_regions(np.stack([one.decode() for one in members]))
        except (OspreyError, ValueError) as error:
            skipped.add(f"{first.pack}, {first.file_name}", str(error))
            continue
        yield RegionImage(rgb, regions, [names.kind(one.name, one.pack) if names else one.name for one in members])


def collect(describer: Describer, images: Iterable[RegionImage]) -> Collected:
    """Encode regions. Regions of which no pixel is left are left out. Raises InputError if none is left."""
    tokens, statistics, labels = [], [], []
    for image in images:
        describer.set_image(image.rgb)
        encoded = describer.encode(image.regions)
        kept = np.array([int(region) not in encoded.reasons for region in encoded.regions.ids], bool)
        tokens.append(encoded.mask_tokens[kept])
        statistics.append(np.repeat(describer.image_statistics()[None], kept.sum(), axis=0))
        labels += [label for label, keep in zip(image.labels, kept, strict=True) if keep]
    if not labels:
        raise InputError("no region to encode; use more scenes or images")
    return Collected(np.concatenate(tokens), np.concatenate(statistics), np.array(labels))


def fitted_on(
    known: Collected, validation: Collected, text: str, *, by_image: bool = True, ambiguity: bool = False
) -> UnlikeTraining:
    """Return the score, fitted on known regions, and on their images if ``by_image``."""
    images, of_validation = (np.unique(known.images, axis=0), validation.images) if by_image else (None, None)
    return fit_unlike_training(known.tokens, known.labels, validation.tokens, images, of_validation, text, ambiguity)


def _parser() -> Parser:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_bundle_option(parser)
    add_count_option(parser, "--fit-scenes", 700, "simulated train scenes")
    add_count_option(parser, "--validation-scenes", 300, "simulated validation scenes")
    add_count_option(parser, "--scenes", 200, "simulated test scenes to measure on")
    parser.add_argument(
        "--objects",
        choices=OBJECT_SETS,
        action="append",
        help=f"set of objects of the scenes, can be repeated (default: {TABLETOP})",
    )
    parser.add_argument("--models", type=Path, metavar="DIR", help="models of a home (default: those that ship)")
    parser.add_argument(
        "--regions-only",
        action="store_true",
        help="leave the statistics of images out; better where the known images are of many kinds, as photographs are",
    )
    parser.add_argument(
        "--ambiguity", action="store_true", help="count that several kinds fit about as well; better with many kinds"
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of packs of known photographs")
    parser.add_argument("--unknown", type=Path, metavar="DIR", help="folder of packs of unknown photographs")
    parser.add_argument("--limit", type=positive, metavar="N", help="use at most N images of each split of a pack")
    add_kinds_option(parser)
    parser.add_argument("--write", action="store_true", help="write the score into the bundle")
    add_figures_option(parser)
    return parser


@command("unlike_training")
def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    describer, skipped = Describer(arguments.bundle), Skipped()
    names = KindNames(load_kinds(arguments.kinds), describer.bundle.kinds())
    packs: list[PackObject] = []
    if arguments.data is not None:
        packs, _ = read_packs(arguments.data, None, arguments.limit, skipped)
        packs = [one for one in packs if not names.held_out(names.kind(one.name, one.pack))]

    def regions(split: str, scenes: int) -> Collected:
        def images() -> Iterator[RegionImage]:
            for objects in arguments.objects or (TABLETOP,):
                for image in simulated(split, range(scenes), objects, arguments.models):
                    kinds = [names.kind(label, _SOURCES[objects]) for label in image.labels]
                    kept = [n for n, kind in enumerate(kinds) if not names.held_out(kind)]
                    if kept:
                        ids = image.regions.ids[kept]
                        yield RegionImage(image.rgb, image.regions.select(ids), [kinds[n] for n in kept])
            yield from photographs((one for one in packs if one.split == split), names, skipped)

        return collect(describer, tqdm(images(), split, unit="image", file=sys.stderr))

    known, validation = regions(TRAIN, arguments.fit_scenes), regions(VALIDATION, arguments.validation_scenes)
    text = f"{len(known.labels)} train and {len(validation.labels)} validation regions"
    kinds_of_score = {"by_image": not arguments.regions_only, "ambiguity": arguments.ambiguity}
    unlike_training = fitted_on(known, validation, text, **kinds_of_score)
    test = regions(TEST, arguments.scenes).score(unlike_training)
    figures = known_figures(test)
    if arguments.unknown is not None:
        objects, _ = read_packs(arguments.unknown, None, arguments.limit, skipped)
        found = photographs(objects, None, skipped)
        unknown = collect(describer, tqdm(found, "unknown", unit="image", file=sys.stderr)).score(unlike_training)
        figures |= {
            "unknown_regions": len(unknown),
            "unknown_is_unknown": float((unknown >= UNKNOWN_FROM).mean()),
            "auroc": auroc(test, unknown),
        }
    if arguments.write:
        write_unlike_training(describer.bundle.root, unlike_training)
    print(f"{arguments.bundle}: fitted on {text}")
    for name, value in figures.items():
        print(f"  {name:24s}{value:.4f}" if isinstance(value, float) else f"  {name:24s}{value}")
    if skipped.total:
        print(skipped.summary(), file=sys.stderr)
    write_figures(arguments.json, {"fitted": text, **figures})
    return 0


def known_figures(scores: np.ndarray) -> dict[str, Any]:
    """Return figures of known regions: how many become "unknown", and by how much their confidence is lowered."""
    return {
        "known_regions": len(scores),
        "known_is_unknown": float((scores >= UNKNOWN_FROM).mean()),
        "known_mean_trust": float(trust(scores).mean()),
    }


if __name__ == "__main__":
    raise SystemExit(main())
