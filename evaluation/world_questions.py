"""Questions about simulated scenes over time, with their right answers: how many, what changed, last seen, nearest.

In each sequence the camera moves, one object slides to another place, one is put down and one is taken away. Right
answers come from the simulator. A question is used only if its answer is clear.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from tqdm import tqdm

from osprey_ros.cli._edge import command
from osprey_ros.cli._options import Parser, add_bundle_option, add_count_option, add_figures_option, positive
from osprey_ros.cli._output import write_figures
from osprey_ros.describer import Describer
from osprey_ros.frame import Frame
from osprey_ros.pipeline import Pipeline
from osprey_ros.query.finder import COLOR, Finder
from osprey_ros.query.world import Answer, World
from osprey_ros.regions.regions import regions_from_id_image
from osprey_ros.scene.events import EventLog, EventSettings
from osprey_ros.scene.settings import StepSettings
from osprey_sim.render import Renderer
from osprey_sim.scene import Scene, SceneObject, camera_pose, object_center
from osprey_sim.sequence import Sequence as CameraSequence
from osprey_sim.sequence import SequenceSettings

COUNT, LAST_SEEN, MOVED, APPEARED, NEAREST = "count", "last seen", "moved", "appeared", "nearest"
KINDS = (COUNT, LAST_SEEN, MOVED, APPEARED, NEAREST)
TARGETS = (0.9, 0.03)  # least share of right answers, greatest share of wrong ones with a score over 0.5
_FRAMES, _RATE = 45, 10.0
_CLEAR_METERS = 0.06  # between two distances
_CLEAR_SECONDS = 0.5  # between an event and the begin of a span
_LATE_SECONDS = 0.25  # of a stamp that counts as right
_MIN_AREA = 50
_NOISE = 0.005  # standard deviation of depth, as a share of the range


@dataclass(frozen=True)
class AskedWorld:
    """A question that was asked, and whether its answer was right; ``sure``: its score is over 0.5."""

    seed: int
    kind: str
    text: str
    answer: str
    score: float
    right: bool

    @property
    def sure(self) -> bool:
        """Whether the score is over 0.5."""
        return self.score > 0.5


class ChangingSequence(CameraSequence):
    """A sequence in which one object slides, one is put down and one is taken away.

    Attributes:
        slider, newcomer, gone: Their instance ids.
    """

    def __init__(self, seed: int, split: str) -> None:
        super().__init__(seed, split, SequenceSettings(_FRAMES, _RATE, (7, 9), missing=0.02, events=False))
        rng = np.random.default_rng([seed, 28])
        middle = np.asarray(self.scene.camera.lookat[:2])
        near = sorted(self.scene.objects, key=lambda obj: float(np.linalg.norm(obj.position[:2] - middle)))[:4]
        chosen = [near[n].instance_id for n in rng.permutation(len(near))]
        self.slider, self.newcomer, self.gone = chosen[:3]
        angle = rng.uniform(0, 2 * np.pi)
        self._shift = rng.uniform(0.16, 0.25) * np.array([np.cos(angle), np.sin(angle), 0.0])
        self._put_down, self._taken = (int(rng.integers(low, high)) for low, high in ((20, 26), (28, 36)))

    def scene_at(self, number: int) -> Scene:
        """Return the scene of a frame."""
        absent = {self.newcomer} if number < self._put_down else {self.gone} if number >= self._taken else set()
        scene = super().scene_at(number)
        return replace(scene, objects=[obj for obj in self.placed(number) if obj.instance_id not in absent])

    def placed(self, number: int) -> list[SceneObject]:
        """Return all objects, also the absent ones, where they are in a frame."""
        shift = float(np.clip((number - 8) / 10, 0.0, 1.0)) * self._shift
        return [
            replace(obj, position=obj.position + shift) if obj.instance_id == self.slider else obj
            for obj in self.scene.objects
        ]


@dataclass
class Watched:
    """What was seen of a sequence, by the simulator's truth: frame numbers by instance id."""

    sequence: ChangingSequence
    first: dict[int, int]
    last: dict[int, int]
    tracks: dict[int, set[int]]

    def stamp(self, number: int) -> int:
        """Return the stamp of a frame."""
        return self.sequence.stamp(number)


