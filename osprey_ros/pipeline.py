"""Process camera frames: detect objects again, describe those that need it, keep them in the scene. Without ROS.

`osprey_ros.messages.frames` makes a `Frame` from messages.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from osprey_ros._moved import old_names
from osprey_ros.describer import Describer
from osprey_ros.errors import StoppedError
from osprey_ros.frame import Frame
from osprey_ros.regions.crops import crop_rows
from osprey_ros.regions.regions import Regions
from osprey_ros.results import EncodedRegions
from osprey_ros.scene.camera_motion import EncodedImage, small_gray, small_image
from osprey_ros.scene.captions import captions_from, questions_for
from osprey_ros.scene.change import Change
from osprey_ros.scene.detections import Detections
from osprey_ros.scene.history import ObservedFrame
from osprey_ros.scene.memory import SceneMemory
from osprey_ros.scene.result import StepResult
from osprey_ros.scene.scene import Scene
from osprey_ros.scene.scheduler import Batch, Candidate, Scheduler
from osprey_ros.scene.settings import StepSettings
from osprey_ros.scene.store import token_engines
from osprey_ros.scene.tracker import Assignment, Tracker
from osprey_ros.scene.types import Caption, SceneObject, State
from osprey_ros.system.cancellation import CancellationToken
from osprey_ros.system.warn_once import warn_once
from osprey_ros.timing import Timing

_LOGGER = logging.getLogger(__name__)


class Pipeline:
    """Processes frames one after another. Use it from one thread at a time.

    Args:
        describer: `step` and `look_at` set its image; others may ask it about that image between the calls.
        scene: Where objects are stored. By default a new one.
        tracker: Associates detections with objects. By default a new one with its default settings.
        scheduler: Chooses what is described in a frame. By default a new one with its default settings.

    Attributes:
        memory: The scene and the latest frames.
    """

    def __init__(
        self,
        describer: Describer,
        scene: Scene | None = None,
        tracker: Tracker | None = None,
        scheduler: Scheduler | None = None,
    ) -> None:
        self.describer = describer
        self.memory = SceneMemory(scene if scene is not None else Scene())
        self._tracker = tracker if tracker is not None else Tracker()
        self._scheduler = scheduler if scheduler is not None else Scheduler()
        self._current: ObservedFrame | None = None  # whose image the describer has
        self._encoded: EncodedImage | None = None

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
        regions, empty_reason = frame.regions_above(settings.min_area, settings.masks_anyway)
        small = small_image(frame.rgb)
        gray = small_gray(small)
        scene = self.memory.scene_for(settings)
        if scene is not self.memory.scene and len(self.memory.scene):
            self._pass(frame, self.memory.scene, gray)
        if empty_reason:
            self._pass(frame, scene, gray)
            return StepResult((), empty_reason=empty_reason)
        observed, candidates, timings = self._observe(frame, regions, scene, (small, gray), settings, cancel)
        captions: dict[int, Caption] = {}
        limits = (settings.time_budget, settings.max_regions)
        try:
            for batch in self._scheduler.batches(
                candidates, started, *limits, cancel, self._wanted(observed, settings)
            ):
                found, spent = self._describe(batch, observed, settings)
                captions, timings = captions | found, timings + spent
        finally:  # captions are kept, and the scene stays bounded, if a later batch fails
            self.memory.add(observed)
            objects = scene.complete(observed.assigned_ids, captions, self._scheduler.skipped)
        reused = sum(obj.state is State.FRESH for obj in objects) - len(captions)
        return StepResult(objects, regions, observed.encoded, timings, "", len(captions), reused)

    def crops(self, settings: StepSettings) -> str:
        """Return the crops of the settings; "none", which is logged once, if the bundle has no engine for them."""
        if settings.crops == "none" or self.describer.has_crops:
            return settings.crops
        name = self.describer.bundle.manifest.name
        warn_once(_LOGGER, "crops", f"crops {settings.crops} is ignored: the bundle {name} has no engine for crops")
        return "none"

    def look_at(self, frame: ObservedFrame, cancel: CancellationToken | None = None) -> None:
        """Set the image of the describer to that of a frame, unless it is set. Raises StoppedError when canceled."""
        if self._current is not frame:
            self._current = None
            self._set_image(frame.rgb, small_image(frame.rgb), frame.encoded.image_id, cancel)
            self._current = frame

    def restore(self, objects: Sequence[SceneObject], next_id: int = 1, questions: str = "") -> None:
        """Replace all remembered objects; see `SceneMemory.restore`. The camera may be anywhere in the next frame."""
        self.memory.restore(objects, next_id, questions)
        self._tracker.reset()
        self._current = None

    def replace_describer(self, describer: Describer, reason: str) -> Describer:
        """Use another describer from now on, and return the one before. The scene stays, with stale captions.

        The latest frame is encoded again, for questions about it. If that fails, nothing changes. If the mask tokens of
        both cannot be compared, the objects of that frame get new ones; others are then found by their place.

        Args:
            describer: Of any bundle.
            reason: Why captions are stale.

        Raises what `Describer.set_image` and `Describer.encode` raise.
        """
        latest = self.memory.latest
        if latest is not None:
            describer.set_image(latest.rgb)
            latest = replace(latest, encoded=describer.encode(latest.regions))
        before, self.describer = self.describer, describer
        tokens = [token_engines(each.bundle.manifest) for each in (before, describer)]
        self.memory.replace_model(latest, describer.spec.hidden_size if tokens[0] != tokens[1] else None, reason)
        self._scheduler = Scheduler(self._scheduler.clock)  # it has learned how long the other one takes
        self._current, self._encoded = latest, None
        return before

    def _pass(self, frame: Frame, scene: Scene, gray: np.ndarray) -> None:
        """Update a scene with a frame that shows none of its objects."""
        height, width = frame.rgb.shape[:2]
        scene.set_image_size((height, width))
        assignment = Assignment()
        if scene is self.memory.scene:
            assignment = self._tracker.skip_frame((height, width), gray)
        scene.update(frame.stamp, frame.frame_id, (), assignment)

    def _observe(
        self,
        frame: Frame,
        regions: Regions,
        scene: Scene,
        views: tuple[np.ndarray, np.ndarray],
        settings: StepSettings,
        cancel: CancellationToken | None,
    ) -> tuple[ObservedFrame, Sequence[Candidate], tuple[Timing, ...]]:
        """Encode a frame, associate its regions with the objects of a scene and update the scene.

        ``views`` are the frame's small image in color and in gray.
        """
        self._current = None
        small, gray = views
        timings: tuple[Timing, ...] = ()
        encoded_image = EncodedImage(self.describer.image_id, frame.rgb.shape, small)
        if not settings.remember or not encoded_image.shows_same(self._encoded, settings.still_difference):
            self._set_image(frame.rgb, small, cancel=cancel)
            timings = (self.describer.image_timing,)
        # While a GPU encodes the image. A copy: the caller may use the memory for the next image.
        extents, rgb = frame.extents(regions), frame.rgb.copy()
        encoded = self.describer.encode(regions, cancel=cancel)
        poses = frame.poses(regions) if frame.fixed_frame else ()
        detections = Detections(regions, encoded.mask_tokens, extents, frame.labels, frame.fixed_frame, poses)
        scene.set_image_size(regions.shape)
        if settings.remember:
            assignment = self._tracker.associate(scene.tracks, detections, scene.frame + 1, gray)
        else:
            assignment = Assignment(regions.ids)
        change = Change(settings.appearance_change, settings.view_change)
        update = scene.update(frame.stamp, frame.frame_id, detections, assignment, change)
        self._current = ObservedFrame(frame.stamp, frame.frame_id, regions, encoded, rgb, update.track_ids, scene)
        return self._current, update.candidates, (*timings, encoded.timing)

    def _wanted(self, observed: ObservedFrame, settings: StepSettings) -> frozenset[int]:
        """Return the track ids of the objects for which the settings want a crop."""
        rows = crop_rows(observed.regions, self.crops(settings), self.describer.spec)
        return frozenset(int(track_id) for track_id in observed.assigned_ids[rows])

    def _cropped(
        self, batch: Batch, encoded: EncodedRegions, region_ids: Sequence[int]
    ) -> tuple[EncodedRegions, tuple[Timing, ...]]:
        """Return regions with the crops of those with these ids; without crops if the time is over before."""
        began = self._scheduler.clock()
        try:
            cropped = self.describer.encode(encoded, crops=region_ids, cancel=batch.cancel)
        except StoppedError:
            return encoded, ()
        finally:
            batch.crop_cost = self._scheduler.clock() - began
        return cropped, (cropped.timing,)

    def _describe(
        self, batch: Batch, observed: ObservedFrame, settings: StepSettings
    ) -> tuple[dict[int, Caption], tuple[Timing, ...]]:
        """Return captions of the objects of a batch by track id; without those whose decoding was canceled."""
        encoded, ids = observed.encoded, observed.assigned_ids
        rows = np.flatnonzero(np.isin(ids, batch.track_ids))
        questions, constraints = questions_for(settings)
        some = encoded.select(encoded.regions.ids[rows])
        timings: tuple[Timing, ...] = ()
        if batch.crops:
            # The scene keeps tokens without crops: they are comparable from frame to frame.
            some, timings = self._cropped(batch, some, some.regions.ids[np.isin(ids[rows], list(batch.crops))].tolist())
        config = settings.generation(settings.max_new_tokens)
        try:
            results = self.describer.answer(some, questions, config, constraints, cancel=batch.cancel)
        except StoppedError:
            return {}, timings
        captions = captions_from(results, settings, observed.stamp)
        complete = [number for number in range(len(rows)) if all(result[number].ended for result in results)]
        described = {int(ids[rows[number]]): captions[number] for number in complete}
        batch.described, batch.fixed_cost = frozenset(described), results[0].timing.prefix
        return described, (*timings, results[0].timing)

    def _set_image(
        self, rgb: np.ndarray, small: np.ndarray, image_id: int | None = None, cancel: CancellationToken | None = None
    ) -> None:
        self._encoded = None
        self.describer.set_image(rgb, image_id, cancel=cancel)
        self._encoded = EncodedImage(self.describer.image_id, rgb.shape, small.copy())  # a small image is its own copy


if not TYPE_CHECKING:  # a type checker would accept any name
    __getattr__ = old_names("pipeline")
