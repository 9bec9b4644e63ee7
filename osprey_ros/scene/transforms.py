"""Transforms between coordinate frames over time, as tf2 has them: kept, interpolated and chained. Pure numpy.

A frame has one parent. The pose of a child in its parent at a stamp lies between the two stored poses around it: the
translation is interpolated linearly, the rotation spherically (Shoemake, SIGGRAPH 1985).
"""

from __future__ import annotations

import threading
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from osprey_ros.errors import OspreyError

KEPT = 10_000_000_000  # nanoseconds of moving transforms that are kept, as tf2 does
_MOST_FRAMES = 1000  # frames of a tree; more come from a publisher that makes up names
_MOST_STEPS = 64  # from a frame to the root; more are a loop
_NANOSECONDS = 1_000_000_000


class TransformError(OspreyError):
    """A transform is not known. `late` says whether it may still come."""

    def __init__(self, message: str, late: bool) -> None:
        super().__init__(message)
        self.late = late


@dataclass(frozen=True)
class Transform:
    """A rigid motion: a point of the source frame is ``rotation @ point + translation`` in the target frame.

    Attributes:
        rotation: float64 [3, 3].
        translation: float64 [3], meters.
    """

    rotation: np.ndarray = field(default_factory=lambda: np.eye(3))
    translation: np.ndarray = field(default_factory=lambda: np.zeros(3))

    @classmethod
    def of(cls, translation: Sequence[float], quaternion: Sequence[float]) -> Transform:
        """Return the transform of a translation in meters and a quaternion x, y, z, w of any length above 0.

        Raises TransformError for numbers that are not finite, and for a quaternion of zeros.
        """
        moved, turned = np.asarray(translation, np.float64), np.asarray(quaternion, np.float64)
        length = float(np.linalg.norm(turned))
        if not (np.isfinite(moved).all() and np.isfinite(length) and length > 1e-6):
            raise TransformError(f"the transform {[*moved, *turned]} is no rotation and translation", late=False)
        return cls(_matrix(turned / length), moved)

    def apply(self, points: np.ndarray) -> np.ndarray:
        """Return points, float64 [..., 3], of the source frame in the target frame."""
        result: np.ndarray = points @ self.rotation.T + self.translation
        return result

    def after(self, first: Transform) -> Transform:
        """Return the motion of ``first`` followed by this one."""
        return Transform(self.rotation @ first.rotation, self.apply(first.translation))

    def inverse(self) -> Transform:
        """Return the motion from the target frame to the source frame."""
        return Transform(self.rotation.T, -self.rotation.T @ self.translation)


@dataclass
class _Child:
    """A frame in its parent: poses by stamp, translation and quaternion. A static one has one pose for all stamps."""

    parent: str
    static: bool
    stamps: list[int] = field(default_factory=list)
    poses: dict[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)


