"""Descriptions: a small regular grammar, true for the scene as it is visible to the camera."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest

from osprey_sim import words
from osprey_sim.render import Renderer
from osprey_sim.scene import Camera, rotation_z, sample_scene


@pytest.fixture(scope="module")
def renderer():
    with Renderer() as shared:
        yield shared


def find(category: str, upright: bool = True):
    """Return the first object of a class in the test scenes."""
    for seed in range(200):
        for obj in sample_scene(seed, "test").objects:
            if obj.category == category and obj.lying != upright:
                return obj
    raise AssertionError(f"no {category} in 200 scenes")


def arrange(*placements, kind: str = "wooden"):
    """Return a scene viewed along +y, with (category, color, size, x, y, yaw) objects on the table."""
    objects, part_id = [], 1
    for i, (category, color, size, x, y, yaw) in enumerate(placements, start=1):
        obj = find(category)
        shift = part_id - obj.parts[0].part_id if obj.parts else 0
        objects.append(
            dataclasses.replace(
                obj,
                instance_id=i,
                color=color,
                size=size,
                position=np.array([x, y, obj.position[2]]),
                rotation=rotation_z(yaw),
                parts=[dataclasses.replace(part, part_id=part.part_id + shift) for part in obj.parts],
                solids=[
                    dataclasses.replace(solid, part_id=solid.part_id + shift if solid.part_id else 0)
                    for solid in obj.solids
                ],
            )
        )
        part_id += len(obj.parts)
    scene = sample_scene(0, "test")
    camera = Camera(azimuth=90, elevation=40, distance=1.2, fovy=38, lookat=(0, 0, 0.05))
    return dataclasses.replace(scene, objects=objects, camera=camera, table=dataclasses.replace(scene.table, kind=kind))


def test_sentences_of_a_scene_arranged_by_hand(renderer):
    scene = arrange(
        ("mug", "red", "small", -0.15, 0.0, 0.0),
        ("bowl", "blue", "medium", 0.10, 0.02, 0.0),
        ("apple", "orange", "large", 0.10, -0.25, 0.0),
    )
    frame = renderer.render(scene)
    mug, bowl, apple = scene.objects
    assert words.short(mug) == "a small red mug"
    assert words.short(bowl) == "a blue bowl"
    assert words.short(apple) == "a large orange apple"
    assert (
        words.detailed(scene, frame, mug)
        == "a small red mug with a handle on a wooden table, to the left of a blue bowl"
    )
    assert words.detailed(scene, frame, bowl).endswith("table, to the right of a small red mug")
    assert words.detailed(scene, frame, apple).endswith("table, in front of a blue bowl")
    assert words.part_short(mug, mug.parts[0]) == "the handle of a small red mug"
    found = words.relations(scene, frame)
    assert {(1, words.LEFT, 2), (2, words.RIGHT, 1), (3, words.FRONT, 2), (2, words.BEHIND, 3)} <= set(found)
    assert not any({a, b} == {1, 3} for a, _, b in found)  # as far to the right as to the front: ambiguous


def test_hidden_parts_and_objects_are_not_mentioned(renderer):
    handle_away = arrange(("mug", "red", "medium", 0.0, 0.0, np.pi / 2))
    assert "handle" not in words.detailed(handle_away, renderer.render(handle_away), handle_away.objects[0])
    behind = arrange(("box", "green", "large", 0.0, -0.2, 0.0), ("apple", "red", "small", 0.0, 0.25, 0.0))
    box, apple = behind.objects
    apple.position = np.array([0.0, 3.0, 0.0])  # behind the wall
    frame = renderer.render(behind)
    assert words.visible_objects(behind, frame) == [box]
    assert words.relations(behind, frame) == []
    assert "apple" not in words.detailed(behind, frame, box)


def test_articles_and_plurals():
    assert words.short(dataclasses.replace(find("hat"), color="orange", size="medium")) == "an orange hat"
    assert words.short(dataclasses.replace(find("scissors"), color="red", size="large")) == "large red scissors"


def test_descriptions_say_that_an_object_is_lying(renderer):
    for seed in range(100):
        scene = sample_scene(seed, "train")
        lying = [obj for obj in scene.objects if obj.lying]
        if lying:
            frame = renderer.render(scene, depth=False)
            assert all((" lying " in words.detailed(scene, frame, obj)) == obj.lying for obj in scene.objects)
            return
    pytest.fail("no lying object in 100 scenes")


def test_every_sentence_follows_the_grammar(renderer):
    sizes = "|".join(size for size in words.SIZES if size != "medium")
    thing = rf"(?:an? )?(?:(?:{sizes}) )?(?:{'|'.join(words.COLORS)}) (?:{'|'.join(words.CLASSES)})"
    part = rf"(?:an? )?(?:{'|'.join(words.PARTS)})"
    place = "on a|on the left side of a|on the right side of a|in the middle of a"
    sentence = re.compile(
        rf"{thing}(?: with {part}(?: and {part})*)?(?: lying)? (?:{place}) (?:{'|'.join(words.TABLES)}) table"
        rf"(?:, (?:{'|'.join(words.RELATIONS)}) {thing})?"
    )
    neighbors = 0
    for seed in range(10):
        scene = sample_scene(seed, "validation")
        frame = renderer.render(scene, depth=False)
        for obj in scene.objects:
            text = words.detailed(scene, frame, obj)
            assert sentence.fullmatch(text), text
            assert text.startswith(words.short(obj))
            neighbors += "," in text
            assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", text), text
    assert neighbors > 30


@pytest.mark.parametrize("seed", range(5))
def test_relations_agree_with_pixels_and_depth(renderer, seed):
    scene = sample_scene(seed, "test", objects=(6, 10))
    frame = renderer.render(scene)
    found = words.relations(scene, frame)
    assert len(found) >= 6
    opposite = {words.LEFT: words.RIGHT, words.RIGHT: words.LEFT, words.FRONT: words.BEHIND, words.BEHIND: words.FRONT}
    assert {(b, opposite[relation], a) for a, relation, b in found} == set(found)
    # Render each object alone, so that neither occlusion nor the image border shifts its center.
    column, distance = {}, {}
    for obj in scene.objects:
        alone = renderer.render(dataclasses.replace(scene, objects=[obj]))
        mask = alone.instance_ids == obj.instance_id
        column[obj.instance_id] = np.nonzero(mask)[1].mean()
        distance[obj.instance_id] = np.median(alone.depth[mask])
    for a, relation, b in found:
        if relation in (words.LEFT, words.RIGHT):
            assert (column[a] < column[b]) == (relation == words.LEFT)
        else:
            assert (distance[a] < distance[b]) == (relation == words.FRONT)
