"""A killed build continues with its complete parts and ends with the same bytes; other inputs start over."""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import TINY

from export import build_engines, resources
from export.build import Precisions, Targets, build_bundle
from export.figures import Limit, Limits
from export.samples import VerificationSample
from export.workspace import Workspace, partial_folder
from osprey_ros.bundle.bundle import Bundle
from osprey_ros.bundle.hash_cache import sha256_of
from osprey_ros.bundle.manifest import DECODER, Manifest
from osprey_ros.decoding.prompt import QUESTIONS
from osprey_ros.errors import BundleError
from osprey_torch.checkpoint import Checkpoint, save_checkpoint
from osprey_torch.model import Osprey
from training.tokenizer import train_tokenizer

VISION_TENSOR = "model.vision_tower.vision_tower.visual.trunk.stages.2.blocks.0.mlp.fc1.weight"
DECODER_TENSOR = "model.layers.1.mlp.up_proj.weight"


def write_checkpoint(folder: Path, seed: int) -> Path:
    tokenizer = train_tokenizer(list(QUESTIONS.values()) * 5, vocab_size=300)
    torch.manual_seed(seed)
    model = Osprey(TINY.with_vocabulary(tokenizer.token_to_id("<mask>"))).eval()
    save_checkpoint(model, tokenizer, folder)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"), seed=0)


