"""Associate the regions of a frame with the objects of the scene, whatever numbers the segmentation gives them.

A region goes to the track that it fits best by appearance (the cosine of mask tokens, relative to the mean of all
objects) and by place (in the image after camera motion and, with depth, in space). Appearance alone finds objects that
left and came back; place separates objects that look the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from osprey_ros.errors import InputError
from osprey_ros.regions.regions import Regions
from osprey_ros.scene import association
from osprey_ros.scene.camera_motion import NO_MOTION, Motion, camera_motion
from osprey_ros.scene.detections import Detections
from osprey_ros.scene.track import Track, TrackArrays

_MAP_PATIENCE = 10  # frames without a camera pose, after which a new map begins

# Shares of the distance to the camera. The position of an object is the median of its visible points, which changes
# with the view.
_SPREAD_IN_SPACE = 0.1  # standard deviation of the distance at which two positions count as near
_FIT_IN_SPACE = 0.06  # largest error of a position that takes part in the camera pose


@dataclass(frozen=True)
class TrackerSettings:
    """Weights of appearance and place.

    The score of a track and a region is the cosine of their appearance relative to the mean of all objects, plus
    ``place_gain`` if they are in the same place, minus ``place_penalty`` if they are not. Both fade while the track is
    missing. Measured with nano on simulated tabletops: two views of one object from a moving camera have a median
    cosine above 0.9; two objects have about 0, and 0.6 in one pair of a hundred.

    Attributes:
        min_score: Least score of a match.
        place_gain, place_penalty: See above.
        gain_frames, penalty_frames: Missed frames after which they are down to 1/e. A gain by position in space does
            not fade.
        merge_frames: Age in frames up to which a new track can be merged into an older one that came back. Their cosine
            must be at least ``min_score``.
        unknown_cosine: Cosine of a track whose appearance is unknown, because another model saw it: such an object is
            found again if it is near its place.
    """

    min_score: float = 0.6
    place_gain: float = 0.5
    place_penalty: float = 0.2
    gain_frames: float = 40.0
    penalty_frames: float = 8.0
    merge_frames: int = 10
    unknown_cosine: float = 0.3


@dataclass(frozen=True)
class Assignment:
    """Which object each region of a frame belongs to.

    Attributes:
        track_ids: int64 [N]; 0 for a new object.
        merges: New tracks that turned out to be older ones, as {new id: older id}.
        camera_motion: float64 [2, 3], similarity from pixels of the previous image to pixels of this one.
        positions: float64 [N, 3], meters in the map, nan if unknown.
        new_map: True if positions of earlier frames are in another map.
    """

    track_ids: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    merges: Mapping[int, int] = field(default_factory=dict)
    camera_motion: np.ndarray = field(default_factory=lambda: np.eye(2, 3))
    positions: np.ndarray | None = None
    new_map: bool = False


class Tracker:
    """Associates detections with tracks. Use it from one thread at a time.

    The scene owns the tracks. Only what belongs to the camera is kept from frame to frame: the previous image, and for
    how long the pose of the camera is unknown.
    """

    def __init__(self, settings: TrackerSettings | None = None) -> None:
        self.settings = settings or TrackerSettings()
        self.reset()

    def reset(self) -> None:
        """Forget the previous image: the camera may be anywhere in the next frame."""
        self._gray: np.ndarray | None = None
        self._foreground: np.ndarray | None = None
        self._frames_without_pose = 0
        self._fixed_frame: str | None = None  # that of the positions of the tracks; None: not known yet

    def associate(
        self, tracks: Mapping[int, Track], detections: Detections, frame: int, gray: np.ndarray | None = None
    ) -> Assignment:
        """Associate the regions of a frame with tracks.

        Args:
            tracks: By track id, in pixels of an image as large as the regions'.
            detections: The regions.
            frame: Number of the frame; tracks have the numbers of theirs.
            gray: The small image of the frame (`camera_motion.small_gray`) for the camera motion. Without it the motion
                is estimated from the objects.

        Raises InputError for detections that do not belong together, and for embeddings that are not finite or have
        another size than those of the tracks.
        """
        _check(detections, tracks)
        regions, embeddings = detections.regions, np.asarray(detections.embeddings, np.float32)
        positions = detections.positions
        motion = self._camera_motion(gray, regions.shape, regions)
        if not tracks:
            self._fixed_frame = detections.fixed_frame
            in_map = positions if detections.fixed_positions is None else detections.fixed_positions
            return Assignment(np.zeros(len(regions.ids), np.int64), {}, motion.matrix, in_map)
        arrays = TrackArrays(tracks, frame)
        cosines = self._cosines(arrays, embeddings)
        boxes = np.asarray(regions.boxes, np.float64)
        matrix = motion.matrix if motion.sure else self._object_motion(arrays, boxes, cosines)
        arrays.boxes = association.moved_boxes(arrays.boxes, matrix)
        near = association.nearness(arrays.boxes, arrays.velocities, arrays.missed, boxes)
        rows, columns = association.assign(self._scores(cosines, near, arrays.missed), self.settings.min_score)
        in_map, new_map = detections.fixed_positions, self._is_new_frame(detections.fixed_frame)
        if in_map is None and positions is not None:
            in_map, new_map = self._in_map(arrays.positions, rows, columns, positions)
        if in_map is not None and positions is not None and not new_map:
            matched = (rows, columns)
            rows, columns = self._matched_in_space(arrays, cosines, near, in_map, positions[:, 2], matched)
        track_ids = np.zeros(len(regions.ids), np.int64)
        track_ids[columns] = arrays.ids[rows]
        merges = self._merge(arrays, rows, columns, cosines, track_ids, frame)
        return Assignment(track_ids, merges, matrix, in_map, new_map)

    def _is_new_frame(self, fixed_frame: str) -> bool:
        """Return whether the tracks have positions in another frame than this one, and keep this one."""
        before, self._fixed_frame = self._fixed_frame, fixed_frame
        return before is not None and before != fixed_frame

    def skip_frame(self, shape: tuple[int, int], gray: np.ndarray | None = None) -> Assignment:
        """Return the assignment of a frame (height, width) without regions to associate: the camera motion."""
        return Assignment(camera_motion=self._camera_motion(gray, shape, None).matrix)

    def _cosines(self, tracks: TrackArrays, embeddings: np.ndarray) -> np.ndarray:
        """Return how much tracks and regions look alike, [T, N] in -1..1."""
        known: np.ndarray = np.any(tracks.embeddings, axis=1)
        result = np.full((len(known), len(embeddings)), self.settings.unknown_cosine, np.float32)
        if known.any():
            center = association.embedding_center(tracks.embeddings[known])
            result[known] = np.maximum(
                association.cosines(tracks.embeddings[known], embeddings, center),
                association.cosines(tracks.last_embeddings[known], embeddings, center),
            )
        return result

    def _camera_motion(self, gray: np.ndarray | None, shape: tuple[int, int], regions: Regions | None) -> Motion:
        """Return the motion since the previous frame in pixels of an image (height, width); keep this frame's image."""
        before, foreground = self._gray, self._foreground
        self._gray = gray
        self._foreground = None if gray is None or regions is None else _foreground(regions, gray.shape)
        if gray is None or before is None:
            return NO_MOTION
        return camera_motion(before, gray, foreground).scaled(shape[1] / gray.shape[1])

    def _object_motion(self, tracks: TrackArrays, boxes: np.ndarray, cosines: np.ndarray) -> np.ndarray:
        """Return the median shift of matched objects, float64 [2, 3], in place of an unknown camera motion."""
        matrix = np.eye(2, 3)
        recent = tracks.missed <= tracks.missed.min()
        rows, columns = association.assign(np.where(recent[:, None], cosines, -1.0), self.settings.min_score)
        if len(rows) >= 3:
            moves = association.centers(boxes)[columns] - association.centers(tracks.boxes)[rows]
            matrix[:, 2] = np.median(moves, axis=0)
        return matrix

    def _scores(
        self, cosines: np.ndarray, near: np.ndarray, missed: np.ndarray, lasting: np.ndarray | None = None
    ) -> np.ndarray:
        """Return the scores [T, N] of `TrackerSettings`.

        ``cosines`` and ``near`` are [T, N], ``missed`` is [T]. Where ``lasting`` is True the gain does not fade.
        """
        gain = np.broadcast_to(np.exp(-missed / self.settings.gain_frames)[:, None], near.shape)
        if lasting is not None:
            gain = np.where(lasting, 1.0, gain)
        penalty = np.exp(-missed / self.settings.penalty_frames)[:, None]
        result: np.ndarray = (
            cosines + self.settings.place_gain * gain * near - self.settings.place_penalty * penalty * (1 - near)
        )
        return result

    def _in_map(
        self, known: np.ndarray, rows: np.ndarray, columns: np.ndarray, positions: np.ndarray
    ) -> tuple[np.ndarray, bool]:
        """Return positions in the map [N, 3], nan while the camera pose is unknown, and whether the map is a new one.

        The map is the camera's frame at its beginning. The pose comes from the tracks ``rows``, at the ``known``
        positions [T, 3], that were matched with the regions ``columns``.
        """
        if np.isnan(known).any(axis=1).all() or self._frames_without_pose >= _MAP_PATIENCE:
            self._frames_without_pose = 0
            return positions.astype(np.float64), True
        both = np.isfinite(known[rows]).all(axis=1) & np.isfinite(positions[columns]).all(axis=1)
        rows, columns = rows[both], columns[both]
        pose = association.rigid_fit(positions[columns], known[rows], _FIT_IN_SPACE * positions[columns, 2])
        self._frames_without_pose = 0 if pose is not None else self._frames_without_pose + 1
        return np.full_like(positions, np.nan) if pose is None else association.moved_points(positions, pose), False

    def _matched_in_space(
        self,
        tracks: TrackArrays,
        cosines: np.ndarray,
        near: np.ndarray,
        positions: np.ndarray,
        depths: np.ndarray,
        matched: tuple[np.ndarray, np.ndarray],
    ) -> tuple[np.ndarray, np.ndarray]:
        """Match again by positions in the map where both are known, else by ``near``, the place in the image."""
        distances = np.linalg.norm(tracks.positions[:, None] - positions[None], axis=2)
        known = np.isfinite(distances)
        if not known.any():
            return matched
        near_in_space = np.exp(-0.5 * (distances / (_SPREAD_IN_SPACE * depths)) ** 2)
        scores = self._scores(cosines, np.where(known, near_in_space, near), tracks.missed, lasting=known)
        return association.assign(scores, self.settings.min_score)

    def _merge(
        self,
        tracks: TrackArrays,
        rows: np.ndarray,
        columns: np.ndarray,
        cosines: np.ndarray,
        track_ids: np.ndarray,
        frame: int,
    ) -> dict[int, int]:
        """Give regions of new tracks to older tracks that came back and look alike; return {new id: older id}.

        An object that comes back is often visible in part at first, and then not recognized. ``track_ids`` of the
        regions change in place.
        """
        merges: dict[int, int] = {}
        missing = np.ones(len(tracks.ids), bool)
        missing[rows] = False
        for row, column in zip(rows, columns, strict=True):
            start = tracks.start_frames[row]
            if frame - start > self.settings.merge_frames:
                continue
            gone = missing & (tracks.last_frames < start) & (tracks.start_frames < start - self.settings.merge_frames)
            if not gone.any():
                continue
            older = int(np.argmax(np.where(gone, cosines[:, column], -np.inf)))
            if cosines[older, column] >= self.settings.min_score:
                missing[older] = False
                track_ids[column] = tracks.ids[older]
                merges[int(tracks.ids[row])] = int(tracks.ids[older])
        return merges


