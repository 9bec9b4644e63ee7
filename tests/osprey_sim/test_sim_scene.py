"""Scenes: deterministic, disjoint splits, held-out pairs, objects on the table that do not intersect."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

from osprey_ros.errors import InputError
from osprey_sim import catalog
from osprey_sim.scene import Camera, Scene, camera_matrix, camera_pose, project, sample_scene

MANY = 150


def pairs(split: str) -> list[tuple[str, str]]:
    scenes = [sample_scene(seed, split) for seed in range(MANY)]
    return [(obj.color, obj.category) for scene in scenes for obj in scene.objects]


def physics(scene: Scene) -> tuple[mujoco.MjModel, mujoco.MjData]:
    """Return the scene's solids as MuJoCo bodies on a floor, to check them with its collision detection."""
    spec = mujoco.MjSpec()
    spec.worldbody.add_geom(name="floor", type=mujoco.mjtGeom.mjGEOM_PLANE, size=[5, 5, 1], margin=0.002)
    for obj in scene.objects:
        quaternion = np.empty(4)
        mujoco.mju_mat2Quat(quaternion, obj.rotation.ravel())
        body = spec.worldbody.add_body(name=str(obj.instance_id), pos=obj.position, quat=quaternion)
        body.add_freejoint()
        for solid in obj.solids:
            mujoco.mju_mat2Quat(quaternion, solid.rotation.ravel())
            kind = getattr(mujoco.mjtGeom, f"mjGEOM_{solid.shape.upper()}")
            body.add_geom(type=kind, size=solid.size, pos=solid.position, quat=quaternion.copy(), density=100)
    model = spec.compile()
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return model, data


def test_same_seed_gives_the_same_scene_and_other_seeds_do_not():
    assert repr(sample_scene(5, "train")) == repr(sample_scene(5, "train"))
    seen = {repr(sample_scene(seed, split)) for split in ("train", "validation", "test") for seed in range(40)}
    assert len(seen) == 3 * 40


def test_catalog_has_enough_entries():
    assert len(catalog.CLASSES) >= 20
    assert len(catalog.COLORS) >= 10
    assert len(catalog.SIZES) == 3
    assert sum(bool(kind.parts) for kind in catalog.CLASSES.values()) >= 5
    rng = np.random.default_rng(0)
    for kind in catalog.CLASSES.values():
        assert {geom.part for geom in kind.build(rng)} - {""} == set(kind.parts), kind.name
        assert any(geom.paint == "body" for geom in kind.build(rng)), kind.name


def test_colors_are_far_apart():
    colors = list(catalog.COLORS.items())
    for i, (name, rgb) in enumerate(colors):
        for other, other_rgb in colors[i + 1 :]:
            assert np.linalg.norm(np.subtract(rgb, other_rgb)) > 0.25, (name, other)


def test_held_out_pairs_are_a_tenth_and_leave_every_class_and_color():
    share = len(catalog.HELD_OUT) / (len(catalog.COLORS) * len(catalog.CLASSES))
    assert 0.08 <= share <= 0.12
    for color in catalog.COLORS:
        assert sum(pair[0] == color for pair in catalog.HELD_OUT) <= len(catalog.CLASSES) // 4
    for name in catalog.CLASSES:
        assert 1 <= sum(pair[1] == name for pair in catalog.HELD_OUT) <= 2


def test_train_lacks_held_out_pairs_and_the_others_have_them():
    train = pairs("train")
    assert not set(train) & catalog.HELD_OUT
    assert {color for color, _ in train} == set(catalog.COLORS)
    assert {name for _, name in train} == set(catalog.CLASSES)
    for split in ("validation", "test"):
        found = pairs(split)
        share = sum(pair in catalog.HELD_OUT for pair in found) / len(found)
        assert 0.05 < share < 0.16


def test_number_of_objects_and_ids():
    counts = [len(sample_scene(seed, "train").objects) for seed in range(60)]
    assert min(counts) == 4
    assert max(counts) == 9
    for seed in range(5):
        scene = sample_scene(seed, "test", objects=(16, 16))
        assert [obj.instance_id for obj in scene.objects] == list(range(1, 17))
        parts = [part.part_id for obj in scene.objects for part in obj.parts]
        assert parts == list(range(1, len(parts) + 1))
        assert scene.object(16) is scene.objects[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": 1, "split": "dev"}, "split is 'dev'"),
        ({"seed": -1, "split": "train"}, "seed is -1"),
        ({"seed": 1, "split": "train", "objects": (3, 17)}, r"objects is \(3, 17\)"),
        ({"seed": 1, "split": "train", "objects": (5, 4)}, r"objects is \(5, 4\)"),
    ],
)
def test_errors_name_invalid_arguments(arguments, message):
    with pytest.raises(InputError, match=message):
        sample_scene(**arguments)


def test_error_names_an_unknown_object():
    with pytest.raises(KeyError, match="instance id 99"):
        sample_scene(0, "train").object(99)


@pytest.mark.parametrize("seed", range(6))
def test_objects_stand_on_the_table_and_do_not_interpenetrate(seed):
    scene = sample_scene(seed, "train", objects=(8, 16))
    model, data = physics(scene)
    gap = {obj.instance_id: np.inf for obj in scene.objects}
    for contact in data.contact[: data.ncon]:
        bodies = sorted(int(model.geom_bodyid[geom]) for geom in contact.geom)
        assert bodies[0] == 0, f"objects {bodies} interpenetrate by {-contact.dist * 1e3:.1f} mm"
        gap[bodies[1]] = min(gap[bodies[1]], contact.dist)
    for obj in scene.objects:
        assert abs(gap[obj.instance_id]) < 1e-3, f"{obj.category} is {gap[obj.instance_id]} m above the table"


def test_some_objects_lie_if_their_class_allows_it():
    objects = [obj for seed in range(MANY) for obj in sample_scene(seed, "train").objects]
    lying = [obj for obj in objects if obj.lying]
    assert lying
    assert all(catalog.CLASSES[obj.category].lies_down for obj in lying)
    assert all(abs(obj.rotation[2, 2]) < 1e-9 for obj in lying)
    assert all(obj.rotation[2, 2] > 0.999 for obj in objects if not obj.lying)


def test_camera_is_directed_at_its_point_and_upright():
    camera = Camera(azimuth=30, elevation=40, distance=1.2, fovy=40, lookat=(0.1, -0.2, 0.05))
    position, rotation = camera_pose(camera)
    np.testing.assert_allclose(rotation.T @ rotation, np.eye(3), atol=1e-12)
    assert np.linalg.det(rotation) == pytest.approx(1)
    assert np.linalg.norm(position - camera.lookat) == pytest.approx(1.2)
    middle, above = project(camera, np.array([camera.lookat, (0.1, -0.2, 0.15)]), 320, 240)
    np.testing.assert_allclose(middle, (160, 120, 1.2), atol=1e-9)
    assert above[1] < middle[1]
    # The upper edge of the image is half the field of view above the axis.
    edge = np.linalg.inv(camera_matrix(camera, 320, 240)) @ (160, 0, 1)
    assert np.degrees(np.arctan(-edge[1])) == pytest.approx(20)
