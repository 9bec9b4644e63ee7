"""Sequences: deterministic, with the true object of each region, and with all events."""

from __future__ import annotations

import numpy as np
import pytest

from osprey_ros.errors import InputError
from osprey_sim.render import Renderer
from osprey_sim.scene import camera_pose, project
from osprey_sim.sequence import Sequence, SequenceSettings

SHORT = SequenceSettings(frames=8)


@pytest.fixture(scope="module")
def renderer():
    with Renderer(160, 120) as shared:
        yield shared


def test_same_seed_same_frames(renderer):
    first, again = (list(Sequence(3, settings=SHORT).frames(renderer)) for _ in range(2))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a.frame.rgb, b.frame.rgb)
        np.testing.assert_array_equal(a.frame.instance_ids, b.frame.instance_ids)
        assert (a.truth, a.stamp, a.camera) == (b.truth, b.stamp, b.camera)
    other = next(Sequence(4, settings=SHORT).frames(renderer))
    assert not np.array_equal(other.frame.rgb, first[0].frame.rgb)


def test_truth_names_the_object_of_every_region(renderer):
    sequence = Sequence(1, settings=SHORT)
    for shot in sequence.frames(renderer):
        plain = renderer.render(sequence.scene_at(shot.number))
        ids = shot.frame.instance_ids
        assert set(np.unique(ids)) - {0} == set(shot.truth)
        for region, obj in shot.truth.items():
            np.testing.assert_array_equal(ids == region, plain.instance_ids == obj)
        # Parts lie in the regions of their objects.
        for part, (region, _) in shot.frame.parts.items():
            assert set(np.unique(ids[shot.frame.part_ids == part])) <= {region}


def test_regions_are_renumbered_and_some_are_missing(renderer):
    settings = SequenceSettings(frames=30, missing=0.1)
    shots = list(Sequence(2, settings=settings).frames(renderer, depth=False))
    numbers: dict[int, list[int]] = {}
    for shot in shots:
        for region, obj in shot.truth.items():
            numbers.setdefault(obj, []).append(region)
    assert all(len(set(given)) > len(given) / 2 for given in numbers.values())
    visible = sum(
        len(np.unique(renderer.render(Sequence(2, settings=settings).scene_at(n), depth=False).instance_ids)) - 1
        for n in range(0, 30, 5)
    )
    shown = sum(len(shots[n].truth) for n in range(0, 30, 5))
    assert 0.75 * visible < shown < visible


def test_ids_can_be_kept(renderer):
    shots = Sequence(2, settings=SequenceSettings(frames=3, renumber=False)).frames(renderer, depth=False)
    assert all(region == obj for shot in shots for region, obj in shot.truth.items())


@pytest.mark.parametrize("seed", range(3))
def test_twins_have_the_same_appearance_and_change_places(seed):
    sequence = Sequence(seed)
    first, second = sequence.twins
    start, end = sequence.scene_at(0), sequence.scene_at(len(sequence) - 1)
    assert start.object(first).category == start.object(second).category
    assert [solid.rgb for solid in start.object(first).solids] == [solid.rgb for solid in start.object(second).solids]
    np.testing.assert_allclose(end.object(first).position, start.object(second).position, atol=1e-9)
    np.testing.assert_allclose(end.object(second).position, start.object(first).position, atol=1e-9)
    # They pass without a collision: halfway there is a gap between them.
    apart = [
        np.linalg.norm(scene.object(first).position - scene.object(second).position)
        for scene in map(sequence.scene_at, range(len(sequence)))
    ]
    assert min(apart) > 0.3 * apart[0]


@pytest.mark.parametrize("seed", range(3))
def test_one_object_leaves_and_returns_and_one_moves(seed, renderer):
    sequence = Sequence(seed)
    gone, back = sequence.away
    assert 0 < gone < back < len(sequence)
    for number in range(gone, back, 7):
        frame = renderer.render(sequence.scene_at(number), depth=False)
        assert sequence.leaver not in frame.instance_ids
    heights = [sequence.scene_at(n).object(sequence.leaver).position[2] for n in (0, len(sequence) - 1)]
    assert heights[0] == pytest.approx(heights[1])
    path = [sequence.scene_at(n).object(sequence.mover).position for n in range(len(sequence))]
    assert max(np.linalg.norm(place - path[0]) for place in path) > 0.1


def test_the_camera_moves_and_the_wall_does_not(renderer):
    sequence = Sequence(5, settings=SequenceSettings(frames=150, events=False))
    shots = [sequence.scene_at(n) for n in (0, 40, 90)]
    places = [project(shot.camera, np.zeros((1, 3)), 160, 120)[0, :2] for shot in shots]
    assert max(np.linalg.norm(place - places[0]) for place in places) > 5
    walls = []
    for shot in shots:
        yaw = np.radians(shot.camera.azimuth) + shot.wall.yaw
        away = np.array([np.cos(yaw), np.sin(yaw)])
        walls.append([*away, away @ shot.camera.lookat[:2] + shot.wall.distance])
    np.testing.assert_allclose(walls[1:], [walls[0]] * 2, atol=1e-9)
    steps = [
        np.linalg.norm(camera_pose(sequence.scene_at(n + 1).camera)[0] - camera_pose(sequence.scene_at(n).camera)[0])
        for n in range(20)
    ]
    assert max(steps) < 0.05  # smooth


def test_invalid_settings_are_refused():
    with pytest.raises(InputError, match="frames"):
        Sequence(0, settings=SequenceSettings(frames=0))
    with pytest.raises(InputError, match="at least 4"):
        Sequence(0, settings=SequenceSettings(objects=(2, 6)))
