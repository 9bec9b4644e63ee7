"""Relations and orders of objects by where they are, in space and in the image."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from osprey_ros.query.question import Order, Rank, Relation
from osprey_ros.query.spatial import holds, places, precedence, rank_probabilities
from osprey_ros.scene.types import SceneObject, State

ELEVATION = np.radians(40.0)
#          right, away on the table in meters
GROUND = {"mug": (0.0, 0.0), "left": (-0.25, 0.02), "right": (0.3, 0.0), "far": (0.02, 0.35), "near": (0.0, -0.12)}


def _objects(in_space: bool) -> tuple[list[SceneObject], dict[str, int]]:
    """Things 6 cm large on a table, as a camera sees them that looks down on it from 1.2 m away."""
    objects = []
    for number, (right, away) in enumerate(GROUND.values(), start=1):
        down = -away * np.sin(ELEVATION)
        forward = 1.2 + away * np.cos(ELEVATION)
        u, v, side = 160 + 300 * right / forward, 120 + 300 * down / forward, 300 * 0.06 / forward
        objects.append(
            SceneObject(
                track_id=number,
                state=State.PENDING,
                reason="",
                caption=None,
                first_seen=0,
                last_seen=0,
                visible=True,
                instance_id=number,
                box=(int(u - side / 2), int(v - side / 2), int(side), int(side)),
                area=int(side * side),
                appearance=np.zeros(4, np.float32),
                position=(right, down, forward) if in_space else None,
                size=(0.06, 0.06, 0.06) if in_space else None,
            )
        )
    return objects, {name: number for number, name in enumerate(GROUND)}


@pytest.mark.parametrize("in_space", [True, False])
def test_relations_hold_where_they_do(in_space: bool) -> None:
    objects, number = _objects(in_space)
    here = places(objects)

    def degree(relation: Relation, target: str, *references: str) -> float:
        return holds(relation, here, number[target], [number[name] for name in references])

    sides = {"left": Relation.LEFT, "right": Relation.RIGHT, "far": Relation.BEHIND, "near": Relation.FRONT}
    for name, relation in sides.items():
        assert degree(relation, name, "mug") > 0.5
        others = [degree(other, name, "mug") for other in sides.values() if other is not relation]
        assert max(others) == 0
        # The outermost on its side of the image.
        outermost = max(number, key=lambda thing: degree(relation, thing))
        assert outermost == name
    nearest = max((name for name in number if name != "mug"), key=lambda name: degree(Relation.NEXT_TO, name, "mug"))
    assert nearest == "near"
    assert degree(Relation.BETWEEN, "mug", "left", "right") > 0.8
    assert degree(Relation.BETWEEN, "left", "mug", "right") == 0
    assert degree(Relation.BETWEEN, "near", "left", "right") < degree(Relation.BETWEEN, "mug", "left", "right")


def test_what_is_on_another_is_above_it() -> None:
    objects, _ = _objects(True)
    book, cup, lamp = objects[:3]
    assert book.position is not None
    x, y, z = book.position
    stacked = [book, _at(cup, (x, y - 0.05, z)), _at(lamp, (x + 0.4, y - 0.05, z))]
    here = places(stacked)
    assert holds(Relation.ON, here, 1, [0]) > 0.8
    assert holds(Relation.UNDER, here, 0, [1]) > 0.8
    assert holds(Relation.UNDER, here, 1, [0]) < 0.2
    assert holds(Relation.ON, here, 2, [0]) < 0.2  # as high, and beside it


def test_only_what_is_needed_must_have_a_place_in_space() -> None:
    objects, number = _objects(True)
    all_known = places(objects)
    objects[number["far"]] = replace(objects[number["far"]], position=None)
    needed = np.ones(len(objects), bool)
    assert places(objects, needed).reach == places(objects).reach == 1.0  # in the image
    needed[number["far"]] = False
    here = places(objects, needed)
    assert here.reach == all_known.reach
    degrees = holds(Relation.LEFT, here, np.arange(len(objects)), [number["mug"]])
    assert np.isnan(degrees).tolist() == [name == "far" for name in number]
    assert degrees[number["left"]] > 0.5
    assert places(objects, np.zeros(len(objects), bool)).reach == 1.0


def test_one_place_for_all_is_no_relation() -> None:
    objects, _ = _objects(True)
    here = places([objects[0], objects[0], objects[0]])
    assert holds(Relation.BETWEEN, here, 0, [1, 2]) == 0
    assert holds(Relation.LEFT, here, 0, [1]) == 0


def _at(thing: SceneObject, position: tuple[float, float, float]) -> SceneObject:

    return replace(thing, position=position)


@pytest.mark.parametrize("in_space", [True, False])
def test_orders_sort_by_place_and_size(in_space: bool) -> None:
    objects, number = _objects(in_space)

    def sorted_by(order: Order) -> list[str]:
        before = precedence(order, objects).sum(axis=1)
        return sorted(number, key=lambda name: -before[number[name]])

    assert sorted_by(Order.LEFT)[0] == sorted_by(Order.RIGHT)[-1] == "left"
    assert sorted_by(Order.RIGHT)[0] == "right"
    assert sorted_by(Order.NEAR)[0] == sorted_by(Order.BOTTOM)[0] == "near"
    assert sorted_by(Order.FAR)[0] == sorted_by(Order.TOP)[0] == "far"
    to_left = precedence(Order.NEAR, objects, objects[number["left"]]).sum(axis=1)
    assert sorted(number, key=lambda name: -to_left[number[name]])[:2] == ["left", "mug"]
    mug = objects[number["mug"]]
    objects[number["mug"]] = replace(mug, size=(0.06, 0.09, 0.06) if in_space else None, box=(*mug.box[:2], 15, 23))
    assert sorted_by(Order.TALL)[0] == sorted_by(Order.LARGE)[0] == "mug"
    assert sorted_by(Order.SHORT)[-1] == sorted_by(Order.SMALL)[-1] == "mug"


def test_a_place_in_an_order_is_as_certain_as_what_comes_before() -> None:
    objects, number = _objects(True)
    objects = [objects[number[name]] for name in ("left", "mug", "right")]
    first, second = Rank(Order.LEFT), Rank(Order.LEFT, 2)
    assert rank_probabilities(first, objects, np.ones(3)).tolist() == [1.0, 0.0, 0.0]
    assert rank_probabilities(second, objects, np.ones(3)).tolist() == [0.0, 1.0, 0.0]
    # With 0.5 the leftmost one does not count.
    fits = np.array([0.5, 1.0, 1.0])
    assert rank_probabilities(first, objects, fits) == pytest.approx([1.0, 0.5, 0.0])
    assert rank_probabilities(second, objects, fits) == pytest.approx([0.0, 0.5, 0.5])
    assert rank_probabilities(second, objects, np.zeros(3)).tolist() == [0.0, 0.0, 0.0]
    same = [objects[0], objects[0]]
    assert rank_probabilities(first, same, np.ones(2)) == pytest.approx([0.5, 0.5])
