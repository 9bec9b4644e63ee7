"""Sample seeded tabletop scenes as plain data: objects with poses, light, table, wall and camera."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import cos, pi, sin, tan

import numpy as np

from osprey_ros.errors import InputError
from osprey_sim import catalog
from osprey_sim.catalog import RGB
from osprey_sim.footprints import footprint_corners, rectangles_overlap
from osprey_sim.meshes.store import Mesh
from osprey_sim.room import Panel
from osprey_sim.sensor import Sensor
from osprey_sim.shapes import Array, axis_rotation, rotation_z

# The random generator is seeded with split and seed, so that equal seeds of two splits give unrelated scenes.
SPLITS: dict[str, int] = {"train": 0, "validation": 1, "test": 2}
MAX_OBJECTS = 16

_ASPECT = 4 / 3  # of the images that objects are placed for; wider images show more of the sides
_CLOSEST = 0.15  # meters from the camera to the nearest corner of an object
_TRIES = 30  # random places per object
_LAYOUTS = 50  # attempts; the first one nearly always succeeds


@dataclass(frozen=True)
class Camera:
    """A pinhole camera directed at a point. Degrees and meters; fovy is the vertical field of view."""

    azimuth: float
    elevation: float
    distance: float
    fovy: float
    lookat: tuple[float, float, float]


@dataclass(frozen=True)
class Light:
    """A directional light with shadows, and ambient light. Intensities are RGB in 0..1."""

    direction: tuple[float, float, float]
    diffuse: RGB
    ambient: RGB


@dataclass(frozen=True)
class Table:
    """The table top, the plane z = 0. `kind` is a key of catalog.TABLES; `rotation` of its pattern in radians.

    In a home, `noun` says what it is, such as "desk" or "floor", and `kind` is any adjective.
    """

    kind: str
    rgb: RGB
    rotation: float
    noun: str = "table"


@dataclass(frozen=True)
class Wall:
    """The wall behind the table: distance in meters from the camera's lookat point, yaw in radians from the view."""

    rgb: RGB
    distance: float
    yaw: float


@dataclass(frozen=True)
class Solid:
    """A primitive of an object in the object's frame, at its final size. part_id is 0 outside of named parts.

    The shape "mesh" has its bounding box as position and size, and is drawn where the mesh's own vertices are.
    """

    shape: str
    position: Array
    rotation: Array
    size: tuple[float, float, float]
    rgb: RGB
    glossy: bool
    part_id: int
    mesh: Mesh | None = None


@dataclass(frozen=True)
class Part:
    """A named part of an object. part_id is unique in the scene and starts at 1."""

    part_id: int
    name: str


@dataclass
class SceneObject:
    """An object and its pose.

    Attributes:
        position: float64 [3] meters, the origin of the object's frame in the world.
        rotation: float64 [3, 3], object frame to world.
        middle: float64 [3] meters, the center of the object's bounding box in its own frame.
        color: Name of its color; "" if it is not known before the object is visible.
        size: Name of its size; "" for a model of true size.
        material: "ceramic", or "" if it is not known.
        model: Name of the model of which it has the meshes, or "".
    """

    instance_id: int
    category: str
    color: str
    size: str
    parts: list[Part]
    solids: list[Solid]
    position: Array
    rotation: Array
    middle: Array
    lying: bool = False
    material: str = ""
    model: str = ""


@dataclass
class Scene:
    """A scene. Change the camera or the pose of an object to render a variant.

    A home has `panels` in place of the plane of the table and the wall, and a `sensor` that changes the image.
    """

    seed: int
    split: str
    camera: Camera
    light: Light
    table: Table
    wall: Wall
    objects: list[SceneObject] = field(default_factory=list)
    panels: list[Panel] = field(default_factory=list)
    sensor: Sensor | None = None

    def object(self, instance_id: int) -> SceneObject:
        """Return the object with this instance id. Raise KeyError if there is none."""
        for candidate in self.objects:
            if candidate.instance_id == instance_id:
                return candidate
        raise KeyError(f"no object with instance id {instance_id} in this scene of {len(self.objects)} objects")


