"""Questions about simulated scenes by category, color and relation, with their right answers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from osprey_sim import words
from osprey_sim.scene import Scene, camera_pose, object_center
from osprey_sim.scene import SceneObject as SimObject
from osprey_sim.shapes import Array

NAMED, RELATED, ABSENT = "category and color", "relation", "not there"
_NEXT_TO = 0.25  # meters
_CLEARLY = 1.5  # ratio of distances that makes a relation clear


@dataclass(frozen=True)
class Question:
    """A question, its kind, and the instance ids that are a right answer (none if the object is absent).

    With ``complete``, an answer is right only if it has all of these.
    """

    kind: str
    text: str
    right: frozenset[int]
    complete: bool = False


class Questions:
    """Questions about the visible objects of one scene, drawn with a generator."""

    salt = 7  # of the generator's seed

    def __init__(self, scene: Scene, visible: set[int], rng: np.random.Generator) -> None:
        self._objects = [obj for obj in scene.objects if obj.instance_id in visible]
        self._rng = rng
        rotation = camera_pose(scene.camera)[1]
        right = rotation[:, 0]
        away = np.array([-right[1], right[0], 0.0])
        self._place: dict[int, Array] = {
            obj.instance_id: np.array([object_center(obj) @ right, object_center(obj) @ away]) for obj in self._objects
        }

    def draw(self, kind: str) -> Question | None:
        """Return a question of a kind, or None if the sampled question does not fit this scene."""
        return {NAMED: self._named, RELATED: self._related, ABSENT: self._absent}[kind]()

    def _named(self) -> Question:
        target = self._pick(self._objects)
        noun = self._noun(target, int(self._rng.integers(3)))
        return Question(NAMED, f"the {noun}", self._ids(noun))

    def _absent(self) -> Question | None:
        """Return a question for a category that is absent, or for one that is present in another color only."""
        color = str(self._rng.choice(words.COLORS))
        if self._rng.random() < 0.5:
            category = self._pick(self._objects).category
        else:
            category = str(self._rng.choice(sorted(set(words.CLASSES) - {obj.category for obj in self._objects})))
            if self._rng.random() < 0.5:
                return Question(ABSENT, f"the {category}", frozenset())
        noun = f"{color} {category}"
        return None if self._ids(noun) else Question(ABSENT, f"the {noun}", frozenset())

    def _related(self) -> Question | None:
        """Return a question for an object that only its relation to another object identifies."""
        reference, target = self._pick(self._objects), self._pick(self._objects)
        about = f"{reference.color} {reference.category}"
        if target is reference or len(self._ids(about)) > 1:
            return None
        noun = self._noun(target, int(self._rng.integers(4)))
        others = self._ids(noun) - {target.instance_id, reference.instance_id}
        if not others:
            return None  # the relation would not be needed
        relation = str(self._rng.choice([*words.RELATIONS, "next to", "between"]))
        if relation == "between":
            return self._between(target, noun, others, reference)
        if not self._is(relation, target.instance_id, reference.instance_id, others):
            return None
        return Question(RELATED, f"the {noun} {relation} the {about}", frozenset({target.instance_id}))

    def _between(self, target: SimObject, noun: str, others: frozenset[int], first: SimObject) -> Question | None:
        second = self._pick(self._objects)
        about = f"{second.color} {second.category}"
        if len({target.instance_id, first.instance_id, second.instance_id}) < 3 or len(self._ids(about)) > 1:
            return None
        start, line = self._place[first.instance_id], self._place[second.instance_id] - self._place[first.instance_id]

        def off(instance: int) -> float:
            step = self._place[instance] - start
            along = float(step @ line / (line @ line))
            return float(np.linalg.norm(step - along * line)) if 0.2 < along < 0.8 else np.inf

        if off(target.instance_id) > 0.06 or any(off(o) < 0.15 for o in others - {second.instance_id}):
            return None
        text = f"the {noun} between the {first.color} {first.category} and the {about}"
        return Question(RELATED, text, frozenset({target.instance_id}))

    def _is(self, relation: str, target: int, reference: int, others: frozenset[int]) -> bool:
        """Return whether the target is clearly in the relation and all others are clearly not."""

        def step(instance: int) -> Array:
            return self._place[instance] - self._place[reference]

        if relation == "next to":
            distance = float(np.linalg.norm(step(target)))
            return distance < _NEXT_TO and all(np.linalg.norm(step(o)) > _CLEARLY * distance for o in others)
        axis = 0 if relation in (words.LEFT, words.RIGHT) else 1
        sign = -1 if relation in (words.LEFT, words.FRONT) else 1
        along, across = sign * step(target)[axis], abs(step(target)[1 - axis])
        return along > max(0.05, _CLEARLY * across) and all(sign * step(o)[axis] < 0 for o in others)

    def _noun(self, obj: SimObject, level: int) -> str:
        return (f"{obj.color} {obj.category}", obj.category, f"{obj.color} thing", "thing")[level]

    def _ids(self, noun: str) -> frozenset[int]:
        return frozenset(
            obj.instance_id for obj in self._objects if noun in {self._noun(obj, level) for level in range(4)}
        )

    def _pick(self, objects: list[SimObject]) -> SimObject:
        return objects[int(self._rng.integers(len(objects)))]
