"""One step of the robot's perception: a frame in, what is known of its objects out. Knows nothing of ROS.

A frame is numpy arrays and an integer stamp here; ``osprey_ros.messages.frames`` makes it from messages.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from osprey_ros.describer import Describer
from osprey_ros.errors import NoRegionError
from osprey_ros.frame import Frame, RegionLabel
from osprey_ros.regions.geometry import Extent
from osprey_ros.regions.regions import Regions
from osprey_ros.results import EncodedRegions
from osprey_ros.scene.attributes import captions_from, questions_for
from osprey_ros.scene.camera_motion import differs, small_gray, small_picture
from osprey_ros.scene.history import ObservedFrame
from osprey_ros.scene.scene import Change, Detection, Scene
from osprey_ros.scene.scheduler import Batch, Candidate, Scheduler
from osprey_ros.scene.settings import StepSettings
from osprey_ros.scene.tracker import Detections, Track, Tracker
from osprey_ros.scene.types import SceneObject, State
from osprey_ros.timing import Timing

_NO_LABEL = RegionLabel("", 0.0)
_HISTORY = 8  # frames that questions may be asked about


@dataclass(frozen=True)
class StepResult:
    """What is known of the objects of a frame, in the order of their regions; ``empty_reason`` says why there are none.

    Those of an id image come by rising id. ``timing`` sums up all calls of the describer. ``described`` objects have
    words of this frame, ``reused`` ones have words of an earlier frame that still hold.
    """

    objects: tuple[SceneObject, ...]
    regions: Regions | None = None
    encoded: EncodedRegions | None = None
    timing: Timing | None = None
    empty_reason: str = ""
    described: int = 0
    reused: int = 0

    @property
    def skipped(self) -> int:
        """How many objects needed words and were left out of this frame."""
        return sum(thing.state is State.SKIPPED for thing in self.objects)


class Pipeline:
    """Looks at frames one after another and remembers their objects. Use it from one thread at a time.

    Args:
        describer: `step` and `look_at` set its picture; in between others may ask it about that picture.
        scene, tracker, scheduler: by default new ones, with the usual settings. The scene's bound is the tracker's.
    """

    def __init__(
        self,
        describer: Describer,
        scene: Scene | None = None,
        tracker: Tracker | None = None,
        scheduler: Scheduler | None = None,
    ) -> None:
        self.describer = describer
        self._remembered = scene if scene is not None else Scene()
        self._frame_scene: Scene | None = None  # of the latest frame, while nothing is remembered
        self._tracker = tracker if tracker is not None else Tracker()
        self._scheduler = scheduler if scheduler is not None else Scheduler()
        self._calibration = describer.bundle.calibration()
        self._recent: deque[ObservedFrame] = deque(maxlen=_HISTORY)
        self._shown: ObservedFrame | None = None
        self._encoded: _Encoded | None = None
        self._asked = ""

    @property
    def scene(self) -> Scene:
        """What is known after the latest frame; while nothing is remembered, of that frame alone."""
        return self._frame_scene if self._frame_scene is not None else self._remembered

    @property
    def remembered(self) -> Scene:
        """What is remembered, which waits while `StepSettings.remember` is False."""
        return self._remembered

    @property
    def asked(self) -> str:
        """What was asked for the words that are remembered, for `restore`; "" before the first frame."""
        return self._asked

    @property
    def known(self) -> set[int]:
        """Track ids of all that can be forgotten."""
        scenes = (self.scene, self._remembered)
        return {thing.track_id for scene in scenes for thing in scene.snapshot().objects}

    @property
    def latest(self) -> ObservedFrame | None:
        """The latest frame that had a region; None before the first."""
        return self._recent[-1] if self._recent else None

    @property
    def recent(self) -> tuple[ObservedFrame, ...]:
        """The latest frames that had a region, eight at most, the newest one last."""
        return tuple(self._recent)

    def look_at(self, seen: ObservedFrame) -> None:
        """Sets the describer's picture to that of a frame, unless it is: what is asked next is about that frame."""
        if self._shown is not seen:
            self._shown = None
            self._encode(seen.rgb, small_picture(seen.rgb))
            self._shown = seen

    def prioritize(self, track_ids: Iterable[int]) -> None:
        """These objects come first until they have words that hold; those that are not known are passed over."""
        self.scene.prioritize(track_ids)

    def forget(self, track_ids: Iterable[int] | None = None) -> tuple[int, ...]:
        """Forgets objects, all by default; returns the track ids of those that there were.

        While nothing is remembered, both those of the latest frame and what is remembered go by these ids.
        """
        wanted = None if track_ids is None else list(track_ids)
        gone = self._remembered.forget(wanted)
        self._tracker.forget(gone)
        if self._frame_scene is not None:
            gone = tuple(dict.fromkeys(self._frame_scene.forget(wanted) + gone))
        self._disown(None if wanted is None else gone)
        return gone

    @property
    def next_id(self) -> int:
        """The track id that the next new object gets."""
        return self._tracker.next_id

    def restore(self, objects: Sequence[SceneObject], next_id: int = 1, asked: str = "") -> None:
        """Takes up what was remembered before in the place of all that is; new track ids begin at ``next_id`` or later.

        Args:
            objects: those of `Scene.persistent_objects`. Beyond the scene's bound they are forgotten at once.
            asked: what `asked` was then: where the first step asks for other words, these do not hold.

        Raises InputError for track ids that are no good.
        """
        # Where things were was said for where the camera was then, which is not known any more.
        tracks = [Track(o.track_id, o.appearance, o.box, None, o.last_seen) for o in objects]
        self._tracker.restore(tracks, next_id)
        self._remembered.forget()
        self._remembered.restore(objects)
        self._disown()
        self._asked = asked
        self._tracker.forget(self._remembered.forget_surplus())

    def step(self, frame: Frame, settings: StepSettings, should_stop: Callable[[], bool] | None = None) -> StepResult:
        """Looks at a frame, finds its objects again, and describes those that need it, all questions in one decode.

        A picture that shows what the one before showed, but for noise, is not encoded again: its regions are.

        Objects that are new or have changed are described, those that were asked for first; without a time budget all
        of them, up to ``max_regions``. With one as many as fit: see `Scheduler.run`. The others keep the words they
        have. ``should_stop`` is asked before each decode step; when it says yes, what is not yet described is skipped.

        A segmentation without any region, or with none of ``min_area``, gives an empty result that says so. Raises
        InputError for parts of another size than the picture, RegionError for a segmentation that cannot be used.
        """
        started = self._scheduler.clock()
        frame.check_sizes()
        self._take_settings(frame, settings)
        try:
            regions = frame.large_regions(settings.min_area)
        except NoRegionError as error:
            if settings.remember or len(self._tracker):
                self._tracker.see_nothing(small_gray(frame.rgb))
            self.scene.update(frame.stamp, frame.frame_id, (), _change(settings), frame.rgb.shape[:2])
            return StepResult((), empty_reason=str(error))
        self._shown = None
        small = small_picture(frame.rgb)
        if not settings.remember or not self._stands_still(frame.rgb, small, settings.still_difference):
            self._encode(frame.rgb, small)
        # While a GPU encodes the picture. A copy: its memory is the caller's, who may fill it with the next one.
        places, rgb = frame.places(regions), frame.rgb.copy()
        encoded = self.describer.encode(regions)
        timing = self.describer.take_seconds()
        detections = self._detections(frame, small, encoded, places, settings.remember)
        track_ids = np.array([detection.track_id for detection in detections], dtype=np.int64)
        self._shown = ObservedFrame(frame.stamp, frame.frame_id, regions, encoded, track_ids, rgb)
        self._recent.append(self._shown)
        self.scene.update(frame.stamp, frame.frame_id, detections, _change(settings), regions.shape)

        speaker = _Speaker(self, self._shown, settings, timing)
        try:
            reasons = self._scheduler.run(
                self._candidates(track_ids, regions),
                speaker.describe,
                started,
                settings.time_budget,
                settings.max_regions,
                should_stop,
            )
            for row, reason in reasons.items():
                self.scene.skip(int(track_ids[row]), reason)
            objects = tuple(self.scene.object(int(track_id)) for track_id in track_ids)
        finally:
            self._forget_surplus()
        fresh = sum(thing.state is State.FRESH for thing in objects)
        return StepResult(
            objects,
            regions,
            encoded,
            speaker.timing,
            described=speaker.described,
            reused=fresh - speaker.described,
        )

    def _take_settings(self, frame: Frame, settings: StepSettings) -> None:
        """Makes room for what other settings than before ask for."""
        if not settings.remember:
            if self._frame_scene is None:
                # From now on track ids are those of the segmentation.
                self._remembered.update(frame.stamp, frame.frame_id, (), _change(settings), frame.rgb.shape[:2])
                self._disown()
            self._frame_scene = Scene(self._remembered.max_objects)
            return
        if self._frame_scene is not None:
            self._frame_scene = None
            self._disown()
        asked = _asked(settings)
        if asked != self._asked:
            self._remembered.invalidate("other words are asked for than when it was described")
            self._asked = asked

    def _forget_surplus(self) -> None:
        gone = self.scene.forget_surplus()
        if self._frame_scene is None:
            self._tracker.forget(gone)
            self._disown(gone)

    def _disown(self, track_ids: Sequence[int] | None = None) -> None:
        """The frames that were seen do not name these objects any more, all by default."""
        for seen in self._recent:
            seen.track_ids[... if track_ids is None else np.isin(seen.track_ids, track_ids)] = 0

    def _encode(self, rgb: np.ndarray, small: np.ndarray) -> None:
        self._encoded = None
        self.describer.set_image(rgb)
        # A copy where the picture is small itself: its memory is the caller's.
        self._encoded = _Encoded(rgb.shape, small.copy() if small is rgb else small, self.describer.pictures)

    def _stands_still(self, rgb: np.ndarray, small: np.ndarray, levels: float) -> bool:
        """Whether the describer's picture shows all that this one does, but for noise."""
        before = self._encoded
        if before is None or before.number != self.describer.pictures or before.shape != rgb.shape:
            return False
        return not differs(before.small, small, levels)

    def _detections(
        self,
        frame: Frame,
        small: np.ndarray,
        encoded: EncodedRegions,
        places: Sequence[Extent | None],
        remember: bool,
    ) -> list[Detection]:
        """The regions of a frame with the track id of each; where nothing is remembered, that is its own id."""
        regions = encoded.regions
        track_ids: Sequence[int] | np.ndarray = regions.ids
        if remember:
            unknown = (np.nan, np.nan, np.nan)
            positions = np.array([place.position if place else unknown for place in places], dtype=np.float64)
            observed = Detections.of(regions, encoded.mask_tokens, positions if np.isfinite(positions).any() else None)
            track_ids = self._tracker.update(frame.stamp, observed, small_gray(small))
            for young, older in self._tracker.replaced.items():
                self._remembered.merge(young, older)
                for seen in self._recent:
                    seen.track_ids[seen.track_ids == young] = older
        elif len(self._tracker):  # what is remembered waits, and the camera moves on
            self._tracker.see_nothing(small_gray(small))
        detections = []
        for row, place in enumerate(places):
            label = frame.labels.get(int(regions.ids[row]), _NO_LABEL)
            x, y, width, height = (int(v) for v in regions.boxes[row])
            detections.append(
                Detection(
                    track_id=int(track_ids[row]),
                    instance_id=int(regions.ids[row]),
                    box=(x, y, width, height),
                    area=int(regions.areas[row]),
                    appearance=encoded.mask_tokens[row].copy(),  # a view would keep the tokens of all regions
                    position=place.position if place else None,
                    size=place.size if place else None,
                    label=label.label,
                    score=label.score,
                )
            )
        return detections

    def _candidates(self, track_ids: np.ndarray, regions: Regions) -> list[Candidate]:
        row_of = {int(track_id): row for row, track_id in enumerate(track_ids)}
        pixels = regions.shape[0] * regions.shape[1]
        return [
            Candidate(
                row_of[thing.track_id],
                requested=self.scene.is_prioritized(thing.track_id),
                new=thing.caption is None,
                importance=_importance(thing, pixels),
                waited=self.scene.waited(thing.track_id),
            )
            for thing in self.scene.needing_caption()
        ]