def camera_pose(camera: Camera) -> tuple[Array, Array]:
    """Return the camera's position float64 [3] and its rotation float64 [3, 3] to the world (right, down, forward)."""
    azimuth, elevation = np.radians(camera.azimuth), np.radians(camera.elevation)
    forward = np.array([cos(azimuth) * cos(elevation), sin(azimuth) * cos(elevation), -sin(elevation)])
    right = np.array([sin(azimuth), -cos(azimuth), 0.0])
    position = np.asarray(camera.lookat, dtype=np.float64) - camera.distance * forward
    return position, np.stack([right, np.cross(forward, right), forward], axis=1)


def camera_matrix(camera: Camera, width: int, height: int) -> Array:
    """Return the intrinsic matrix float64 [3, 3] of an image with square pixels; pixel centers are at +0.5."""
    focal = height / 2 / tan(np.radians(camera.fovy) / 2)
    return np.array([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])


def project(camera: Camera, points: Array, width: int, height: int) -> Array:
    """Project world points [N, 3] in meters. Return float64 [N, 3] with columns u, v (pixels) and z (meters)."""
    position, rotation = camera_pose(camera)
    local = (np.asarray(points, dtype=np.float64) - position) @ rotation
    uv = (local @ camera_matrix(camera, width, height).T)[:, :2] / local[:, 2:]
    return np.concatenate([uv, local[:, 2:]], axis=1)


def object_center(obj: SceneObject) -> Array:
    """Return the center float64 [3] of the object's bounding box in the world, in meters."""
    return obj.position + obj.rotation @ obj.middle


def object_extents(obj: SceneObject, in_world: bool = False) -> Array:
    """Return the extents float64 [3] in meters of an object's bounding box along its own axes or the world's."""
    low, high = _bounds(obj.solids, obj.rotation if in_world else np.eye(3))
    return high - low


def sample_scene(seed: int, split: str, objects: tuple[int, int] = (4, 9)) -> Scene:
    """Return the scene of a seed. The same arguments give the same scene.

    Args:
        seed: At least 0.
        split: A key of `SPLITS`. Scenes of "train" have no (color, class) pair of catalog.HELD_OUT.
        objects: Least and greatest number of objects, 1 to 16.

    Raises:
        InputError: An argument is out of range, or the table has no room for the objects.
    """
    rng = np.random.default_rng(check_arguments(seed, split, objects))
    camera = _sample_camera(rng)
    light = _sample_light(rng, camera)
    kind = str(rng.choice(list(catalog.TABLES)))
    table = Table(kind, _jitter(rng, _pick(rng, catalog.TABLES[kind]), 0.04), float(rng.uniform(0, pi)))
    wall = Wall(
        _jitter(rng, _pick(rng, catalog.WALLS), 0.05), float(rng.uniform(0.75, 1.2)), float(rng.uniform(-0.4, 0.4))
    )
    scene = Scene(seed, split, camera, light, table, wall)
    count = int(rng.integers(objects[0], objects[1] + 1))
    fill_scene(rng, scene, count, lambda number, part: _sample_object(rng, scene, number, part))
    return scene


def check_arguments(seed: int, split: str, objects: tuple[int, int]) -> list[int]:
    """Return the seed of a scene's random numbers. Raise ValueError if an argument is out of range."""
    if split not in SPLITS:
        raise InputError(f"split is {split!r}; use one of {', '.join(SPLITS)}")
    if seed < 0:
        raise InputError(f"seed is {seed}; use a number of at least 0")
    low, high = objects
    if not 1 <= low <= high <= MAX_OBJECTS:
        raise InputError(f"objects is {objects}; use (low, high) with 1 <= low <= high <= {MAX_OBJECTS}")
    return [SPLITS[split], seed]


