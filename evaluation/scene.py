"""What the scene memory is worth, on simulated test scenes: `python -m evaluation.scene` prints the table.

Sequences: a moving camera, objects that hide one another, move, leave and return, and regions renumbered in every
frame. Static: what a frame costs once all has been said. Budget: whether a time budget holds, and how soon everything
is described under it, on two threads whatever --threads says. Queries: whether words find the right object.
Calibration: what confidences are worth. Run it on a machine that does nothing else: two of the parts measure time. Ends
with status 1 where a line is not kept.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter

import numpy as np

from evaluation import calibration, queries
from evaluation.tracking import TrackingFigures, tracking_figures
from osprey_ros.cli._options import positive
from osprey_ros.describer import Describer
from osprey_ros.errors import OspreyError
from osprey_ros.frame import Frame
from osprey_ros.pipeline import Pipeline
from osprey_ros.scene.attributes import AttributeSpec
from osprey_ros.scene.result import StepResult
from osprey_ros.scene.scheduler import Scheduler
from osprey_ros.scene.settings import StepSettings
from osprey_ros.scene.types import SceneObject
from osprey_ros.vision.preprocess import MODES
from osprey_sim.catalog import COLORS
from osprey_sim.render import Renderer
from osprey_sim.scene import sample_scene
from osprey_sim.sequence import Sequence as SimSequence
from osprey_sim.sequence import SequenceFrame, SequenceSettings

SIZE = (640, 480)
BUDGET, BUDGET_OBJECTS, BUDGET_THREADS = 0.150, 30, 2
STATIC_OBJECTS = 12
_EACH_ENCODED = "each picture encoded"  # for comparison: no share is wanted of it
PARTS = ("static", "budget", "queries", "calibration", "sequences")
_NOISE = 2.0  # grey levels, standard deviation: no two pictures of a camera are the same
_MIN_SEEN = 200  # pixels that count as being visible
# How far an object may have been moved, metres, the camera turned about it, degrees, and by what factor more or less of
# it be seen (others hide it, and the picture's edge), where its view is called unchanged.
_SHIFTED, _TURNED, _HIDDEN = 0.02, 15.0, 1.25
_MAX_FRAMES = 200  # in which everything should long have been described


@dataclass(frozen=True)
class Row:
    """One line of the table; ``kept`` is None where nothing is asked of the figure."""

    what: str
    found: str
    wanted: str = ""
    kept: bool | None = None


@dataclass
class Spoken:
    """What became of the words in some sequences.

    ``objects`` of which ``described`` have words; ``late`` of those that were visible for a second had none then.
    ``again`` counts later descriptions of an object by their cause.
    """

    frames: int = 0
    regions: int = 0
    objects: int = 0
    described: int = 0
    visible: int = 0
    late: int = 0
    again: Counter[str] = field(default_factory=Counter)

    def add(self, other: Spoken) -> None:
        """Takes in another one's counts."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


class _Watch:
    """Follows what is said of the true objects of one sequence."""

    def __init__(self, settings: StepSettings, sequence: SimSequence) -> None:
        self._settings, self._sequence, self._second = settings, sequence, round(sequence.settings.rate)
        self._said: dict[int, tuple[SceneObject, SequenceFrame]] = {}  # by true object: when it was last described
        self._for: Counter[int] = Counter()  # frames on end in which it has been visible
        self._seen: set[int] = set()
        self._judged: set[int] = set()
        self.identities: list[tuple[np.ndarray, np.ndarray]] = []
        self.spoken = Spoken()

    def add(self, shown: SequenceFrame, result: StepResult) -> None:
        """Takes in the next frame."""
        spoken = self.spoken
        truth = [shown.truth[thing.instance_id] for thing in result.objects]
        self.identities.append((np.array(truth, int), np.array([thing.track_id for thing in result.objects], int)))
        spoken.frames += 1
        spoken.regions += len(truth)
        visible = Counter[int]()
        for true_id, thing in zip(truth, result.objects, strict=True):
            if thing.caption is not None and thing.caption.described_at == shown.stamp:
                if true_id in self._said:
                    spoken.again[self._cause(true_id, thing, shown)] += 1
                self._said[true_id] = (thing, shown)
            if thing.area >= _MIN_SEEN:
                visible[true_id] = self._for[true_id] + 1
            if visible[true_id] >= self._second and true_id not in self._judged:
                self._judged.add(true_id)
                spoken.visible += 1
                spoken.late += thing.caption is None
        self._for = visible
        self._seen.update(truth)
        spoken.objects, spoken.described = len(self._seen), len(self._said)

    def _cause(self, true_id: int, thing: SceneObject, shown: SequenceFrame) -> str:
        before, then = self._said[true_id]
        here, there = (self._sequence.scene_at(n).object(true_id).position for n in (shown.number, then.number))
        if before.track_id != thing.track_id:
            return "its track was lost"
        if np.linalg.norm(here - there) > _SHIFTED:
            return "moved"
        if thing.area > self._settings.view_change * before.area:
            return "seen larger"
        if abs(shown.camera.azimuth - then.camera.azimuth) > _TURNED:
            return "seen from another side"
        if not 1 / _HIDDEN < thing.area / before.area < _HIDDEN:
            return "hidden otherwise"
        return "view unchanged"


