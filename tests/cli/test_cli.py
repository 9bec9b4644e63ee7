"""The command line, end to end on files: what it prints and writes, and what it says about files that are no good."""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import Picture, TinyModel
from PIL import Image

from osprey_ros.bundle.bundle import Bundle, write_manifest
from osprey_ros.bundle.manifest import ONNX_FILES, TABLES
from osprey_ros.cli.main import main
from osprey_ros.errors import RegionError
from osprey_ros.regions.files import load_regions
from osprey_ros.regions.regions import regions_from_id_image


@pytest.fixture
def files(tmp_path: Path, picture: Picture) -> Path:
    """A folder with picture.png, ids.png (16 bits) and masks/ (one binary PNG for each region)."""
    Image.fromarray(picture.rgb).save(tmp_path / "picture.png")
    Image.fromarray(picture.ids).save(tmp_path / "ids.png")
    (tmp_path / "masks").mkdir()
    for region in (3, 7, 9, 12, 300):
        Image.fromarray((picture.ids == region).astype(np.uint8) * 255).save(tmp_path / "masks" / f"{region}.png")
    return tmp_path


def _arguments(files: Path, tiny_model: TinyModel, *more: str, masks: str = "ids.png") -> list[str]:
    common = ["--image", f"{files}/picture.png", "--masks", f"{files}/{masks}", "--bundle", str(tiny_model.bundle)]
    return ["describe", *common, "--threads", "1", "--max-new-tokens", "6", *more]


