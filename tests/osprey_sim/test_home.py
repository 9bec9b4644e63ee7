"""Homes: models of true size with exact ids and depth, reproducible, with the colors of their surfaces."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from osprey_sim import words
from osprey_sim.__main__ import main
from osprey_sim.colors import BASIC_COLORS, dominant_color
from osprey_sim.home import held_out, model_object, sample_home, shipped_models, with_colors
from osprey_sim.render import Frame, Renderer
from osprey_sim.room import SURFACES, Panel
from osprey_sim.scene import Camera, Scene, camera_pose, object_extents, sample_scene
from osprey_sim.sensor import Sensor, exposed
from osprey_sim.shapes import rotation_z

SEED = 3


@pytest.fixture(scope="module")
def renderer():
    with Renderer(160, 120) as shared:
        yield shared


@pytest.fixture(scope="module")
def rendered(renderer: Renderer) -> tuple[Scene, Frame]:
    scene = sample_home(SEED, "test")
    return scene, renderer.render(scene, albedo=True)


def test_ids_and_depth_agree_with_the_models(rendered: tuple[Scene, Frame]) -> None:
    scene, frame = rendered
    height, width = frame.depth.shape
    v, u = np.mgrid[0:height, 0:width] + 0.5
    rays = np.stack([u, v, np.ones_like(u)], axis=-1) @ np.linalg.inv(frame.camera_matrix).T
    position, rotation = camera_pose(scene.camera)
    points = (rays * frame.depth[..., None]) @ rotation.T + position
    assert set(np.unique(frame.instance_ids)) - {0} <= {obj.instance_id for obj in scene.objects}
    assert len(words.visible_objects(scene, frame)) >= 4
    for obj in scene.objects:
        info = shipped_models().models[obj.model]
        np.testing.assert_allclose(object_extents(obj), info.size, rtol=0.01, atol=0.001)
        local = (points[frame.instance_ids == obj.instance_id] - obj.position) @ obj.rotation
        low, high = obj.middle - np.array(info.size) / 2, obj.middle + np.array(info.size) / 2
        assert ((local >= low - 0.006) & (local <= high + 0.006)).all(), obj.model
    # The background is the surface below the objects or farther away.
    assert points[frame.instance_ids == 0][:, 2].max() < 2.5


def test_same_seed_same_image_and_other_seeds_differ(renderer: Renderer, rendered: tuple[Scene, Frame]) -> None:
    scene, frame = rendered
    again = renderer.render(sample_home(SEED, "test"), albedo=True)
    for name in ("rgb", "instance_ids", "depth", "albedo"):
        np.testing.assert_array_equal(getattr(again, name), getattr(frame, name))
    assert repr(sample_home(SEED, "test")) == repr(scene)
    assert repr(sample_home(SEED + 1, "test")) != repr(scene)
    assert repr(sample_home(SEED, "validation")) != repr(scene)


def test_a_tabletop_after_a_home_is_as_before(renderer: Renderer, rendered: tuple[Scene, Frame]) -> None:
    scene = sample_scene(0, "test")
    after = renderer.render(scene)
    with Renderer(160, 120) as fresh:
        before = fresh.render(scene)
    np.testing.assert_array_equal(after.rgb, before.rgb)
    np.testing.assert_array_equal(after.instance_ids, before.instance_ids)


def test_training_scenes_have_no_held_out_model() -> None:
    out = held_out(shipped_models())
    kinds = [info.kind for info in shipped_models().models.values()]
    assert len(out) == sum(kinds.count(kind) > 1 for kind in set(kinds))
    placed = {obj.model for seed in range(24) for obj in sample_home(seed, "train").objects}
    assert len(placed) > 35
    assert not placed & out


def test_homes_vary() -> None:
    scenes = [sample_home(seed, "test") for seed in range(24)]
    assert {scene.table.noun for scene in scenes} == set(SURFACES)
    assert len({scene.table.kind for scene in scenes}) >= 6
    assert max(scene.camera.fovy for scene in scenes) - min(scene.camera.fovy for scene in scenes) > 25
    assert any(scene.sensor.blur > 0 for scene in scenes)
    assert any(obj.lying for scene in scenes for obj in scene.objects)


def test_colors_are_those_of_the_surfaces(renderer: Renderer) -> None:
    models = shipped_models()
    names = ("teddy_bear", "puzzle_cube", "glass")
    objects = [model_object(models.models[n], models.meshes(n), i) for i, n in enumerate(names, start=1)]
    for obj, x in zip(objects, (-0.3, 0.0, 0.2), strict=True):
        obj.position, obj.rotation = np.array([x, 0.0, 0.0]), rotation_z(np.pi / 4)
    camera = Camera(90.0, 30.0, 1.2, 45.0, (0.0, 0.0, 0.1))
    scene = dataclasses.replace(sample_home(SEED, "test"), objects=objects, camera=camera)
    frame = renderer.render(scene, albedo=True)
    bear, cube, glass = with_colors(scene, frame).objects
    assert (bear.color, bear.material, words.short(bear)) == ("brown", "cloth", "a brown teddy bear")
    assert (cube.color, cube.material, words.short(cube)) == ("", "plastic", "a puzzle cube")
    assert (glass.color, glass.material) == ("", "glass")
    with pytest.raises(ValueError, match="albedo"):
        with_colors(scene, dataclasses.replace(frame, albedo=None))


@pytest.mark.parametrize(
    ("rgb", "name"),
    [
        ((10, 10, 10), "black"),
        ((245, 245, 240), "white"),
        ((128, 128, 130), "gray"),
        ((200, 20, 20), "red"),
        ((250, 130, 20), "orange"),
        ((240, 220, 40), "yellow"),
        ((30, 130, 40), "green"),
        ((30, 60, 180), "blue"),
        ((110, 40, 150), "purple"),
        ((245, 130, 180), "pink"),
        ((110, 65, 35), "brown"),
    ],
)
def test_basic_colors(rgb: tuple[int, int, int], name: str) -> None:
    assert name in BASIC_COLORS
    pixels = np.array([rgb] * 60 + [[0, 255, 0]] * 20 + [[0, 0, 255]] * 20, np.uint8)
    assert dominant_color(pixels) == name
    assert dominant_color(pixels[15:]) == (name if name in ("green", "blue") else "")


def test_the_sensor_changes_light_but_not_places() -> None:
    image = np.zeros((60, 80, 3), np.uint8)
    image[20:40, 30:50] = 200
    np.testing.assert_array_equal(exposed(image, Sensor(), 0), image)
    noisy = exposed(image, Sensor(noise=6.0), 1)
    np.testing.assert_array_equal(noisy, exposed(image, Sensor(noise=6.0), 1))
    assert (noisy != exposed(image, Sensor(noise=6.0), 2)).any()
    for sensor in (Sensor(blur=6.0), Sensor(motion=20.0)):
        blurred = exposed(image, sensor, 0)[..., 0].astype(float)
        y, x = np.mgrid[0:60, 0:80]
        assert (blurred != image[..., 0]).any()
        assert (x * blurred).sum() / blurred.sum() == pytest.approx(39.5, abs=0.6)
        assert (y * blurred).sum() / blurred.sum() == pytest.approx(29.5, abs=0.6)


def test_the_command_writes_kind_color_and_material(tmp_path: Path) -> None:
    options = ["--seed", str(SEED), "--width", "160", "--height", "120", "--output", str(tmp_path)]
    assert main(["--objects", "home", *options]) == 0
    truth = json.loads((tmp_path / "truth.json").read_text())
    ids = np.asarray(Image.open(tmp_path / "masks.png"))
    known = {(info.kind, info.material) for info in shipped_models().models.values()}
    assert len(truth) >= 3
    for entry in truth:
        assert (ids == entry["instance_id"]).any()
        assert (entry["category"], entry["material"] or "") in known
        assert entry["color"] is None or entry["color"] in BASIC_COLORS
        assert f"{entry['color'] or ''} {entry['category']}".strip() in entry["short"]
        assert entry["detailed"].startswith(entry["short"])
    assert any(entry["color"] for entry in truth)


def test_a_folder_without_models_is_an_error_in_a_line(tmp_path: Path, capsys) -> None:
    assert main(["--objects", "home", "--models", str(tmp_path), "--output", str(tmp_path / "o")]) == 2
    assert "models.json" in capsys.readouterr().err


def test_an_unknown_set_of_objects_is_refused(tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit):
        main(["--objects", "garden", "--output", str(tmp_path)])
    assert "tabletop or home" in capsys.readouterr().err


@pytest.mark.parametrize(("shape", "half"), [("plane", (4.0, 6.0, 1.0)), ("box", (0.6, 0.9, 0.05))])
def test_patterns_have_their_length(shape: str, half: tuple[float, float, float], renderer: Renderer) -> None:
    view = sample_home(SEED, "test")
    # One meter of a checkered surface, from above: 20 squares of 5 cm.
    camera = Camera(90.0, 89.99, 1.0, float(np.degrees(2 * np.arctan(0.5))), (0.0, 0.0, 0.0))
    depth = half[2] if shape == "box" else 0.0
    panel = Panel(shape, np.array([0.0, 0.0, -depth]), np.eye(3), half, (1.0, 1.0, 1.0), "checkered", 0.4)
    scene = dataclasses.replace(view, objects=[], panels=[panel], camera=camera)
    column = renderer.render(scene, albedo=True).albedo[:, 70, 0].astype(int)
    changes = np.flatnonzero(np.diff((column > column.mean()).astype(int)))
    assert len(changes) in (19, 20)
    np.testing.assert_allclose(np.diff(changes), 6, atol=1)


def test_scenes_beyond_the_limit_of_triangles_are_the_same(renderer: Renderer, monkeypatch: pytest.MonkeyPatch) -> None:
    scenes = [sample_home(seed, "test", (2, 2)) for seed in (20, 21)]
    before = [renderer.render(scene).instance_ids for scene in scenes]
    monkeypatch.setattr("osprey_sim.render._MAX_TRIANGLES", 10)
    for scene, ids in zip(scenes, before, strict=True):
        np.testing.assert_array_equal(renderer.render(scene).instance_ids, ids)
