"""`osprey describe` on files: what it prints and writes, and its errors for files that cannot be used."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import SampleImage, TinyModel
from PIL import Image

from osprey_ros.bundle.bundle import Bundle, write_manifest
from osprey_ros.bundle.manifest import ONNX_FILES, TABLES
from osprey_ros.cli.main import main


@pytest.fixture
def files(tmp_path: Path, sample: SampleImage) -> Path:
    """A folder with image.png, ids.png (16 bits) and masks/ (one binary PNG for each region)."""
    Image.fromarray(sample.rgb).save(tmp_path / "image.png")
    Image.fromarray(sample.ids).save(tmp_path / "ids.png")
    (tmp_path / "masks").mkdir()
    for region in (3, 7, 9, 12, 300):
        Image.fromarray((sample.ids == region).astype(np.uint8) * 255).save(tmp_path / "masks" / f"{region}.png")
    return tmp_path


def _arguments(files: Path, tiny_model: TinyModel, *more: str, masks: str = "ids.png") -> list[str]:
    common = ["--image", f"{files}/image.png", "--masks", f"{files}/{masks}", "--bundle", str(tiny_model.bundle)]
    return ["describe", *common, "--threads", "1", "--max-new-tokens", "6", *more]


def _failure(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("osprey: error: ")
    return captured.err


def test_json_of_id_image_and_folder_agree(
    files: Path, tiny_model: TinyModel, sample: SampleImage, capsys: pytest.CaptureFixture[str]
) -> None:
    reports = []
    for masks in ("ids.png", "masks"):
        assert main(_arguments(files, tiny_model, "--json", masks=masks)) == 0
        reports.append(json.loads(capsys.readouterr().out))
    files_of = [[region.pop("file") for region in report["regions"]] for report in reports]
    assert files_of == [["ids.png"] * 5, ["3.png", "7.png", "9.png", "12.png", "300.png"]]
    assert reports[0]["regions"] == reports[1]["regions"]
    assert [r["id"] for r in reports[0]["regions"]] == [3, 7, 9, 12, 300]
    assert reports[0]["regions"][0]["box"] == [5, 5, 25, 20]
    assert reports[0]["regions"][3]["area"] == (sample.ids == 12).sum()
    assert all(r["text"] and 0 < r["confidence"] <= 1 for r in reports[0]["regions"])
    assert reports[0]["bundle"] == "tiny"
    assert reports[0]["timing"]["total"] > 0


def test_table_and_overlay(
    files: Path, tiny_model: TinyModel, sample: SampleImage, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(_arguments(files, tiny_model, "--overlay", f"{files}/out.png", "--style", "category")) == 0
    captured = capsys.readouterr()
    assert "bundle tiny was never compared" in captured.err
    lines = captured.out.splitlines()
    assert len(lines) == 6
    assert lines[1].split()[0] == "3"
    drawn = np.asarray(Image.open(files / "out.png"))
    assert drawn.shape[0] % 60 == 0
    assert drawn.shape[1] * 60 == drawn.shape[0] * 80


def test_small_regions_and_the_surplus_are_left_out(
    files: Path, tiny_model: TinyModel, sample: SampleImage, capsys: pytest.CaptureFixture[str]
) -> None:
    areas = {region: int((sample.ids == region).sum()) for region in (3, 7, 9, 12, 300)}
    by_size = sorted(areas, key=lambda region: -areas[region])
    assert len(set(areas.values())) == 5
    least = areas[by_size[2]]
    for options, kept in (
        (["--min-area", str(least)], by_size[:3]),
        (["--max-regions", "2"], by_size[:2]),
        (["--min-area", str(least + 1), "--max-regions", "4"], by_size[:2]),
        (["--max-regions", "9"], by_size),
    ):
        assert main(_arguments(files, tiny_model, "--json", *options)) == 0
        regions = json.loads(capsys.readouterr().out)["regions"]
        assert [region["id"] for region in regions] == sorted(kept)
    error = _failure(capsys, _arguments(files, tiny_model, "--min-area", "9999"))
    assert f"no region has 9999 pixels or more, the largest has {max(areas.values())}" in error


def test_engines_and_preprocessing_can_be_chosen(
    files: Path, tiny_model: TinyModel, capsys: pytest.CaptureFixture[str]
) -> None:
    for options in (["--device", "cpu"], ["--preprocessing", "fast"]):
        assert main(_arguments(files, tiny_model, "--json", *options)) == 0
        assert len(json.loads(capsys.readouterr().out)["regions"]) == 5


def test_attributes_are_chosen_from_their_values(
    files: Path, tiny_model: TinyModel, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--attributes", "color = red | green", "--attributes", "size = small | big; How big is <mask><pos>?"]
    assert main(_arguments(files, tiny_model, "--json", *asked)) == 0
    report = json.loads(capsys.readouterr().out)
    for region in report["regions"]:
        assert list(region["attributes"]) == ["color", "size"]
        assert region["attributes"]["color"]["value"] in ("red", "green")
        assert 0.5 <= region["attributes"]["size"]["raw_confidence"] <= 1  # of the likelier one of two
    assert main(_arguments(files, tiny_model, *asked)) == 0
    _, *lines = capsys.readouterr().out.splitlines()
    for line, region in zip(lines, report["regions"], strict=True):
        values = {name: found["value"] for name, found in region["attributes"].items()}
        assert line.endswith(f"  {region['text']}; color: {values['color']}; size: {values['size']}")


def test_answers_of_low_confidence_are_unknown(
    files: Path, tiny_model: TinyModel, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(_arguments(files, tiny_model, "--json")) == 0
    confidences = [region["confidence"] for region in json.loads(capsys.readouterr().out)["regions"]]
    limit = sorted(confidences)[2]
    assert main(_arguments(files, tiny_model, "--json", "--min-confidence", str(limit - 1e-5))) == 0
    regions = json.loads(capsys.readouterr().out)["regions"]
    assert [region["confidence"] for region in regions] == confidences
    assert [region["text"] == "unknown" for region in regions] == [c < limit - 1e-5 for c in confidences]


def test_ask(files: Path, tiny_model: TinyModel, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(_arguments(files, tiny_model, "--ask", "Is it red?", "--json")) == 0
    assert json.loads(capsys.readouterr().out)["question"] == "Is it red?"


def test_descriptions_are_printed_if_the_overlay_cannot_be_written(
    files: Path, tiny_model: TinyModel, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(_arguments(files, tiny_model, "--overlay", f"{files}/nowhere/out.png")) == 2
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 6
    assert "nowhere/out.png cannot be written" in captured.err


def test_an_overlay_of_an_unknown_format_is_rejected_at_once(
    files: Path, tiny_model: TinyModel, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("out.xyz", "out"):
        arguments = _arguments(files, tiny_model, "--overlay", f"{files}/{name}", "--bundle", f"{files}/no_bundle")
        assert f"{name} cannot be written" in _failure(capsys, arguments)


def test_module_is_a_command_without_torch_and_ros(files: Path, tiny_model: TinyModel) -> None:
    blocked = "import sys\nfor name in ('torch', 'transformers', 'rclpy'): sys.modules[name] = None\n"
    run = "import runpy\nrunpy.run_module('osprey_ros', run_name='__main__', alter_sys=True)"
    command = [sys.executable, "-c", blocked + run, *_arguments(files, tiny_model)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 6


@pytest.mark.parametrize("command", [["describe"], ["describe", "--json"], ["bundle", "show", "--json"]])
def test_a_closed_pipe_is_not_an_error(files: Path, tiny_model: TinyModel, command: list[str]) -> None:
    if command[0] == "describe":
        command = [*_arguments(files, tiny_model), *command[1:]]
    else:
        command = [*command, str(tiny_model.bundle)]
    # The reader closes the pipe before the first write, as `| head` does before the last one.
    reader, output = os.pipe()
    os.close(reader)
    run = [sys.executable, "-m", "osprey_ros", *command]
    try:
        ended = subprocess.run(run, stdout=output, stderr=subprocess.PIPE, text=True, check=False)
    finally:
        os.close(output)
    assert ended.returncode == 0
    assert "Traceback" not in ended.stderr
    assert "Error" not in ended.stderr


def test_an_unverified_bundle_has_a_warning(
    files: Path, tiny_model: TinyModel, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(_arguments(files, tiny_model)) == 0
    assert "warning: bundle tiny was never compared with its PyTorch model" in capsys.readouterr().err
    assert main(_arguments(files, tiny_model, "--json")) == 0
    captured = capsys.readouterr()
    assert "warning: bundle tiny was never compared with its PyTorch model" in captured.err
    assert json.loads(captured.out)["verified"] is False


def test_a_folder_of_masks_is_listed_with_its_files_and_a_bad_one_is_named(
    files: Path, tiny_model: TinyModel, capsys: pytest.CaptureFixture[str]
) -> None:
    masks = files / "masks"
    (masks / "3.png").rename(masks / "0.png")
    (masks / "9.png").rename(masks / "10.png")
    Image.fromarray(np.zeros((60, 80), np.uint8)).save(masks / "300.png")
    (masks / "._7.png").write_bytes(b"Mac OS X")
    assert main(_arguments(files, tiny_model, masks="masks")) == 0
    captured = capsys.readouterr()
    assert [line.split()[:2] for line in captured.out.splitlines()] == [
        ["id", "file"], ["1", "0.png"], ["2", "7.png"], ["3", "10.png"], ["4", "12.png"]
    ]  # fmt: skip
    assert "osprey: warning: mask" in captured.err
    assert "300.png is left out: it is empty" in captured.err


def test_a_mask_of_few_pixels_is_unknown_with_a_reason(
    files: Path, tiny_model: TinyModel, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = np.asarray(Image.open(files / "ids.png")).copy()
    ids[0, 0] = 500
    Image.fromarray(ids).save(files / "ids.png")
    assert main(_arguments(files, tiny_model, "--json", "--attributes", "color = red | green")) == 0
    captured = capsys.readouterr()
    region = json.loads(captured.out)["regions"][-1]
    assert (region["id"], region["text"], region["confidence"]) == (500, "unknown", 0)
    assert region["attributes"]["color"]["value"] == "unknown"
    assert "no pixel of its mask (1 pixels) is left" in region["reason"]
    assert "osprey: warning: region 500 (ids.png) is unknown: no pixel of its mask" in captured.err


def test_speckles_are_refused_and_can_be_allowed(
    files: Path, tiny_model: TinyModel, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = np.asarray(Image.open(files / "ids.png")).copy()
    ids[59, :65] = np.arange(400, 465)
    Image.fromarray(ids).save(files / "ids.png")
    assert "cover fewer than 16 pixels each" in _failure(capsys, _arguments(files, tiny_model))
    assert main(_arguments(files, tiny_model, "--masks-anyway", "--min-area", "16", "--json")) == 0
    assert len(json.loads(capsys.readouterr().out)["regions"]) == 5


def test_invalid_files_are_named(
    files: Path, tiny_model: TinyModel, sample: SampleImage, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(sample.ids[:, ::2].copy()).save(files / "half.png")
    Image.fromarray(np.zeros((60, 80), np.uint8)).save(files / "nothing.png")
    Image.fromarray(sample.rgb).save(files / "colors.png")
    (files / "text.png").write_text("not an image")
    for masks, message in (
        ("half.png", "40x60 pixels, the image is 80x60"),
        ("nothing.png", "nothing.png: the id image has no region"),
        ("colors.png", "colors.png: it has 3 channels (mode RGB)"),
        ("text.png", "text.png: it is not an image of a known format"),
        ("absent.png", "absent.png do not exist"),
        ("x" * 300, "cannot be read: File name too long"),
    ):
        assert message in _failure(capsys, _arguments(files, tiny_model, masks=masks))
    arguments = _arguments(files, tiny_model)
    arguments[2] = f"{files}/absent.jpg"
    assert "absent.jpg does not exist" in _failure(capsys, arguments)
    arguments[2] = f"{files}/text.png"
    assert "text.png cannot be read" in _failure(capsys, arguments)
    message = _failure(capsys, _arguments(files, tiny_model, "--ask", "caf\udce9"))
    assert r"question 'caf\udce9' is not UTF-8" in message


def test_invalid_bundles_are_named(files: Path, tiny_model: TinyModel, capsys: pytest.CaptureFixture[str]) -> None:
    broken = files / "broken"
    shutil.copytree(tiny_model.bundle, broken)
    arguments = _arguments(files, TinyModel(tiny_model.checkpoint, broken))
    (broken / "embeddings.npy").unlink()
    assert "embeddings.npy is missing" in _failure(capsys, arguments)
    shutil.rmtree(broken)
    assert "no engine bundle" in _failure(capsys, arguments)


@pytest.mark.parametrize("name", [*ONNX_FILES.values(), *TABLES, "config.json"])
def test_a_changed_byte_of_any_file_of_a_bundle_is_named(
    files: Path, tiny_model: TinyModel, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    broken = files / "broken"
    shutil.copytree(tiny_model.bundle, broken)
    assert name in [path.name for path in broken.iterdir()]
    data = bytearray((broken / name).read_bytes())
    data[len(data) // 2] ^= 1
    (broken / name).write_bytes(bytes(data))
    error = _failure(capsys, _arguments(files, TinyModel(tiny_model.checkpoint, broken)))
    assert f"{name} was changed" in error
    assert "osprey build" in error


def test_engine_that_fails_is_named(files: Path, tiny_model: TinyModel, capsys: pytest.CaptureFixture[str]) -> None:
    odd = files / "odd"
    shutil.copytree(tiny_model.bundle, odd)
    known = Bundle.open(odd).manifest
    model = replace(known.model, position_size=known.model.position_size + 1)
    write_manifest(odd, name="odd", model=model, template=known.template, precisions={}, verification={})
    error = _failure(capsys, _arguments(files, TinyModel(tiny_model.checkpoint, odd)))
    assert "mask_extractor.onnx failed" in error


@pytest.mark.parametrize("number", ["two", "0", "-3", "1.5"])
def test_invalid_numbers_are_explained(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["describe", "--image", "x", "--masks", "y", f"--threads={number}"])
    assert exit_.value.code == 2
    assert f"argument --threads: {number!r} is not a whole number of at least 1" in capsys.readouterr().err