@pytest.fixture(autouse=True)
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights lie in files beside their graphs, as those of a large model."""
    monkeypatch.setattr(resources, "LARGE_BYTES", 1000)


def build(checkpoint: Path, output: Path) -> Manifest:
    ids = np.zeros((40, 50), np.uint16)
    ids[5:20, 3:30] = 1
    rgb = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    limits = Limits(prefix_logits=Limit(0.5, 2.0), answer_logits=Limit(0.5, 2.0), agreement=0.0)
    samples = [VerificationSample("noise", rgb, ids)]
    return build_bundle(checkpoint, output, name="b", samples=samples, limits=limits, verify_layers=1)


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: sha256_of(path) for path in folder.iterdir()}


@pytest.fixture(scope="module")
def expected(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The hashes of a build that nothing disturbed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resources, "LARGE_BYTES", 1000)
        output = tmp_path_factory.mktemp("undisturbed") / "bundle"
        build(checkpoint, output)
    return hashes(output)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def build_and_die(checkpoint: Path, output: Path, moment: str) -> None:
    """Runs in a process of its own, which is killed at the moment."""
    resources.LARGE_BYTES = 1000
    read, rename = Checkpoint.read, Path.rename

    def read_or_die(self: Checkpoint, name: str) -> np.ndarray:
        if name == moment:
            die()
        return read(self, name)

    def rename_and_die(self: Path, target: Path) -> Path:
        rename(self, target)
        if moment == f"{self.name} renamed":
            die()
        return target

    class DieAtMoment(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if moment in record.getMessage():
                die()

    Checkpoint.read, Path.rename = read_or_die, rename_and_die
    logging.basicConfig(handlers=[DieAtMoment()], level=logging.INFO, force=True)
    build(checkpoint, output)


@pytest.fixture(scope="module")
def processes() -> multiprocessing.context.ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["export.build"])
    return context


@pytest.mark.parametrize(
    ("moment", "kept"),
    [
        (VISION_TENSOR, []),  # in the middle of a file
        (DECODER_TENSOR, ["vision", "mask extractor", "embeddings", "tokenizer", "layer 0"]),
        ("verify: decoder engine", ["vision", "layer 1", "output layer", "decoder graph"]),
        ("manifest: hashing", ["vision", "layer 1", "output layer", "decoder graph"]),
        ("bundle renamed", None),  # the bundle is in place, but the working folder is not removed
    ],
)
def test_killed_and_started_again_it_ends_with_the_same_hashes(
    checkpoint: Path,
    expected: dict[str, str],
    tmp_path: Path,
    processes: multiprocessing.context.ForkServerContext,
    caplog: pytest.LogCaptureFixture,
    moment: str,
    kept: list[str] | None,
) -> None:
    output = tmp_path / "bundle"
    process = processes.Process(target=build_and_die, args=(checkpoint, output, moment))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert output.exists() == (kept is None)
    assert partial_folder(output).exists()

    caplog.set_level("INFO")
    manifest = build(checkpoint, output)
    assert hashes(output) == expected
    assert manifest == Bundle.open(output).manifest
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    for part in kept or []:
        assert f"{part}: kept from before" in caplog.messages


def test_killed_while_it_replaces_an_older_bundle(
    checkpoint: Path,
    expected: dict[str, str],
    tmp_path: Path,
    processes: multiprocessing.context.ForkServerContext,
) -> None:
    output = tmp_path / "replaced"
    build_bundle(checkpoint, output, verify=False, precisions=Precisions(llm="fp32"))
    (output / "README.md").write_text("by hand")
    process = processes.Process(target=build_and_die, args=(checkpoint, output, "replaced renamed"))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    build(checkpoint, output)
    assert (output / "README.md").read_text() == "by hand"
    assert {name: found for name, found in hashes(output).items() if name != "README.md"} == expected
    assert [path.name for path in tmp_path.iterdir()] == ["replaced"]


def test_killed_while_it_removes_the_older_bundle(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, rmtree = tmp_path / "b", shutil.rmtree
    first = build_bundle(checkpoint, output, verify=False)

    def break_off(folder: Path) -> None:
        if folder.name == ".b.old":
            raise Breaks
        rmtree(folder)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", break_off)
        with pytest.raises(Breaks):
            build_bundle(checkpoint, output, verify=False)
    assert {path.name for path in tmp_path.iterdir()} == {"b", ".b.old", ".b.partial"}
    assert build_bundle(checkpoint, output, verify=False).files == first.files
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


class Breaks(Exception):
    pass


def break_at(monkeypatch: pytest.MonkeyPatch, tensor: str, error: type[BaseException] = Breaks) -> list[str]:
    """Lets the reading of a tensor fail once; returns the names that are read."""
    read, names = Checkpoint.read, []

    def read_or_break(self: Checkpoint, name: str) -> np.ndarray:
        names.append(name)
        if name == tensor and names.count(name) == 1:
            raise error
        return read(self, name)

    monkeypatch.setattr(Checkpoint, "read", read_or_break)
    return names


def test_what_is_whole_is_not_read_again(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = break_at(monkeypatch, DECODER_TENSOR)
    with pytest.raises(Breaks):
        build_bundle(checkpoint, tmp_path / "b", verify=False)
    names.clear()
    names.append(DECODER_TENSOR)
    build_bundle(checkpoint, tmp_path / "b", verify=False)
    assert {name.split(".")[0] for name in names} == {"model", "lm_head"}
    assert {".".join(name.split(".")[:3]) for name in names if name.startswith("model.")} == {
        "model.layers.1",
        "model.norm.weight",
    }


@pytest.mark.parametrize("change", ["option", "target", "checkpoint"])
def test_other_inputs_start_over_with_a_message(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, change: str
) -> None:
    output = tmp_path / "b"
    with monkeypatch.context() as patch:
        break_at(patch, DECODER_TENSOR)
        with pytest.raises(Breaks):
            build_bundle(checkpoint, output, verify=False)
    caplog.clear()
    inputs = {"checkpoint": checkpoint, "output": output, "verify": False}
    if change == "option":
        inputs["precisions"] = Precisions(method="rtn")
        reason = "method was clip, is rtn"
    elif change == "target":
        inputs["targets"] = Targets(max_tokens=200)
        reason = "max_tokens was None, is 200"
    else:
        inputs["checkpoint"] = write_checkpoint(tmp_path / "other", seed=1)
        reason = "checkpoint was "
    build_bundle(**inputs)
    start = "starting over: an unfinished build has other inputs"
    assert any(line.startswith(start) and reason in line for line in caplog.messages)
    assert not any("kept" in line for line in caplog.messages)
    fresh = build_bundle(**{**inputs, "output": tmp_path / "fresh"})
    assert fresh.files == Bundle.open(output).manifest.files


def test_damaged_files_are_made_again(
    checkpoint: Path,
    expected: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    output = tmp_path / "b"
    with monkeypatch.context() as patch:
        break_at(patch, "lm_head.weight")
        with pytest.raises(Breaks):
            build(checkpoint, output)
    bundle = partial_folder(output) / "bundle"
    (bundle / "embeddings.npy").write_bytes(b"cut off")
    (bundle / "decoder.layer01.data").unlink()
    (bundle / "left.over").write_bytes(b"of a part that was killed")
    layer = bundle / "decoder.layer00.data"
    data = bytearray(layer.read_bytes())
    data[5000] ^= 1  # only its hash differs
    layer.write_bytes(data)
    build(checkpoint, output)
    assert hashes(output) == expected
    for part in ("embeddings", "layer 0", "layer 1"):
        assert any(line.startswith(f"{part}: made again") for line in caplog.messages)


def test_a_record_that_cannot_be_read_starts_over(
    checkpoint: Path, expected: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    partial = partial_folder(tmp_path / "b")
    (partial / "bundle").mkdir(parents=True)
    (partial / "bundle" / DECODER).write_bytes(b"half")
    (partial / "record.json").write_text("{")
    build(checkpoint, tmp_path / "b")
    assert any(line.startswith("starting over") and "record.json cannot be read" in line for line in caplog.messages)
    assert hashes(tmp_path / "b") == expected


def test_two_builds_do_not_write_one_bundle(checkpoint: Path, tmp_path: Path) -> None:
    with Workspace(tmp_path / "b", {}), pytest.raises(BundleError, match="another build is writing"):
        build(checkpoint, tmp_path / "b")
    assert build(checkpoint, tmp_path / "b").verified


def test_an_interrupted_build_keeps_its_parts_and_prints_how_to_continue(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--checkpoint", str(checkpoint), "--output", str(tmp_path / "b"), "--no-verify"]
    with monkeypatch.context() as patch:
        break_at(patch, DECODER_TENSOR, KeyboardInterrupt)
        assert build_engines.main(options) == 130
    error = capsys.readouterr().err
    assert "interrupted" in error
    assert f"{partial_folder(tmp_path / 'b')}: the same command continues with them" in error
    assert build_engines.main([*options, "--name", "other"]) == 0  # the name does not change the parts
    error = capsys.readouterr().err
    assert "continuing with" in error
    assert "vision: kept from before" in error
    assert Bundle.open(tmp_path / "b").manifest.name == "other"