def watch(pipeline: Pipeline, sequence: ChangingSequence, renderer: Renderer) -> tuple[Watched, EventLog]:
    """Process a sequence, with noise in its depth."""
    seen, log = Watched(sequence, {}, {}, {}), EventLog(pipeline.memory.scene)
    settings = StepSettings(attributes=(COLOR,))
    noise = np.random.default_rng([len(sequence), 3])
    for shown in sequence.frames(renderer):
        rendered = shown.frame
        large = rendered.objects(_MIN_AREA)
        if not large:
            continue
        assert rendered.depth is not None
        depth = rendered.depth * (1 + noise.normal(0, _NOISE, rendered.depth.shape)).astype(np.float32)
        regions = regions_from_id_image(rendered.instance_ids, only=large, masks_anyway=True)
        frame = Frame(shown.stamp, "camera", rendered.rgb, regions)
        frame = replace(frame, depth=depth, camera_matrix=rendered.ros_camera_matrix)
        result = pipeline.step(frame, settings)
        log.update(pipeline.memory.scene, EventSettings())
        for thing in result.objects:
            owner = shown.truth[thing.instance_id]
            seen.first.setdefault(owner, shown.number)
            seen.last[owner] = shown.number
            seen.tracks.setdefault(owner, set()).add(thing.track_id)
    return seen, log


class WorldQuestions:
    """Draws questions about a sequence that was watched, and judges answers."""

    def __init__(self, seen: Watched) -> None:
        self._seen, self._scene = seen, seen.sequence.scene_at(_FRAMES - 1)
        self._rng = np.random.default_rng([seen.sequence.scene.seed, 5])
        self._known = [obj for obj in seen.sequence.placed(_FRAMES - 1) if obj.instance_id in seen.last]
        names = [f"{obj.color} {obj.category}" for obj in self._known]
        self._unique = {
            obj.instance_id: name for obj, name in zip(self._known, names, strict=True) if names.count(name) == 1
        }

    def draw(self, kind: str) -> tuple[str, object] | None:
        """Return a question and its right answer; None if the drawn one has no clear answer."""
        return {
            COUNT: self._count,
            LAST_SEEN: self._last_seen,
            MOVED: self._moved,
            APPEARED: self._appeared,
            NEAREST: self._nearest,
        }[kind]()

    def is_right(self, kind: str, truth: object, answer: Answer) -> bool:
        """Return whether an answer is the right one."""
        if kind == COUNT:
            return answer.count == truth
        if kind in (MOVED, APPEARED):
            owners = frozenset(self._owner(event.object.track_id) for event in answer.events)
            return owners == truth
        if not answer.found.matches:
            return False
        first = self._owner(answer.found.matches[0].track_id)
        if kind == NEAREST:
            return first == truth
        said = float(answer.text.rpartition("frame ")[2])
        return isinstance(truth, tuple) and first == truth[0] and abs(said - truth[1] / 1e9) <= _LATE_SECONDS

    def _owner(self, track_id: int) -> int:
        return next((owner for owner, tracks in self._seen.tracks.items() if track_id in tracks), 0)

    def _pick(self, options: Sequence[int]) -> int:
        return int(options[int(self._rng.integers(len(options)))])

    def _count(self) -> tuple[str, object] | None:
        categories = sorted({obj.category for obj in self._known})
        category = categories[int(self._rng.integers(len(categories)))]
        plural = category if category.endswith("s") else f"{category}s"
        text = self._rng.choice([f"how many {plural} are there?", f"how many {plural} do you know?"])
        return str(text), sum(obj.category == category for obj in self._known)

    def _last_seen(self) -> tuple[str, object] | None:
        options = [number for number in (self._seen.sequence.gone, *self._unique) if number in self._unique]
        if not options:
            return None
        number = options[0] if self._rng.random() < 0.5 else self._pick(options)
        text = self._rng.choice(["when did you last see the {}?", "when was the {} last seen?"])
        return str(text).format(self._unique[number]), (number, self._seen.stamp(self._seen.last[number]))

    def _moved(self) -> tuple[str, object] | None:
        text = self._rng.choice(["what has moved?", "what moved in the last ten seconds?"])
        return str(text), frozenset({self._seen.sequence.slider} & set(self._seen.last))

    def _appeared(self) -> tuple[str, object] | None:
        seconds = int(self._rng.integers(2, 4))
        since = self._seen.stamp(_FRAMES - 1) - seconds * 1e9
        stamps = {number: self._seen.stamp(frame) for number, frame in self._seen.first.items()}
        if any(abs(stamp - since) < _CLEAR_SECONDS * 1e9 for stamp in stamps.values()):
            return None
        text = self._rng.choice(["what appeared in the last {} seconds?", "what is new since {} seconds ago?"])
        return str(text).format(seconds), frozenset(number for number, stamp in stamps.items() if stamp >= since)

    def _nearest(self) -> tuple[str, object] | None:
        centers = {obj.instance_id: object_center(obj) for obj in self._known}
        named = [number for number in self._unique if number in centers]
        if not named or len(centers) < 3:
            return None
        category, reference, name = "", camera_pose(self._scene.camera)[0], "me"
        if self._rng.random() < 0.6:
            number = self._pick(named)
            reference, name = centers.pop(number), f"the {self._unique[number]}"
        if self._rng.random() < 0.5:
            category = self._known[int(self._rng.integers(len(self._known)))].category
            kinds = {obj.instance_id: obj.category for obj in self._known}
            if sum(kinds[number] == category for number in kinds) < 2 or category in name:
                category = ""
            else:
                centers = {number: center for number, center in centers.items() if kinds[number] == category}
        distances = sorted((float(np.linalg.norm(center - reference)), number) for number, center in centers.items())
        clear = len(distances) == 1 or (distances and distances[1][0] - distances[0][0] >= _CLEAR_METERS)
        if not clear or distances[0][1] == self._seen.sequence.gone:  # what was taken away is remembered
            return None
        return f"what is the {category or 'thing'} nearest to {name}?", distances[0][1]


