"""Which region is which object over time: objects keep a track id of their own, however the segmentation numbers them.

A region is given to the track that it fits best in looks (the mask token, seen from the mean of all objects) and in
place (in the picture after the camera's motion and, with depth, in space). Looks alone find again what left and came
back; place tells apart what looks the same. The segmentation's ids are not used.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from osprey_ros.errors import InputError
from osprey_ros.regions.regions import Regions
from osprey_ros.scene import association
from osprey_ros.scene.camera_motion import NO_MOTION, Motion, camera_motion
from osprey_ros.scene.tracks import LiveTrack, TrackArrays

_LONG_AGO = 40  # missed frames that a restored track counts for: its place in the picture says little
_MAP_PATIENCE = 10  # frames in which the camera's place in the map is not found before the map is begun anew

# Of the distance to the camera: an object's position is the middle of what is seen of it, which changes with the view.
_SPREAD_IN_SPACE = 0.1  # how far off its place an object counts as near
_FIT_IN_SPACE = 0.06  # how far off it may be to tell where the camera is
_LOOKS_RATE, _AREA_RATE, _POSITION_RATE = 0.2, 0.1, 0.3  # of the newest in running means


@dataclass(frozen=True)
class Detections:
    """The regions of one frame, as the tracker sees them.

    Attributes:
        ids: int [N], the segmentation's.
        boxes: [N, 4], x, y, width, height in pixels.
        areas: int [N], in pixels.
        appearance: float32 [N, D], the mask tokens.
        positions: float64 [N, 3], metres in the camera's optical frame, nan where unknown; None without depth.
        masks: the regions themselves, in the same order.
    """

    ids: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    appearance: np.ndarray
    positions: np.ndarray | None
    masks: Regions

    @classmethod
    def of(cls, regions: Regions, appearance: np.ndarray, positions: np.ndarray | None = None) -> Detections:
        """Of regions, with their mask tokens and, where depth is, their positions."""
        return cls(regions.ids, regions.boxes, regions.areas, appearance, positions, regions)


@dataclass(frozen=True)
class TrackerSettings:
    """What counts as the same object.

    A track and a region are scored by the cosine of their looks as seen from the mean of all objects, plus
    ``place_gain`` where they are in the same place, less ``place_penalty`` where they are not; both fade with the
    frames in which the track was not seen. The looks of one object in frames of a moving camera have a cosine above
    0.9 (median) and those of different ones of about 0, 0.6 in one pair of a hundred (nano, simulated tabletop).

    Attributes:
        same: the least score. A track that is where the region is may look so much less alike.
        place_gain, place_penalty: see above.
        gain_fades, penalty_fades: missed frames after which they are down to a third; the gain of a place in space
            stays.
        young: frames for which a track just begun may turn out to be an older one that came back, by a cosine of
            ``same`` and more.
    """

    same: float = 0.6
    place_gain: float = 0.5
    place_penalty: float = 0.2
    gain_fades: float = 40.0
    penalty_fades: float = 8.0
    young: int = 10


@dataclass(frozen=True)
class Track:
    """An object as it was known before, for `Tracker.restore`.

    appearance: float32 [D]. box: x, y, width, height in pixels. position: metres, in a frame that the tracks have in
    common; None where unknown. last_seen: the stamp of a frame.
    """

    track_id: int
    appearance: np.ndarray
    box: tuple[float, float, float, float]
    position: tuple[float, float, float] | None
    last_seen: int


class Tracker:
    """Gives regions the ids of tracks, frame by frame. Use it from one thread at a time.

    It remembers all tracks until it is told to forget them.
    """

    def __init__(self, settings: TrackerSettings | None = None) -> None:
        self.settings = settings or TrackerSettings()
        self.next_id = 1
        self.replaced: dict[int, int] = {}
        """Of the latest update: tracks, just begun, that turned out to be older ones, which took their place."""
        self._tracks: dict[int, LiveTrack] = {}
        self._updates = 0
        self._gray: np.ndarray | None = None
        self._foreground: np.ndarray | None = None
        self._shape: tuple[int, int] | None = None  # of the picture in whose pixels the tracks' boxes are
        self._lost_in_map = 0  # updates since the camera's place in the map was known

    def __len__(self) -> int:
        return len(self._tracks)

    def update(self, stamp: int, detections: Detections, gray: np.ndarray | None = None) -> np.ndarray:
        """The track ids of a frame's regions, int64 [N], all different; new objects get new ids, never used before.

        ``gray`` is the frame's small picture (`camera_motion.small_gray`): with it the camera's motion is known.
        Raises InputError for arrays that do not belong together, and for mask tokens of another model than before.
        """
        self._check(detections)
        self._updates += 1
        self.replaced = {}
        motion = self._moved(gray, detections.masks)
        count = len(detections.ids)
        given = np.zeros(count, np.int64)
        boxes = np.asarray(detections.boxes, np.float64)
        looks = np.asarray(detections.appearance, np.float32)
        in_map = np.full((count, 3), np.nan)
        if self._tracks and count:
            tracks = TrackArrays(self._tracks, self._updates)
            rows, columns, cosines, in_map = self._matched(tracks, boxes, looks, motion, detections.positions)
            given[columns] = tracks.ids[rows]
            self._recognise(tracks, rows, columns, cosines, given)
        elif detections.positions is not None and not self._tracks:
            in_map = detections.positions.astype(np.float64)
        for row in range(count):
            if not given[row]:
                given[row] = self._begin(stamp, boxes[row], looks[row], float(detections.areas[row]))
            track = self._tracks[int(given[row])]
            self._see(track, stamp, boxes[row], looks[row], float(detections.areas[row]), in_map[row])
        return given

    def see_nothing(self, gray: np.ndarray | None = None) -> None:
        """Takes a frame in which there is no region, so that the camera's motion is known throughout."""
        self._updates += 1
        self.replaced = {}
        motion = self._moved(gray, None)
        if self._tracks:
            TrackArrays(self._tracks, self._updates).move(motion.matrix)

    def forget(self, track_ids: Iterable[int]) -> None:
        """Forgets tracks; ids that there are none of are passed over. What returns is then a new object."""
        for track in track_ids:
            self._tracks.pop(int(track), None)

    def restore(self, tracks: Sequence[Track], next_id: int = 1) -> None:
        """Takes the place of all tracks; ids of new ones begin at ``next_id`` or above all that are restored.

        Where the camera is now is not known: objects are recognised by their looks first. Raises InputError for an
        id that comes twice or is below 1.
        """
        ids = [track.track_id for track in tracks]
        if len(set(ids)) != len(ids) or min(ids, default=1) < 1:
            raise InputError(f"track ids must be different numbers from 1 up, not {sorted(ids)}")
        self._tracks = {
            track.track_id: LiveTrack(
                looks=np.array(track.appearance, np.float32),
                latest=np.array(track.appearance, np.float32),
                area=track.box[2] * track.box[3] / 2,
                box=np.array(track.box, np.float64),
                position=np.full(3, np.nan) if track.position is None else np.array(track.position, np.float64),
                last_seen=track.last_seen,
                number=self._updates - _LONG_AGO,
                born=self._updates - _LONG_AGO,
            )
            for track in tracks
        }
        self.next_id = max(next_id, max(ids, default=0) + 1)
        self._gray = self._foreground = self._shape = None

    def _check(self, detections: Detections) -> None:
        count, looks = len(detections.ids), detections.appearance
        shapes = {
            "boxes": (np.shape(detections.boxes), (count, 4)),
            "areas": (np.shape(detections.areas), (count,)),
            "appearance": (np.shape(looks)[:1], (count,)),
        }
        if detections.positions is not None:
            shapes["positions"] = (np.shape(detections.positions), (count, 3))
        for name, (found, wanted) in shapes.items():
            if found != wanted:
                raise InputError(f"{name} is {list(found)} for {count} regions: it must be {list(wanted)}")
        if np.ndim(looks) != 2:
            raise InputError(f"appearance has {np.ndim(looks)} dimensions: it must be [regions, numbers]")
        finite = np.isfinite(looks).all(axis=1)
        if not finite.all():
            raise InputError(
                f"the mask token of region {detections.ids[int(np.argmin(finite))]} is not finite: the engines' "
                "arithmetic overflows, build them with a larger type (`python -m osprey_ros verify` compares)"
            )
        known = len(next(iter(self._tracks.values())).looks) if self._tracks else looks.shape[1]
        if count and looks.shape[1] != known:
            raise InputError(
                f"mask tokens have {looks.shape[1]} numbers, those of the tracks {known}: they are of another bundle; "
                "forget the tracks (or use another scene file), or go on with the bundle they are of"
            )

    def _moved(self, gray: np.ndarray | None, regions: Regions | None) -> Motion:
        """The camera's motion since the last update in pixels of the regions; keeps what the next update needs."""
        before, foreground = self._gray, self._foreground
        self._gray, self._foreground = gray, None
        if regions is not None:
            self._measure_in(regions.shape)
        if gray is None:
            return NO_MOTION
        if regions is not None:
            self._foreground = _foreground(regions, gray.shape)
        if before is None or self._shape is None:
            return NO_MOTION
        return camera_motion(before, gray, foreground).scaled(self._shape[1] / gray.shape[1])

    def _measure_in(self, shape: tuple[int, int]) -> None:
        """Pixels of all tracks are those of a picture of this (height, width) from here on."""
        if self._shape is not None and shape != self._shape:
            scale = np.array([shape[1] / self._shape[1], shape[0] / self._shape[0]])
            for track in self._tracks.values():
                track.box = track.box * np.tile(scale, 2)
                track.velocity = track.velocity * scale
                track.area *= float(scale.prod())
        self._shape = shape

    def _matched(
        self,
        tracks: TrackArrays,
        boxes: np.ndarray,
        looks: np.ndarray,
        motion: Motion,
        positions: np.ndarray | None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Rows of tracks and of regions that belong together, cosines of all [T, N], positions in the map [N, 3]."""
        center = association.looks_center(tracks.looks)
        cosines = np.maximum(
            association.cosines(tracks.looks, looks, center), association.cosines(tracks.latest, looks, center)
        )
        matrix = motion.matrix if motion.sure else self._shift(tracks, boxes, cosines)
        tracks.move(matrix)
        near = tracks.nearness(boxes)
        scores = self._scores(cosines, near, tracks.missed)
        rows, columns = association.assign(scores, self.settings.same)
        in_map = np.full((len(boxes), 3), np.nan)
        if positions is None:
            return rows, columns, cosines, in_map
        in_map = self._in_map(tracks, rows, columns, positions)
        apart = np.linalg.norm(tracks.positions[:, None] - in_map[None], axis=2)
        known = np.isfinite(apart)
        if known.any():
            near_in_space = np.exp(-0.5 * (apart / (_SPREAD_IN_SPACE * positions[:, 2])) ** 2)
            scores = self._scores(cosines, np.where(known, near_in_space, near), tracks.missed, lasting=known)
            rows, columns = association.assign(scores, self.settings.same)
        return rows, columns, cosines, in_map

    def _scores(
        self, cosines: np.ndarray, near: np.ndarray, missed: np.ndarray, lasting: np.ndarray | None = None
    ) -> np.ndarray:
        """As `TrackerSettings` says; all [T, N] but ``missed`` [T]. What is near by a lasting measure stays so."""
        gain = np.broadcast_to(np.exp(-missed / self.settings.gain_fades)[:, None], near.shape)
        if lasting is not None:
            gain = np.where(lasting, 1.0, gain)
        penalty = np.exp(-missed / self.settings.penalty_fades)[:, None]
        return cosines + self.settings.place_gain * gain * near - self.settings.place_penalty * penalty * (1 - near)

    def _shift(self, tracks: TrackArrays, boxes: np.ndarray, cosines: np.ndarray) -> np.ndarray:
        """The shift of the picture [2, 3] as the objects that look the same show it, for want of anything better."""
        matrix = np.eye(2, 3)
        lately = tracks.missed <= tracks.missed.min()
        rows, columns = association.assign(np.where(lately[:, None], cosines, -1.0), self.settings.same)
        if len(rows) >= 3:
            moves = association.centers(boxes)[columns] - association.centers(tracks.boxes)[rows]
            matrix[:, 2] = np.median(moves, axis=0)
        return matrix

    def _in_map(self, tracks: TrackArrays, rows: np.ndarray, columns: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Positions in the map [N, 3], nan while it is not known where the camera is in it.

        The map is what the camera's frame was at first. Where the camera is now is known by the tracks ``rows`` that
        were found again, as the regions ``columns``.
        """
        if np.isnan(tracks.positions).any(axis=1).all() or self._lost_in_map >= _MAP_PATIENCE:
            for track in self._tracks.values():
                track.position[:] = np.nan
            tracks.positions[:] = np.nan
            self._lost_in_map = 0
            return positions.astype(np.float64)
        good = np.isfinite(tracks.positions[rows]).all(axis=1) & np.isfinite(positions[columns]).all(axis=1)
        rows, columns = rows[good], columns[good]
        tolerance = _FIT_IN_SPACE * positions[columns, 2]
        pose = association.rigid_fit(positions[columns], tracks.positions[rows], tolerance)
        self._lost_in_map = 0 if pose is not None else self._lost_in_map + 1
        return np.full_like(positions, np.nan) if pose is None else association.moved_points(positions, pose)

    def _recognise(
        self, tracks: TrackArrays, rows: np.ndarray, columns: np.ndarray, cosines: np.ndarray, given: np.ndarray
    ) -> None:
        """Gives regions of tracks just begun to older ones that came back, where they look alike by now.

        What comes back is often seen in part first, and not recognised by that.
        """
        unseen = np.ones(len(tracks.ids), bool)
        unseen[rows] = False
        for row, column in zip(rows, columns, strict=True):
            young = self._tracks[int(tracks.ids[row])]
            if self._updates - young.born > self.settings.young:
                continue
            gone = unseen & (tracks.numbers < young.born) & (tracks.born < young.born - self.settings.young)
            if not gone.any():
                continue
            older = int(np.argmax(np.where(gone, cosines[:, column], -np.inf)))
            if cosines[older, column] >= self.settings.same:
                unseen[older] = False
                given[column] = tracks.ids[older]
                self.replaced[int(tracks.ids[row])] = int(tracks.ids[older])
                del self._tracks[int(tracks.ids[row])]

    def _begin(self, stamp: int, box: np.ndarray, looks: np.ndarray, area: float) -> int:
        track_id, self.next_id = self.next_id, self.next_id + 1
        self._tracks[track_id] = LiveTrack(
            looks=looks.copy(),
            latest=looks,
            area=area,
            box=box.copy(),
            position=np.full(3, np.nan),
            last_seen=stamp,
            number=self._updates,
            born=self._updates,
        )
        return track_id

    def _see(
        self, track: LiveTrack, stamp: int, box: np.ndarray, looks: np.ndarray, area: float, position: np.ndarray
    ) -> None:
        # What is seen of an object in part, behind another or at the border, says less of its looks.
        track.looks += np.float32(_LOOKS_RATE * min(1.0, area / max(track.area, 1.0))) * (looks - track.looks)
        track.area += _AREA_RATE * (area - track.area)
        track.latest = looks.copy()
        if track.number == self._updates - 1:
            moved = association.centers(box[None])[0] - association.centers(track.box[None])[0]
            track.velocity = (track.velocity + moved) / 2
        elif track.number < self._updates:
            track.velocity = np.zeros(2)
        if not np.isnan(position).any():
            known = not np.isnan(track.position).any() and track.number >= self._updates - 1
            track.position = track.position + _POSITION_RATE * (position - track.position) if known else position.copy()
        track.box, track.last_seen, track.number = box.copy(), stamp, self._updates


def _foreground(regions: Regions, shape: tuple[int, ...]) -> np.ndarray:
    """bool [h, w]: where regions are, at the size of a small picture."""
    down = (np.arange(shape[0]) * regions.shape[0]) // shape[0]
    across = (np.arange(shape[1]) * regions.shape[1]) // shape[1]
    found = np.zeros(shape, bool)
    for image, _, _ in regions.layers():
        found |= image[np.ix_(down, across)] > 0
    return found
