"""`osprey ask` about an image with masks. Questions to a node: tests/ros/test_ros_services.py."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from osprey_ros.cli.main import main
from osprey_ros.pipeline import Pipeline
from osprey_sim.render import Renderer
from osprey_sim.scene import sample_scene


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The image of a white teapot (1), a yellow car (2), a pink bowl (3) and a green clock (4)."""
    folder = tmp_path_factory.mktemp("image")
    with Renderer(320, 240) as renderer:
        frame = renderer.render(sample_scene(3, "test", (4, 5)))
    Image.fromarray(frame.rgb).save(folder / "image.png")
    Image.fromarray(frame.instance_ids.astype(np.uint16)).save(folder / "ids.png")
    return ["--image", str(folder / "image.png"), "--masks", str(folder / "ids.png"), "--threads", "1"]


def test_the_objects_of_a_phrase_are_printed(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", "where is the pink bowl?", *arguments, "--json", "--limit", "1"]) == 0
    answer = json.loads(capsys.readouterr().out)
    (match,) = answer["matches"]
    assert match["id"] == 3
    assert 0.5 <= match["score"] <= 1
    assert (match["category"], len(match["box"])) == ("bowl", 4)
    assert main(["ask", "the yellow car", *arguments]) == 0
    head, line = capsys.readouterr().out.splitlines()
    assert head.split()[:2] == ["score", "id"]
    assert line.split()[1] == "2"
    assert "yellow car" in line


def test_how_many_objects_there_are(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", "how many bowls are there?", *arguments]) == 0
    assert capsys.readouterr().out.startswith("1: a ")
    assert main(["ask", "how many elephants are there?", *arguments, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["answer"].startswith("0; ")


def test_objects_are_named_by_the_ids_of_the_masks(
    arguments: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    ids = np.asarray(Image.open(arguments[3]))
    Image.fromarray((ids * 10).astype(np.uint16)).save(tmp_path / "tens.png")
    tens = [*arguments[:3], str(tmp_path / "tens.png"), *arguments[4:], "--json"]
    assert main(["ask", "the bowl next to the yellow car", *tens]) == 0
    matches = json.loads(capsys.readouterr().out)["matches"]
    assert matches[0]["id"] == 30
    assert "(track 20)" in matches[0]["reason"]


def test_a_question_without_words_is_rejected_before_regions_are_described(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(Pipeline, "step")
    for question, reason in ((" ", "question is empty"), ("?!", "no word for what is meant")):
        assert main(["ask", question, *arguments]) == 2
        assert reason in capsys.readouterr().err


@pytest.mark.parametrize("of_node", [False, True])
def test_a_question_that_is_not_utf8_is_rejected(
    arguments: list[str], capsys: pytest.CaptureFixture[str], of_node: bool
) -> None:
    assert main(["ask", "the caf\udce9", *([] if of_node else arguments)]) == 2
    assert r"question 'the caf\udce9' is not UTF-8" in capsys.readouterr().err


def test_a_phrase_without_objects_has_its_own_status(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", "the purple elephant", *arguments]) == 1
    assert "purple elephant" in capsys.readouterr().out
    assert main(["ask", "the purple elephant", *arguments, "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["matches"] == []
    assert "purple elephant" in answer["message"]


def test_errors_name_the_remedy(arguments: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for more, reason in (
        (arguments[2:4], "--masks and --segment are for an image; give --image"),
        (["--image", str(tmp_path / "no.png"), *arguments[2:]], "no.png"),
        ([*arguments, "--bundle", str(tmp_path / "nowhere")], "no engine bundle"),
    ):
        assert main(["ask", "a cup", *more]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("osprey: error: ")
        assert reason in captured.err
    assert main(["ask", "", *arguments]) == 2
    assert "the question is empty" in capsys.readouterr().err
    for option in (["--limit", "0"], ["--timeout", "never"], ["--timeout", "-1"]):
        with pytest.raises(SystemExit, match="2"):
            main(["ask", "a cup", *option])
        assert option[1] in capsys.readouterr().err