def ask_world(describer: Describer, count: int, split: str = "test", each: int = 10) -> Iterator[AskedWorld]:
    """Yield ``count`` questions with their answers, ``each`` about a sequence, kinds in turns."""
    asked, seed = 0, 0
    with Renderer() as renderer:
        while asked < count:
            pipeline = Pipeline(describer)
            seen, log = watch(pipeline, ChangingSequence(seed, split), renderer)
            questions, world = WorldQuestions(seen), World(Finder(describer))
            snapshot, frame = pipeline.memory.snapshot(), pipeline.memory.latest
            if frame is not None and frame.stamp != snapshot.stamp:
                frame = None
            if frame is not None:
                pipeline.look_at(frame)
            for number in range(min(each, count - asked)):
                kind = KINDS[number % len(KINDS)]
                drawn = next((found for found in (questions.draw(kind) for _ in range(40)) if found), None)
                if drawn is None:
                    continue
                text, truth = drawn
                answer = world.answer(text, snapshot, frame, log.latest)
                right = questions.is_right(kind, truth, answer)
                yield AskedWorld(seed, kind, text, answer.text, answer.score, right)
                asked += 1
            seed += 1


@command("world_questions")
def main(argv: Sequence[str] | None = None) -> int:
    """Ask, print the figures and write them."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_bundle_option(parser)
    add_count_option(parser, "--questions", 200, "number of questions")
    parser.add_argument("--threads", type=positive, metavar="N", help="CPU threads (default: one per core)")
    add_figures_option(parser)
    arguments = parser.parse_args(argv)
    describer = Describer(arguments.bundle, threads=arguments.threads)
    found = ask_world(describer, arguments.questions)
    asked = list(tqdm(found, total=arguments.questions, unit="question", file=sys.stderr, mininterval=5))
    right = sum(one.right for one in asked) / len(asked)
    wrong = sum(one.sure and not one.right for one in asked) / len(asked)
    print(f"{arguments.bundle}: {len(asked)} questions about {len({one.seed for one in asked})} sequences")
    for kind in KINDS:
        own = [one.right for one in asked if one.kind == kind]
        if own:
            print(f"  {kind:10s} {len(own):4d}   right {sum(own) / len(own):6.1%}")
    print(f"  right {right:.1%} (target {TARGETS[0]:.0%})")
    print(f"  wrong with a score over 0.5: {wrong:.1%} (target at most {TARGETS[1]:.0%})")
    write_figures(arguments.json, {"right": right, "surely_wrong": wrong, "asked": [asdict(one) for one in asked]})
    return 0


if __name__ == "__main__":
    sys.exit(main())