def fill_scene(
    rng: np.random.Generator,
    scene: Scene,
    count: int,
    sample: Callable[[int, int], SceneObject],
    reach: tuple[float, float] = (0.50, 0.42),
) -> None:
    """Place objects at random places that do not overlap.

    Args:
        sample: Returns an object at the origin, given its instance id and its first part id.
        reach: Largest distances in meters from the lookat point, to the right and away from the camera.

    Raises:
        InputError: There is no room for the objects.
    """
    for _ in range(_LAYOUTS):
        scene.objects = _place_objects(rng, scene, count, sample, reach)
        if len(scene.objects) == count:
            return
    raise InputError(
        f"seed {scene.seed} of {scene.split}: no room for {count} objects in {_LAYOUTS} layouts; use fewer objects"
    )


def _place_objects(
    rng: np.random.Generator,
    scene: Scene,
    count: int,
    sample: Callable[[int, int], SceneObject],
    reach: tuple[float, float],
) -> list[SceneObject]:
    """Return up to `count` objects, placed one after another at random places; fewer if the table is full."""
    placed: list[SceneObject] = []
    taken: list[Array] = []
    next_part = 1
    for _ in range(6 * count):
        if len(placed) == count:
            break
        candidate = sample(len(placed) + 1, next_part)
        low, high = _bounds(candidate.solids, candidate.rotation)
        for _ in range(_TRIES):
            yaw = _sample_yaw(rng, scene.camera, candidate)
            right, away = rng.uniform(-reach[0], reach[0]), rng.uniform(-reach[1], reach[1])
            view = np.radians(scene.camera.azimuth)
            x = right * sin(view) + away * cos(view) + scene.camera.lookat[0]
            y = -right * cos(view) + away * sin(view) + scene.camera.lookat[1]
            footprint = footprint_corners(low, high, yaw, (x, y))
            if not _in_image(scene.camera, footprint, high[2] - low[2]):
                continue
            if any(rectangles_overlap(footprint, other) for other in taken):
                continue
            candidate.rotation = rotation_z(yaw) @ candidate.rotation
            candidate.position = np.array([x, y, -low[2]])
            placed.append(candidate)
            taken.append(footprint)
            next_part += len(candidate.parts)
            break
    return placed


def _sample_object(rng: np.random.Generator, scene: Scene, instance_id: int, first_part: int) -> SceneObject:
    """Return an object at the origin, upright or lying, without yaw."""
    while True:
        category = str(rng.choice(list(catalog.CLASSES)))
        color = str(rng.choice(list(catalog.COLORS)))
        if scene.split != "train" or (color, category) not in catalog.HELD_OUT:
            break
    size = str(rng.choice(list(catalog.SIZES)))
    kind = catalog.CLASSES[category]
    scale = catalog.SIZES[size] * rng.uniform(0.95, 1.05)
    body = _jitter(rng, catalog.COLORS[color], 0.025)
    parts = [Part(first_part + i, name) for i, name in enumerate(kind.parts)]
    part_ids = {part.name: part.part_id for part in parts}
    solids = [
        Solid(
            geom.shape,
            geom.position * scale,
            geom.rotation,
            (geom.size[0] * scale, geom.size[1] * scale, geom.size[2] * scale),
            catalog.paint_rgb(geom.paint, body),
            geom.paint in catalog.GLOSSY,
            part_ids.get(geom.part, 0),
        )
        for geom in kind.build(rng)
    ]
    lying = kind.lies_down and rng.random() < 0.35
    # Lying: roll the object about its z axis, then make this axis horizontal.
    rotation = axis_rotation((1.0, 0.0, 0.0)) @ rotation_z(rng.uniform(0, 2 * pi)) if lying else np.eye(3)
    low, high = _bounds(solids, np.eye(3))
    middle = (low + high) / 2
    return SceneObject(instance_id, category, color, size, parts, solids, np.zeros(3), rotation, middle, lying)


def _sample_yaw(rng: np.random.Generator, camera: Camera, obj: SceneObject) -> float:
    kind = catalog.CLASSES.get(obj.category)
    if kind is not None and not obj.model and kind.facing:
        return float(np.radians(camera.azimuth) + pi + rng.uniform(-0.8, 0.8))
    return float(rng.uniform(0, 2 * pi))