def _check(detections: Detections, tracks: Mapping[int, Track]) -> None:
    count, embeddings = len(detections.regions.ids), detections.embeddings
    if np.ndim(embeddings) != 2 or len(embeddings) != count:
        raise InputError(f"embeddings have the shape {list(np.shape(embeddings))}: it must be [{count}, D]")
    if len(detections.extents) not in (0, count):
        raise InputError(f"there are {len(detections.extents)} extents for {count} regions: give one for each, or none")
    finite = np.isfinite(embeddings).all(axis=1)
    if not finite.all():
        region = detections.regions.ids[int(np.argmin(finite))]
        raise InputError(
            f"the mask token of region {region} is not finite because the engines overflow: "
            "build them with `osprey build ... --vision fp32 --mask-extractor fp32`"
        )
    known = next((len(track.embedding) for track in tracks.values()), embeddings.shape[1])
    if count and embeddings.shape[1] != known:
        raise InputError(
            f"mask tokens have {embeddings.shape[1]} numbers, those of known objects {known}: the objects come from "
            "another bundle; forget them (or use another scene file), or use that bundle"
        )


def _foreground(regions: Regions, shape: tuple[int, ...]) -> np.ndarray:
    """Return where regions are, bool [h, w], at the size of a small image."""
    down = (np.arange(shape[0]) * regions.shape[0]) // shape[0]
    across = (np.arange(shape[1]) * regions.shape[1]) // shape[1]
    found = np.zeros(shape, bool)
    for image, _, _ in regions.layers:
        found |= image[np.ix_(down, across)] > 0
    return found
