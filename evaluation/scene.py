"""Measure tracking, captioning and queries on simulated test scenes: `python -m evaluation.scene` prints a table.

Parts:
    sequences: Tracking and captions with a moving camera, occlusions, objects that move, leave and return, and regions
        with new numbers in each frame.
    static: Time of a frame when all objects are described.
    budget: Time of a frame with a time budget, and time until all objects are described. It uses two threads.
    queries: Share of questions with the right object.
    calibration: Calibration error of the confidences.

"static" and "budget" measure time: run them on an idle machine. The exit status is 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from time import perf_counter

import numpy as np

from evaluation import queries
from evaluation.calibration import answers_of_scenes
from evaluation.curves import expected_calibration_error
from evaluation.query_questions import ABSENT
from evaluation.tracking import TrackingFigures, tracking_figures
from osprey_ros.cli._edge import command
from osprey_ros.cli._options import (
    Parser,
    add_bundle_option,
    add_count_option,
    add_figures_option,
    add_preprocessing_option,
    add_threads_option,
)
from osprey_ros.cli._output import write_figures
from osprey_ros.describer import Describer
from osprey_ros.errors import InputError
from osprey_ros.frame import Frame
from osprey_ros.pipeline import Pipeline
from osprey_ros.scene.attributes import AttributeSpec
from osprey_ros.scene.result import StepResult
from osprey_ros.scene.scheduler import Scheduler
from osprey_ros.scene.settings import StepSettings
from osprey_ros.scene.types import SceneObject
from osprey_sim.catalog import COLORS
from osprey_sim.render import Renderer, render_scenes
from osprey_sim.sequence import Sequence as SimSequence
from osprey_sim.sequence import SequenceFrame, SequenceSettings

SIZE = (640, 480)
BUDGET, BUDGET_OBJECTS, BUDGET_THREADS = 0.150, 30, 2
STATIC_OBJECTS = 12
_EACH_ENCODED = "each image encoded"  # for comparison, without a target
PARTS = ("static", "budget", "queries", "calibration", "sequences")
_NOISE = 2.0  # standard deviation of the sensor noise in gray levels
_MIN_SEEN = 200  # pixels of a visible object
# A view counts as unchanged up to these changes.
_SHIFTED = 0.02  # meters, motion of the object
_TURNED = 15.0  # degrees, change of the camera's azimuth
_HIDDEN = 1.25  # ratio of the visible areas
_MAX_FRAMES = 200  # of a round, in which all objects should be described


@dataclass(frozen=True)
class Row:
    """One line of the table. ``kept`` is whether the target is met, None without a target."""

    what: str
    found: str
    wanted: str = ""
    kept: bool | None = None


@dataclass
class Spoken:
    """Counts of captions in one or more sequences.

    Attributes:
        frames: Frames.
        regions: Regions in all frames.
        objects: Objects that appeared.
        described: Objects with a caption.
        visible: Objects that were visible for a second.
        late: Objects that were visible for a second and had no caption then.
        again: Later captions of an object by their cause.
    """

    frames: int = 0
    regions: int = 0
    objects: int = 0
    described: int = 0
    visible: int = 0
    late: int = 0
    again: Counter[str] = field(default_factory=Counter)

    def add(self, other: Spoken) -> None:
        """Add the counts of another one."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


class _Watch:
    """Count tracks and captions of the true objects of one sequence."""

    def __init__(self, settings: StepSettings, sequence: SimSequence) -> None:
        self._settings, self._sequence, self._second = settings, sequence, round(sequence.settings.rate)
        self._said: dict[int, tuple[SceneObject, SequenceFrame]] = {}  # last captioned state and frame by true object
        self._for: Counter[int] = Counter()  # consecutive frames in which an object is visible
        self._seen: set[int] = set()
        self._judged: set[int] = set()
        self.identities: list[tuple[np.ndarray, np.ndarray]] = []
        self.spoken = Spoken()

    def add(self, shown: SequenceFrame, result: StepResult) -> None:
        """Add the next frame."""
        spoken = self.spoken
        truth = [shown.truth[obj.instance_id] for obj in result.objects]
        self.identities.append((np.array(truth, int), np.array([obj.track_id for obj in result.objects], int)))
        spoken.frames += 1
        spoken.regions += len(truth)
        visible = Counter[int]()
        for true_id, obj in zip(truth, result.objects, strict=True):
            if obj.caption is not None and obj.caption.described_at == shown.stamp:
                if true_id in self._said:
                    spoken.again[self._cause(true_id, obj, shown)] += 1
                self._said[true_id] = (obj, shown)
            if obj.area >= _MIN_SEEN:
                visible[true_id] = self._for[true_id] + 1
            if visible[true_id] >= self._second and true_id not in self._judged:
                self._judged.add(true_id)
                spoken.visible += 1
                spoken.late += obj.caption is None
        self._for = visible
        self._seen.update(truth)
        spoken.objects, spoken.described = len(self._seen), len(self._said)

    def _cause(self, true_id: int, obj: SceneObject, shown: SequenceFrame) -> str:
        before, then = self._said[true_id]
        here, there = (self._sequence.scene_at(n).object(true_id).position for n in (shown.number, then.number))
        if before.track_id != obj.track_id:
            return "its track was lost"
        if np.linalg.norm(here - there) > _SHIFTED:
            return "moved"
        if obj.area > self._settings.view_change * before.area:
            return "seen larger"
        if abs(shown.camera.azimuth - then.camera.azimuth) > _TURNED:
            return "seen from another side"
        if not 1 / _HIDDEN < obj.area / before.area < _HIDDEN:
            return "hidden otherwise"
        return "view unchanged"


