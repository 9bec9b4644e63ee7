"""Questions with negation, superlatives, ordinals and clauses about simulated scenes, with their right answers.

Right answers come from the simulator: what objects are, which parts they have, how large they are and where they stand.
A question is used only if its answer is clear, such as a size at least 1.25 times that of the next object.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from evaluation.query_questions import Question, Questions
from osprey_sim import words
from osprey_sim.render import HEIGHT, WIDTH
from osprey_sim.scene import Scene, SceneObject, camera_pose, object_center, object_extents, project

NEGATION, SUPERLATIVE, ORDINAL, CLAUSE = "negation", "superlative", "ordinal", "clause"
FORMS = (NEGATION, SUPERLATIVE, ORDINAL, CLAUSE)
CLEAR_RATIO = 1.25  # of sizes
CLEAR_PIXELS = 14.0  # between centers in the image of 320x240
CLEAR_METERS = 0.06  # between distances from the camera
_COUNTED = ("first", "second", "third")


class FormQuestions(Questions):
    """Questions of `FORMS` about the visible objects of one scene, drawn with a generator."""

    salt = 11

    def __init__(self, scene: Scene, visible: set[int], rng: np.random.Generator) -> None:
        super().__init__(scene, visible, rng)
        centers = np.array([object_center(obj) for obj in self._objects])
        pixels = project(scene.camera, centers, WIDTH, HEIGHT)
        camera = camera_pose(scene.camera)[0]
        self._left = {obj.instance_id: float(x) for obj, x in zip(self._objects, pixels[:, 0], strict=True)}
        self._top = {obj.instance_id: float(y) for obj, y in zip(self._objects, pixels[:, 1], strict=True)}
        self._distance = {
            obj.instance_id: float(np.linalg.norm(center - camera))
            for obj, center in zip(self._objects, centers, strict=True)
        }

    def draw(self, kind: str) -> Question | None:
        """Return a question of a form, or None if the sampled question has no clear answer in this scene."""
        forms: dict[str, tuple[Callable[[], Question | None], ...]] = {
            NEGATION: (self._not_noun, self._not_color, self._without_part, self._all_but, self._neither),
            SUPERLATIVE: (self._size, self._size, self._outermost, self._distant),
            ORDINAL: (self._counted,),
            CLAUSE: (self._color_behind, self._relation_clause, self._part_clause, self._both, self._opening),
        }
        options = forms[kind]
        return options[int(self._rng.integers(len(options)))]()

    def _choice(self, *texts: str) -> str:
        return str(self._rng.choice(texts))

    def _all(self) -> frozenset[int]:
        return frozenset(obj.instance_id for obj in self._objects)

    # Negation

    def _not_noun(self) -> Question:
        noun = self._noun(self._pick(self._objects), int(self._rng.integers(2)))
        return Question(NEGATION, f"not the {noun}", self._all() - self._ids(noun))

    def _not_color(self) -> Question:
        """Return a question for objects of a class without a color; none is right if all have this color."""
        target = self._pick(self._objects)
        others = [obj for obj in self._objects if obj.category == target.category and obj.color != target.color]
        color = self._pick(others).color if others else target.color
        text = self._choice("the {} that is not {}", "the {} that isn't {}", "the {} which is not {}")
        right = self._ids(target.category) - self._ids(f"{color} {target.category}")
        return Question(NEGATION, text.format(target.category, color), right)

    def _part(self) -> tuple[SceneObject, str, frozenset[int]] | None:
        """Return an object with a part, the part with its article, and the ids of all objects with such a part."""
        with_parts = [obj for obj in self._objects if obj.parts]
        if not with_parts:
            return None
        owner = self._pick(with_parts)
        part = owner.parts[int(self._rng.integers(len(owner.parts)))].name
        have = frozenset(obj.instance_id for obj in self._objects if part in {p.name for p in obj.parts})
        return owner, part if part.endswith("s") else f"a {part}", have

    def _without_part(self) -> Question | None:
        found = self._part()
        if found is None:
            return None
        owner, part, have = found
        noun = self._choice(owner.category, "thing")
        return Question(NEGATION, f"the {noun} without {part}", self._ids(noun) - have)

    def _all_but(self) -> Question | None:
        noun = self._noun(self._pick(self._objects), int(self._rng.integers(3)))
        text = self._choice("anything but the {}", "everything except the {}", "something other than the {}")
        right = self._all() - self._ids(noun)
        return Question(NEGATION, text.format(noun), right) if right else None

    def _neither(self) -> Question | None:
        first, second = self._pick(self._objects), self._pick(self._objects)
        right = self._all() - self._ids(first.category) - self._ids(second.category)
        if first.category == second.category or not right:
            return None
        return Question(NEGATION, f"neither the {first.category} nor the {second.category}", right)

    # Superlatives and ordinals

    def _several(self, least: int, levels: Sequence[int] = (1, 2, 3)) -> tuple[str, list[SceneObject]] | None:
        """Return a noun for at least ``least`` objects, and these objects."""
        noun = self._noun(self._pick(self._objects), int(self._rng.choice(levels)))
        meant = [obj for obj in self._objects if obj.instance_id in self._ids(noun)]
        return (noun, meant) if len(meant) >= least else None

    def _size(self) -> Question | None:
        found = self._several(2, (1, 1, 1, 2))
        if found is None:
            return None
        noun, meant = found
        measure, text, sign = [
            (_volume, "the biggest {}", 1),
            (_volume, "the largest {}", 1),
            (_volume, "the smallest {}", -1),
            (_height, "the tallest {}", 1),
        ][int(self._rng.integers(4))]
        ranked = sorted(meant, key=lambda obj: -sign * measure(obj))
        sizes = [measure(obj) for obj in ranked[:2]]
        if max(sizes) / min(sizes) < CLEAR_RATIO:
            return None
        # Use it only if volume and extent give the same first object.
        longest = sorted(meant, key=lambda obj: -sign * _longest(obj))
        if longest[0] is not ranked[0]:
            return None
        return Question(SUPERLATIVE, text.format(noun), frozenset({ranked[0].instance_id}))

    def _outermost(self) -> Question | None:
        found = self._several(2)
        word, sign = [("leftmost", 1), ("rightmost", -1)][int(self._rng.integers(2))]
        return None if found is None else self._first(SUPERLATIVE, f"the {word} {found[0]}", found[1], self._left, sign)

    def _distant(self) -> Question | None:
        found = self._several(2)
        word, sign = [("nearest", 1), ("closest", 1), ("farthest", -1)][int(self._rng.integers(3))]
        if found is None:
            return None
        return self._first(SUPERLATIVE, f"the {word} {found[0]}", found[1], self._distance, sign, 0, CLEAR_METERS)

    def _counted(self) -> Question | None:
        place = int(self._rng.integers(3))
        found = self._several(max(2, place + 1))
        if found is None:
            return None
        noun, meant = found
        side, key, sign = [
            ("left", self._left, 1),
            ("right", self._left, -1),
            ("top", self._top, 1),
            ("bottom", self._top, -1),
        ][int(self._rng.choice(4, p=(0.35, 0.35, 0.15, 0.15)))]
        text = f"{self._choice('the ', '')}{_COUNTED[place]} {noun} from the {side}"
        return self._first(ORDINAL, text, meant, key, sign, place)

    def _first(
        self,
        kind: str,
        text: str,
        meant: list[SceneObject],
        key: dict[int, float],
        sign: int,
        place: int = 0,
        clear: float = CLEAR_PIXELS,
    ) -> Question | None:
        """Return the question for the object at a place in an order, None if its neighbors are too close."""
        ids = sorted((obj.instance_id for obj in meant), key=lambda n: sign * key[n])
        around = ids[max(0, place - 1) : place + 2]
        if any(abs(key[a] - key[b]) < clear for a, b in pairwise(around)):
            return None
        return Question(kind, text, frozenset({ids[place]}))

    # Clauses

    def _color_behind(self) -> Question:
        target = self._pick(self._objects)
        text = self._choice("the {1} in {0}", "the {1} of {0} color", "the {1} which is {0}", "which {1} is {0}?")
        return Question(
            CLAUSE,
            text.format(target.color, target.category),
            self._ids(f"{target.color} {target.category}"),
        )

    def _relation_clause(self) -> Question | None:
        question = self._related()
        if question is None:
            return None
        for relation in (*words.RELATIONS, "next to", "between"):
            if f" {relation} " in question.text:
                link = self._choice("that is", "which is", "that's")
                return Question(CLAUSE, question.text.replace(f" {relation} ", f" {link} {relation} "), question.right)
        return None

    def _part_clause(self) -> Question | None:
        found = self._part()
        if found is None:
            return None
        owner, part, have = found
        text = self._choice(
            f"the thing that is {owner.color} and has {part}",
            f"the {owner.color} thing with {part}",
            f"the {owner.category} that has {part}",
        )
        named = self._ids(owner.category if owner.category in text else f"{owner.color} thing")
        return Question(CLAUSE, text, named & have)

    def _both(self) -> Question | None:
        first, second = self._pick(self._objects), self._pick(self._objects)
        if first is second or first.category == second.category:
            return None
        nouns = f"{first.color} {first.category}", f"{second.color} {second.category}"
        right = self._ids(nouns[0]) | self._ids(nouns[1])
        return Question(CLAUSE, f"the {nouns[0]} and the {nouns[1]}", right, complete=True)

    def _opening(self) -> Question:
        noun = self._noun(self._pick(self._objects), int(self._rng.integers(2)))
        text = self._choice("where did I put the {}?", "can you see the {}", "which one is the {}?", "show me the {}")
        return Question(CLAUSE, text.format(noun), self._ids(noun))


def _volume(obj: SceneObject) -> float:
    return float(np.cbrt(object_extents(obj).prod()))


def _longest(obj: SceneObject) -> float:
    return float(object_extents(obj).max())


def _height(obj: SceneObject) -> float:
    return float(object_extents(obj, in_world=True)[2])
