"""A build that is killed goes on where it stood and ends with the same bytes; what does not fit is begun anew."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import TINY

from export import build_engines, resources
from export.build import Precisions, Targets, build_bundle, partial_folder
from export.figures import Limit, Limits
from export.journal import JournalError, Workspace
from export.progress import Progress
from export.samples import VerificationSample
from osprey_ros.bundle import DECODER, MANIFEST, Bundle, Manifest, sha256_of
from osprey_ros.prompt import QUESTIONS
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


def build(checkpoint: Path, output: Path, report=lambda line: None) -> Manifest:
    ids = np.zeros((40, 50), np.uint16)
    ids[5:20, 3:30] = 1
    rgb = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    limits = Limits(prefix_logits=Limit(0.5, 2.0), answer_logits=Limit(0.5, 2.0), agreement=0.0)
    samples = [VerificationSample("noise", rgb, ids)]
    return build_bundle(checkpoint, output, name="b", samples=samples, limits=limits, verify_layers=1, report=report)


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

    def hear_or_die(line: str) -> None:
        if moment in line:
            die()

    Checkpoint.read, Path.rename = read_or_die, rename_and_die
    build(checkpoint, output, hear_or_die)


@pytest.fixture(scope="module")
def processes() -> multiprocessing.context.ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["export.build"])
    return context


@pytest.mark.parametrize(
    ("moment", "kept"),
    [
        (VISION_TENSOR, []),  # in the middle of a file
        (DECODER_TENSOR, ["vision", "mask extractor", "embeddings", "tokenizer"]),
        ("verify: decoder engine", ["vision", "decoder", "decoder graph"]),
        ("manifest: reading", ["vision", "decoder", "decoder graph", "verification"]),
        ("bundle renamed", None),  # the bundle is in place already, only the working folder is left
    ],
)
def test_killed_and_started_again_it_ends_with_the_same_hashes(
    checkpoint: Path,
    expected: dict[str, str],
    tmp_path: Path,
    processes: multiprocessing.context.ForkServerContext,
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

    lines: list[str] = []
    manifest = build(checkpoint, output, lines.append)
    assert hashes(output) == expected
    assert manifest == Bundle.open(output).manifest
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    for title in kept or []:
        assert f"{title}: kept from before" in lines
    if moment == DECODER_TENSOR:
        assert any(line.startswith("decoder: ") and "kept from before)" in line for line in lines)


def test_killed_while_it_replaces_an_older_bundle(
    checkpoint: Path,
    expected: dict[str, str],
    tmp_path: Path,
    processes: multiprocessing.context.ForkServerContext,
) -> None:
    output = tmp_path / "replaced"
    build_bundle(checkpoint, output, verify=False, precisions=Precisions(llm="fp32"), report=lambda line: None)
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
    first = build_bundle(checkpoint, output, verify=False, report=lambda line: None)

    def break_off(folder: Path) -> None:
        if folder.name == ".b.old":
            raise Breaks
        rmtree(folder)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", break_off)
        with pytest.raises(Breaks):
            build_bundle(checkpoint, output, verify=False, report=lambda line: None)
    assert {path.name for path in tmp_path.iterdir()} == {"b", ".b.old", ".b.partial"}
    assert build_bundle(checkpoint, output, verify=False, report=lambda line: None).files == first.files
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
        build_bundle(checkpoint, tmp_path / "b", verify=False, report=lambda line: None)
    names.clear()
    names.append(DECODER_TENSOR)
    build_bundle(checkpoint, tmp_path / "b", verify=False, report=lambda line: None)
    assert {name.split(".")[0] for name in names} == {"model", "lm_head"}
    assert {".".join(name.split(".")[:3]) for name in names if name.startswith("model.")} == {
        "model.layers.1",
        "model.norm.weight",
    }


@pytest.mark.parametrize("change", ["option", "target", "checkpoint"])
def test_other_inputs_start_anew_and_say_so(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    output = tmp_path / "b"
    with monkeypatch.context() as patch:
        break_at(patch, DECODER_TENSOR)
        with pytest.raises(Breaks):
            build_bundle(checkpoint, output, verify=False, report=lambda line: None)
    lines: list[str] = []
    inputs = {"checkpoint": checkpoint, "output": output, "verify": False, "report": lines.append}
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
    assert any(
        line.startswith("starting anew: an unfinished build has other inputs") and reason in line for line in lines
    )
    assert not any("kept" in line for line in lines)
    fresh = build_bundle(**{**inputs, "output": tmp_path / "fresh"})
    assert fresh.files == Bundle.open(output).manifest.files


def test_damaged_files_are_made_again(
    checkpoint: Path, expected: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "b"
    with monkeypatch.context() as patch:
        break_at(patch, "lm_head.weight")
        with pytest.raises(Breaks):
            build(checkpoint, output)
    bundle = partial_folder(output) / "bundle"
    (bundle / "embeddings.npy").write_bytes(b"cut off")
    (bundle / "decoder.layer01.data").unlink()
    (bundle / "left.over").write_bytes(b"of a unit that was killed")
    layer = bundle / "decoder.layer00.data"
    data = bytearray(layer.read_bytes())
    data[5000] ^= 1  # only its hash tells
    layer.write_bytes(data)
    with pytest.raises(JournalError, match=r"decoder\.layer00\.data was changed after it was written"):
        build_bundle(checkpoint, output, name="b", verify=False, report=lambda line: None)
    build(checkpoint, output)
    assert hashes(output) == expected


def test_a_journal_that_cannot_be_read_starts_anew(checkpoint: Path, expected: dict[str, str], tmp_path: Path) -> None:
    partial = partial_folder(tmp_path / "b")
    (partial / "bundle").mkdir(parents=True)
    (partial / "bundle" / DECODER).write_bytes(b"half")
    (partial / "journal.json").write_text("{")
    lines: list[str] = []
    build(checkpoint, tmp_path / "b", lines.append)
    assert any(line.startswith("starting anew") and "journal.json cannot be read" in line for line in lines)
    assert hashes(tmp_path / "b") == expected


def test_two_builds_do_not_write_one_bundle(checkpoint: Path, tmp_path: Path) -> None:
    other = Workspace(tmp_path / "b", {}, Progress(lambda line: None))
    with other, pytest.raises(JournalError, match="another build is writing"):
        build(checkpoint, tmp_path / "b")
    assert build(checkpoint, tmp_path / "b").verified


def test_breaking_off_keeps_what_is_whole_and_says_how_to_go_on(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--checkpoint", str(checkpoint), "--output", str(tmp_path / "b"), "--no-verify"]
    with monkeypatch.context() as patch:
        break_at(patch, DECODER_TENSOR, KeyboardInterrupt)
        assert build_engines.main(options) == 130
    error = capsys.readouterr().err
    assert "broken off" in error
    assert f"{partial_folder(tmp_path / 'b')}: the same command goes on from there" in error
    assert build_engines.main(options) == 0
    assert "going on with" in capsys.readouterr().err


def test_the_name_of_a_bundle_is_no_reason_to_start_anew(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        break_at(patch, DECODER_TENSOR)
        with pytest.raises(Breaks):
            build_bundle(checkpoint, tmp_path / "b", name="one", verify=False, report=lambda line: None)
    lines: list[str] = []
    manifest = build_bundle(checkpoint, tmp_path / "b", name="two", verify=False, report=lines.append)
    assert manifest.name == "two"
    assert "vision: kept from before" in lines
    assert replace(manifest, name="one") != manifest
    assert (tmp_path / "b" / MANIFEST).is_file()