def _sample_camera(rng: np.random.Generator) -> Camera:
    fovy = float(rng.uniform(30, 42))
    # Pixels per meter at the lookat point in an image of 240 rows, so that object sizes do not depend on fovy.
    zoom = rng.uniform(310, 365)
    distance = 120 / tan(np.radians(fovy) / 2) / zoom
    return Camera(
        azimuth=float(rng.uniform(0, 360)),
        elevation=float(rng.uniform(26, 52)),
        distance=float(distance),
        fovy=fovy,
        lookat=(float(rng.uniform(-0.05, 0.05)), float(rng.uniform(-0.05, 0.05)), 0.05),
    )


def _sample_light(rng: np.random.Generator, camera: Camera) -> Light:
    azimuth = float(np.radians(camera.azimuth) + rng.uniform(-2.0, 2.0))
    elevation = float(np.radians(rng.uniform(42, 75)))
    direction = (cos(azimuth) * cos(elevation), sin(azimuth) * cos(elevation), -sin(elevation))
    diffuse, ambient = rng.uniform(0.50, 0.75), rng.uniform(0.30, 0.42)
    warmth = rng.uniform(-0.04, 0.04)
    tint = np.array([1 + warmth, 1.0, 1 - warmth])
    return Light(direction, _rgb(diffuse * tint), _rgb(ambient * np.ones(3)))


def _pick(rng: np.random.Generator, choices: tuple[RGB, ...]) -> RGB:
    return choices[int(rng.integers(len(choices)))]


def _jitter(rng: np.random.Generator, rgb: RGB, amount: float) -> RGB:
    """Return a color with random changes of brightness and tint, within 0..1."""
    base = np.asarray(rgb) * rng.uniform(1 - 2 * amount, 1 + 2 * amount)
    return _rgb(np.clip(base + rng.uniform(-amount, amount, 3) * np.asarray(rgb), 0.02, 1.0))


def _rgb(values: Array) -> RGB:
    return (float(values[0]), float(values[1]), float(values[2]))


def _half_extents(solid: Solid, rotation: Array) -> Array:
    """Return the half extents float64 [3] of a primitive along the world axes."""
    axes = rotation @ solid.rotation
    radius, half, level = solid.size[0], solid.size[1], np.abs(axes[:, 2])
    extents: Array
    if solid.shape in ("box", "mesh"):
        extents = np.abs(axes) @ np.asarray(solid.size)
    elif solid.shape in ("sphere", "ellipsoid"):
        extents = np.sqrt((axes * np.asarray(solid.size)) ** 2 @ np.ones(3))
    elif solid.shape == "capsule":
        extents = radius + half * level
    else:
        extents = radius * np.sqrt(np.maximum(0.0, 1 - level**2)) + half * level
    return extents


def _bounds(solids: list[Solid], rotation: Array) -> tuple[Array, Array]:
    """Return the lowest and highest coordinates, float64 [3] each, of rotated solids of an object."""
    centers = np.array([rotation @ solid.position for solid in solids])
    halves = np.array([_half_extents(solid, rotation) for solid in solids])
    return (centers - halves).min(axis=0), (centers + halves).max(axis=0)


def _in_image(camera: Camera, footprint: Array, height: float) -> bool:
    """Return whether a bounding box is inside the image, with a small tolerance so that edges cut some objects."""
    bottom = np.concatenate([footprint, np.zeros((4, 1))], axis=1)
    top = np.concatenate([footprint, np.full((4, 1), height)], axis=1)
    uvz = project(camera, np.concatenate([bottom, top]), 1, 1)
    # In a unit square image, u has the unit of v: the left and right edges are at +-aspect / 2.
    u, v = uvz[:, 0] - 0.5, uvz[:, 1] - 0.5
    if uvz[:, 2].min() < _CLOSEST:
        return False
    return bool(np.abs(u).max() < 1.05 * _ASPECT / 2 and np.abs(v).max() < 0.53)
