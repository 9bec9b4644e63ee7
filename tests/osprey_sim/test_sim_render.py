"""Rendering: exact ids, parts inside their objects, depth that agrees with the camera, and no state between scenes."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from osprey_ros.errors import InputError
from osprey_sim import catalog
from osprey_sim.render import Frame, Renderer
from osprey_sim.scene import Scene, camera_pose, sample_scene

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def renderer():
    with Renderer() as shared:
        yield shared


def world_points(scene: Scene, frame: Frame) -> np.ndarray:
    """Return the world coordinates float64 [H, W, 3] of each pixel, from depth and camera matrix."""
    height, width = frame.depth.shape
    v, u = np.mgrid[0:height, 0:width] + 0.5
    rays = np.stack([u, v, np.ones_like(u)], axis=-1) @ np.linalg.inv(frame.camera_matrix).T
    position, rotation = camera_pose(scene.camera)
    return (rays * frame.depth[..., None]) @ rotation.T + position


def outside(solid, points: np.ndarray) -> np.ndarray:
    """Return the distances [N] in meters of points [N, 3] from the solid's oriented bounding box."""
    half = {
        "cylinder": (solid.size[0], solid.size[0], solid.size[1]),
        "capsule": (solid.size[0], solid.size[0], solid.size[0] + solid.size[1]),
    }.get(solid.shape, solid.size)
    local = (points - solid.position) @ solid.rotation
    return np.linalg.norm(np.maximum(np.abs(local) - half, 0), axis=1)


def test_frame_has_the_documented_types(renderer):
    frame = renderer.render(sample_scene(0, "train"))
    assert (frame.rgb.shape, frame.rgb.dtype) == ((240, 320, 3), np.uint8)
    assert (frame.instance_ids.shape, frame.instance_ids.dtype) == ((240, 320), np.uint16)
    assert (frame.part_ids.shape, frame.part_ids.dtype) == ((240, 320), np.uint16)
    assert (frame.depth.shape, frame.depth.dtype) == ((240, 320), np.float32)
    assert (frame.camera_matrix.shape, frame.camera_matrix.dtype) == ((3, 3), np.float64)
    assert all(array.flags.c_contiguous for array in (frame.rgb, frame.instance_ids, frame.part_ids))


def test_same_scene_gives_the_same_pixels_whatever_was_drawn_before(renderer):
    scene = sample_scene(1, "train")
    first = renderer.render(scene)
    renderer.render(sample_scene(2, "train", objects=(16, 16)))
    again = renderer.render(scene)
    with Renderer() as other:
        fresh = other.render(scene)
    for frame in (again, fresh):
        np.testing.assert_array_equal(frame.rgb, first.rgb)
        np.testing.assert_array_equal(frame.instance_ids, first.instance_ids)
        np.testing.assert_array_equal(frame.part_ids, first.part_ids)
        np.testing.assert_array_equal(frame.depth, first.depth)
    without = renderer.render(scene, depth=False)
    assert without.depth is None
    np.testing.assert_array_equal(without.rgb, first.rgb)


@pytest.mark.parametrize("seed", range(4))
def test_every_pixel_lies_on_the_solid_that_its_ids_name(renderer, seed):
    scene = sample_scene(seed, "test", objects=(6, 12))
    frame = renderer.render(scene)
    points = world_points(scene, frame)
    assert set(np.unique(frame.instance_ids)) <= {0, *(obj.instance_id for obj in scene.objects)}
    for obj in scene.objects:
        for part_id in (0, *(part.part_id for part in obj.parts)):
            mask = (frame.instance_ids == obj.instance_id) & (frame.part_ids == part_id)
            solids = [solid for solid in obj.solids if solid.part_id == part_id]
            local = (points[mask] - obj.position) @ obj.rotation
            distance = np.min([outside(solid, local) for solid in solids], axis=0, initial=np.inf)
            assert np.all(distance < 4e-3), f"{obj.category}, part {part_id}: {distance.max()} m"


@pytest.mark.parametrize("seed", range(3))
def test_background_is_table_or_wall(renderer, seed):
    scene = sample_scene(seed, "train")
    frame = renderer.render(scene)
    background = world_points(scene, frame)[frame.instance_ids == 0]
    assert frame.depth.min() > 0.2
    assert frame.depth.max() < 6
    table = np.abs(background[:, 2]) < 3e-3
    assert table.mean() > 0.6
    away = camera_pose(scene.camera)[1][:2, 2]
    wall = background[~table]
    assert np.all(wall[:, 2] > 0)
    assert np.all((wall[:, :2] - scene.camera.lookat[:2]) @ away > 0.4)


def test_parts_are_nested_in_their_objects(renderer):
    scene = sample_scene(3, "validation", objects=(16, 16))
    frame = renderer.render(scene)
    expected = {part.part_id: (obj.instance_id, part.name) for obj in scene.objects for part in obj.parts}
    assert frame.parts == expected
    seen = np.unique(frame.part_ids[frame.part_ids > 0])
    assert len(seen) >= 5
    for part_id in seen:
        assert set(np.unique(frame.instance_ids[frame.part_ids == part_id])) == {frame.parts[part_id][0]}


