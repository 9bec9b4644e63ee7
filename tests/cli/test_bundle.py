"""`osprey bundle show` and `osprey bundle verify`: what they print, and that all faults of a bundle are listed."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kind_trees import ONE_TOKEN

from osprey_ros.bundle.bundle import Bundle, write_manifest
from osprey_ros.bundle.manifest import FORMAT_VERSION, MANIFEST, EngineEntry, onnx_engines
from osprey_ros.bundle.spec import ModelSpec
from osprey_ros.cli._bundle_text import size_text
from osprey_ros.cli.bundle import Fault, check_bundle
from osprey_ros.cli.main import main
from osprey_ros.errors import EngineError

FINGERPRINT = {"gpu": "Orin", "compute_capability": "8.7", "tensorrt": "10.3.0", "onnx_sha256": "0f" * 32}
VERIFICATION = {
    "verified": True,
    "reference": "PyTorch fp32",
    "stages": {
        "vision_features": {"cosine": 0.99991, "max_difference": 0.0125, "limits": {"cosine": 0.999}},
        "prefix_logits": {"cosine": 0.98, "max_difference": 1.5, "limits": {"cosine": 0.97}},
    },
    "greedy_tokens": {"regions": 28, "identical_answers": 27},
}


@pytest.fixture
def folder(tmp_path: Path, spec: ModelSpec) -> Path:
    """A bundle with a plan for TensorRT and a data file beside the decoder. Its engines are only bytes here."""
    root = tmp_path / "small"
    root.mkdir()
    for name in ("vision.plan", "mask_extractor.onnx", "decoder.onnx", "decoder.0.data", "tokenizer.json"):
        (root / name).write_bytes(name.encode() * 100)
    np.save(root / "embeddings.npy", np.zeros((10, 4), np.float16))
    (root / "README.md").write_text("a card")
    _write(root, spec, VERIFICATION)
    return root


def _write(root: Path, spec: ModelSpec, verification: dict[str, Any]) -> None:
    write_manifest(
        root,
        name="small",
        model=spec,
        template="osprey_v1",
        precisions={"vision": "fp16", "decoder": "int4 symmetric, block 32", "embeddings": "fp16"},
        verification=verification,
        engines={**onnx_engines("cuda"), "vision": EngineEntry("vision.plan", "tensorrt", "cuda", FINGERPRINT)},
    )


def _edit_manifest(root: Path, change: Callable[[dict[str, Any]], object]) -> None:
    data = json.loads((root / MANIFEST).read_text())
    change(data)
    (root / MANIFEST).write_text(json.dumps(data))


def test_show_prints_the_contents_of_a_bundle(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bundle", "show", str(folder)]) == 0
    out = capsys.readouterr().out
    lines = [line.split() for line in out.splitlines()]
    assert "small" in lines[0]
    assert "compared with its PyTorch model" in out
    assert "NEVER" not in out
    assert ["vision", "vision.plan", "tensorrt", "on", "cuda", "fp16"] in lines
    assert ["decoder", "decoder.onnx", "onnxruntime", "on", "cuda", "int4", "symmetric,", "block", "32"] in lines
    assert ["compute_capability", "8.7"] in lines
    assert ["decoder.0.data", "1.4", "kB"] in lines
    assert ["vision_features", "0.99991", "0.0125", "cosine", "0.999"] in lines
    assert "identical answers 27, regions 28" in out
    assert "README.md" not in out


def test_show_warns_of_an_unverified_bundle(folder: Path, spec: ModelSpec, capsys: pytest.CaptureFixture[str]) -> None:
    _write(folder, spec, {"verified": False})
    assert main(["bundle", "show", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "NEVER compared with its PyTorch model" in out
    assert "Verification" not in out


def test_show_prints_the_compared_layers(folder: Path, spec: ModelSpec, capsys: pytest.CaptureFixture[str]) -> None:
    for compared, said in ((2, True), (32, False)):
        _write(folder, spec, {**VERIFICATION, "decoder_layers": {"compared": compared, "all": 32}})
        assert main(["bundle", "show", str(folder)]) == 0
        assert ("the first 2 of 32 layers" in capsys.readouterr().out) == said


def test_show_prints_the_tree_of_kinds(folder: Path, spec: ModelSpec, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "kinds.json").write_text(ONE_TOKEN.to_json())
    _write(folder, spec, VERIFICATION)
    assert main(["bundle", "show", str(folder)]) == 0
    assert "7 kinds, answers with a probability of 0.6 or more" in capsys.readouterr().out
    assert main(["bundle", "show", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kinds"] == {"count": 7, "threshold": 0.6}


def test_show_json_is_the_whole_manifest(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bundle", "show", str(folder), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    manifest = Bundle.open(folder).manifest
    assert report == json.loads(
        json.dumps(
            {
                **asdict(manifest),
                "folder": str(folder),
                "verified": True,
                "kinds": None,
                "bytes": sum(entry.bytes for entry in manifest.files.values()),
            }
        )
    )
    assert report["engines"]["vision"]["fingerprint"] == FINGERPRINT


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Make this machine the one that the plan of ``folder`` was built on, and return its mutable fields."""
    machine = {name: value for name, value in FINGERPRINT.items() if name != "onnx_sha256"}
    monkeypatch.setattr("osprey_ros.engines.machine.current", lambda: machine)
    return machine


