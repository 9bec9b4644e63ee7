"""Sample seeded sequences of a scene with a moving camera and events that are difficult for a tracker.

The camera orbits, pans and shakes. Objects occlude one another. One object slides, one is removed and put back, and two
with the same appearance change places. Regions have new numbers in each frame, and some are missing in some frames.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from osprey_ros.errors import InputError
from osprey_sim.render import Frame, Renderer
from osprey_sim.scene import Camera, Scene, SceneObject, Wall, sample_scene
from osprey_sim.shapes import Array

_MAX_REGION_ID = 250  # region numbers are random, 1 to this
_LIFTED = 0.9  # meters above the table, outside of each image
_LIFT_SECONDS = 0.8


@dataclass(frozen=True)
class SequenceSettings:
    """Length, camera motion and events of a sequence.

    Attributes:
        frames: Number of frames.
        rate: Frames per second.
        objects: Least and greatest number of objects, at least 4.
        orbit: Amplitude of the azimuth in degrees.
        pan: Amplitude of the lookat point in meters.
        shake: Standard deviation of the lookat point in meters.
        missing: Share of frames in which a region is missing, for one to four consecutive frames.
        events: Whether objects move, not only the camera.
        renumber: Whether regions have random numbers; otherwise the numbers are instance ids.
    """

    frames: int = 150
    rate: float = 10.0
    objects: tuple[int, int] = (8, 12)
    orbit: float = 22.0
    pan: float = 0.12
    shake: float = 0.002
    missing: float = 0.05
    events: bool = True
    renumber: bool = True


@dataclass(frozen=True)
class SequenceFrame:
    """A frame of a sequence.

    Attributes:
        number: Index of the frame.
        stamp: Nanoseconds.
        frame: The rendered images; its instance ids are this frame's region numbers.
        truth: Instance id of the object in the scene by region number, for all regions of the frame.
        camera: Camera of the frame.
    """

    number: int
    stamp: int
    frame: Frame
    truth: dict[int, int]
    camera: Camera


class Sequence:
    """The sequence of a seed. The same arguments give the same frames.

    Attributes:
        scene: The scene before the first event.
        twins: Instance ids of the two objects with the same appearance; empty without events.
        mover: Instance id of the object that slides; 0 without events.
        leaver: Instance id of the object that is removed; 0 without events.
        away: First frame without the leaver, and the first frame in which it returns.
    """

    def __init__(self, seed: int, split: str = "test", settings: SequenceSettings | None = None) -> None:
        """Plan the sequence. Raise ValueError for invalid settings."""
        self.settings = settings = settings or SequenceSettings()
        if settings.frames < 1 or settings.rate <= 0:
            raise InputError(f"frames is {settings.frames} and rate {settings.rate}; use numbers above 0")
        if settings.objects[0] < 4:
            raise InputError(f"objects is {settings.objects}; use at least 4, which the events need")
        self.scene = sample_scene(seed, split, settings.objects)
        self._rng_seed = [seed, len(split), settings.frames]
        rng = np.random.default_rng([*self._rng_seed, 0])
        self._cameras = _cameras(rng, self.scene.camera, settings)
        self._paths: dict[int, Array] = {}
        self.twins: tuple[int, ...] = ()
        self.mover = self.leaver = 0
        self.away = (0, 0)
        if settings.events:
            self._plan_events(rng)

    def __len__(self) -> int:
        return self.settings.frames

    def frames(self, renderer: Renderer, depth: bool = True) -> Iterator[SequenceFrame]:
        """Render the frames one after another and yield them."""
        settings, rng = self.settings, np.random.default_rng([*self._rng_seed, 1])
        missing_for = {obj.instance_id: 0 for obj in self.scene.objects}
        for number in range(settings.frames):
            rendered = renderer.render(self.scene_at(number), depth=depth)
            for obj in missing_for:
                missing_for[obj] -= 1
                # Gaps last 2.5 frames on average.
                if missing_for[obj] < 0 and rng.random() < settings.missing / 2.5:
                    missing_for[obj] = int(rng.integers(1, 5)) - 1
            numbers = rng.choice(_MAX_REGION_ID, len(missing_for), replace=False) + 1
            region_of = {
                obj: int(region) if settings.renumber else obj
                for obj, region in zip(missing_for, numbers, strict=True)
                if missing_for[obj] < 0
            }
            frame = _renumbered(rendered, region_of)
            visible = {int(region) for region in np.unique(frame.instance_ids)}
            truth = {region: obj for obj, region in region_of.items() if region in visible}
            yield SequenceFrame(number, self.stamp(number), frame, truth, self._cameras[number])

    def stamp(self, number: int) -> int:
        """Return the stamp of a frame in nanoseconds. The first frame is at one second."""
        return round((1 + number / self.settings.rate) * 1e9)

    def scene_at(self, number: int) -> Scene:
        """Return the scene of a frame."""
        objects = [
            replace(obj, position=self._paths[obj.instance_id][number]) if obj.instance_id in self._paths else obj
            for obj in self.scene.objects
        ]
        camera = self._cameras[number]
        return replace(self.scene, camera=camera, wall=_fixed_wall(self.scene, camera), objects=objects)

    def _plan_events(self, rng: np.random.Generator) -> None:
        frames, objects = self.settings.frames, self.scene.objects
        # Use the objects nearest to the center, so that the events are visible.
        middle = np.asarray(self.scene.camera.lookat[:2])
        central = sorted(objects, key=lambda obj: float(np.linalg.norm(obj.position[:2] - middle)))[:5]
        order = [central[i] for i in rng.permutation(len(central))]
        first, second, mover, leaver = order[:4]
        twin = _twin(first, second)
        objects[objects.index(second)] = twin
        self.twins = (first.instance_id, twin.instance_id)
        self.mover, self.leaver = mover.instance_id, leaver.instance_id

        start, end = (int(share * frames) for share in rng.uniform((0.15, 0.5), (0.25, 0.6)))
        share = _ease(frames, start, end)[:, None]
        self._paths[first.instance_id] = _arc(first.position, twin.position, share)
        self._paths[twin.instance_id] = _arc(twin.position, first.position, share)

        heading = rng.uniform(0, 2 * np.pi)
        far = mover.position + rng.uniform(0.12, 0.25) * np.array([np.cos(heading), np.sin(heading), 0.0])
        start, end = (int(share * frames) for share in rng.uniform((0.05, 0.35), (0.15, 0.5)))
        back = _ease(frames, int(0.65 * frames), int(0.9 * frames)) * rng.uniform(0, 1)
        share = (_ease(frames, start, end) - back)[:, None]
        self._paths[mover.instance_id] = mover.position + share * (far - mover.position)

        lift = max(1, round(_LIFT_SECONDS * self.settings.rate))
        gone = int(rng.uniform(0.3, 0.45) * frames)
        returns = min(frames, gone + int(rng.uniform(0.15, 0.35) * frames))
        self.away = (gone, returns)
        up = _ease(frames, gone - lift, gone) - _ease(frames, returns, returns + lift)
        moved = np.array([*rng.uniform(-0.08, 0.08, 2), 0.0]) * (np.arange(frames) >= returns)[:, None]
        self._paths[leaver.instance_id] = leaver.position + moved + up[:, None] * np.array([0.0, 0.0, _LIFTED])


def _cameras(rng: np.random.Generator, camera: Camera, settings: SequenceSettings) -> list[Camera]:
    """Return a camera for each frame: slow waves of all its parameters, plus shake."""
    time = np.arange(settings.frames) / settings.rate

    def wave(amplitude: float) -> Array:
        """Return a sine of 10 to 15 s period, shifted so that the first frame is zero."""
        phase, period = rng.uniform(0, 2 * np.pi), rng.uniform(10, 15)
        swing = np.sin(2 * np.pi * time / period + phase) - np.sin(phase)
        scaled: Array = amplitude * swing / (1 + abs(np.sin(phase)))
        return scaled

    azimuth = camera.azimuth + wave(settings.orbit)
    elevation = np.clip(camera.elevation + wave(settings.orbit / 5), 22, 60)
    distance = camera.distance * (1 + wave(min(0.1, settings.pan)))
    shake = rng.normal(0, settings.shake, (settings.frames, 3))
    lookat = np.asarray(camera.lookat) + np.stack([wave(settings.pan), wave(settings.pan), np.zeros_like(time)], 1)
    lookat = lookat + shake
    return [
        replace(
            camera,
            azimuth=float(azimuth[n]),
            elevation=float(elevation[n]),
            distance=float(distance[n]),
            lookat=(float(lookat[n, 0]), float(lookat[n, 1]), float(lookat[n, 2])),
        )
        for n in range(settings.frames)
    ]


def _fixed_wall(scene: Scene, camera: Camera) -> Wall:
    """Return the wall, which scenes store relative to the camera, for another camera at the same place in the world."""
    yaw = np.radians(scene.camera.azimuth) + scene.wall.yaw
    away = np.array([np.cos(yaw), np.sin(yaw)])
    panned = np.subtract(camera.lookat[:2], scene.camera.lookat[:2]) @ away
    return replace(
        scene.wall, yaw=float(yaw - np.radians(camera.azimuth)), distance=float(scene.wall.distance - panned)
    )


def _twin(original: SceneObject, other: SceneObject) -> SceneObject:
    """Return a copy of an object, without part names, at the position and with the instance id of another one."""
    position = np.array([*other.position[:2], original.position[2]])
    solids = [replace(solid, part_id=0) for solid in original.solids]
    return replace(copy.deepcopy(original), instance_id=other.instance_id, parts=[], solids=solids, position=position)


def _ease(frames: int, start: int, end: int) -> Array:
    """Return float64 [frames]: 0 until the frame ``start``, 1 from ``end`` on, smooth between."""
    share = np.clip((np.arange(frames) - start) / max(1, end - start), 0, 1)
    return share * share * (3 - 2 * share)


def _arc(here: Array, there: Array, share: Array) -> Array:
    """Return positions float64 [frames, 3] on a curve to the left of the straight line, by a quarter of its length.

    Two objects that change places do not collide on such curves.
    """
    way = there - here
    aside = 0.25 * np.array([-way[1], way[0], 0.0])
    return here + share * way + np.sin(np.pi * share) * aside


def _renumbered(frame: Frame, region_of: dict[int, int]) -> Frame:
    """Return the frame with other instance ids. Objects without one become background."""
    table = np.zeros(int(frame.instance_ids.max()) + 1, np.uint16)
    for obj, region in region_of.items():
        if obj < len(table):
            table[obj] = region
    ids = table[frame.instance_ids]
    parts = {part: (region_of[obj], name) for part, (obj, name) in frame.parts.items() if obj in region_of}
    return replace(frame, instance_ids=ids, part_ids=np.where(ids > 0, frame.part_ids, 0), parts=parts)
