"""`osprey bag`: attributes, confidence and the summary. What it reads and writes: tests/recording."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import SampleImage, TinyModel
from recordings import IMAGE, SEGMENTATION, arrays, frames, write_folder

from osprey_ros.cli.main import main


@pytest.fixture
def arguments(sample: SampleImage, tmp_path: Path, tiny_model: TinyModel) -> list[str]:
    source = write_folder(tmp_path / "in", frames(sample))
    topics = ["--image", IMAGE, "--segmentation", SEGMENTATION, "--output", str(tmp_path / "out.mcap")]
    model = ["--bundle", str(tiny_model.bundle), "--threads", "1", "--max-new-tokens", "6"]
    return ["bag", str(source), *topics, *model]


def test_the_summary_as_json(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments, "--every", "2", "--json"]) == 0
    captured = capsys.readouterr()
    summary = json.loads(captured.out)
    assert summary["output"] == str(tmp_path / "out.mcap")
    assert (summary["topic"], summary["frames"], summary["described"]) == ("/osprey/objects", 2, 2)
    assert summary["failed"] == []
    assert summary["notes"] == ["2 frames left out by --every or --rate"]
    assert "left out" not in captured.err


def test_attributes_and_answers_of_low_confidence(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--attributes", "color = red | green", "--attributes", "size = small | big", "--device", "cpu"]
    assert main([*arguments, *asked, "--min-confidence", "1"]) == 0
    for _, array in arrays(tmp_path / "out.mcap"):
        for thing in array.objects:
            assert [attribute.name for attribute in thing.attributes] == ["color", "size"]
            assert {attribute.value for attribute in thing.attributes} == {"unknown"}
            assert (thing.category, thing.description) == ("unknown", "unknown")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--attributes", "color = red | green", "--attributes", "color"], "color is given more than once"),
        (["--attributes", "9"], "attribute '9'"),
    ],
)
def test_attributes_are_checked_before_the_recording(
    arguments: list[str], options: list[str], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, *options]) == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "out.mcap").exists()


@pytest.mark.parametrize("name", ["my robot", "a//b", "", "/", "7up", "a__b", "~osprey", "/robot/größe", "osprey\n"])
def test_names_of_nodes_that_ros_refuses_are_refused(
    arguments: list[str], name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--node", name]) == 2
    assert f"osprey: error: {name!r} is not the name of a node; give parts of letters" in capsys.readouterr().err
    assert not (tmp_path / "out.mcap").exists()


def test_a_slop_beyond_its_limit_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([*arguments, "--slop", "1.8e9"])
    assert "argument --slop: '1.8e9' is more than 10 s" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--min-confidence", "1.5"], ["--rate", "0"], ["--slop", "-1"]])
def test_numbers_out_of_range_are_explained(
    arguments: list[str], option: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([*arguments, *option])
    assert f"argument {option[0]}: {option[1]!r} is not a number" in capsys.readouterr().err


def test_a_segmentation_of_classes(
    arguments: list[str], sample: SampleImage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--background-classes", "roof"]) == 2
    assert "the background class 'roof' is not among the class names" in capsys.readouterr().err
    classes = ["--segmentation-values", "classes", "--class-names", "wall, , , cup", "--background-classes", "9, wall"]
    assert main([*arguments, *classes, "--min-area", "16"]) == 0
    for _, array in arrays(tmp_path / "out.mcap"):
        assert [thing.label for thing in array.objects].count("cup") == 1
        (cup,) = [thing for thing in array.objects if thing.label == "cup"]
        assert cup.area == (sample.ids == 3).sum()
        assert (sample.ids == 9).sum() not in [thing.area for thing in array.objects]
