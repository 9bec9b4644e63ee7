"""Process camera frames: detect objects again, describe those that need it, keep them in the scene. Without ROS.

`osprey_ros.messages.frames` makes a `Frame` from messages.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from osprey_ros._moved import old_names
from osprey_ros.decoding.config import GenerationConfig
from osprey_ros.describer import Describer
from osprey_ros.errors import StoppedError
from osprey_ros.frame import Frame
from osprey_ros.regions.regions import Regions
from osprey_ros.scene.camera_motion import differs, small_gray, small_picture
from osprey_ros.scene.captions import captions_from, questions_for, questions_key
from osprey_ros.scene.change import Change
from osprey_ros.scene.detections import Detections
from osprey_ros.scene.history import ObservedFrame
from osprey_ros.scene.result import StepResult
from osprey_ros.scene.scene import Scene
from osprey_ros.scene.scheduler import Batch, Scheduler
from osprey_ros.scene.settings import StepSettings
from osprey_ros.scene.tracker import Assignment, Tracker
from osprey_ros.scene.types import SceneObject, Snapshot, State
from osprey_ros.system.cancellation import CancellationToken
from osprey_ros.timing import Timing

_HISTORY = 8  # frames that questions can refer to


class Pipeline:
    """Processes frames one after another. Use it from one thread at a time.

    Args:
        describer: `step` and `look_at` set its image; others may ask it about that image between the calls.
        scene: Where objects are stored. By default a new one.
        tracker, scheduler: By default new ones with their default settings.

    Attributes:
        scene: The remembered objects, as they are after the latest frame with `StepSettings.remember`.
        questions: Identifies the questions of the captions in the scene, for `restore`; "" before the first frame.
    """

    def __init__(
        self,
        describer: Describer,
        scene: Scene | None = None,
        tracker: Tracker | None = None,
        scheduler: Scheduler | None = None,
    ) -> None:
        self.describer = describer
        self.scene = scene if scene is not None else Scene()
        self.questions = ""
        self._frame_scene: Scene | None = None  # objects of the latest frame if it was processed without memory
        self._tracker = tracker if tracker is not None else Tracker()
        self._scheduler = scheduler if scheduler is not None else Scheduler()
        self._recent: deque[ObservedFrame] = deque(maxlen=_HISTORY)
        self._current: ObservedFrame | None = None  # whose image the describer has
        self._encoded: tuple[int, tuple[int, ...], np.ndarray] | None = None  # id, shape, small copy of its image

    def step(self, frame: Frame, settings: StepSettings, cancel: CancellationToken | None = None) -> StepResult:
        """Process one frame.

        New objects and those that changed are described, prioritized ones first, all questions in one decode. The other
        objects keep their captions. An image that shows the same as the one before is not encoded again.

        Args:
            frame: The image and its regions.
            settings: May differ from frame to frame.
            cancel: Ends the step: objects without a caption are skipped then.

        Raises InputError if image, segmentation and depth differ in size, RegionError for an invalid segmentation, and
        StoppedError when canceled before image and regions are encoded.
        """
        started = self._scheduler.clock()
        regions, empty_reason = frame.regions_above(settings.min_area)
        small = small_picture(frame.rgb)
        scene = self._scene_for(settings)
        if scene is not self.scene and len(self.scene):
            self._pass(frame, self.scene, small)
        if empty_reason:
            self._pass(frame, scene, small)
            return StepResult((), empty_reason=empty_reason)
        observed, timing = self._observe(frame, regions, scene, small, settings, cancel)
        described = 0
        try:
            candidates = scene.needing_caption()
            limits = (settings.time_budget, settings.max_regions)
            for batch in self._scheduler.batches(candidates, started, *limits, cancel):
                timing += self._describe(batch, observed, scene, settings)
                described += len(batch.described)
            for track_id, reason in self._scheduler.skipped.items():
                scene.skip(track_id, reason)
            objects = tuple(scene.object(track_id) for track_id in observed.assigned_ids.tolist())
        finally:
            scene.forget_surplus()
        reused = sum(obj.state is State.FRESH for obj in objects) - described
        return StepResult(objects, regions, observed.encoded, timing, "", described, reused)

    @property
    def latest(self) -> ObservedFrame | None:
        """The latest frame that had a region; None before the first."""
        return self._recent[-1] if self._recent else None

    @property
    def recent(self) -> tuple[ObservedFrame, ...]:
        """The latest frames that had a region, eight at most, the newest last."""
        return tuple(self._recent)

    @property
    def known(self) -> set[int]:
        """Track ids that `forget` takes."""
        return {obj.track_id for scene in {self.scene, self._latest_scene} for obj in scene.snapshot().objects}

    def __len__(self) -> int:
        """Return the number of objects in `snapshot`."""
        return len(self._latest_scene)

    def snapshot(self) -> Snapshot:
        """Return the remembered objects; after a frame without `StepSettings.remember`, those of that frame."""
        return self._latest_scene.snapshot()

    def look_at(self, frame: ObservedFrame, cancel: CancellationToken | None = None) -> None:
        """Set the image of the describer to that of a frame, unless it is set. Raises StoppedError when canceled."""
        if self._current is not frame:
            self._current = None
            self._set_image(frame.rgb, small_picture(frame.rgb), frame.encoded.image_id, cancel)
            self._current = frame

    def prioritize(self, track_ids: Iterable[int]) -> None:
        """Describe these objects before all others, until their captions hold. Unknown ones are ignored."""
        if self._frame_scene is None:  # else the ids are those of regions, and the next frame has others
            self.scene.prioritize(track_ids)

    def forget(self, track_ids: Iterable[int] | None = None) -> tuple[int, ...]:
        """Forget objects, all by default. Return the track ids of those that were known.

        After a frame without `StepSettings.remember`, both its objects and remembered ones have these ids.
        """
        wanted = None if track_ids is None else list(track_ids)
        gone = self.scene.forget(wanted)
        if self._frame_scene is not None:
            gone = tuple(dict.fromkeys(self._frame_scene.forget(wanted) + gone))
        for frame in self._recent:
            if frame.scene is not None:
                frame.scene.forget(wanted)
        return gone

    def restore(self, objects: Sequence[SceneObject], next_id: int = 1, questions: str = "") -> None:
        """Replace all remembered objects; see `Scene.restore`.

        ``questions`` is that of the pipeline that had them: if the first frame asks others, captions are stale.
        """
        self.scene.restore(objects, next_id)
        self._tracker.reset()
        self._detach_frames()
        self.questions = questions

    @property
    def _latest_scene(self) -> Scene:
        return self.scene if self._frame_scene is None else self._frame_scene

    def _scene_for(self, settings: StepSettings) -> Scene:
        """Return the scene that the next frame updates: a new one for each frame without memory."""
        if settings.remember == (self._frame_scene is not None):
            self._detach_frames()
        if not settings.remember:
            self._frame_scene = Scene(self.scene.max_objects)
            return self._frame_scene
        self._frame_scene = None
        questions = questions_key(settings)
        if questions != self.questions:
            self.scene.invalidate("the questions changed since it was described")
            self.questions = questions
        return self.scene

    def _detach_frames(self) -> None:
        """Let earlier frames name no objects: ids of regions and track ids are not to be confused."""
        self._recent = deque((replace(frame, scene=None) for frame in self._recent), maxlen=_HISTORY)
        self._current = None

    def _pass(self, frame: Frame, scene: Scene, small: np.ndarray) -> None:
        """Update a scene with a frame that shows none of its objects."""
        height, width = frame.rgb.shape[:2]
        scene.set_image_size((height, width))
        assignment = Assignment()
        if scene is self.scene:
            assignment = self._tracker.skip_frame((height, width), small_gray(small))
        scene.update(frame.stamp, frame.frame_id, (), assignment)

    def _observe(
        self,
        frame: Frame,
        regions: Regions,
        scene: Scene,
        small: np.ndarray,
        settings: StepSettings,
        cancel: CancellationToken | None,
    ) -> tuple[ObservedFrame, Timing]:
        """Encode a frame, associate its regions with the objects of a scene and update the scene."""
        self._current = None
        if not settings.remember or not self._is_still(frame.rgb, small, settings.still_difference):
            self._set_image(frame.rgb, small, cancel=cancel)
            timing = self.describer.image_timing
        else:
            timing = Timing()
        # While a GPU encodes the image. A copy: the caller may use the memory for the next image.
        extents, rgb = frame.extents(regions), frame.rgb.copy()
        encoded = self.describer.encode(regions, cancel=cancel)
        detections = Detections(regions, encoded.mask_tokens, extents, frame.labels)
        scene.set_image_size(regions.shape)
        if settings.remember:
            assignment = self._tracker.associate(scene.tracks, detections, scene.frame + 1, small_gray(small))
        else:
            assignment = Assignment(regions.ids)
        change = Change(settings.appearance_change, settings.view_change)
        track_ids = scene.update(frame.stamp, frame.frame_id, detections, assignment, change)
        self._current = ObservedFrame(frame.stamp, frame.frame_id, regions, encoded, rgb, track_ids, scene)
        self._recent.append(self._current)
        return self._current, timing + encoded.timing

    def _describe(self, batch: Batch, observed: ObservedFrame, scene: Scene, settings: StepSettings) -> Timing:
        """Describe the objects of a batch; those whose decoding was canceled get no caption."""
        encoded, ids = observed.encoded, observed.assigned_ids
        rows = np.flatnonzero(np.isin(ids, batch.track_ids))
        questions, constraints = questions_for(settings)
        some = encoded.select(encoded.regions.ids[rows]) if len(rows) < len(encoded) else encoded
        config = GenerationConfig(max_new_tokens=settings.max_new_tokens or None)
        try:
            results = self.describer.answer(some, questions, config, constraints, cancel=batch.cancel)
        except StoppedError:
            return Timing()
        captions = captions_from(results, settings, observed.stamp)
        complete = [all(result[number].ended for result in results) for number in range(len(rows))]
        described = {
            int(ids[row]): caption for row, caption, ended in zip(rows, captions, complete, strict=True) if ended
        }
        for track_id, caption in described.items():
            scene.set_caption(track_id, caption)
        batch.described, batch.fixed_cost = frozenset(described), results[0].timing.prefix
        return results[0].timing

    def _set_image(
        self,
        rgb: np.ndarray,
        small: np.ndarray,
        image_id: int | None = None,
        cancel: CancellationToken | None = None,
    ) -> None:
        self._encoded = None
        self.describer.set_image(rgb, image_id, cancel=cancel)
        self._encoded = (self.describer.image_id, rgb.shape, small.copy())  # a small image is its own small copy

    def _is_still(self, rgb: np.ndarray, small: np.ndarray, levels: float) -> bool:
        """Return whether the describer's image shows the same as this one, except for noise."""
        if self._encoded is None:
            return False
        image_id, shape, before = self._encoded
        return image_id == self.describer.image_id and shape == rgb.shape and not differs(before, small, levels)


if not TYPE_CHECKING:  # a type checker would accept any name
    __getattr__ = old_names("pipeline")
