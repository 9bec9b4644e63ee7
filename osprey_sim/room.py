"""Rooms of a home: the surface below the objects, floor, walls, and flat things on the walls."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi, sin

import numpy as np

from osprey_sim.catalog import RGB
from osprey_sim.shapes import Array, rotation_z

PERIODS = (0.4, 0.6, 0.9, 1.3)  # meters; lengths of one repetition of a pattern on the surfaces of a room
_WHITE = (0.92, 0.91, 0.88)

SURFACES: dict[str, tuple[tuple[str, str, RGB], ...]] = {
    "table": (
        ("wooden", "planked", (0.62, 0.44, 0.28)),
        ("wooden", "wooden", (0.80, 0.64, 0.46)),
        ("wooden", "wooden", (0.40, 0.26, 0.16)),
        ("white", "plain", (0.90, 0.90, 0.88)),
        ("black", "plain", (0.10, 0.10, 0.11)),
        ("marble", "marble", (0.88, 0.88, 0.86)),
        ("checkered", "checkered", (0.82, 0.42, 0.40)),
        ("checkered", "checkered", (0.46, 0.60, 0.80)),
        ("woven", "woven", (0.74, 0.68, 0.56)),
        ("dotted", "dotted", (0.80, 0.84, 0.86)),
    ),
    "desk": (
        ("wooden", "wooden", (0.74, 0.56, 0.38)),
        ("white", "plain", (0.88, 0.88, 0.90)),
        ("gray", "plain", (0.52, 0.53, 0.55)),
        ("wooden", "planked", (0.46, 0.30, 0.18)),
    ),
    "counter": (
        ("marble", "marble", (0.80, 0.82, 0.82)),
        ("speckled", "speckled", (0.66, 0.64, 0.62)),
        ("speckled", "speckled", (0.34, 0.34, 0.36)),
        ("tiled", "tiled", (0.90, 0.90, 0.86)),
        ("concrete", "concrete", (0.62, 0.62, 0.60)),
        ("wooden", "planked", (0.70, 0.52, 0.34)),
    ),
    "floor": (
        ("wooden", "planked", (0.66, 0.48, 0.32)),
        ("wooden", "planked", (0.44, 0.32, 0.22)),
        ("tiled", "tiled", (0.84, 0.82, 0.78)),
        ("tiled", "tiled", (0.56, 0.60, 0.62)),
        ("carpeted", "carpeted", (0.52, 0.48, 0.46)),
        ("carpeted", "carpeted", (0.40, 0.46, 0.58)),
        ("carpeted", "carpeted", (0.62, 0.42, 0.38)),
        ("concrete", "concrete", (0.66, 0.66, 0.64)),
    ),
}
"""(adjective, pattern, color) of the surfaces that objects stand on, by their noun."""

_WALLS: tuple[tuple[str, RGB], ...] = (
    ("plain", _WHITE),
    ("plain", (0.80, 0.76, 0.66)),
    ("plain", (0.62, 0.70, 0.74)),
    ("plain", (0.66, 0.72, 0.60)),
    ("plain", (0.42, 0.44, 0.48)),
    ("striped", (0.84, 0.80, 0.72)),
    ("dotted", (0.80, 0.82, 0.86)),
    ("brick", (0.72, 0.40, 0.32)),
    ("brick", (0.88, 0.86, 0.84)),
    ("tiled", (0.88, 0.92, 0.94)),
    ("concrete", (0.70, 0.70, 0.70)),
)


@dataclass(frozen=True)
class Panel:
    """A background surface of a room: a plane or a box.

    Attributes:
        size: Half extents in meters, as in MuJoCo.
        pattern: A key of textures.surface_textures(), or "plain".
        period: Length in meters of one repetition of the pattern, one of PERIODS.
        gloss: Strength of highlights, 0..1.
    """

    shape: str
    position: Array
    rotation: Array
    size: tuple[float, float, float]
    rgb: RGB
    pattern: str = "plain"
    period: float = PERIODS[2]
    gloss: float = 0.05


@dataclass(frozen=True)
class Room:
    """The look of a room.

    Attributes:
        noun: What the objects stand on, a key of SURFACES.
        adjective: Word for its look: "wooden".
        pattern: Its pattern; `wall_pattern` is that of the walls.
        wall_distance: Meters from the center to the wall behind it.
        wall_yaw: Radians from the view to the direction of that wall.
    """

    noun: str
    adjective: str
    pattern: str
    rgb: RGB
    wall_pattern: str
    wall_rgb: RGB
    wall_distance: float
    wall_yaw: float


def sample_room(rng: np.random.Generator) -> Room:
    """Return the look of a random room."""
    noun = str(rng.choice(list(SURFACES), p=(0.45, 0.15, 0.2, 0.2)))
    adjective, pattern, color = SURFACES[noun][int(rng.integers(len(SURFACES[noun])))]
    wall_pattern, wall_color = _WALLS[int(rng.integers(len(_WALLS)))]
    distance, yaw = float(rng.uniform(0.7, 3.0)), float(rng.uniform(-0.5, 0.5))
    return Room(noun, adjective, pattern, _varied(rng, color), wall_pattern, _varied(rng, wall_color), distance, yaw)


def room_panels(
    rng: np.random.Generator, room: Room, center: Array, azimuth: float, reach: tuple[float, float]
) -> list[Panel]:
    """Return the surfaces of a room.

    Args:
        center: float64 [3] meters, the middle of the surface below the objects.
        azimuth: Direction of the view in radians.
        reach: Largest distances of an object from the center in meters, to the right and away from the camera.
    """
    right, away = reach
    period = float(rng.choice(PERIODS))
    gloss = float(rng.uniform(0.0, 0.3))
    tilt = float(rng.uniform(-0.4, 0.4))
    turn = rotation_z(azimuth + tilt)
    panels, floor = [], 0.0
    if room.noun == "floor":
        panels.append(Panel("plane", center, turn, (6.0, 6.0, 1.0), room.rgb, room.pattern, period, 0.3 * gloss))
    else:
        floor = -float(rng.uniform(0.6, 0.95))
        # Objects can stand beyond the edge, but their centers cannot.
        half = np.array([[cos(tilt), abs(sin(tilt))], [abs(sin(tilt)), cos(tilt)]]) @ [away, right]
        half *= rng.uniform(1.05, 1.6, 2)
        thick = float(rng.uniform(0.01, 0.03))
        top = center - np.array([0.0, 0.0, thick])
        panels.append(Panel("box", top, turn, (half[0], half[1], thick), room.rgb, room.pattern, period, gloss))
        for x, y in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
            foot = center + turn @ np.array([0.9 * x * half[0], 0.9 * y * half[1], floor / 2 - thick])
            panels.append(Panel("box", foot, turn, (0.03, 0.03, -floor / 2 - thick), _varied(rng, room.rgb)))
        _, below, color = SURFACES["floor"][int(rng.integers(len(SURFACES["floor"])))]
        ground = center + np.array([0.0, 0.0, floor])
        panels.append(Panel("plane", ground, turn, (6.0, 6.0, 1.0), _varied(rng, color), below, period, 0.3 * gloss))
    yaw, distance = azimuth + room.wall_yaw, max(room.wall_distance, 1.1 * max(reach))
    panels += _wall(rng, room, center, yaw, distance, floor)
    side = yaw + float(rng.choice([-1.0, 1.0])) * pi / 2
    panels += _wall(rng, room, center, side, float(rng.uniform(1.5, 4.0)), floor)
    return panels


def _wall(
    rng: np.random.Generator, room: Room, center: Array, yaw: float, distance: float, floor: float
) -> list[Panel]:
    """Return a wall in the direction yaw, with up to four frames, windows or boards on it."""
    away = np.array([cos(yaw), sin(yaw), 0.0])
    along = np.array([-away[1], away[0], 0.0])
    facing = np.stack([[0.0, 0.0, 1.0], along, -away], axis=1)
    middle = center + distance * away
    period = float(rng.choice(PERIODS))
    panels = [Panel("plane", middle, facing, (4.0, 6.0, 1.0), room.wall_rgb, room.wall_pattern, period, 0.0)]
    skirting = middle + np.array([0.0, 0.0, floor + 0.05]) - 0.01 * away
    panels.append(Panel("box", skirting, facing, (0.05, 6.0, 0.01), _varied(rng, _WHITE)))
    patterns = ("plain", "plain", "wooden", "striped", "checkered", "dotted", "woven")
    for _ in range(int(rng.integers(0, 5))):
        height = np.array([0.0, 0.0, rng.uniform(floor + 0.4, floor + 1.8)])
        place = middle + rng.uniform(-1.5, 1.5) * along + height - 0.012 * away
        size = (float(rng.uniform(0.08, 0.45)), float(rng.uniform(0.08, 0.45)), 0.012)
        color = _rgb(rng.uniform(0.1, 0.95, 3))
        panels.append(Panel("box", place, facing, size, color, str(rng.choice(patterns)), 0.4))
    return panels


def _varied(rng: np.random.Generator, rgb: RGB) -> RGB:
    """Return the color with another brightness and a slightly different tint."""
    return _rgb(np.clip(np.asarray(rgb) * rng.uniform(0.82, 1.12) * rng.uniform(0.96, 1.04, 3), 0.02, 1.0))


def _rgb(values: Array) -> RGB:
    return (float(values[0]), float(values[1]), float(values[2]))