def run_sequences(
    describer: Describer,
    seeds: Iterable[int],
    frames: int,
    settings: StepSettings,
    report: Callable[[str], None] = lambda line: None,
) -> tuple[TrackingFigures, Spoken]:
    """Run sequences of test scenes, each with a new pipeline, and return the figures of all of them."""
    figures, spoken = TrackingFigures(0, 0, 0, 0, 0, 0), Spoken()
    with Renderer(*SIZE) as renderer:
        for seed in seeds:
            sequence = SimSequence(seed, "test", SequenceSettings(frames=frames))
            pipeline, watch = Pipeline(describer), _Watch(settings, sequence)
            for shown in sequence.frames(renderer):
                drawn = shown.frame
                frame = Frame(
                    shown.stamp,
                    "camera",
                    drawn.rgb,
                    drawn.instance_ids,
                    depth=drawn.depth,
                    camera_matrix=drawn.camera_matrix,
                )
                watch.add(shown, pipeline.step(frame, settings))
            figures += tracking_figures(watch.identities)
            spoken.add(watch.spoken)
            report(f"sequence {seed}: IDF1 {tracking_figures(watch.identities).idf1:.3f}, {dict(watch.spoken.again)}")
    return figures, spoken


def sequence_rows(figures: TrackingFigures, spoken: Spoken) -> list[Row]:
    """Return the rows about sequences."""
    again = ", ".join(f"{cause} {count}" for cause, count in sorted(spoken.again.items())) or "none"
    return [
        Row(f"sequences, {spoken.frames} frames: IDF1", f"{figures.idf1:.3f}", "0.9", figures.idf1 >= 0.9),
        Row("  identity switches, tracks, objects", f"{figures.switches}, {figures.tracks}, {figures.objects}"),
        Row(
            "  visible for a second and described",
            f"{spoken.visible - spoken.late} of {spoken.visible}",
            "all",
            spoken.visible > 0 and not spoken.late,
        ),
        Row("  regions, objects described", f"{spoken.regions}, {spoken.described} of {spoken.objects}"),
        Row("  described again", again),
        Row(
            "  of them with the view unchanged",
            f"{spoken.again['view unchanged']} in {spoken.regions} regions",
            "0",
            spoken.again["view unchanged"] == 0,
        ),
    ]


