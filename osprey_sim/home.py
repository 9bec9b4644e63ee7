"""Sample seeded scenes of a home: models of real things, of true size, on tables and floors of varied rooms."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from math import cos, pi, sin, sqrt, tan

import numpy as np

from osprey_ros.errors import InputError
from osprey_sim.catalog import RGB
from osprey_sim.colors import dominant_color
from osprey_sim.meshes.store import Mesh, ModelInfo, ModelSet
from osprey_sim.render import Frame
from osprey_sim.room import room_panels, sample_room
from osprey_sim.scene import (
    Camera,
    Light,
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
from osprey_sim.shapes import Array, axis_rotation

# Streams of random numbers, separate from that of tabletops: the objects do not depend on the room.
_OBJECTS, _ROOM = 7, 8
_SMALLEST, _LARGEST = 14, 150  # pixels of an object's second-longest and longest side at 240 rows, at the lookat point
_CLEAR = 0.8  # opacity of glass through which the background is visible


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
    rng, room_rng = (np.random.default_rng([*key, stream]) for stream in (_OBJECTS, _ROOM))
    count = int(rng.integers(objects[0], objects[1] + 1))
    camera, zoom = _sample_camera(rng, count)
    room = sample_room(room_rng)
    table = Table(room.adjective, room.rgb, float(room_rng.uniform(0, pi)), room.noun)
    wall = Wall(room.wall_rgb, room.wall_distance, room.wall_yaw)
    light, sensor = _sample_light(room_rng, camera), sample_sensor(room_rng)
    scene = Scene(seed, split, camera, light, table, wall, sensor=sensor)
    reach = (0.46 * 320 / zoom, 0.44 * 240 / zoom / sin(np.radians(max(camera.elevation, 25.0))))
    center = np.array([camera.lookat[0], camera.lookat[1], 0.0])
    scene.panels = room_panels(room_rng, room, center, float(np.radians(camera.azimuth)), reach)
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
        raise InputError(
            f"no model of {models.folder} has a size for a view of {240 / zoom:.2f} m; add models of "
            f"{_SMALLEST / zoom:.2f} to {_LARGEST / zoom:.2f} m"
        )
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


def _rgb(values: Array) -> RGB:
    return (float(values[0]), float(values[1]), float(values[2]))
