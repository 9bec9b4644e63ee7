"""Catalog of the simulator: classes, colors, sizes, materials, table tops, and the pairs held out of training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from osprey_sim import shapes
from osprey_sim.shapes import Geom

RGB = tuple[float, float, float]


@dataclass(frozen=True)
class ObjectClass:
    """A class of objects.

    Attributes:
        build: Returns the primitives at medium size; the generator varies the proportions slightly.
        parts: Names of the parts, in the order of the descriptions.
        lies_down: Whether the object can also lie on its side.
        facing: Whether the object has a front (+x) that is turned towards the camera.
    """

    name: str
    build: Callable[[np.random.Generator], list[Geom]]
    parts: tuple[str, ...] = ()
    lies_down: bool = False
    facing: bool = False


_CLASSES = (
    ObjectClass("mug", shapes.mug, ("handle",)),
    ObjectClass("bottle", shapes.bottle, ("cap",), lies_down=True),
    ObjectClass("bowl", shapes.bowl),
    ObjectClass("plate", shapes.plate),
    ObjectClass("book", shapes.book),
    ObjectClass("box", shapes.box_with_lid, ("lid",)),
    ObjectClass("ball", shapes.ball),
    ObjectClass("can", shapes.can, lies_down=True),
    ObjectClass("lamp", shapes.lamp, ("shade", "base")),
    ObjectClass("hammer", shapes.hammer, ("handle", "head")),
    ObjectClass("teapot", shapes.teapot, ("handle", "lid", "spout")),
    ObjectClass("car", shapes.car, ("wheels",)),
    ObjectClass("chair", shapes.chair, ("back", "legs")),
    ObjectClass("candle", shapes.candle, ("flame",)),
    ObjectClass("vase", shapes.vase, ("flowers",)),
    ObjectClass("dice", shapes.dice),
    ObjectClass("banana", shapes.banana),
    ObjectClass("apple", shapes.apple, ("leaf",)),
    ObjectClass("scissors", shapes.scissors, ("handles", "blades")),
    ObjectClass("spoon", shapes.spoon, ("handle",)),
    ObjectClass("clock", shapes.clock, ("face", "bells"), facing=True),
    ObjectClass("hat", shapes.hat, ("brim", "band")),
    ObjectClass("guitar", shapes.guitar, ("neck",)),
    ObjectClass("duck", shapes.duck, ("beak",)),
)
CLASSES: dict[str, ObjectClass] = {c.name: c for c in _CLASSES}

COLORS: dict[str, RGB] = {
    "red": (0.80, 0.05, 0.06),
    "orange": (0.98, 0.42, 0.02),
    "yellow": (0.97, 0.83, 0.08),
    "green": (0.10, 0.52, 0.14),
    "blue": (0.07, 0.18, 0.78),
    "purple": (0.42, 0.11, 0.60),
    "pink": (0.98, 0.52, 0.70),
    "brown": (0.34, 0.18, 0.08),
    "white": (0.94, 0.94, 0.94),
    "black": (0.06, 0.06, 0.065),
    "grey": (0.47, 0.47, 0.48),
    "cyan": (0.08, 0.76, 0.82),
}

# Scale factors. The steps are large enough to distinguish the sizes at different distances from the camera.
SIZES: dict[str, float] = {"small": 0.75, "medium": 1.05, "large": 1.47}

MATERIALS: dict[str, RGB] = {
    "metal": (0.76, 0.78, 0.80),
    "steel": (0.30, 0.31, 0.34),
    "paper": (0.93, 0.91, 0.84),
    "rubber": (0.07, 0.07, 0.07),
    "glass": (0.20, 0.26, 0.34),
    "bark": (0.32, 0.20, 0.11),
    "leaf": (0.16, 0.42, 0.12),
    "petal": (0.96, 0.80, 0.86),
    "flame": (1.00, 0.68, 0.15),
    "beak": (0.95, 0.50, 0.05),
}
GLOSSY = frozenset({"metal", "steel", "glass"})

# Muted tints, so that no table top or wall has one of the object colors.
TABLES: dict[str, tuple[RGB, ...]] = {
    "wooden": ((0.80, 0.64, 0.46), (0.70, 0.53, 0.37), (0.86, 0.74, 0.58)),
    "marble": ((0.86, 0.86, 0.84), (0.76, 0.80, 0.78)),
    "checkered": ((0.80, 0.74, 0.66), (0.70, 0.76, 0.80), (0.80, 0.70, 0.70)),
    "striped": ((0.78, 0.80, 0.70), (0.74, 0.74, 0.82), (0.84, 0.78, 0.70)),
    "plain": ((0.74, 0.70, 0.64), (0.62, 0.68, 0.66), (0.70, 0.70, 0.76)),
}
WALLS: tuple[RGB, ...] = (
    (0.82, 0.80, 0.75),
    (0.70, 0.76, 0.78),
    (0.76, 0.72, 0.76),
    (0.74, 0.78, 0.70),
    (0.60, 0.60, 0.60),
    (0.84, 0.76, 0.68),
)


def _held_out() -> frozenset[tuple[str, str]]:
    """Return a tenth of all (color, class) pairs: one color of each class, and a second one of each fifth class."""
    colors = list(COLORS)
    pairs = set()
    for i, name in enumerate(CLASSES):
        pairs.add((colors[(5 * i + 3) % len(colors)], name))
        if i % 5 == 0:
            pairs.add((colors[(5 * i + 9) % len(colors)], name))
    return frozenset(pairs)


HELD_OUT: frozenset[tuple[str, str]] = _held_out()
"""(color, class) pairs that occur in the validation and test splits only."""


def paint_rgb(paint: str, body: RGB) -> RGB:
    """Return the color of a paint on an object.

    Args:
        paint: "body", "dark", "hollow", "contrast" or a key of `MATERIALS`.
        body: Color of the object.
    """
    brightness = 0.3 * body[0] + 0.59 * body[1] + 0.11 * body[2]
    if paint == "body":
        return body
    if paint == "dark":
        factor = 0.68 if brightness > 0.1 else 1.8
        return (body[0] * factor, body[1] * factor, body[2] * factor)
    if paint == "hollow":
        factor = 0.42 if brightness > 0.1 else 2.6
        return (body[0] * factor, body[1] * factor, body[2] * factor)
    if paint == "contrast":
        return (0.10, 0.10, 0.10) if brightness > 0.55 else (0.92, 0.92, 0.92)
    return MATERIALS[paint]