def run_sequences(
    describer: Describer,
    seeds: Iterable[int],
    frames: int,
    settings: StepSettings,
    report: Callable[[str], None] = lambda line: None,
) -> tuple[TrackingFigures, Spoken]:
    """Looks at sequences of test scenes, each with a new pipeline."""
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
    """The table's lines about sequences."""
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
    """A picture, uint8 [H, W, 3] of SIZE, and ids, uint16 [H, W], of so many objects, none of them tiny.

    Four test scenes, one in each quarter, where one has no room for all. Raises ValueError where none is found.
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
    """Picture and ids of a scene for each count, of other seeds each, in which all its objects are well seen."""
    seeds = iter(range(1000))
    with Renderer(width, height) as renderer:
        for count in counts:
            for seed in seeds:
                frame = renderer.render(sample_scene(seed, "test", (count, count)), depth=False)
                found, areas = np.unique(frame.instance_ids[frame.instance_ids > 0], return_counts=True)
                if len(found) == count and areas.min() >= _MIN_SEEN / 4:
                    yield frame.rgb, frame.instance_ids
                    break
            else:
                raise ValueError(f"none of the simulated scenes shows {count} objects well")


class _Camera:
    """Pictures of a scene that stands still, as a sensor gives them: each with its own noise."""

    def __init__(self, rgb: np.ndarray, ids: np.ndarray, rate: float = 30.0) -> None:
        self._rgb, self._ids, self._step = rgb, ids, round(1e9 / rate)
        self._rng, self._number = np.random.default_rng(0), 0

    def frame(self) -> Frame:
        """The next one."""
        self._number += 1
        noise = self._rng.normal(0, _NOISE, self._rgb.shape).astype(np.float32)
        noisy = np.clip(self._rgb + noise, 0, 255).astype(np.uint8)
        return Frame(self._number * self._step, "camera", noisy, self._ids)


@dataclass(frozen=True)
class Static:
    """Seconds of frames of a scene that stands still: with memory, and describing all; how often words were said."""

    remembering: list[float]
    describing: list[float]
    described_again: int

    @property
    def share(self) -> float:
        """Of the medians."""
        return statistics.median(self.remembering) / statistics.median(self.describing)


def run_static(describers: tuple[Describer, Describer], rounds: int, settings: StepSettings) -> Static:
    """Both ways in turns on the same pictures, each with its own describer, after a first pass of each."""
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
    """``seconds`` of all frames in which somebody waited for words; ``until_all``: of each round, until nobody did."""

    seconds: list[float]
    until_all: list[float]

    @property
    def p95(self) -> float:
        """95th percentile of the frames' seconds."""
        return float(np.quantile(self.seconds, 0.95))


def run_budget(describer: Describer, rounds: int, budget: float, objects: int) -> Budget:
    """Rounds that begin with nothing known, in each of which frames come until all objects are described."""
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
            total += max(seconds, 1 / 30)  # the camera gives no more
            if not result.skipped:
                break
        else:
            total = float("inf")
        found.until_all.append(total)
    return found


def budget_rows(found: Budget, budget: float, objects: int, threads: int) -> list[Row]:
    """The table's lines about a budget."""
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
    """The table's lines about questions."""
    asked = queries.ask(describer, questions, "test")
    rows = []
    for kind, share in queries.summary(asked).items():
        what, target = queries.TARGETS[kind]
        count = sum(one.kind == kind for one in asked)
        kept = share <= target if kind == queries.ABSENT else share >= target
        rows.append(Row(f"{count} queries, {kind}: {what}", f"{share:.1%}", f"{target:.0%}", kept))
    return rows


def calibration_rows(describer: Describer, scenes: int) -> list[Row]:
    """The table's lines about confidences, by the bundle's own calibration."""
    known, rows = describer.bundle.calibration(), []
    for kind, raw in calibration.answers_of_scenes(describer, range(scenes), "test").items():
        before = calibration.expected_calibration_error(raw)
        after = calibration.expected_calibration_error(raw.calibrated(known, kind))
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
    """The lines, for people."""
    marks = {True: "kept", False: "NOT KEPT", None: ""}
    return "\n".join(f"{row.what:58s} {row.found:44s} {row.wanted:8s} {marks[row.kept]}".rstrip() for row in rows)


def main(argv: list[str] | None = None) -> int:
    """Prints the table; returns 1 where what is wanted was not kept, and 2 where it cannot be measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="nano")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of all but the budget")
    parser.add_argument("--preprocessing", choices=MODES, default=MODES[0])
    parser.add_argument("--sequences", type=positive, default=20)
    parser.add_argument("--frames", type=positive, default=150, help="of each sequence")
    parser.add_argument("--rounds", type=positive, default=40, help="of the static scene, and of the budget")
    parser.add_argument("--queries", type=positive, default=300)
    parser.add_argument("--scenes", type=positive, default=200, help="of the calibration error")
    parser.add_argument("--without", type=lambda text: text.split(","), default=[], help=f"any of {','.join(PARTS)}")
    parser.add_argument("--json", type=Path, help="write the rows there")
    arguments = parser.parse_args(argv)
    if unknown := set(arguments.without) - set(PARTS):
        parser.error(f"--without {','.join(sorted(unknown))}: choose among {','.join(PARTS)}")
    if set(arguments.without) == set(PARTS):
        parser.error("--without all parts: leave one to measure")
    try:
        rows = _rows(arguments)
    except (OspreyError, ValueError) as error:
        print(f"scene: {error}", file=sys.stderr)
        return 2
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
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
        colour = StepSettings(attributes=(AttributeSpec("colour", values=tuple(COLORS)),))
        for asked, settings in (
            ("category, phrase", StepSettings()),
            ("category, phrase, colour", colour),
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
    """The table's lines about a scene that stands still."""
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
