"""The scripts in `examples/`, each run as a user runs it, in a process of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Image and masks of a simulated tabletop."""
    from osprey_sim.render import Renderer
    from osprey_sim.scene import sample_scene

    folder = tmp_path_factory.mktemp("scene")
    with Renderer(320, 240) as renderer:
        frame = renderer.render(sample_scene(3, "test", (4, 5)))
    Image.fromarray(frame.rgb).save(folder / "image.png")
    Image.fromarray(frame.instance_ids.astype(np.uint8)).save(folder / "image.masks.png")
    return str(folder / "image.png"), str(folder / "image.masks.png")


def _run(name: str, *arguments: str, env: dict[str, str] | None = None) -> list[str]:
    environment = {**(os.environ if env is None else env), "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path[1:]])}
    result = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py"), *arguments],
        env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def test_each_object_of_an_image_is_described(scene: tuple[str, str]) -> None:
    lines = _run("describe_image", *scene)
    assert [line[0] for line in lines] == ["1", "2", "3", "4"]
    assert "teapot" in lines[0]


def test_a_question_is_answered_about_one_region(scene: tuple[str, str]) -> None:
    assert _run("ask_region", *scene, "2") == ["yellow"]


def test_the_likeliest_of_the_given_categories_is_chosen(scene: tuple[str, str]) -> None:
    lines = _run("score_categories", *scene, "teapot", "car", "bowl", "clock")
    assert [line.split()[1] for line in lines] == ["teapot", "car", "bowl", "clock"]


def test_everything_is_segmented_best_first(scene: tuple[str, str]) -> None:
    scores = [float(line.split()[-1]) for line in _run("segment_everything", scene[0])]
    assert scores
    assert scores == sorted(scores, reverse=True)


def test_a_click_on_an_object_gives_its_words(scene: tuple[str, str]) -> None:
    rows, columns = np.nonzero(np.array(Image.open(scene[1])) == 2)
    middle = len(rows) // 2
    (words,) = _run("click_to_words", scene[0], str(columns[middle]), str(rows[middle]))
    assert words


def test_streamed_text_grows_to_its_end(scene: tuple[str, str]) -> None:
    lines = _run("stream", *scene, "2")
    assert len(lines) > 1
    assert lines[-1].endswith("(end)")
    assert not any(line.endswith("(end)") for line in lines[:-1])


def test_the_chain_of_kinds_ends_at_the_root(scene: tuple[str, str]) -> None:
    lines = _run("back_off", *scene)
    assert len(lines) == 4
    assert any(re.search(r"object 1\.00\]$", line) for line in lines)


def test_words_are_remembered_under_new_numbers(scene: tuple[str, str]) -> None:
    lines = _run("scene_memory", *scene)
    assert lines[0] == "frame 0: 4 described, 0 remembered"
    assert lines[5] == "frame 1: 0 described, 4 remembered"

    def words(line: str) -> str:
        return line.split(" is ")[1]

    assert sorted(map(words, lines[1:5])) == sorted(map(words, lines[6:10]))


def test_a_folder_is_described_a_line_for_each_image(scene: tuple[str, str], tmp_path: Path) -> None:
    for name in ("a", "b"):
        shutil.copy(scene[0], tmp_path / f"{name}.png")
        shutil.copy(scene[1], tmp_path / f"{name}.masks.png")
    rows = [json.loads(line) for line in _run("batch_folder", str(tmp_path))]
    assert [row["image"] for row in rows] == ["a.png", "b.png"]
    assert "teapot" in rows[0]["objects"]["1"]
    assert rows[0]["objects"] == rows[1]["objects"]


def test_the_node_is_asked_over_its_service(scene: tuple[str, str], tmp_path: Path) -> None:
    pytest.importorskip("rclpy", reason="needs ROS 2")
    from ros_harness import Client, osprey_node, ros_environment

    rgb, ids = (np.array(Image.open(path)) for path in scene)
    with ros_environment(tmp_path) as env, osprey_node(env, tmp_path, "autostart:=true", "threads:=1"):
        client = Client(env)
        try:
            client.wait_until_heard()
            client.send(1_000_000_000, rgb, ids.astype(np.uint16))
            client.described(1_000_000_000)
            lines = _run("ros_query", "the yellow car", env=env)
        finally:
            client.close()
    assert "yellow" in lines[1]
