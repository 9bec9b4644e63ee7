"""Seeded tabletop scenes as plain data: which objects stand where, under which light, seen by which camera."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import cos, pi, sin, tan

import numpy as np

from osprey_sim import catalog
from osprey_sim.catalog import RGB
from osprey_sim.shapes import axis_rotation, rotation_z

# A seed is drawn together with its split's number, so equal seeds of two splits give unrelated scenes.
SPLITS: dict[str, int] = {"train": 0, "validation": 1, "test": 2}
MAX_OBJECTS = 16

_ASPECT = 4 / 3  # objects are laid out for a 4:3 picture; other pictures show more or less of the sides
_GAP = 0.008  # metres left free between two footprints
_TRIES = 30  # places tried for one object
_LAYOUTS = 50  # layouts begun before giving up; the first nearly always succeeds


@dataclass(frozen=True)
class Camera:
    """A pinhole camera that looks at a point. Degrees and metres; fovy is the vertical field of view."""

    azimuth: float
    elevation: float
    distance: float
    fovy: float
    lookat: tuple[float, float, float]


@dataclass(frozen=True)
class Light:
    """One lamp that casts shadows along `direction`, over ambient light. Intensities are RGB in 0..1."""

    direction: tuple[float, float, float]
    diffuse: RGB
    ambient: RGB


@dataclass(frozen=True)
class Table:
    """The table top, the plane z = 0. `kind` names its look in words; `rotation` turns its pattern (radians)."""

    kind: str
    rgb: RGB
    rotation: float


@dataclass(frozen=True)
class Wall:
    """The wall behind the table: distance in metres from the camera's lookat point, yaw in radians against the view."""

    rgb: RGB
    distance: float
    yaw: float


@dataclass(frozen=True)
class Solid:
    """One primitive of an object in the object's frame, at its true size. part_id is 0 outside of named parts."""

    shape: str
    position: np.ndarray
    rotation: np.ndarray
    size: tuple[float, float, float]
    rgb: RGB
    glossy: bool
    part_id: int


@dataclass(frozen=True)
class Part:
    """A named part of an object. part_id is unique in the scene and begins with 1."""

    part_id: int
    name: str


@dataclass
class SceneObject:
    """One object: what it is, and where.

    position: float64 [3] metres, where the origin of the object's frame lies in the world.
    rotation: float64 [3, 3], object frame to world.
    middle: float64 [3] metres, the middle of the object's bounding box in its own frame.
    """

    instance_id: int
    category: str
    colour: str
    size: str
    parts: list[Part]
    solids: list[Solid]
    position: np.ndarray
    rotation: np.ndarray
    middle: np.ndarray
    lying: bool = False


@dataclass
class Scene:
    """Everything that a picture depends on. Change the camera or an object's pose to see the same scene otherwise."""

    seed: int
    split: str
    camera: Camera
    light: Light
    table: Table
    wall: Wall
    objects: list[SceneObject] = field(default_factory=list)

    def object(self, instance_id: int) -> SceneObject:
        """The object with this instance id; KeyError if there is none."""
        for candidate in self.objects:
            if candidate.instance_id == instance_id:
                return candidate
        raise KeyError(f"no object with instance id {instance_id} in this scene of {len(self.objects)} objects")