def crowd(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return an image, uint8 [H, W, 3] of SIZE, and ids, uint16 [H, W], with ``count`` clearly visible objects.

    If one scene has no room for them, the image has four test scenes, one in each quarter.

    Raises:
        InputError: No scene has enough visible objects.
    """
    if count <= STATIC_OBJECTS:
        return next(_scenes([count], *SIZE))
    quarters = list(_scenes([(count + n) // 4 for n in range(4)], SIZE[0] // 2, SIZE[1] // 2))
    offset = 0
    for _, ids in quarters:
        ids[ids > 0] += offset
        offset = int(ids.max())
    rgb, numbers = ([quarter[part] for quarter in quarters] for part in (0, 1))
    return _grid(rgb), _grid(numbers)


def _grid(quarters: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.concatenate(quarters[:2], axis=1), np.concatenate(quarters[2:], axis=1)])


def _scenes(counts: Sequence[int], width: int, height: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield image and ids of a scene for each count, each of another seed, with all its objects clearly visible."""
    seeds = iter(range(1000))
    for count in counts:
        for _, frame in render_scenes("test", seeds, (width, height), objects=(count, count)):
            if len(frame.objects(_MIN_SEEN // 4 - 1)) == count:
                yield frame.rgb, frame.instance_ids
                break
        else:
            raise InputError(f"none of the simulated scenes has {count} clearly visible objects")


class _Camera:
    """Return images of a static scene, each with its own sensor noise."""

    def __init__(self, rgb: np.ndarray, ids: np.ndarray, rate: float = 30.0) -> None:
        self._rgb, self._ids, self._step = rgb, ids, round(1e9 / rate)
        self._rng, self._number = np.random.default_rng(0), 0

    def frame(self) -> Frame:
        """Return the next frame."""
        self._number += 1
        noise = self._rng.normal(0, _NOISE, self._rgb.shape).astype(np.float32)
        noisy = np.clip(self._rgb + noise, 0, 255).astype(np.uint8)
        return Frame(self._number * self._step, "camera", noisy, self._ids)


@dataclass(frozen=True)
class Static:
    """Seconds of each frame of a static scene, with memory and without, and the number of captions with memory."""

    remembering: list[float]
    describing: list[float]
    described_again: int

    @property
    def share(self) -> float:
        """Ratio of the medians."""
        return statistics.median(self.remembering) / statistics.median(self.describing)


def run_static(describers: tuple[Describer, Describer], rounds: int, settings: StepSettings) -> Static:
    """Process the same images with and without memory in turns, each with its own describer. Skip the first round."""
    camera = _Camera(*crowd(STATIC_OBJECTS))
    keeping, each = (Pipeline(describer) for describer in describers)
    by_itself = StepSettings(**{**vars(settings), "remember": False})
    found = Static([], [], 0)
    again = 0
    for number in range(rounds + 1):
        frame = camera.frame()
        start = perf_counter()
        result = keeping.step(frame, settings)
        middle = perf_counter()
        each.step(frame, by_itself)
        end = perf_counter()
        if number:
            found.remembering.append(middle - start)
            found.describing.append(end - middle)
            again += result.described
    return Static(found.remembering, found.describing, again)


@dataclass(frozen=True)
class Budget:
    """``seconds`` of each frame, and of each round until all objects are described (``until_all``)."""

    seconds: list[float]
    until_all: list[float]

    @property
    def p95(self) -> float:
        """95th percentile of the seconds per frame."""
        return float(np.quantile(self.seconds, 0.95))


def run_budget(describer: Describer, rounds: int, budget: float, objects: int) -> Budget:
    """Run rounds, each with an empty memory and with frames until all objects are described."""
    camera = _Camera(*crowd(objects))
    settings, scheduler = StepSettings(time_budget=budget), Scheduler()
    found = Budget([], [])
    for _ in range(rounds):
        pipeline, total = Pipeline(describer, scheduler=scheduler), 0.0
        for _ in range(_MAX_FRAMES):
            frame = camera.frame()
            start = perf_counter()
            result = pipeline.step(frame, settings)
            seconds = perf_counter() - start
            found.seconds.append(seconds)
            total += max(seconds, 1 / 30)  # at most the rate of the camera
            if not result.skipped:
                break
        else:
            total = float("inf")
        found.until_all.append(total)
    return found


def budget_rows(found: Budget, budget: float, objects: int, threads: int) -> list[Row]:
    """Return the rows about a time budget."""
    slowest = max(found.until_all)
    return [
        Row(
            f"budget {1e3 * budget:.0f} ms, {objects} objects, {threads} threads: p95 of {len(found.seconds)} frames",
            f"{1e3 * found.p95:.0f} ms, median {1e3 * statistics.median(found.seconds):.0f} ms",
            f"{1100 * budget:.0f} ms",
            found.p95 <= 1.1 * budget,
        ),
        Row(
            f"  all described, slowest of {len(found.until_all)} rounds",
            f"{slowest:.1f} s, median {statistics.median(found.until_all):.1f} s",
            "5 s",
            slowest <= 5,
        ),
    ]


def query_rows(describer: Describer, questions: int) -> list[Row]:
    """Return the rows about questions."""
    asked = queries.ask(describer, questions, "test")
    rows = []
    for kind, share in queries.summary(asked).items():
        what, target = queries.TARGETS[kind]
        count = sum(one.kind == kind for one in asked)
        kept = share <= target if kind == ABSENT else share >= target
        rows.append(Row(f"{count} queries, {kind}: {what}", f"{share:.1%}", f"{target:.0%}", kept))
    return rows


def calibration_rows(describer: Describer, scenes: int) -> list[Row]:
    """Return the rows about confidences, with the calibration of the bundle."""
    known, rows = describer.bundle.calibration(), []
    for kind, raw in answers_of_scenes(describer, range(scenes), "test").items():
        before = expected_calibration_error(raw)
        after = expected_calibration_error(raw.calibrated(known, kind))
        rows.append(
            Row(
                f"calibration error of {kind}, {len(raw.right)} answers",
                f"{after:.3f}, {before:.3f} before",
                "0.05",
                after <= 0.05,
            )
        )
    return rows


def table(rows: Sequence[Row]) -> str:
    """Return the rows as text."""
    marks = {True: "kept", False: "NOT KEPT", None: ""}
    return "\n".join(f"{row.what:58s} {row.found:44s} {row.wanted:8s} {marks[row.kept]}".rstrip() for row in rows)


@command("scene")
def main(argv: Sequence[str] | None = None) -> int:
    """Print the table. Return 1 if a target is missed, and 2 if the measurement fails."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_bundle_option(parser)
    add_threads_option(parser)
    add_preprocessing_option(parser)
    add_count_option(parser, "--sequences", 20, "number of sequences")
    add_count_option(parser, "--frames", 150, "frames of each sequence")
    add_count_option(parser, "--rounds", 40, "frames of the static scene and of the time budget")
    add_count_option(parser, "--queries", 300, "number of questions")
    add_count_option(parser, "--scenes", 200, "scenes for the calibration error")
    text = f"parts to leave out, separated by commas: any of {', '.join(PARTS)}"
    parser.add_argument("--without", type=lambda text: text.split(","), default=[], metavar="PARTS", help=text)
    add_figures_option(parser)
    arguments = parser.parse_args(argv)
    if unknown := set(arguments.without) - set(PARTS):
        parser.error(f"--without {','.join(sorted(unknown))}: choose among {','.join(PARTS)}")
    if set(arguments.without) == set(PARTS):
        parser.error("--without all parts: leave one to measure")
    rows = _rows(arguments)
    write_figures(arguments.json, [asdict(row) for row in rows])
    return 1 if any(row.kept is False for row in rows) else 0


def _rows(arguments: argparse.Namespace) -> list[Row]:
    def load(threads: int) -> Describer:
        return Describer(arguments.bundle, threads, preprocessing=arguments.preprocessing)

    describer, other = (load(arguments.threads) for _ in range(2))
    rows: list[Row] = []

    def show(more: list[Row]) -> None:
        rows.extend(more)
        print(table(more), flush=True)

    if "static" not in arguments.without:
        color = StepSettings(attributes=(AttributeSpec("color", values=tuple(COLORS)),))
        for asked, settings in (
            ("category, phrase", StepSettings()),
            ("category, phrase, color", color),
            (_EACH_ENCODED, StepSettings(still_difference=0.0)),
        ):
            show(static_rows(run_static((describer, other), arguments.rounds, settings), asked))
    if "budget" not in arguments.without:
        found = run_budget(load(BUDGET_THREADS), arguments.rounds, BUDGET, BUDGET_OBJECTS)
        show(budget_rows(found, BUDGET, BUDGET_OBJECTS, BUDGET_THREADS))
    if "queries" not in arguments.without:
        show(query_rows(describer, arguments.queries))
    if "calibration" not in arguments.without:
        show(calibration_rows(describer, arguments.scenes))
    if "sequences" not in arguments.without:
        seeds, settings = range(arguments.sequences), StepSettings()
        show(sequence_rows(*run_sequences(describer, seeds, arguments.frames, settings, _say)))
    return rows


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def static_rows(static: Static, asked: str) -> list[Row]:
    """Return the rows about a static scene."""
    remembering, describing = statistics.median(static.remembering), statistics.median(static.describing)
    return [
        Row(
            f"static, {STATIC_OBJECTS} objects ({asked}): share of all",
            f"{static.share:.0%} ({1e3 * remembering:.1f} of {1e3 * describing:.1f} ms)",
            "" if asked == _EACH_ENCODED else "25 %",
            None if asked == _EACH_ENCODED else static.share <= 0.25,
        ),
        Row(
            f"  described again in {len(static.remembering)} frames",
            str(static.described_again),
            "0",
            not static.described_again,
        ),
    ]


if __name__ == "__main__":
    raise SystemExit(main())