@pytest.mark.usefixtures("board")
def test_a_complete_bundle_is_ok(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bundle", "verify", str(folder)]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("OK: 6 files, ")
    assert captured.err == ""
    assert main(["bundle", "verify", str(folder), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report == {
        "folder": str(folder),
        "name": "small",
        "ok": True,
        "verified": True,
        "faults": [],
        "notes": [],
    }


def test_all_faults_are_found_at_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = bytearray((folder / "vision.plan").read_bytes())
    data[17] ^= 1
    (folder / "vision.plan").write_bytes(bytes(data))
    (folder / "decoder.0.data").write_bytes(b"short")
    (folder / "tokenizer.json").unlink()
    assert main(["bundle", "verify", str(folder)]) == 1
    out = capsys.readouterr().out
    assert "vision.plan was changed (its SHA-256" in out
    assert "decoder.0.data has 5 bytes instead of 1400" in out
    assert "tokenizer.json is missing" in out
    assert f"3 faults in {folder}: copy the bundle again, or rebuild" in out
    assert "OK" not in out
    assert main(["bundle", "verify", str(folder), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert not report["ok"]
    assert [f["file"] for f in report["faults"]] == ["decoder.0.data", "tokenizer.json", "vision.plan"]


@pytest.mark.parametrize(
    "name", ["vision.plan", "mask_extractor.onnx", "decoder.onnx", "decoder.0.data", "tokenizer.json", "embeddings.npy"]
)
def test_one_changed_byte_is_one_fault(folder: Path, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    data[-1] ^= 0x80
    (folder / name).write_bytes(bytes(data))
    assert check_bundle(folder).faults == (Fault(name, "was changed (its SHA-256 differs from the manifest's)"),)


@pytest.mark.parametrize(
    ("change", "file", "fault"),
    [
        (lambda m: m["files"].pop("tokenizer.json"), "tokenizer.json", "is needed, but manifest.json does not list it"),
        (lambda m: m["files"].pop("vision.plan"), "vision.plan", "is needed, but manifest.json does not list it"),
        (lambda m: m["files"].update({"../x": {"bytes": 1, "sha256": "0"}}), "../x", "is not a plain file name"),
        (lambda m: m.pop("template"), "manifest.json", "lacks template"),
        (lambda m: m["model"].pop("eos_id"), "manifest.json", "model lacks eos_id"),
        (lambda m: m.update(files=3), "manifest.json", "cannot be read"),
    ],
)
def test_faults_of_the_manifest_are_named(
    folder: Path, change: Callable[[dict[str, Any]], object], file: str, fault: str
) -> None:
    _edit_manifest(folder, change)
    faults = check_bundle(folder).faults
    assert len(faults) == 1
    assert faults[0].file == file
    assert faults[0].fault.startswith(fault)


@pytest.mark.parametrize(
    ("content", "fault"), [(b"{", "is not valid JSON"), (b"[]", "must hold a JSON object"), (b"\xff{", "is not UTF-8")]
)
def test_an_invalid_manifest_is_a_fault(
    folder: Path, content: bytes, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / MANIFEST).write_bytes(content)
    assert main(["bundle", "verify", str(folder)]) == 1
    assert f"manifest.json {fault}" in capsys.readouterr().out


def test_a_missing_bundle_is_an_error(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    newer = FORMAT_VERSION + 1
    _edit_manifest(folder, lambda m: m.update(format_version=newer))
    for action, path, message in (
        ("verify", folder, f"format_version {newer}, this osprey_ros reads {FORMAT_VERSION}"),
        ("show", folder, f"format_version {newer}, this osprey_ros reads {FORMAT_VERSION}"),
        ("verify", folder.parent, "no manifest.json"),
        ("show", folder.parent, "no manifest.json"),
        ("verify", "nonesuch", "no engine bundle 'nonesuch'"),
        ("show", "nonesuch", "no engine bundle 'nonesuch'"),
    ):
        assert main(["bundle", action, str(path)]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("osprey: error: ")
        assert message in captured.err


def test_files_that_are_not_listed_are_noted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "old.plan").write_bytes(b"x")
    (folder / ".hidden").write_bytes(b"x")
    assert main(["bundle", "verify", str(folder)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("OK: 6 files")
    assert "note: old.plan is in the folder but not part of the bundle" in out
    assert "hidden" not in out
    assert "README" not in out


def test_plans_of_another_machine_are_noted(
    folder: Path, board: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    board["tensorrt"] = "10.16.2"
    assert main(["bundle", "verify", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "note: vision.plan was built for another machine: TensorRT version is 10.16.2 here and was 10.3.0" in out
    assert "GPU" not in out


def test_plans_are_not_compared_without_a_gpu(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_gpu() -> dict[str, str]:
        raise EngineError("no NVIDIA driver")

    monkeypatch.setattr("osprey_ros.engines.machine.current", no_gpu)
    assert main(["bundle", "verify", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["notes"] == [
        "the TensorRT plans were not compared with this machine (no NVIDIA driver)"
    ]


def test_verify_warns_of_an_unverified_bundle(
    folder: Path, spec: ModelSpec, capsys: pytest.CaptureFixture[str]
) -> None:
    _write(folder, spec, {"verified": False})
    assert main(["bundle", "verify", str(folder)]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("OK")
    assert "warning: bundle small was never compared with its PyTorch model" in captured.err


def test_progress_runs_to_the_last_byte(folder: Path, spec: ModelSpec) -> None:
    (folder / "decoder.0.data").write_bytes(bytes(10_000_000))
    _write(folder, spec, VERIFICATION)
    calls: list[tuple[str, int, int]] = []
    check_bundle(folder, lambda *call: calls.append(call))
    done = [call[1] for call in calls]
    total = sum(entry.bytes for entry in Bundle.open(folder).manifest.files.values())
    assert done == sorted(set(done))
    assert done[-1] == total
    assert {call[2] for call in calls} == {total}
    assert [call[0] for call in calls].count("decoder.0.data") > 1


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_one_line_on_a_terminal_and_nothing_elsewhere_if_it_is_quick(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bundle", "verify", str(folder)]) == 0
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("tqdm.std.time", itertools.count().__next__)
    terminal = _Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    assert main(["bundle", "verify", str(folder)]) == 0
    drawn = terminal.getvalue()
    assert "\n" not in drawn
    assert "100%" in drawn
    assert "B/s" in drawn
    assert "vision.plan" in drawn
    assert drawn.endswith("\r")
    assert drawn.split("\r")[-2].strip() == ""


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (2_500_000, "2.5 MB"), (3.7e9, "3.70 GB")]
)
def test_sizes_are_decimal(count: float, text: str) -> None:
    assert size_text(count) == text
