"""`osprey segment`, and `osprey describe` and `osprey ask` about images without masks.

The segmenter's masks are known: the pixels that have the color of the click (`color_segmenter`).
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from color_segmenter import with_everything, write_bundle
from nano import NANO
from PIL import Image

from osprey_ros.cli.main import main
from osprey_ros.regions.files import load_regions
from osprey_ros.regions.regions import as_regions

RED, BLUE = (16, 8, 32, 32), (80, 60, 20, 12)  # x, y, width, height


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a segmenter that clicks on colors, and an image of a red and a blue rectangle on black."""
    folder = tmp_path_factory.mktemp("segment")
    write_bundle(folder / "segmenter", with_everything(), objectness=True)
    rgb = np.zeros((96, 128, 3), np.uint8)
    for (x, y, width, height), color in ((RED, (200, 30, 30)), (BLUE, (30, 30, 200))):
        rgb[y : y + height, x : x + width] = color
    Image.fromarray(rgb).save(folder / "image.png")
    return folder


@pytest.fixture
def common(files: Path) -> list[str]:
    return ["--image", str(files / "image.png"), "--segmenter", str(files / "segmenter"), "--threads", "1"]


def _failure(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


def test_ids_of_everything(common: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "ids.png"
    assert main(["segment", *common, "--output", str(output)]) == 0
    shown = capsys.readouterr()
    assert "16, 8, 32, 32" in shown.out
    assert "2 regions in" in shown.err
    found = load_regions(output)
    assert sorted(map(tuple, found.boxes.tolist())) == [RED, BLUE]
    assert main(["segment", *common, "--output", str(output), "--everything", "--max-regions", "1", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["format"] == "ids"
    assert report["hidden"] == 0
    assert [one["id"] for one in report["regions"]] == [1]
    assert main(["segment", *common, "--output", str(output), "--min-area", "500", "--json"]) == 0
    assert [tuple(one["box"]) for one in json.loads(capsys.readouterr().out)["regions"]] == [RED]


def test_clicks_as_coco_annotations(common: list[str], tmp_path: Path) -> None:
    output = tmp_path / "out" / "coco.json"
    assert main(["segment", *common, "--click", "20,20", "90,65", "--output", str(output)]) == 0
    data = json.loads(output.read_text())
    assert data["images"] == [{"id": 1, "file_name": "image.png", "width": 128, "height": 96}]
    assert [tuple(one["bbox"]) for one in data["annotations"]] == [RED, BLUE]
    assert [one["score"] for one in data["annotations"]] == [0.95, 0.95]
    red = as_regions(data["annotations"])
    assert red.areas.tolist() == [one["area"] for one in data["annotations"]]
    assert red.boxes.tolist() == [list(RED), list(BLUE)]


def test_boxes_as_run_lengths(common: list[str], tmp_path: Path) -> None:
    output = tmp_path / "masks.json"
    box = ["--box", "12,4,24,24"]
    assert main(["segment", *common, *box, "--format", "rle", "--output", str(output)]) == 0
    (one,) = json.loads(output.read_text())
    assert one["bbox"] == [12, 4, 24, 24]
    assert as_regions([one]).areas.tolist() == [one["area"]]


def test_hidden_regions_are_counted(common: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    boxes = ["--box", "12,4,24,24", "12,4,24,24"]
    assert main(["segment", *common, *boxes, "--output", str(tmp_path / "ids.png")]) == 0
    assert "1 of them are hidden by smaller ones in the id image" in capsys.readouterr().err


def test_describe_without_masks(common: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    describe = ["describe", "--bundle", str(NANO), "--json", *common]
    assert main(describe) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["masks"] is None
    assert sorted(tuple(one["box"]) for one in report["regions"]) == [RED, BLUE]
    assert main([*describe, "--segment", "click", "90,65"]) == 0
    (one,) = json.loads(capsys.readouterr().out)["regions"]
    assert tuple(one["box"]) == BLUE
    assert one["text"]
    assert main([*describe, "--segment", "box", "12,4,24,24", "0,0,8,8"]) == 0
    assert [one["box"][:2] for one in json.loads(capsys.readouterr().out)["regions"]] == [[12, 4], [0, 0]]


def test_ask_without_masks(common: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["ask", "the thing on the left", "--bundle", str(NANO), "--json", *common])
    answer = json.loads(capsys.readouterr().out)
    assert status == (0 if answer["matches"] else 1)
    assert answer["image"] == common[1]


def test_what_cannot_be_segmented(common: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = ["--output", str(tmp_path / "ids.png")]
    for more, reason in (
        (["--click", "500,20", *output], "the point 500, 20 is outside the image of 128x96 pixels"),
        (["--min-area", "100000", *output], "nothing was found in image"),
        (["--output", str(tmp_path / "ids.tif")], "give a name that ends in .png or .json, or --format"),
        (["--segmenter", str(NANO), *output], "it is the bundle of a describer; give the bundle of a segmenter"),
        (["--segmenter", "nonesuch", *output], "no engine bundle 'nonesuch'"),
    ):
        assert reason in _failure(capsys, ["segment", *common, *more])
    for more, reason in (
        (["--segment", "all"], "--segment all: give `everything`"),
        (["--segment", "click"], "--segment click: give `everything`"),
        (["--segment", "click", "4"], "'4' is not a click X,Y in pixels of the image"),
        (["--segment", "everything", "--masks", "x.png"], "both --masks and --segment are given"),
        (["--segmenter", "nonesuch"], "give the masks of the image with --masks; without them it needs a segmenter"),
        (["--segment", "everything", "--segmenter", "nonesuch"], "no engine bundle 'nonesuch'"),
    ):
        assert reason in _failure(capsys, ["describe", "--bundle", str(NANO), *common, *more])
    assert not list(tmp_path.iterdir())
    with pytest.raises(SystemExit, match="2"):
        main(["segment", *common, *output, "--box", "1,2,3"])
    assert "'1,2,3' is not a box X,Y,WIDTH,HEIGHT in pixels of the image" in capsys.readouterr().err


def test_the_segmenter_that_ships_is_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    photograph = Path(__file__).parents[1] / "photographs" / "coffee.jpg"
    common = ["describe", "--image", str(photograph), "--bundle", str(NANO), "--threads", "1", "--json"]
    assert main(common) == 0
    assert json.loads(capsys.readouterr().out)["regions"]
    assert main([*common, "--segment", "click", "150,120"]) == 0
    (cup,) = json.loads(capsys.readouterr().out)["regions"]
    x, y, width, height = cup["box"]
    assert x < 150 < x + width
    assert y < 120 < y + height