@dataclass(frozen=True)
class _Encoded:
    """The describer's picture: its shape, what it looks like, small, and the how-many-eth of its pictures it is."""

    shape: tuple[int, ...]
    small: np.ndarray
    number: int


class _Speaker:
    """Describes rows of a frame and tells the scene; sums up what that took."""

    def __init__(self, pipeline: Pipeline, seen: ObservedFrame, settings: StepSettings, timing: Timing) -> None:
        self._describer, self._scene, self._calibration = pipeline.describer, pipeline.scene, pipeline._calibration
        self._seen, self._settings = seen, settings
        self._questions, self._constraints = questions_for(settings)
        self.timing = timing
        self.described = 0

    def describe(self, rows: Sequence[int], should_stop: Callable[[], bool]) -> Batch:
        """Asks all questions about these rows, in one decode; those that were stopped before their end stay without."""
        rows = sorted(rows)
        encoded = self._seen.encoded
        some = encoded.select(encoded.regions.ids[rows]) if len(rows) < len(encoded) else encoded
        results = self._describer.answer(
            some,
            self._questions,
            max_new_tokens=self._settings.max_new_tokens or None,
            should_stop=should_stop,
            constraints=self._constraints,
        )
        words = captions_from(results, self._settings, self._calibration, self._seen.stamp)
        done = [number for number in range(len(rows)) if all(result[number].ended for result in results)]
        for number in done:
            self._scene.set_caption(int(self._seen.track_ids[rows[number]]), words[number])
        self.described += len(done)
        timing = results[0].timing
        self.timing = _sum(self.timing, timing)
        return Batch(frozenset(rows[number] for number in done), timing.prefix, timing.regions + timing.branches)


def _change(settings: StepSettings) -> Change:
    return Change(settings.appearance_change, settings.view_change)


def _asked(settings: StepSettings) -> str:
    """What words depend on, as a text to keep with them."""
    names = ("style", "categories", "max_new_tokens", "min_confidence")
    said = {name: getattr(settings, name) for name in names}
    return json.dumps({**said, "attributes": [asdict(spec) for spec in settings.attributes]}, sort_keys=True)


def _importance(thing: SceneObject, pixels: int) -> float:
    """How large an object is in the picture, and how near where that is known, 0 to 1."""
    large = (thing.area / pixels) ** 0.5
    if thing.position is None:
        return large
    return (large + 1 / (1 + max(0.0, thing.position[2]))) / 2


def _sum(first: Timing, second: Timing) -> Timing:
    """Of two calls on one picture, which have the prefix in common."""
    later = asdict(second)
    total = {name: value + later[name] for name, value in asdict(first).items()}
    return Timing(**{**total, "prefix_tokens": second.prefix_tokens})
