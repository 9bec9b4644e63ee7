"""Measure kinds and colors in simulated scenes: `python -m evaluation.rooms --bundle DIR --objects home|tabletop`.

Each object is asked what it is, without back-off and with it, as in `evaluation.photographs`, and which color it has,
chosen from a list. Colors count where one of the colors covers 60 % of the visible pixels. The last model of each kind
with two or more is kept out of training scenes; objects with such a model are a row of their own.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from evaluation.figures import RESAMPLES, Bootstrap, Figure
from evaluation.kind_names import KindNames, near_synonyms
from evaluation.options import add_kinds_option, add_split_option
from evaluation.photograph_answers import Asker, Judged, judge
from osprey_ros.cli._edge import command
from osprey_ros.cli._options import (
    Parser,
    add_bundle_option,
    add_count_option,
    add_crops_option,
    add_figures_option,
    add_preprocessing_option,
    add_threads_option,
)
from osprey_ros.cli._output import write_figures
from osprey_ros.decoding.config import GenerationConfig
from osprey_ros.describer import Describer
from osprey_ros.errors import InputError
from osprey_ros.regions.regions import regions_from_masks
from osprey_ros.scene.attributes import AttributeSpec
from osprey_sim.colors import BASIC_COLORS
from osprey_sim.dialogues import COLOR_QUESTION
from osprey_sim.home import held_out, shipped_models
from osprey_sim.meshes.store import ModelSet
from osprey_sim.object_sets import HOME, OBJECT_SETS, SceneSource
from osprey_sim.render import HEIGHT, MIN_AREA, WIDTH, Renderer
from osprey_sim.scene import SceneObject
from osprey_sim.words import COLORS
from training.home.kinds import load_kinds

# Width and height of the images, and the section of names.yaml with the names of their objects.
_HOME = ((640, 480), "home_models")
_TABLETOP = ((WIDTH, HEIGHT), "tabletops")


@dataclass(frozen=True)
class RoomObject:
    """An object of a scene.

    Attributes:
        judged: The answers to "what is it".
        color: Its true color, "" if no color covers enough of it.
        color_right: Whether the answer about its color is right.
        new_model: Whether its model is kept out of training scenes.
    """

    judged: Judged
    color: str
    color_right: bool
    new_model: bool


def new_models(objects: str, models: Path | None) -> frozenset[str]:
    """Return the models that training scenes do not have; of tabletops there is none."""
    if objects != HOME:
        return frozenset()
    return held_out(ModelSet(models) if models is not None else shipped_models())


@dataclass(frozen=True)
class Room:
    """A rendered scene with its visible objects of kinds that are not held out.

    Attributes:
        seed: Seed of the scene.
        rgb: uint8 [H, W, 3].
        objects: Each object with its kind and its mask, bool [H, W].
    """

    seed: int
    rgb: np.ndarray
    objects: Sequence[tuple[SceneObject, str, np.ndarray]]


def rooms(
    names: KindNames, objects: str, split: str, seeds: Iterable[int], models: Path | None = None
) -> Iterator[Room]:
    """Yield rendered scenes, those without such an object left out. Arguments are those of `room_objects`."""
    size, source = _HOME if objects == HOME else _TABLETOP
    scenes = SceneSource(objects, models)
    least = MIN_AREA * size[0] * size[1] // (WIDTH * HEIGHT)
    with Renderer(*size) as renderer:
        scenes.preload(renderer)
        for seed in seeds:
            scene, frame = scenes.render(renderer, scenes.sample(seed, split), depth=False)
            visible = set(frame.objects(least))
            shown = [
                (obj, kind, frame.instance_ids == obj.instance_id)
                for obj in scene.objects
                if obj.instance_id in visible and not names.held_out(kind := names.kind(obj.category, source))
            ]
            if shown:
                yield Room(seed, frame.rgb, shown)


def room_answers(asker: Asker, names: KindNames, room: Room, objects: str) -> list[Judged]:
    """Return the answers about the objects of a scene, judged."""
    answers = asker.ask(room.rgb, [mask for _, _, mask in room.objects])
    return [
        judge(names, (objects, str(room.seed), obj.instance_id), kind, float(mask.mean()), both)
        for (obj, kind, mask), both in zip(room.objects, answers, strict=True)
    ]


def room_objects(
    describer: Describer,
    names: KindNames,
    objects: str,
    split: str,
    seeds: Iterable[int],
    *,
    models: Path | None = None,
    crops: str = "none",
) -> Iterator[RoomObject]:
    """Yield the objects of rendered scenes with the answers about them, without those of held-out kinds.

    Args:
        describer: The bundle.
        names: Decides what is right.
        objects: Set of objects, "home" or "tabletop".
        split: Split of the scenes.
        seeds: Seeds of the scenes.
        models: Folder of models for a home; None for those that ship.
        crops: Regions with a crop of their own.
    """
    yield from objects_of_rooms(
        describer, names, objects, rooms(names, objects, split, seeds, models), models=models, crops=crops
    )


def objects_of_rooms(
    describer: Describer,
    names: KindNames,
    objects: str,
    rendered: Iterable[Room],
    *,
    models: Path | None = None,
    crops: str = "none",
) -> Iterator[RoomObject]:
    """Yield the objects of scenes that are rendered; arguments as of `room_objects`."""
    new = new_models(objects, models)
    color = AttributeSpec("color", COLOR_QUESTION, BASIC_COLORS if objects == HOME else COLORS)
    config = GenerationConfig(crops=crops)
    asker = Asker(describer, crops)
    for room in rendered:
        answers = room_answers(asker, names, room, objects)
        regions = regions_from_masks([mask for _, _, mask in room.objects])
        (colors,) = describer.answer(regions, [COLOR_QUESTION], config, [color.constraint])
        for (obj, _, _), judged, found in zip(room.objects, answers, colors, strict=True):
            yield RoomObject(judged, obj.color, found.text == obj.color, obj.model in new)


def summary(objects: Sequence[RoomObject], resamples: int = RESAMPLES) -> dict[str, Figure]:
    """Return the shares of right answers, with intervals over scenes."""
    bootstrap = Bootstrap([one.judged.image for one in objects], resamples)
    new = np.array([one.new_model for one in objects])
    right = np.array([one.judged.right for one in objects])
    general = np.array([one.judged.right_or_general for one in objects])
    every = np.ones(len(objects), bool)
    return {
        "kind_right": bootstrap.mean(right, every),
        "kind_right_new_models": bootstrap.mean(right, new),
        "right_or_general": bootstrap.mean(general, every),
        "right_or_general_new_models": bootstrap.mean(general, new),
        "color_right": bootstrap.mean(
            np.array([one.color_right for one in objects]), np.array([bool(one.color) for one in objects])
        ),
    }


@command("rooms")
def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_bundle_option(parser)
    parser.add_argument("--objects", choices=OBJECT_SETS, default=HOME, help="set of objects (default: %(default)s)")
    parser.add_argument(
        "--models", type=Path, metavar="DIR", help="models for a home (default: those that ship with the simulator)"
    )
    add_split_option(parser)
    add_count_option(parser, "--scenes", 100, "number of scenes")
    add_crops_option(parser)
    add_kinds_option(parser)
    add_threads_option(parser)
    add_preprocessing_option(parser)
    add_figures_option(parser)
    arguments = parser.parse_args(argv)
    describer = Describer(arguments.bundle, arguments.threads, preprocessing=arguments.preprocessing)
    names = KindNames(load_kinds(arguments.kinds), describer.bundle.kinds(), near_synonyms())
    seeds = tqdm(range(arguments.scenes), unit="scene", file=sys.stderr)
    options = {"models": arguments.models, "crops": arguments.crops}
    found = list(room_objects(describer, names, arguments.objects, arguments.split, seeds, **options))
    if not found:
        raise InputError("no scene has an object that is large enough; use more scenes")
    figures = summary(found)
    new = len(new_models(arguments.objects, arguments.models))
    print(
        f"{arguments.bundle} on {arguments.scenes} {arguments.split} scenes of {arguments.objects}, crops "
        f"{arguments.crops}: {len(found)} objects; {new} models are kept out of training"
    )
    for name, figure in figures.items():
        if figure.count:
            print(f"  {name.replace('_', ' '):30s}{figure.text()} of {figure.count}")
    answers = [
        {**one.judged.to_json(), "color": one.color, "color_right": one.color_right, "new_model": one.new_model}
        for one in found
    ]
    report = {"figures": {name: figure.to_json() for name, figure in figures.items()}, "answers": answers}
    write_figures(arguments.json, report)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
