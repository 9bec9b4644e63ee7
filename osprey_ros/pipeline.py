"""One step of the robot's perception: a frame in, its described objects out. Knows nothing of ROS.

A frame is numpy arrays and an integer stamp here; ``osprey_ros.ros.frames`` makes it from messages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from time import perf_counter

import numpy as np

from osprey_ros.describer import Describer, Description, Timing
from osprey_ros.errors import OspreyError
from osprey_ros.geometry import Extent, extents
from osprey_ros.prompt import QUESTIONS
from osprey_ros.regions import NoRegionError, Regions, regions_from_id_image

UNKNOWN = "unknown"  # said instead of words that the model was not sure enough of
_FIRST_WAVE = 4  # regions described before it is known how long one takes


class FrameError(OspreyError):
    """A frame whose parts do not belong together; the message names what differs and the remedy."""


@dataclass(frozen=True)
class RegionLabel:
    """What a segmentation or a detector says of a region: a class name ("" for none) and how sure it is, 0 to 1."""

    label: str
    score: float


_NO_LABEL = RegionLabel("", 0.0)


@dataclass(frozen=True)
class Frame:
    """A picture and its regions, of one moment; with depth and camera where they are known.

    Attributes:
        stamp: in nanoseconds.
        frame_id: the camera's optical frame.
        rgb: uint8 [H, W, 3].
        regions: an id image, uint8, uint16 or int32 [H, W], 0 being background; or regions that may overlap.
        labels: what is known of regions beforehand, by id; may be empty.
        depth: float32 [H, W], metres along the optical axis, unknown where it is not finite or not above 0.
        camera_matrix: float64 [3, 3] in pixels, the centre of the first one at (0, 0).
    """

    stamp: int
    frame_id: str
    rgb: np.ndarray
    regions: np.ndarray | Regions
    labels: Mapping[int, RegionLabel] = field(default_factory=dict)
    depth: np.ndarray | None = None
    camera_matrix: np.ndarray | None = None


@dataclass(frozen=True)
class StepSettings:
    """What is said about which regions."""

    style: str = "short"  # a key of prompt.QUESTIONS
    categories: bool = True  # whether the category is asked for as well
    min_area: int = 50  # pixels; smaller regions are left out
    max_regions: int = 32  # the largest ones are described, the others skipped
    max_new_tokens: int = 0  # tokens of one answer; 0: what suits the style
    min_confidence: float = 0.0  # an answer below it becomes "unknown"
    time_budget: float = 0.0  # seconds for one frame: what does not fit, the smallest, is skipped; 0: no limit


@dataclass(frozen=True)
class DescribedObject:
    """One region of a frame in words.

    ``box`` is x, y, width, height in pixels, ``described_at`` a frame's stamp. ``skipped`` says why there are no words:
    ``category`` and ``description`` are then "" and ``confidence`` is 0. ``position`` and ``size`` (metres, along x to
    the right, y down and z forward of the camera) are there where depth is. ``label`` and ``score`` came with the
    region.
    """

    instance_id: int
    box: tuple[int, int, int, int]
    area: int
    category: str
    description: str
    confidence: float
    described_at: int
    skipped: str = ""
    position: tuple[float, float, float] | None = None
    size: tuple[float, float, float] | None = None
    label: str = ""
    score: float = 0.0


@dataclass(frozen=True)
class StepResult:
    """The objects of a frame, in the order of their regions; ``nothing`` says why there are none.

    Those of an id image come by rising id. ``timing`` sums up all calls of the describer.
    """

    objects: tuple[DescribedObject, ...]
    regions: Regions | None
    timing: Timing | None
    nothing: str = ""

    @property
    def skipped(self) -> int:
        """How many objects have no words."""
        return sum(bool(described.skipped) for described in self.objects)


def describe_frame(
    describer: Describer, frame: Frame, settings: StepSettings, should_stop: Callable[[], bool] | None = None
) -> StepResult:
    """Describes the regions of a frame: all regions and both questions (category and style) in one decode.

    Under a time budget there are several: the largest regions first, then as many as the time that is left allows; at
    its end decoding stops, and what has not all its words is skipped. The first few are always described.
    ``should_stop`` is asked before each decode step; when it says yes, what is not yet described is skipped.

    A segmentation without any region, or with none of ``min_area``, gives an empty result that says so. Raises
    FrameError for parts of another size than the picture, RegionError for a segmentation that cannot be used.
    """
    start = perf_counter()
    _check_sizes(frame)
    try:
        regions = _regions(frame.regions, settings.min_area)
    except NoRegionError as error:
        return StepResult(objects=(), regions=None, timing=None, nothing=str(error))
    places = _places(frame, regions)
    largest_first = np.argsort(-regions.areas, kind="stable")
    wanted, too_many = np.split(largest_first, [settings.max_regions])

    describer.set_image(frame.rgb)
    answers = _Answers(describer, regions, settings)
    stopped = should_stop or (lambda: False)
    if settings.time_budget:
        end = start + settings.time_budget
        _ask_until(answers, wanted, end, stopped)
        late = f"no time left in this frame (time_budget {settings.time_budget:g} s)"
    else:
        answers.ask(wanted, stopped)
        late = "stopped"
    skipped = {int(row): late for row in wanted if not answers.has(int(row))}
    skipped.update(
        {int(row): f"not one of the {settings.max_regions} largest regions (max_regions)" for row in too_many}
    )

    objects = tuple(
        _object(frame, regions, row, answers, places[row], skipped.get(row, "")) for row in range(len(regions))
    )
    return StepResult(objects=objects, regions=regions, timing=answers.timing)


def _object(
    frame: Frame, regions: Regions, row: int, answers: _Answers, place: Extent | None, skipped: str
) -> DescribedObject:
    region = int(regions.ids[row])
    x, y, width, height = (int(v) for v in regions.boxes[row])
    label = frame.labels.get(region, _NO_LABEL)
    return DescribedObject(
        instance_id=region,
        box=(x, y, width, height),
        area=int(regions.areas[row]),
        category=answers.category(row),
        description=answers.description(row),
        confidence=answers.confidence(row),
        described_at=frame.stamp,
        skipped=skipped,
        position=place.position if place else None,
        size=place.size if place else None,
        label=label.label,
        score=label.score,
    )


def _ask_until(answers: _Answers, rows: np.ndarray, end: float, stopped: Callable[[], bool]) -> None:
    """Asks about the first rows, then about as many as there is time for until ``end`` (of perf_counter)."""
    seconds = answers.ask(rows[:_FIRST_WAVE], stopped) / _FIRST_WAVE
    rows = rows[_FIRST_WAVE:]
    # A region takes no longer in a larger wave than in a smaller one.
    while len(rows) and (room := int((end - perf_counter()) / max(seconds, 1e-6))) > 0 and not stopped():
        wave, rows = rows[:room], rows[room:]
        seconds = answers.ask(wave, lambda: stopped() or perf_counter() > end) / len(wave)


class _Answers:
    """What the describer said about the rows of some regions, over one or more calls."""

    def __init__(self, describer: Describer, regions: Regions, settings: StepSettings) -> None:
        self._describer, self._regions, self._settings = describer, regions, settings
        self._styles = [settings.style]
        if settings.categories and settings.style != "category":
            self._styles.append("category")
        self._by_style: dict[str, dict[int, Description]] = {style: {} for style in self._styles}
        self.timing: Timing | None = None

    def ask(self, rows: np.ndarray, should_stop: Callable[[], bool]) -> float:
        """Asks all questions about these rows, in one decode; rows that were stopped before their end stay without.

        Returns the seconds that it took, without those that are spent once for each frame.
        """
        rows = np.sort(rows)
        results = self._describer.answer(
            self._regions.select(self._regions.ids[rows]) if len(rows) < len(self._regions) else self._regions,
            [QUESTIONS[style] for style in self._styles],
            max_new_tokens=self._settings.max_new_tokens or None,
            should_stop=should_stop,
        )
        for number, row in enumerate(rows):
            if all(result[number].ended for result in results):
                for style, result in zip(self._styles, results, strict=True):
                    self._by_style[style][int(row)] = result[number]
        timing = results[0].timing
        self.timing = timing if self.timing is None else _sum(self.timing, timing)
        return timing.regions + timing.branches

    def has(self, row: int) -> bool:
        """Whether all was said about a row."""
        return row in self._by_style[self._settings.style]

    def description(self, row: int) -> str:
        """Words about a row in the style of the settings; "" where it was not asked about."""
        return self._words(self._settings.style, row)

    def category(self, row: int) -> str:
        """Category of a row; "" where it was not asked for."""
        return self._words("category", row) if "category" in self._by_style else ""

    def confidence(self, row: int) -> float:
        """Of the description, whether it was good enough or not; 0 where there is none."""
        answer = self._by_style[self._settings.style].get(row)
        return answer.confidence if answer else 0.0

    def _words(self, style: str, row: int) -> str:
        answer = self._by_style[style].get(row)
        if answer is None:
            return ""
        return answer.text if answer.confidence >= self._settings.min_confidence else UNKNOWN


def _sum(first: Timing, second: Timing) -> Timing:
    """Of two calls on one picture, which have the prefix in common."""
    later = asdict(second)
    total = {name: value + later[name] for name, value in asdict(first).items()}
    return Timing(**{**total, "prefix_tokens": second.prefix_tokens})


def _check_sizes(frame: Frame) -> None:
    height, width = frame.rgb.shape[:2]
    shape = frame.regions.shape
    if shape != (height, width):
        raise FrameError(
            f"the segmentation is {shape[1]}x{shape[0]} pixels and the image {width}x{height}: "
            "publish both in the same size (scale the segmentation with nearest neighbour)"
        )
    if frame.depth is not None and frame.depth.shape != (height, width):
        raise FrameError(
            f"the depth is {frame.depth.shape[1]}x{frame.depth.shape[0]} pixels and the image {width}x{height}: "
            "publish depth that is registered to the image (depth_image_proc does that), or set use_depth to false"
        )


def _regions(regions: np.ndarray | Regions, min_area: int) -> Regions:
    """The regions of at least ``min_area`` pixels."""
    if not isinstance(regions, Regions):
        return regions_from_id_image(regions, min_area=min_area)
    if not len(regions):
        raise NoRegionError("there is no region in the array")
    large = regions.areas >= min_area
    if large.all():
        return regions
    if not large.any():
        raise NoRegionError(f"no region is left: all {len(regions)} are smaller than {min_area} pixels")
    return regions.select(regions.ids[large])


def _places(frame: Frame, regions: Regions) -> list[Extent | None]:
    if frame.depth is None or frame.camera_matrix is None:
        return [None] * len(regions)
    return extents(regions, frame.depth, frame.camera_matrix)