class TransformBuffer:
    """The latest transforms of all frames. Thread-safe."""

    def __init__(self) -> None:
        self._children: dict[str, _Child] = {}
        self._changed = threading.Condition()

    def add(
        self,
        parent: str,
        child: str,
        stamp: int,
        translation: Sequence[float],
        quaternion: Sequence[float],
        static: bool = False,
    ) -> None:
        """Keep the pose of a frame in its parent: meters, and a quaternion x, y, z, w. ``stamp`` is in nanoseconds.

        A jump of the clock back by more than what is kept removes the old poses. Raises TransformError for numbers that
        are no pose, for a frame in itself and for too many frames.
        """
        parent, child = parent.lstrip("/"), child.lstrip("/")
        if not parent or not child or parent == child:
            raise TransformError(f"a transform from {child!r} to {parent!r} is not between two frames", late=False)
        pose = Transform.of(translation, quaternion)  # checks
        turned = np.asarray(quaternion, np.float64)
        with self._changed:
            if child not in self._children and len(self._children) >= _MOST_FRAMES:
                raise TransformError(f"there are more than {_MOST_FRAMES} frames; {child!r} is left out", late=False)
            entry = self._children.get(child)
            if entry is None or entry.parent != parent or entry.static != static:
                entry = self._children[child] = _Child(parent, static)
            if static or (entry.stamps and stamp < entry.stamps[-1] - KEPT):
                entry.stamps.clear()
                entry.poses.clear()
            if stamp not in entry.poses:
                insort(entry.stamps, stamp)
            entry.poses[stamp] = (pose.translation, turned / np.linalg.norm(turned))
            while entry.stamps[0] < entry.stamps[-1] - KEPT:
                del entry.poses[entry.stamps.pop(0)]
            self._changed.notify_all()

    def clear(self) -> None:
        """Forget all transforms."""
        with self._changed:
            self._children.clear()

    def lookup(self, target: str, source: str, stamp: int) -> Transform:
        """Return the transform from one frame to another at a stamp in nanoseconds.

        Raises TransformError, which says what is missing and whether it may still come.
        """
        target, source = target.lstrip("/"), source.lstrip("/")
        with self._changed:
            return self._lookup(target, source, stamp)

    def wait(self, target: str, source: str, stamp: int, seconds: float) -> Transform:
        """As `lookup`; wait up to this many seconds for a transform that may still come."""
        found: list[Transform | TransformError] = []

        def known() -> bool:
            try:
                found[:] = [self._lookup(target.lstrip("/"), source.lstrip("/"), stamp)]
            except TransformError as error:
                found[:] = [error]
                return not error.late
            return True

        with self._changed:
            self._changed.wait_for(known, seconds)
        if isinstance(found[0], TransformError):
            raise found[0]
        return found[0]

    def _lookup(self, target: str, source: str, stamp: int) -> Transform:
        up, down = self._chain(source), self._chain(target)
        common = next((name for name in up if name in down), None)
        if common is None:
            unknown = [name for name in (source, target) if name not in self._children and name not in self._parents()]
            if unknown:
                raise TransformError(f"no transform of the frame {unknown[0]!r} has arrived", late=True)
            raise TransformError(
                f"the frames {source!r} and {target!r} are not connected: they lie below {up[-1]!r} and {down[-1]!r}",
                late=True,
            )
        to_common, from_common = Transform(), Transform()
        for name in up[: up.index(common)]:
            to_common = self._pose(name, stamp).after(to_common)
        for name in down[: down.index(common)]:
            from_common = self._pose(name, stamp).after(from_common)
        return from_common.inverse().after(to_common)

    def _parents(self) -> set[str]:
        return {child.parent for child in self._children.values()}

    def _chain(self, name: str) -> list[str]:
        """Return a frame and all above it, the root last. Raises TransformError for a loop."""
        chain = [name]
        while chain[-1] in self._children:
            chain.append(self._children[chain[-1]].parent)
            if len(chain) > _MOST_STEPS or chain[-1] in chain[:-1]:
                raise TransformError(f"the transforms above the frame {name!r} form a loop", late=False)
        return chain

    def _pose(self, name: str, stamp: int) -> Transform:
        """Return the pose of a frame in its parent."""
        child = self._children[name]
        if child.static:
            translation, quaternion = child.poses[child.stamps[0]]
            return Transform(_matrix(quaternion), translation)
        first, last = child.stamps[0], child.stamps[-1]
        if stamp > last:
            behind = (stamp - last) / _NANOSECONDS
            raise TransformError(
                f"the latest transform from {name!r} to {child.parent!r} is {behind:.3f} s older than the image",
                late=True,
            )
        if stamp < first:
            ahead = (first - stamp) / _NANOSECONDS
            raise TransformError(
                f"the image is {ahead:.3f} s older than all transforms from {name!r} to {child.parent!r} that are kept",
                late=False,
            )
        after = bisect_left(child.stamps, stamp)
        if child.stamps[after] == stamp:
            translation, quaternion = child.poses[stamp]
            return Transform(_matrix(quaternion), translation)
        before, behind_stamp = child.stamps[after - 1], child.stamps[after]
        share = (stamp - before) / (behind_stamp - before)
        (t0, q0), (t1, q1) = child.poses[before], child.poses[behind_stamp]
        return Transform(_matrix(_slerp(q0, q1, share)), t0 + share * (t1 - t0))


def _matrix(quaternion: np.ndarray) -> np.ndarray:
    """Return the rotation, float64 [3, 3], of a unit quaternion x, y, z, w."""
    x, y, z, w = quaternion
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def _slerp(first: np.ndarray, second: np.ndarray, share: float) -> np.ndarray:
    """Return the unit quaternion at a share, 0 to 1, of the shorter way from one to another."""
    cosine = float(first @ second)
    if cosine < 0:
        second, cosine = -second, -cosine
    if cosine > 0.9995:  # the angle is too small to divide by its sine
        mixed = first + share * (second - first)
    else:
        angle = np.arccos(cosine)
        mixed = (np.sin((1 - share) * angle) * first + np.sin(share * angle) * second) / np.sin(angle)
    result: np.ndarray = mixed / np.linalg.norm(mixed)
    return result
