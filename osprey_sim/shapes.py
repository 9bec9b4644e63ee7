"""Build household objects from primitives, at medium size, standing on the plane z = 0."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import cos, pi, sin

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Vector = Sequence[float] | Array


@dataclass(frozen=True)
class Geom:
    """A primitive in its object's frame.

    Attributes:
        shape: "box", "sphere", "ellipsoid", "cylinder" or "capsule".
        position: float64 [3] meters, the primitive's center.
        rotation: float64 [3, 3], columns are the primitive's axes.
        size: Meters, as in MuJoCo: half extents (box, ellipsoid), or radius and half length (cylinder, capsule).
        paint: "body" (the object's color), "dark", "hollow" (darker shades of it), "contrast" (black or white), or a
            key of catalog.MATERIALS.
        part: Name of the part, or "" outside of named parts.
    """

    shape: str
    position: Array
    rotation: Array
    size: tuple[float, float, float]
    paint: str
    part: str = ""


def axis_rotation(direction: Vector) -> Array:
    """Return a rotation [3, 3] whose third column points along `direction`."""
    z = np.asarray(direction, dtype=np.float64)
    z = z / np.linalg.norm(z)
    helper = np.array([1.0, 0.0, 0.0]) if abs(z[0]) < 0.9 else np.array([0.0, 1.0, 0.0])
    y = np.cross(z, helper)
    y /= np.linalg.norm(y)
    return np.stack([np.cross(y, z), y, z], axis=1)


def rotation_z(angle: float) -> Array:
    """Return the rotation [3, 3] about the vertical axis by `angle` radians."""
    c, s = cos(angle), sin(angle)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def box(center: Vector, half: Vector, paint: str = "body", part: str = "", rotation: Array | None = None) -> Geom:
    rotation = np.eye(3) if rotation is None else rotation
    return Geom("box", np.array(center, dtype=np.float64), rotation, (half[0], half[1], half[2]), paint, part)


def ball_at(center: Vector, radius: float, paint: str = "body", part: str = "") -> Geom:
    return Geom("sphere", np.array(center, dtype=np.float64), np.eye(3), (radius, radius, radius), paint, part)


def ellipsoid(center: Vector, half: Vector, paint: str = "body", part: str = "", rotation: Array | None = None) -> Geom:
    rotation = np.eye(3) if rotation is None else rotation
    return Geom("ellipsoid", np.array(center, dtype=np.float64), rotation, (half[0], half[1], half[2]), paint, part)


def between(shape: str, start: Vector, end: Vector, radius: float, paint: str = "body", part: str = "") -> Geom:
    """Return a cylinder or capsule whose axis runs from `start` to `end`."""
    a, b = np.asarray(start, dtype=np.float64), np.asarray(end, dtype=np.float64)
    half = float(np.linalg.norm(b - a)) / 2
    return Geom(shape, (a + b) / 2, axis_rotation(b - a), (radius, half, half), paint, part)


def disc(z0: float, z1: float, radius: float, paint: str = "body", part: str = "", at: Vector = (0.0, 0.0)) -> Geom:
    """Return an upright cylinder from height z0 to z1."""
    return between("cylinder", (at[0], at[1], z0), (at[0], at[1], z1), radius, paint, part)


def turned(profile: Sequence[tuple[float, float]], paint: str = "body", part: str = "", steps: int = 5) -> list[Geom]:
    """Return a solid of revolution as stacked discs. profile: (height, radius) from the bottom up."""
    heights, radii = zip(*profile, strict=True)
    edges = np.linspace(heights[0], heights[-1], steps + 1)
    middles = (edges[:-1] + edges[1:]) / 2
    rings = np.interp(middles, heights, radii)
    return [disc(a, b, float(r), paint, part) for a, b, r in zip(edges[:-1], edges[1:], rings, strict=True)]


def chain(points: Sequence[Vector], radius: float, paint: str = "body", part: str = "") -> list[Geom]:
    """Return capsules from point to point."""
    return [between("capsule", a, b, radius, paint, part) for a, b in pairwise(points)]


def ring(center: Vector, radius: float, thickness: float, paint: str, part: str, pieces: int = 7) -> list[Geom]:
    """Return a horizontal ring of capsules."""
    angles = np.linspace(0.0, 2 * pi, pieces + 1)
    points = [(center[0] + radius * cos(a), center[1] + radius * sin(a), center[2]) for a in angles]
    return chain(points, thickness, paint, part)


def mug(vary: np.random.Generator) -> list[Geom]:
    r, h = vary.uniform(0.044, 0.050), vary.uniform(0.095, 0.115)
    x = r + vary.uniform(0.030, 0.036)
    handle = chain([(r, 0, 0.8 * h), (x, 0, 0.72 * h), (x, 0, 0.30 * h), (r, 0, 0.2 * h)], 0.0085, "body", "handle")
    return [disc(0, h, r), disc(h, h + 0.001, 0.84 * r, "hollow"), *handle]


def bottle(vary: np.random.Generator) -> list[Geom]:
    r, h = vary.uniform(0.034, 0.040), vary.uniform(0.115, 0.135)
    neck = 0.014
    return [
        disc(0, h, r),
        ellipsoid((0, 0, h), (r, r, 0.032)),
        disc(h, h + 0.075, neck),
        disc(h + 0.068, h + 0.096, neck + 0.005, "contrast", "cap"),
        disc(0.35 * h, 0.75 * h, r + 0.0008, "paper"),
    ]


def bowl(vary: np.random.Generator) -> list[Geom]:
    r, h = vary.uniform(0.078, 0.088), vary.uniform(0.058, 0.070)
    profile = [(0.0, 0.45 * r), (0.2 * h, 0.66 * r), (0.5 * h, 0.87 * r), (h, r)]
    return [*turned(profile, steps=7), disc(h, h + 0.001, 0.90 * r, "hollow")]


def plate(vary: np.random.Generator) -> list[Geom]:
    r = vary.uniform(0.088, 0.100)
    return [
        disc(0, 0.008, 0.62 * r),
        disc(0.006, 0.013, 0.86 * r),
        disc(0.011, 0.017, r),
        disc(0.017, 0.0176, 0.66 * r, "dark"),
        disc(0.0176, 0.0182, 0.62 * r),
    ]


def book(vary: np.random.Generator) -> list[Geom]:
    a, b, h = vary.uniform(0.055, 0.062), vary.uniform(0.078, 0.088), vary.uniform(0.026, 0.036)
    return [
        box((0, 0, 0.003), (a, b, 0.003)),
        box((0.003, 0, h / 2), (a - 0.007, b - 0.006, h / 2 - 0.005), "paper"),
        box((0, 0, h - 0.003), (a, b, 0.003)),
        box((-a + 0.002, 0, h / 2), (0.003, b, h / 2 - 0.001)),
        box((0.006, 0.03, h + 0.0004), (0.6 * a, 0.008, 0.0006), "contrast"),
    ]


def box_with_lid(vary: np.random.Generator) -> list[Geom]:
    a, b, h = vary.uniform(0.052, 0.064), vary.uniform(0.066, 0.080), vary.uniform(0.075, 0.095)
    return [
        box((0, 0, h / 2), (a, b, h / 2)),
        box((0, 0, h), (a + 0.006, b + 0.006, 0.013), "dark", "lid"),
        ball_at((0, 0, h + 0.019), 0.011, "dark", "lid"),
    ]


def ball(vary: np.random.Generator) -> list[Geom]:
    r = vary.uniform(0.050, 0.058)
    tilt = axis_rotation((vary.uniform(-0.5, 0.5), vary.uniform(-0.5, 0.5), 1.0))
    bands = [tilt @ np.array(v) for v in ((0, 0, 1.0), (1.0, 0, 0))]
    center = np.array([0, 0, r])
    stripes = [between("cylinder", center - 0.005 * v, center + 0.005 * v, r + 0.0012, "contrast") for v in bands]
    return [ball_at(center, r), *stripes]


def can(vary: np.random.Generator) -> list[Geom]:
    r, h = vary.uniform(0.035, 0.039), vary.uniform(0.105, 0.120)
    return [
        disc(0.008, h - 0.008, r),
        disc(0, 0.010, r + 0.001, "metal"),
        disc(h - 0.010, h, r + 0.001, "metal"),
        disc(h, h + 0.001, r - 0.006, "steel"),
        box((0.008, 0, h + 0.002), (0.011, 0.006, 0.002), "metal"),
    ]


def lamp(vary: np.random.Generator) -> list[Geom]:
    h, r = vary.uniform(0.105, 0.125), vary.uniform(0.060, 0.068)
    shade = turned([(h, r), (h + 0.075, 0.52 * r)], "body", "shade", steps=10)
    return [disc(0, 0.014, 0.042, "steel", "base"), disc(0.014, h + 0.01, 0.008, "steel"), *shade]


def hammer(vary: np.random.Generator) -> list[Geom]:
    length = vary.uniform(0.20, 0.225)
    x = length / 2
    return [
        between("capsule", (-x, 0, 0.019), (x - 0.01, 0, 0.019), 0.0135, "body", "handle"),
        box((x, 0, 0.019), (0.018, 0.032, 0.018), "steel", "head"),
        between("cylinder", (x, -0.056, 0.019), (x, -0.030, 0.019), 0.019, "metal", "head"),
        ellipsoid((x, 0.034, 0.019), (0.014, 0.034, 0.012), "steel", "head"),
    ]


def teapot(vary: np.random.Generator) -> list[Geom]:
    r, h = vary.uniform(0.058, 0.064), vary.uniform(0.046, 0.052)
    x = r + 0.036
    handle = chain(
        [(-0.8 * r, 0, 1.55 * h), (-x, 0, 1.5 * h), (-x, 0, 0.75 * h), (-0.88 * r, 0, 0.55 * h)],
        0.008,
        "body",
        "handle",
    )
    return [
        disc(0, 0.01, 0.62 * r),
        ellipsoid((0, 0, h + 0.004), (r, r, h)),
        between("capsule", (0.75 * r, 0, 0.7 * h), (r + 0.042, 0, 1.75 * h), 0.012, "body", "spout"),
        disc(1.87 * h, 1.87 * h + 0.014, 0.56 * r, "dark", "lid"),
        ball_at((0, 0, 1.87 * h + 0.024), 0.013, "dark", "lid"),
        *handle,
    ]


def car(vary: np.random.Generator) -> list[Geom]:
    a, b = vary.uniform(0.085, 0.095), vary.uniform(0.038, 0.043)
    wheels = [
        between(
            "cylinder",
            (sx * 0.58 * a, sy * (b - 0.008), 0.022),
            (sx * 0.58 * a, sy * (b + 0.008), 0.022),
            0.022,
            "rubber",
            "wheels",
        )
        for sx in (-1, 1)
        for sy in (-1, 1)
    ]
    hubs = [
        between(
            "cylinder",
            (sx * 0.58 * a, sy * b, 0.022),
            (sx * 0.58 * a, sy * (b + 0.009), 0.022),
            0.010,
            "metal",
            "wheels",
        )
        for sx in (-1, 1)
        for sy in (-1, 1)
    ]
    return [
        box((0, 0, 0.033), (a, b, 0.018)),
        box((-0.008, 0, 0.062), (0.50 * a, 0.86 * b, 0.014), "glass"),
        box((-0.008, 0, 0.079), (0.46 * a, 0.84 * b, 0.0045)),
        *wheels,
        *hubs,
    ]


def chair(vary: np.random.Generator) -> list[Geom]:
    a, seat, back = vary.uniform(0.046, 0.052), vary.uniform(0.070, 0.080), vary.uniform(0.085, 0.100)
    legs = [
        between(
            "cylinder", (sx * 0.85 * a, sy * 0.85 * a, 0), (sx * 0.85 * a, sy * 0.85 * a, seat), 0.0075, "body", "legs"
        )
        for sx in (-1, 1)
        for sy in (-1, 1)
    ]
    posts = [
        box((-0.88 * a, sy * 0.82 * a, seat + back / 2), (0.006, 0.008, back / 2), "body", "back") for sy in (-1, 1)
    ]
    slats = [box((-0.88 * a, 0, seat + f * back), (0.005, 0.85 * a, 0.011), "body", "back") for f in (0.5, 0.9)]
    return [box((0, 0, seat), (a, a, 0.008)), *legs, *posts, *slats]


def candle(vary: np.random.Generator) -> list[Geom]:
    h, r = vary.uniform(0.105, 0.125), vary.uniform(0.021, 0.025)
    return [
        disc(0, 0.008, 0.048, "metal"),
        disc(0.008, h, r),
        disc(h, h + 0.014, 0.003, "rubber"),
        ellipsoid((0, 0, h + 0.030), (0.0115, 0.0115, 0.023), "flame", "flame"),
    ]


def vase(vary: np.random.Generator) -> list[Geom]:
    r, h = vary.uniform(0.044, 0.050), vary.uniform(0.100, 0.115)
    stems, heads = [], []
    for k in range(3):
        a = 2 * pi * k / 3 + vary.uniform(0, 0.6)
        top = (0.040 * cos(a), 0.040 * sin(a), h + vary.uniform(0.045, 0.065))
        stems.append(between("capsule", (0, 0, 0.95 * h), top, 0.0035, "leaf", "flowers"))
        heads.append(ellipsoid(top, (0.021, 0.021, 0.016), "petal", "flowers"))
    belly = ellipsoid((0, 0, 0.43 * h), (r, r, 0.43 * h))
    neck = [disc(0.6 * h, h, 0.46 * r), disc(0.95 * h, h + 0.006, 0.60 * r)]
    return [disc(0, 0.012, 0.6 * r), belly, *neck, *stems, *heads]


def dice(vary: np.random.Generator) -> list[Geom]:
    a = vary.uniform(0.040, 0.046)
    spots = {
        (0, 0, 1): [(0, 0), (1, 1), (-1, 1), (1, -1), (-1, -1)],
        (1, 0, 0): [(0, 0)],
        (-1, 0, 0): [(1, 1), (-1, -1), (1, -1), (-1, 1)],
        (0, 1, 0): [(1, 1), (-1, -1)],
        (0, -1, 0): [(1, 1), (0, 0), (-1, -1)],
    }
    pips = []
    for normal, places in spots.items():
        frame = axis_rotation(normal)
        for u, v in places:
            middle = np.array([0, 0, a]) + frame @ np.array([0.5 * a * u, 0.5 * a * v, a])
            offset = 0.001 * frame[:, 2]
            pips.append(between("cylinder", middle - offset, middle + offset, 0.19 * a, "contrast"))
    return [box((0, 0, a), (a, a, a)), *pips]


def banana(vary: np.random.Generator) -> list[Geom]:
    radius, half_angle = vary.uniform(0.085, 0.095), vary.uniform(0.90, 1.05)
    angles = np.linspace(-half_angle, half_angle, 6)
    points = [(radius * sin(a), radius * (cos(a) - 0.8), 0.021) for a in angles]
    widths = (0.016, 0.020, 0.021, 0.020, 0.016)
    body = [between("capsule", p, q, w) for p, q, w in zip(points[:-1], points[1:], widths, strict=True)]
    first, last = np.array(points[0]), np.array(points[-1])
    stem = between("capsule", last, last + 1.0 * (last - np.array(points[-2])), 0.008, "rubber")
    return [*body, stem, ball_at(first + 0.45 * (first - np.array(points[1])), 0.007, "rubber")]


def apple(vary: np.random.Generator) -> list[Geom]:
    r = vary.uniform(0.044, 0.050)
    return [
        ellipsoid((0, 0, 0.92 * r), (r, r, 0.90 * r)),
        between("capsule", (0, 0, 1.7 * r), (0.008, 0, 2.35 * r), 0.005, "bark"),
        ellipsoid((0.026, 0, 2.12 * r), (0.026, 0.012, 0.005), "leaf", "leaf", axis_rotation((-0.5, 0, 1))),
    ]


def scissors(vary: np.random.Generator) -> list[Geom]:
    spread = vary.uniform(0.24, 0.36)
    geoms: list[Geom] = []
    for side, z in ((-1, 0.006), (1, 0.0125)):
        turn = rotation_z(side * spread)
        blade = turn @ np.array([0.055, 0, z])
        geoms.append(box(blade, (0.060, 0.0095, 0.003), "metal", "blades", turn))
        geoms.append(between("capsule", (0, 0, 0.011), turn @ np.array([-0.040, 0, 0.011]), 0.009))
        middle = turn @ np.array([-0.066, 0, 0.011])
        geoms += ring(middle, 0.025, 0.009, "body", "handles")
    return [*geoms, disc(0.004, 0.022, 0.007, "steel")]


def spoon(vary: np.random.Generator) -> list[Geom]:
    length = vary.uniform(0.125, 0.145)
    return [
        ellipsoid((0.5 * length + 0.030, 0, 0.012), (0.042, 0.030, 0.012)),
        ellipsoid((0.5 * length + 0.031, 0, 0.0205), (0.030, 0.020, 0.004), "hollow"),
        between("capsule", (-0.5 * length, 0, 0.011), (0.5 * length - 0.004, 0, 0.011), 0.0085, "body", "handle"),
        ellipsoid((-0.5 * length, 0, 0.011), (0.018, 0.013, 0.010), "body", "handle"),
    ]


def clock(vary: np.random.Generator) -> list[Geom]:
    r, depth, z = vary.uniform(0.055, 0.062), 0.022, 0.074
    hour = vary.uniform(0, 2 * pi)
    front = np.array([depth + 0.0015, 0, z])
    hands = []
    for angle, length in ((hour, 0.50 * r), (hour * 12 % (2 * pi), 0.72 * r)):
        tip = front + np.array([0.001, length * sin(angle), length * cos(angle)])
        hands.append(between("capsule", front + np.array([0.001, 0, 0]), tip, 0.003, "rubber", "face"))
    feet = [between("capsule", (0, sy * 0.028, 0.030), (0, sy * 0.043, 0.007), 0.007, "steel") for sy in (-1, 1)]
    bells = [
        ellipsoid(
            (0, sy * 0.034, z + 0.97 * r), (0.019, 0.022, 0.016), "metal", "bells", axis_rotation((0, sy * 0.6, 1))
        )
        for sy in (-1, 1)
    ]
    return [
        between("cylinder", (-depth, 0, z), (depth, 0, z), r),
        between("cylinder", (depth, 0, z), (depth + 0.0015, 0, z), 0.76 * r, "paper", "face"),
        *hands,
        *feet,
        *bells,
    ]


def hat(vary: np.random.Generator) -> list[Geom]:
    r, h = vary.uniform(0.050, 0.056), vary.uniform(0.055, 0.065)
    return [
        disc(0, 0.008, r + 0.046, "body", "brim"),
        disc(0.008, h, r),
        ellipsoid((0, 0, h), (r, r, 0.022)),
        disc(0.008, 0.026, r + 0.0015, "contrast", "band"),
    ]


def guitar(vary: np.random.Generator) -> list[Geom]:
    r = vary.uniform(0.054, 0.060)
    top = 0.034
    return [
        disc(0, top, r, at=(-0.045, 0)),
        disc(0, top, 0.76 * r, at=(0.022, 0)),
        disc(top, top + 0.001, 0.40 * r, "rubber", at=(0.0, 0)),
        box((-0.062, 0, top + 0.002), (0.006, 0.022, 0.003), "bark"),
        box((0.115, 0, top - 0.002), (0.085, 0.011, 0.006), "bark", "neck"),
        box((0.208, 0, top - 0.003), (0.020, 0.017, 0.006), "rubber", "neck"),
    ]


def duck(vary: np.random.Generator) -> list[Geom]:
    a = vary.uniform(0.060, 0.068)
    return [
        ellipsoid((0, 0, 0.040), (a, 0.048, 0.040)),
        ball_at((0.62 * a, 0, 0.098), 0.036),
        ellipsoid((-0.95 * a, 0, 0.062), (0.030, 0.020, 0.014), rotation=axis_rotation((0.7, 0, 1))),
        ellipsoid((0.62 * a + 0.042, 0, 0.092), (0.020, 0.017, 0.008), "beak", "beak"),
        *[ball_at((0.62 * a + 0.024, sy * 0.022, 0.110), 0.0075, "contrast") for sy in (-1, 1)],
        *[ellipsoid((-0.006, sy * 0.044, 0.046), (0.036, 0.010, 0.020), "dark") for sy in (-1, 1)],
    ]