def _failure(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("osprey: error: ")
    return captured.err


def test_json_of_id_picture_and_folder_agree(
    files: Path, tiny_model: TinyModel, picture: Picture, capsys: pytest.CaptureFixture[str]
) -> None:
    reports = []
    for masks in ("ids.png", "masks"):
        assert main(_arguments(files, tiny_model, "--json", masks=masks)) == 0
        reports.append(json.loads(capsys.readouterr().out))
    assert reports[0]["regions"] == reports[1]["regions"]
    assert [r["id"] for r in reports[0]["regions"]] == [3, 7, 9, 12, 300]
    assert reports[0]["regions"][0]["box"] == [5, 5, 25, 20]
    assert reports[0]["regions"][3]["area"] == (picture.ids == 12).sum()
    assert all(r["text"] and 0 < r["confidence"] <= 1 for r in reports[0]["regions"])
    assert reports[0]["bundle"] == "tiny"
    assert reports[0]["timing"]["total"] > 0


def test_table_and_overlay(
    files: Path, tiny_model: TinyModel, picture: Picture, capsys: pytest.CaptureFixture[str]
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


def test_ask(files: Path, tiny_model: TinyModel, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(_arguments(files, tiny_model, "--ask", "Is it red?", "--json")) == 0
    assert json.loads(capsys.readouterr().out)["question"] == "Is it red?"


def test_words_are_printed_though_the_overlay_cannot_be_written(
    files: Path, tiny_model: TinyModel, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(_arguments(files, tiny_model, "--overlay", f"{files}/nowhere/out.png")) == 2
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 6
    assert "nowhere/out.png cannot be written" in captured.err


def test_an_overlay_of_no_known_format_is_refused_at_once(
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


def test_help_needs_neither_numpy_nor_onnxruntime() -> None:
    blocked = "import sys\nfor name in ('numpy', 'onnxruntime', 'tokenizers', 'cv2', 'PIL'): sys.modules[name] = None\n"
    run = "from osprey_ros.cli.main import main\nmain(['bundle', 'verify', '--help'])"
    done = subprocess.run([sys.executable, "-c", blocked + run], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "every" in done.stdout


@pytest.mark.parametrize("command", [["describe"], ["describe", "--json"], ["bundle", "show", "--json"]])
def test_output_that_nobody_reads_to_its_end_is_no_error(
    files: Path, tiny_model: TinyModel, command: list[str]
) -> None:
    if command[0] == "describe":
        command = [*_arguments(files, tiny_model), *command[1:]]
    else:
        command = [*command, str(tiny_model.bundle)]
    # The reader is gone before the first word is written, as `| head` is before the last.
    reader, output = os.pipe()
    os.close(reader)
    run = [sys.executable, "-m", "osprey_ros", *command]
    try:
        ended = subprocess.run(run, stdout=output, stderr=subprocess.PIPE, text=True, check=False)
    finally:
        os.close(output)
    assert ended.returncode == 128 + signal.SIGPIPE
    assert "Traceback" not in ended.stderr
    assert "Error" not in ended.stderr


def test_bundle_that_was_never_compared_is_warned_of(
    files: Path, tiny_model: TinyModel, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(_arguments(files, tiny_model)) == 0
    assert "warning: bundle tiny was never compared with its PyTorch model" in capsys.readouterr().err
    assert main(_arguments(files, tiny_model, "--json")) == 0
    captured = capsys.readouterr()
    assert "warning: bundle tiny was never compared with its PyTorch model" in captured.err
    assert json.loads(captured.out)["verified"] is False


def test_input_that_is_no_good_is_named(
    files: Path, tiny_model: TinyModel, picture: Picture, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(picture.ids[:, ::2].copy()).save(files / "half.png")
    Image.fromarray(np.zeros((60, 80), np.uint8)).save(files / "nothing.png")
    Image.fromarray(picture.rgb).save(files / "colours.png")
    (files / "text.png").write_text("no picture")
    for masks, message in (
        ("half.png", "40x60 pixels, the picture is 80x60"),
        ("nothing.png", "nothing.png: the id image has no region"),
        ("colours.png", "colours.png have mode RGB"),
        ("text.png", "text.png cannot be read"),
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


def test_bundles_that_are_no_good_are_named(
    files: Path, tiny_model: TinyModel, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = files / "broken"
    shutil.copytree(tiny_model.bundle, broken)
    arguments = _arguments(files, TinyModel(tiny_model.checkpoint, broken))
    (broken / "embeddings.npy").unlink()
    assert "embeddings.npy is missing" in _failure(capsys, arguments)
    shutil.rmtree(broken)
    assert "no engine bundle" in _failure(capsys, arguments)


@pytest.mark.parametrize("name", [*ONNX_FILES.values(), *TABLES, "config.json"])
def test_changed_byte_of_any_file_of_a_bundle_is_named(
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
    assert "build_engines.py" in error


def test_engine_that_fails_is_named(files: Path, tiny_model: TinyModel, capsys: pytest.CaptureFixture[str]) -> None:
    odd = files / "odd"
    shutil.copytree(tiny_model.bundle, odd)
    known = Bundle.open(odd).manifest
    model = replace(known.model, position_size=known.model.position_size + 1)
    write_manifest(odd, name="odd", model=model, template=known.template, precisions={}, verification={})
    error = _failure(capsys, _arguments(files, TinyModel(tiny_model.checkpoint, odd)))
    assert "mask_extractor.onnx failed" in error


@pytest.mark.parametrize("number", ["two", "0", "-3", "1.5"])
def test_numbers_that_are_no_good_are_explained(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["describe", "--image", "x", "--masks", "y", f"--threads={number}"])
    assert exit_.value.code == 2
    assert f"argument --threads: {number!r} is not a whole number of at least 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [[], ["describe"], ["describe", "--image", "x", "--masks", "y", "--style", "odd"]]
)
def test_usage_errors_end_with_status_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2


def test_names_that_are_not_numbers_count_from_one(files: Path) -> None:
    (files / "masks" / "300.png").rename(files / "masks" / "mug.png")
    regions = load_regions(files / "masks")
    np.testing.assert_array_equal(regions.ids, [1, 2, 3, 4, 5])
    np.testing.assert_array_equal(regions.areas, load_regions(files / "ids.png").select([12, 3, 7, 9, 300]).areas)


def test_eight_bits_palettes_and_single_bits_are_taken(tmp_path: Path) -> None:
    ids = np.zeros((6, 8), np.uint8)
    ids[1:3, 2:5], ids[4, :] = 1, 2
    Image.fromarray(ids).save(tmp_path / "eight.png")
    palette = Image.fromarray(ids).convert("P")
    palette.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0])
    palette.save(tmp_path / "palette.png")
    for name in ("eight.png", "palette.png"):
        np.testing.assert_array_equal(load_regions(tmp_path / name).areas, [6, 8])
    Image.fromarray(ids > 0).save(tmp_path / "one_bit.png")
    np.testing.assert_array_equal(load_regions(tmp_path / "one_bit.png").areas, [14])


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_ids_of_few_bits_are_as_stored(tmp_path: Path, bits: int) -> None:
    ids = np.random.default_rng(bits).integers(0, 2**bits, (6, 16), dtype=np.uint8)
    ids[0, 0] = 2**bits - 1
    _write_grey_png(tmp_path / "few.png", ids, bits)
    expected = regions_from_id_image(ids)
    regions = load_regions(tmp_path / "few.png")
    np.testing.assert_array_equal(regions.ids, expected.ids)
    np.testing.assert_array_equal(regions.areas, expected.areas)
    np.testing.assert_array_equal(regions.boxes, expected.boxes)


def _write_grey_png(path: Path, values: np.ndarray, bits: int) -> None:
    """Writes uint8 [H, W] as a grey PNG of 1, 2 or 4 bits, which Pillow reads but does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = values.shape
    rows = np.packbits(np.unpackbits(values[:, :, None], axis=2)[:, :, -bits:].reshape(height, -1), axis=1)
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    pixels = zlib.compress(np.pad(rows, ((0, 0), (1, 0))).tobytes())  # each row begins with its filter: none
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))


def test_mask_folders_that_are_no_good_are_named(files: Path) -> None:
    masks = files / "masks"
    Image.fromarray(np.zeros((60, 80), np.uint8)).save(masks / "7.png")
    with pytest.raises(RegionError, match=r"7\.png is empty"):
        load_regions(masks)
    Image.fromarray(np.ones((30, 80), np.uint8)).save(masks / "7.png")
    with pytest.raises(RegionError, match=r"7\.png is 80x30, 3\.png is 80x60"):
        load_regions(masks)
    Image.fromarray(np.ones((60, 80, 3), np.uint8)).save(masks / "7.png")
    with pytest.raises(RegionError, match=r"7\.png have mode RGB.*non-zero inside the region") as refused:
        load_regions(masks)
    assert "ids" not in str(refused.value)
    Image.fromarray(np.ones((60, 80), np.uint8)).save(masks / "7.png")
    (masks / "9.png").rename(masks / "1718000000123456789.png")
    with pytest.raises(RegionError, match=r"masks .*masks: .*must be 1 to 2147483647.*not 1718000000123456789"):
        load_regions(masks)
    (files / "none").mkdir()
    with pytest.raises(RegionError, match=r"none has no \.png file"):
        load_regions(files / "none")
