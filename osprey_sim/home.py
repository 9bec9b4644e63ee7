"""Sample seeded scenes of a home: models of real things, of true size, on tables and floors of varied rooms."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from math import cos, pi, sin, sqrt, tan

import numpy as np

from osprey_sim.assets import PERIODS
from osprey_sim.catalog import RGB
from osprey_sim.colors import dominant_color
from osprey_sim.meshes.store import Mesh, ModelInfo, ModelSet
from osprey_sim.render import Frame
from osprey_sim.scene import (
    Camera,
    Light,
    Panel,
    Part,
    Scene,
    SceneObject,
    Solid,
    Table,
    Wall,
    check_arguments,
    fill_scene,
)
from osprey_sim.sensor import sample_sensor
from osprey_sim.shapes import Array, axis_rotation, rotation_z

# Streams of random numbers, separate from that of tabletops: the objects do not depend on the room.
_OBJECTS, _ROOM = 7, 8
_SMALLEST, _LARGEST = 14, 150  # pixels of an object's second-longest and longest side at 240 rows, at the lookat point
_CLEAR = 0.8  # opacity of glass through which the background is visible
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


def sample_home(seed: int, split: str, objects: tuple[int, int] = (4, 9), models: ModelSet | None = None) -> Scene:
    """Return the home scene of a seed. The same arguments and models give the same scene.

    Args:
        seed: At least 0.
        split: A key of `SPLITS`. Scenes of "train" have no model of `held_out`.
        objects: Least and greatest number of objects, 1 to 16.
        models: The models to place; None for those that ship with the simulator.

    Raises:
        ValueError: An argument is out of range.
        InputError: A model cannot be read, or the surface has no room for the objects.
    """
    key = check_arguments(seed, split, objects)
    models = models or shipped_models()
    rng, room = (np.random.default_rng([*key, stream]) for stream in (_OBJECTS, _ROOM))
    count = int(rng.integers(objects[0], objects[1] + 1))
    camera, zoom = _sample_camera(rng, count)
    noun = str(room.choice(list(SURFACES), p=(0.45, 0.15, 0.2, 0.2)))
    adjective, pattern, color = SURFACES[noun][int(room.integers(len(SURFACES[noun])))]
    table = Table(adjective, _varied(room, color), float(room.uniform(0, pi)), noun)
    wall_pattern, wall_color = _WALLS[int(room.integers(len(_WALLS)))]
    wall = Wall(_varied(room, wall_color), float(room.uniform(0.7, 3.0)), float(room.uniform(-0.5, 0.5)))
    scene = Scene(seed, split, camera, _sample_light(room, camera), table, wall, sensor=sample_sensor(room))
    reach = (0.46 * 320 / zoom, 0.44 * 240 / zoom / sin(np.radians(max(camera.elevation, 25.0))))
    scene.panels = _room(room, scene, pattern, wall_pattern, max(reach))
    suitable = _suitable(models, split, zoom)
    fill_scene(rng, scene, count, lambda number, _: _sample_object(rng, models, suitable, number), reach)
    return scene


_SHIPPED: list[ModelSet] = []


def shipped_models() -> ModelSet:
    """Return the models that ship with the simulator. They are read once."""
    if not _SHIPPED:
        _SHIPPED.append(ModelSet())
    return _SHIPPED[0]


def held_out(models: ModelSet) -> frozenset[str]:
    """Return the models that occur in validation and test only: the last one of each kind with two or more."""
    names: dict[str, list[str]] = defaultdict(list)
    for info in models.models.values():
        names[info.kind].append(info.name)
    return frozenset(max(same) for same in names.values() if len(same) > 1)


def with_colors(scene: Scene, frame: Frame) -> Scene:
    """Return the scene with the color of each object: the basic color of 60 % of its visible pixels, else "".

    Objects of clear glass have no color.

    Raises:
        ValueError: The frame has no albedo.
    """
    if frame.albedo is None:
        raise ValueError("the frame has no albedo; render with albedo=True")
    objects = []
    for obj in scene.objects:
        clear = all(solid.mesh is not None and solid.mesh.opacity < _CLEAR for solid in obj.solids)
        pixels = frame.albedo[frame.instance_ids == obj.instance_id]
        objects.append(replace(obj, color="" if clear else dominant_color(pixels)))
    return replace(scene, objects=objects)


def _suitable(models: ModelSet, split: str, zoom: float) -> dict[str, list[ModelInfo]]:
    """Return the models whose size suits the view, by kind. All of a kind are equally likely, and all kinds."""
    left_out = held_out(models) if split == "train" else frozenset()
    kinds: dict[str, list[ModelInfo]] = defaultdict(list)
    for info in models.models.values():
        _, middle, longest = sorted(side * zoom for side in info.size)
        if info.name not in left_out and middle >= _SMALLEST and longest <= _LARGEST:
            kinds[info.kind].append(info)
    if not kinds:
        raise ValueError(f"no model of {models.folder} suits a view of {240 / zoom:.2f} m; use more models")
    return kinds


def _sample_object(
    rng: np.random.Generator, models: ModelSet, suitable: dict[str, list[ModelInfo]], number: int
) -> SceneObject:
    """Return an object at the origin, upright or lying, without yaw."""
    same = suitable[str(rng.choice(sorted(suitable)))]
    info = same[int(rng.integers(len(same)))]
    return model_object(info, models.meshes(info.name), number, lying=info.lies_down and rng.random() < 0.3)


def model_object(info: ModelInfo, meshes: tuple[Mesh, ...], number: int, lying: bool = False) -> SceneObject:
    """Return a model as object at the origin, of true size, upright or lying along x."""
    solids = []
    for mesh in meshes:
        low, high = mesh.bounds
        half = (high - low) / 2
        size = (float(half[0]), float(half[1]), float(half[2]))
        solids.append(Solid("mesh", (low + high) / 2, np.eye(3), size, mesh.rgb, False, 0, mesh))
    low = np.min([mesh.bounds[0] for mesh in meshes], axis=0)
    high = np.max([mesh.bounds[1] for mesh in meshes], axis=0)
    # Only quarter turns, so that the bounding box stands where the surface does.
    rotation = axis_rotation((1.0, 0.0, 0.0)) if lying else np.eye(3)
    parts: list[Part] = []
    return SceneObject(
        number,
        info.kind,
        "",
        "",
        parts,
        solids,
        np.zeros(3),
        rotation,
        (low + high) / 2,
        lying,
        info.material,
        info.name,
    )


def _sample_camera(rng: np.random.Generator, count: int) -> tuple[Camera, float]:
    """Return a camera, and its pixels per meter at the lookat point in an image of 240 rows. Many objects need room."""
    farthest, nearest = 230.0, 700.0 * min(1.0, sqrt(4 / count))
    zoom = float(np.exp(rng.uniform(np.log(farthest), np.log(max(nearest, 1.25 * farthest)))))
    fovy = float(rng.uniform(28, 68))
    distance = 120 / tan(np.radians(fovy) / 2) / zoom
    if distance < 0.5:  # a closer camera would be among the objects
        distance = 0.5
        fovy = float(2 * np.degrees(np.arctan(120 / (zoom * distance))))
    camera = Camera(
        azimuth=float(rng.uniform(0, 360)),
        elevation=float(rng.uniform(20, 62)),
        distance=float(distance),
        fovy=fovy,
        lookat=(float(rng.uniform(-0.05, 0.05)), float(rng.uniform(-0.05, 0.05)), 0.04),
    )
    return camera, zoom


def _sample_light(rng: np.random.Generator, camera: Camera) -> Light:
    azimuth = float(np.radians(camera.azimuth) + rng.uniform(-pi, pi))
    elevation = float(np.radians(rng.uniform(30, 80)))
    direction = (cos(azimuth) * cos(elevation), sin(azimuth) * cos(elevation), -sin(elevation))
    warmth = rng.uniform(-0.08, 0.12)
    tint = np.array([1 + warmth, 1.0, 1 - warmth])
    return Light(direction, _rgb(rng.uniform(0.35, 0.8) * tint), _rgb(rng.uniform(0.34, 0.55) * tint))


def _room(rng: np.random.Generator, scene: Scene, pattern: str, wall_pattern: str, reach: float) -> list[Panel]:
    """Return the surface below the objects, the floor, two walls, and flat things on the walls."""
    table, period = scene.table, float(rng.choice(PERIODS))
    gloss = float(rng.uniform(0.0, 0.3))
    turn = rotation_z(np.radians(scene.camera.azimuth) + float(rng.uniform(-0.4, 0.4)))
    center = np.array([scene.camera.lookat[0], scene.camera.lookat[1], 0.0])
    panels, floor = [], 0.0
    if table.noun == "floor":
        panels.append(Panel("plane", center, turn, (6.0, 6.0, 1.0), table.rgb, pattern, period, 0.3 * gloss))
    else:
        floor = -float(rng.uniform(0.6, 0.95))
        half = reach * rng.uniform(1.2, 1.9, 2) + 0.05
        thick = float(rng.uniform(0.01, 0.03))
        top = center - np.array([0.0, 0.0, thick])
        panels.append(Panel("box", top, turn, (half[0], half[1], thick), table.rgb, pattern, period, gloss))
        for x, y in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
            foot = center + turn @ np.array([0.9 * x * half[0], 0.9 * y * half[1], floor / 2 - thick])
            panels.append(Panel("box", foot, turn, (0.03, 0.03, -floor / 2 - thick), _varied(rng, table.rgb)))
        _, below, color = SURFACES["floor"][int(rng.integers(len(SURFACES["floor"])))]
        ground = center + np.array([0.0, 0.0, floor])
        panels.append(Panel("plane", ground, turn, (6.0, 6.0, 1.0), _varied(rng, color), below, period, 0.3 * gloss))
    yaw = np.radians(scene.camera.azimuth) + scene.wall.yaw
    distance = max(scene.wall.distance, 1.1 * reach)
    panels += _wall(rng, scene.wall.rgb, wall_pattern, center, yaw, distance, floor)
    side = yaw + float(rng.choice([-1.0, 1.0])) * pi / 2
    panels += _wall(rng, scene.wall.rgb, wall_pattern, center, side, float(rng.uniform(1.5, 4.0)), floor)
    return panels


def _wall(
    rng: np.random.Generator, rgb: RGB, pattern: str, center: Array, yaw: float, distance: float, floor: float
) -> list[Panel]:
    """Return a wall in the direction yaw, with up to four frames, windows or boards on it."""
    away = np.array([cos(yaw), sin(yaw), 0.0])
    along = np.array([-away[1], away[0], 0.0])
    facing = np.stack([[0.0, 0.0, 1.0], along, -away], axis=1)
    middle = center + distance * away
    period = float(rng.choice(PERIODS))
    panels = [Panel("plane", middle, facing, (4.0, 6.0, 1.0), rgb, pattern, period, 0.0)]
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