def camera_pose(camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """Position float64 [3] of the camera and its rotation float64 [3, 3] to the world, columns right, down, forward."""
    azimuth, elevation = np.radians(camera.azimuth), np.radians(camera.elevation)
    forward = np.array([cos(azimuth) * cos(elevation), sin(azimuth) * cos(elevation), -sin(elevation)])
    right = np.array([sin(azimuth), -cos(azimuth), 0.0])
    position = np.asarray(camera.lookat, dtype=np.float64) - camera.distance * forward
    return position, np.stack([right, np.cross(forward, right), forward], axis=1)


def camera_matrix(camera: Camera, width: int, height: int) -> np.ndarray:
    """Intrinsic matrix float64 [3, 3] for a picture of width x height with square pixels; pixel centres at +0.5."""
    focal = height / 2 / tan(np.radians(camera.fovy) / 2)
    return np.array([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])


def project(camera: Camera, points: np.ndarray, width: int, height: int) -> np.ndarray:
    """World points [N, 3] to pixels and depth: float64 [N, 3] with columns u, v (pixels) and z (metres)."""
    position, rotation = camera_pose(camera)
    local = (np.asarray(points, dtype=np.float64) - position) @ rotation
    uv = (local @ camera_matrix(camera, width, height).T)[:, :2] / local[:, 2:]
    return np.concatenate([uv, local[:, 2:]], axis=1)


def object_center(obj: SceneObject) -> np.ndarray:
    """Middle float64 [3] of the object in the world."""
    return obj.position + obj.rotation @ obj.middle


def object_extents(obj: SceneObject, in_world: bool = False) -> np.ndarray:
    """Return the extents float64 [3] in meters of an object's bounding box along its own axes or the world's."""
    low, high = _bounds(obj.solids, obj.rotation if in_world else np.eye(3))
    return high - low


def sample_scene(seed: int, split: str, objects: tuple[int, int] = (4, 9)) -> Scene:
    """The scene of this seed and split, with a number of objects drawn from `objects` (both ends included, 1 to 16).

    Same arguments, same scene. Scenes of "train" have no (colour, class) pair of catalog.HELD_OUT.
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; use one of {', '.join(SPLITS)}")
    if seed < 0:
        raise ValueError(f"seed is {seed}; use a number from 0 up")
    low, high = objects
    if not 1 <= low <= high <= MAX_OBJECTS:
        raise ValueError(f"objects is {objects}; use (low, high) with 1 <= low <= high <= {MAX_OBJECTS}")
    rng = np.random.default_rng([SPLITS[split], seed])
    camera = _sample_camera(rng)
    light = _sample_light(rng, camera)
    kind = str(rng.choice(list(catalog.TABLES)))
    table = Table(kind, _jitter(rng, _pick(rng, catalog.TABLES[kind]), 0.04), float(rng.uniform(0, pi)))
    wall = Wall(
        _jitter(rng, _pick(rng, catalog.WALLS), 0.05), float(rng.uniform(0.75, 1.2)), float(rng.uniform(-0.4, 0.4))
    )
    scene = Scene(seed, split, camera, light, table, wall)
    count = int(rng.integers(low, high + 1))
    for _ in range(_LAYOUTS):
        scene.objects = _place_objects(rng, scene, count)
        if len(scene.objects) == count:
            return scene
    raise RuntimeError(f"seed {seed} of {split}: no room for {count} objects in {_LAYOUTS} layouts; use fewer objects")


def _place_objects(rng: np.random.Generator, scene: Scene, count: int) -> list[SceneObject]:
    """Up to `count` objects, one after another, each tried at many places; fewer where the table is full."""
    placed: list[SceneObject] = []
    taken: list[np.ndarray] = []
    next_part = 1
    for _ in range(6 * count):
        if len(placed) == count:
            break
        candidate = _sample_object(rng, scene, len(placed) + 1, next_part)
        low, high = _bounds(candidate.solids, candidate.rotation)
        for _ in range(_TRIES):
            yaw = _sample_yaw(rng, scene.camera, candidate)
            right, away = rng.uniform(-0.50, 0.50), rng.uniform(-0.42, 0.42)
            view = np.radians(scene.camera.azimuth)
            x = right * sin(view) + away * cos(view) + scene.camera.lookat[0]
            y = -right * cos(view) + away * sin(view) + scene.camera.lookat[1]
            footprint = _corners(low, high, yaw, (x, y))
            if not _in_picture(scene.camera, footprint, high[2] - low[2]):
                continue
            if any(_overlap(footprint, other) for other in taken):
                continue
            candidate.rotation = rotation_z(yaw) @ candidate.rotation
            candidate.position = np.array([x, y, -low[2]])
            placed.append(candidate)
            taken.append(footprint)
            next_part += len(candidate.parts)
            break
    return placed


def _sample_object(rng: np.random.Generator, scene: Scene, instance_id: int, first_part: int) -> SceneObject:
    """An object at the origin, upright or lying, not yet turned."""
    while True:
        category = str(rng.choice(list(catalog.CLASSES)))
        colour = str(rng.choice(list(catalog.COLOURS)))
        if scene.split != "train" or (colour, category) not in catalog.HELD_OUT:
            break
    size = str(rng.choice(list(catalog.SIZES)))
    kind = catalog.CLASSES[category]
    scale = catalog.SIZES[size] * rng.uniform(0.95, 1.05)
    body = _jitter(rng, catalog.COLOURS[colour], 0.025)
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
    # Lying: the object's z axis becomes level, after a roll about it.
    rotation = axis_rotation((1.0, 0.0, 0.0)) @ rotation_z(rng.uniform(0, 2 * pi)) if lying else np.eye(3)
    low, high = _bounds(solids, np.eye(3))
    middle = (low + high) / 2
    return SceneObject(instance_id, category, colour, size, parts, solids, np.zeros(3), rotation, middle, lying)


def _sample_yaw(rng: np.random.Generator, camera: Camera, obj: SceneObject) -> float:
    if catalog.CLASSES[obj.category].facing:
        return float(np.radians(camera.azimuth) + pi + rng.uniform(-0.8, 0.8))
    return float(rng.uniform(0, 2 * pi))


def _sample_camera(rng: np.random.Generator) -> Camera:
    fovy = float(rng.uniform(30, 42))
    # Pixels per metre at the lookat point in a picture of 240 rows: how large objects look, whatever the field of view.
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
    azimuth = np.radians(camera.azimuth) + rng.uniform(-2.0, 2.0)
    elevation = np.radians(rng.uniform(42, 75))
    direction = (cos(azimuth) * cos(elevation), sin(azimuth) * cos(elevation), -sin(elevation))
    diffuse, ambient = rng.uniform(0.50, 0.75), rng.uniform(0.30, 0.42)
    warmth = rng.uniform(-0.04, 0.04)
    tint = np.array([1 + warmth, 1.0, 1 - warmth])
    return Light(tuple(map(float, direction)), _rgb(diffuse * tint), _rgb(ambient * np.ones(3)))


def _pick(rng: np.random.Generator, choices: tuple[RGB, ...]) -> RGB:
    return choices[int(rng.integers(len(choices)))]


def _jitter(rng: np.random.Generator, rgb: RGB, amount: float) -> RGB:
    """A slightly brighter or darker, slightly shifted colour, inside 0..1."""
    base = np.asarray(rgb) * rng.uniform(1 - 2 * amount, 1 + 2 * amount)
    return _rgb(np.clip(base + rng.uniform(-amount, amount, 3) * np.asarray(rgb), 0.02, 1.0))


def _rgb(values: np.ndarray) -> RGB:
    return (float(values[0]), float(values[1]), float(values[2]))


def _reach(solid: Solid, rotation: np.ndarray) -> np.ndarray:
    """How far a primitive extends from its own centre along each axis of the world, float64 [3]."""
    axes = rotation @ solid.rotation
    if solid.shape == "box":
        return np.abs(axes) @ np.asarray(solid.size)
    if solid.shape in ("sphere", "ellipsoid"):
        return np.sqrt((axes * np.asarray(solid.size)) ** 2 @ np.ones(3))
    radius, half, level = solid.size[0], solid.size[1], np.abs(axes[:, 2])
    if solid.shape == "capsule":
        return radius + half * level
    return radius * np.sqrt(np.maximum(0.0, 1 - level**2)) + half * level


def _bounds(solids: list[Solid], rotation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest coordinates float64 [3] of turned solids around their object's origin."""
    centers = np.array([rotation @ solid.position for solid in solids])
    reach = np.array([_reach(solid, rotation) for solid in solids])
    return (centers - reach).min(axis=0), (centers + reach).max(axis=0)


def _corners(low: np.ndarray, high: np.ndarray, yaw: float, at: tuple[float, float]) -> np.ndarray:
    """Corners [4, 2] on the table of a bounding box, widened by half the gap, turned by yaw and moved to `at`."""
    x0, y0, x1, y1 = low[0] - _GAP / 2, low[1] - _GAP / 2, high[0] + _GAP / 2, high[1] + _GAP / 2
    corners = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
    return corners @ rotation_z(yaw)[:2, :2].T + np.asarray(at)


def _overlap(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two rectangles [4, 2] overlap: no side of either separates them."""
    for corners in (a, b):
        for edge in (corners[1] - corners[0], corners[2] - corners[1]):
            pa, pb = a @ edge, b @ edge
            if pa.max() < pb.min() or pb.max() < pa.min():
                return False
    return True


def _in_picture(camera: Camera, footprint: np.ndarray, height: float) -> bool:
    """Whether the bounding box is inside the picture, but for a small margin that lets edges cut a few objects."""
    bottom = np.concatenate([footprint, np.zeros((4, 1))], axis=1)
    top = np.concatenate([footprint, np.full((4, 1), height)], axis=1)
    uvz = project(camera, np.concatenate([bottom, top]), 1, 1)
    # With a unit square picture, u spans the height too; the picture's true left and right are aspect / 2 away.
    u, v = uvz[:, 0] - 0.5, uvz[:, 1] - 0.5
    return bool(np.abs(u).max() < 1.05 * _ASPECT / 2 and np.abs(v).max() < 0.53)
