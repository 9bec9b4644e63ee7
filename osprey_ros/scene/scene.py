"""The scene: the one store of objects, with their tracks, captions and the state of these."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter

import numpy as np

from osprey_ros.errors import InputError
from osprey_ros.scene.association import moved_boxes
from osprey_ros.scene.change import Change, View, judge
from osprey_ros.scene.entry import Entry
from osprey_ros.scene.scheduler import Candidate
from osprey_ros.scene.track import Track, add_detections
from osprey_ros.scene.tracker import Assignment
from osprey_ros.scene.types import Caption, Detection, SceneObject, Snapshot, State

_MAX_REDIRECTS = 4096  # merged track ids that `current_ids` follows; those of older frames are not asked for


@dataclass(frozen=True)
class SceneUpdate:
    """Result of an update of the scene with N detections.

    Attributes:
        track_ids: int64 [N], the track ids, with those of new objects.
        candidates: The visible objects that need a caption now, in no order.
    """

    track_ids: np.ndarray
    candidates: list[Candidate]


class Scene:
    """Objects by track id. Use it from one thread; `persistent_objects` may be called from others.

    Args:
        max_objects: Upper bound on the number of objects. Those missing for longest are forgotten first, then the
            smallest.

    Raises InputError for a bound below 1.
    """

    def __init__(self, max_objects: int = 1000) -> None:
        if max_objects < 1:
            raise InputError(f"max_objects is {max_objects}: a scene needs room for at least one object")
        self.max_objects = max_objects
        self.next_id = 1
        """Track id of the next new object. Ids are not used again."""
        self.frame = 0
        """Number of updates."""
        self.map_number = 0
        """Number of the map that positions of tracks are in."""
        self._entries: dict[int, Entry] = {}
        self._merged: dict[int, int] = {}  # track id of an object that was merged -> that of the older object
        self._stamp, self._frame_id = 0, ""
        self._shape: tuple[int, int] | None = None  # of the image whose pixels all boxes and areas are in
        self._lock = threading.Lock()  # held while several objects change

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def tracks(self) -> Mapping[int, Track]:
        """The track of each object."""
        return {track_id: entry.track for track_id, entry in self._entries.items()}

    def set_image_size(self, shape: tuple[int, int]) -> None:
        """Convert all boxes and areas to pixels of an image of this height and width. Do so before an update."""
        with self._lock:
            if self._shape is not None and shape != self._shape:
                for entry in self._entries.values():
                    entry.scale(shape[1] / self._shape[1], shape[0] / self._shape[0])
            self._shape = shape

    def update(
        self,
        stamp: int,
        frame_id: str,
        detections: Iterable[Detection],
        assignment: Assignment,
        change: Change | None = None,
    ) -> SceneUpdate:
        """Update the scene with the detections of one frame and judge the captions of the objects in it.

        Args:
            stamp: Of the frame, in nanoseconds.
            frame_id: The camera's optical frame.
            detections: The N regions of the frame. Objects without one are not visible.
            assignment: From `Tracker.associate` with `tracks`.
            change: Limits above which a caption is stale.

        Call `complete` when the frame is done.
        """
        with self._lock:
            track_ids = self._update(stamp, frame_id, list(detections), assignment, change or Change())
            return SceneUpdate(track_ids, self.needing_caption())

    def _update(
        self, stamp: int, frame_id: str, detections: Sequence[Detection], assignment: Assignment, change: Change
    ) -> np.ndarray:
        self._stamp, self._frame_id = stamp, frame_id
        self.frame += 1
        for young, older in assignment.merges.items():
            self.merge(young, older)
        self._move_tracks(assignment)
        track_ids = np.array(assignment.track_ids, np.int64)
        new, unused = track_ids == 0, max(self.next_id, int(track_ids.max(initial=0)) + 1)
        track_ids[new] = unused + np.arange(np.count_nonzero(new))
        ids = track_ids.tolist()
        entries = [self._entries.get(track_id) for track_id in ids]
        tracks = add_detections(
            [entry.track if entry else None for entry in entries], detections, self.frame, assignment.positions
        )
        known = [(entry, found) for entry, found in zip(entries, detections, strict=True) if entry]
        views = [View(found.appearance, found.box, found.area) for _, found in known]
        fresh = [entry.object.state is State.FRESH for entry, _ in known]
        judged = judge(zip([entry.check for entry, _ in known], views, fresh, strict=True), change)
        for track_id in self._entries.keys() - set(ids):
            self._entries[track_id].hide()
        for (entry, found), holds in zip(known, judged, strict=True):
            entry.add(found, stamp, holds)
        for track_id, found, track in zip(ids, detections, tracks, strict=True):
            if track_id not in self._entries:
                self._entries[track_id] = Entry.begin(track_id, found, stamp, track)
        self.next_id = max(self.next_id, max(ids, default=0) + 1)
        return track_ids

    def _move_tracks(self, assignment: Assignment) -> None:
        self.map_number += assignment.new_map
        tracks = [entry.track for entry in self._entries.values()]
        if not tracks:
            return
        boxes = moved_boxes(np.stack([track.box for track in tracks]), assignment.camera_motion)
        for track, box in zip(tracks, boxes, strict=True):
            track.box = box
            if assignment.new_map:
                track.position = np.full(3, np.nan)

    def needing_caption(self) -> list[Candidate]:
        """Return the visible objects that need a caption now, in no order."""
        candidates = []
        for track_id, entry in self._entries.items():
            if entry.object.visible and entry.needs_caption:
                new, importance = entry.object.caption is None, self._importance(entry.object)
                candidates.append(Candidate(track_id, entry.prioritized, new, importance, entry.waited))
        return candidates

    def _importance(self, obj: SceneObject) -> float:
        """Return how large an object is in the image, and how near if its distance is known, 0 to 1."""
        height, width = self._shape or (1, 1)
        size = (obj.area / (height * width)) ** 0.5
        if obj.position is None:
            return float(size)
        return float((size + 1 / (1 + max(0.0, obj.position[2]))) / 2)

    def set_caption(self, track_id: int, caption: Caption) -> None:
        """Set the caption of an object as the latest frame shows it. Raises KeyError for an unknown object."""
        self._entries[track_id].set_caption(caption)

    def skip(self, track_id: int, reason: str) -> None:
        """Note why an object did not get a caption in the latest frame. Raises KeyError for an unknown object."""
        self._entries[track_id].skip(reason)

    def complete(
        self, track_ids: np.ndarray, captions: Mapping[int, Caption], skipped: Mapping[int, str]
    ) -> tuple[SceneObject, ...]:
        """Complete a frame: set captions, note why objects were skipped, and forget what is beyond ``max_objects``.

        Returns the objects with these track ids, int64 [N], also forgotten ones. Raises KeyError for an
        unknown object.
        """
        for track_id, caption in captions.items():
            self.set_caption(track_id, caption)
        for track_id, reason in skipped.items():
            self.skip(track_id, reason)
        objects = tuple(self.object(track_id) for track_id in track_ids.tolist())
        self.forget_surplus()
        return objects

    def invalidate(self, reason: str) -> None:
        """Make all captions stale."""
        for entry in self._entries.values():
            entry.invalidate(reason)

    def set_appearances(self, appearances: Mapping[int, np.ndarray], size: int) -> None:
        """Replace the appearance of every object by that of another model, float32 [size], by track id.

        The appearance of the other objects is unknown then, and zero.
        """
        unknown = np.zeros(size, np.float32)
        with self._lock:
            for track_id, entry in self._entries.items():
                entry.set_appearance(appearances.get(track_id, unknown))

    def prioritize(self, track_ids: Iterable[int]) -> None:
        """Describe these objects before all others, until their captions hold. Unknown ones are ignored."""
        for track_id in track_ids:
            if track_id in self._entries:
                entry = self._entries[track_id]
                entry.prioritized = entry.object.state is not State.FRESH

    def object(self, track_id: int) -> SceneObject:
        """Return an object. Raises KeyError for an unknown one."""
        return self._entries[track_id].object

    def snapshot(self) -> Snapshot:
        """Return all objects."""
        return Snapshot(self._stamp, self._frame_id, tuple(self._entries[t].object for t in sorted(self._entries)))

    def persistent_objects(self) -> tuple[SceneObject, ...]:
        """Return all objects for `restore`, without what is true of the latest frame only.

        Those that would be forgotten last come first.
        """
        with self._lock:
            ranked = [(entry.rank, entry.persistent_object) for entry in self._entries.values()]
        ranked.sort(key=itemgetter(0), reverse=True)
        return tuple(obj for _, obj in ranked)

    def current_ids(self, track_ids: np.ndarray) -> np.ndarray:
        """Return the track ids, int64 [N], that objects of earlier frames have now; 0 for forgotten ones."""
        return np.array([self._current_id(track_id) for track_id in track_ids.tolist()], dtype=np.int64)

    def _current_id(self, track_id: int) -> int:
        while track_id not in self._entries and track_id in self._merged:
            track_id = self._merged[track_id]
        return track_id if track_id in self._entries else 0

    def merge(self, young: int, older: int) -> None:
        """Merge an object that seemed new into an older one, which takes its caption if it has none.

        Raises KeyError for unknown objects.
        """
        self._entries[older].absorb(self._entries.pop(young))
        self._merged[young] = older
        if len(self._merged) > _MAX_REDIRECTS:
            self._merged.pop(next(iter(self._merged)))

    def forget(self, track_ids: Iterable[int] | None = None) -> tuple[int, ...]:
        """Forget objects, all by default. Return the known ones among them."""
        with self._lock:
            wanted = self._entries if track_ids is None else dict.fromkeys(track_ids)
            gone = tuple(track_id for track_id in wanted if track_id in self._entries)
            for track_id in gone:
                del self._entries[track_id]
        return gone

    def forget_surplus(self) -> tuple[int, ...]:
        """Forget what is beyond ``max_objects``. Return the track ids."""
        surplus = len(self._entries) - self.max_objects
        if surplus <= 0:
            return ()
        return self.forget(sorted(self._entries, key=lambda t: self._entries[t].rank)[:surplus])

    def restore(self, objects: Iterable[SceneObject], next_id: int = 1) -> None:
        """Replace all objects by those that an earlier run knew; none is visible.

        Captions that held are taken to belong to the appearance that comes with them.

        Args:
            objects: From `persistent_objects`. Those beyond ``max_objects`` are forgotten.
            next_id: Least track id of the next new object.

        Raises InputError if track ids are below 1 or repeated.
        """
        objects = list(objects)
        ids = [obj.track_id for obj in objects]
        if len(set(ids)) != len(ids) or min(ids, default=1) < 1:
            raise InputError(f"track ids must be different numbers from 1 up, not {sorted(ids)}")
        with self._lock:
            self._entries = {obj.track_id: Entry.restore(obj, self.frame) for obj in objects}
        self._merged = {}
        self.next_id = max(next_id, max(ids, default=0) + 1)
        self.forget_surplus()
