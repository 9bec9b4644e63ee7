"""Damaged and forged files are read or refused in one line; what once broke that is kept below."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path

import pytest
from fuzz.file_run import FileRun
from nano import NANO

from osprey_ros.bundle.bundle import Bundle
from osprey_ros.errors import BundleError, StorageError
from osprey_ros.scene.scene_file import SceneFile


@pytest.mark.parametrize("door", ["manifest", "side file", "scene", "safetensors"])
def test_forged_files_are_read_or_refused(door: str, tmp_path: Path) -> None:
    run = FileRun(tmp_path, seed=0)
    for _ in range(25):
        run.feed(door)
    assert run.counts[f"{door}: refused"] > 2


def bundle_with(folder: Path, name: str, as_engine: bool) -> Path:
    shutil.copytree(NANO, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = manifest["files"]["decoder.onnx"]
    if as_engine:
        manifest["engines"]["decoder"]["file"] = name
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.mark.parametrize("as_engine", [True, False])
@pytest.mark.parametrize("name", ["../decoder.onnx", "/etc/passwd", "", "..", "a\0b"])
def test_a_manifest_cannot_lead_out_of_its_folder(name: str, as_engine: bool, tmp_path: Path) -> None:
    shutil.copy(NANO / "decoder.onnx", tmp_path)
    with pytest.raises(BundleError, match="not a plain file name"):
        Bundle.open(bundle_with(tmp_path / "b", name, as_engine))


def test_a_scene_file_with_text_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "scene.db"
    SceneFile(path, "m", 1 << 20).close()
    with sqlite3.connect(path) as database:
        database.execute("UPDATE about SET value = CAST(x'ff41e1' AS TEXT) WHERE key = 'asked'")
    database.close()
    with pytest.raises(StorageError, match="scene file"):
        SceneFile(path, "m", 1 << 20)


def test_embeddings_whose_header_does_not_end_are_refused(tmp_path: Path) -> None:
    shutil.copytree(NANO, tmp_path / "b")
    file = tmp_path / "b" / "embeddings.npy"
    file.write_bytes(file.read_bytes().replace(b"}", b" ", 1))
    with pytest.raises(BundleError, match="not a plain numpy array"):
        Bundle.open(tmp_path / "b", verify=False).embeddings()