def test_objects_in_front_hide_ids(renderer):
    """An object rendered alone covers all its pixels of the full scene, and more if it is occluded there."""
    scene = sample_scene(2, "train", objects=(14, 14))
    together = renderer.render(scene)
    hidden = 0
    for obj in scene.objects:
        alone = renderer.render(dataclasses.replace(scene, objects=[obj])).instance_ids == obj.instance_id
        mask = together.instance_ids == obj.instance_id
        assert not np.any(mask & ~alone)
        hidden += np.any(alone & ~mask)
    assert hidden >= 3


def test_objects_have_useful_sizes(renderer):
    areas, visible = [], []
    for seed in range(12):
        scene = sample_scene(seed, "test")
        counts = np.bincount(renderer.render(scene).instance_ids.ravel(), minlength=len(scene.objects) + 1)[1:]
        areas += counts.tolist()
    for seed in range(4):
        frame = renderer.render(sample_scene(seed, "test", objects=(16, 16)))
        visible.append(len(np.unique(frame.instance_ids)) - 1)
    assert 800 < np.median(areas) < 3000
    assert np.mean(np.array(areas) < 200) < 0.08
    assert min(visible) >= 14


def test_color_names_are_true(renderer):
    """The hue of the median pixel of an object is nearest to the color in its name."""
    names = list(catalog.COLORS)
    chroma = np.array([np.array(rgb) / (sum(rgb) + 0.15) for rgb in catalog.COLORS.values()])
    saturated = [name for name, rgb in catalog.COLORS.items() if max(rgb) - min(rgb) > 0.4]
    checked = 0
    for seed in range(25):
        scene = sample_scene(seed, "test")
        for obj in scene.objects:
            if obj.color not in saturated or obj.category not in (
                "ball",
                "bowl",
                "book",
                "plate",
                "mug",
                "box",
                "dice",
            ):
                continue
            frame = renderer.render(dataclasses.replace(scene, objects=[obj]), depth=False)
            pixels = np.median(frame.rgb[frame.instance_ids == obj.instance_id] / 255, axis=0)
            nearest = names[int(np.argmin(np.linalg.norm(chroma - pixels / (pixels.sum() + 0.15), axis=1)))]
            allowed = {obj.color, "brown"} if obj.color == "orange" else {obj.color}
            assert nearest in allowed, f"a {obj.color} {obj.category} looks {nearest} in test scene {seed}"
            checked += 1
    assert checked >= 10


def test_other_image_sizes_show_the_same_scene(renderer):
    scene = sample_scene(4, "train")
    small = renderer.render(scene)
    with Renderer(640, 480) as double:
        large = double.render(scene)
    assert large.rgb.shape == (480, 640, 3)
    np.testing.assert_allclose(large.camera_matrix[:2], 2 * small.camera_matrix[:2])
    assert np.mean(large.instance_ids[::2, ::2] == small.instance_ids) > 0.97
    assert np.median(np.abs(large.depth[::2, ::2] - small.depth)) < 0.01


def test_two_renderers_take_turns(renderer):
    scene = sample_scene(6, "train")
    before = renderer.render(scene)
    other = Renderer(160, 120)
    other.render(scene)
    between = renderer.render(scene)
    del other  # must free its own buffers, not those of the current renderer
    after = renderer.render(scene)
    for frame in (between, after):
        np.testing.assert_array_equal(frame.rgb, before.rgb)
        np.testing.assert_array_equal(frame.instance_ids, before.instance_ids)


def test_moving_the_camera_changes_the_image(renderer):
    scene = sample_scene(7, "train")
    moved = dataclasses.replace(scene, camera=dataclasses.replace(scene.camera, azimuth=scene.camera.azimuth + 15))
    a, b = renderer.render(scene), renderer.render(moved)
    assert np.mean(a.instance_ids != b.instance_ids) > 0.02
    assert set(np.unique(a.instance_ids)) & set(np.unique(b.instance_ids)) - {0}


def test_errors_name_a_closed_renderer_and_an_invalid_size():
    renderer = Renderer(64, 48)
    renderer.close()
    renderer.close()
    with pytest.raises(RuntimeError, match="closed"):
        renderer.render(sample_scene(0, "train"))
    with pytest.raises(InputError, match="0x240"):
        Renderer(0, 240)


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {
        key: value for key, value in os.environ.items() if key not in ("MUJOCO_GL", "PYOPENGL_PLATFORM", "DISPLAY")
    }
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**variables, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("first", ["", "import mujoco; "])
def test_renders_without_a_display_or_settings(first):
    code = "from osprey_sim.render import Renderer; from osprey_sim.scene import sample_scene; "
    done = run(first + code + "print(Renderer(64, 48).render(sample_scene(0, 'train')).rgb.mean() > 20)")
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "True", "")


@pytest.mark.parametrize(
    ("library", "remedy"),
    [("nonsense", "set it to egl, osmesa, glfw"), ("glfw", "unset MUJOCO_GL, or install libegl1")],
)
def test_an_unusable_gl_is_one_line_with_the_remedy(library, remedy):
    code = "import sys; from osprey_sim.__main__ import main; sys.exit(main(['--output', 'build/none']))"
    done = run(code, MUJOCO_GL=library)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("osprey: error: ")
    assert f"MUJOCO_GL is {library!r}" in line
    assert remedy in line


def test_scenes_need_no_gl():
    code = "import sys; from osprey_sim.scene import sample_scene; sample_scene(0, 'train'); "
    assert run(code + "print('mujoco' in sys.modules)").stdout.strip() == "False"
