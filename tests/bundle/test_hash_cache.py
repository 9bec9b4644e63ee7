"""Files of a bundle are hashed once and again after they were modified."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest
from conftest import TinyModel

from osprey_ros.bundle import hash_cache
from osprey_ros.bundle.bundle import Bundle
from osprey_ros.bundle.hash_cache import MIN_AGE_SECONDS, cached_sha256, sha256_of
from osprey_ros.errors import BundleError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file that was modified a minute ago."""
    path = tmp_path / "vision.onnx"
    path.write_bytes(b"weights")
    _age(path)
    return path


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were read to hash them."""
    names: list[str] = []

    def count(path: Path) -> str:
        names.append(path.name)
        return sha256_of(path)

    monkeypatch.setattr(hash_cache, "sha256_of", count)
    return names


def _age(path: Path) -> None:
    past = time.time() - 60
    os.utime(path, (past, past))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the cache, which does not exist yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "osprey_ros" / "hashes"


def test_an_unchanged_file_is_hashed_once(file: Path, hashed: list[str]) -> None:
    for _ in range(3):
        assert cached_sha256(file) == sha256_of(file)
    assert hashed == ["vision.onnx"]


def test_a_changed_file_is_hashed_again(file: Path, hashed: list[str]) -> None:
    before = cached_sha256(file)
    file.write_bytes(b"WEIGHTS")
    assert cached_sha256(file) != before
    other = file.with_name("other")
    other.write_bytes(b"weights")
    os.utime(other, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns))
    changed = cached_sha256(file)
    other.replace(file)  # same size and time, another inode
    assert cached_sha256(file) != changed
    assert len(hashed) == 4  # the file modified just now was not cached


def test_a_file_modified_just_now_is_not_cached(file: Path, hashed: list[str]) -> None:
    now = time.time() - MIN_AGE_SECONDS / 2
    os.utime(file, (now, now))
    cached_sha256(file)
    cached_sha256(file)
    assert len(hashed) == 2


@pytest.mark.parametrize("content", [b"", b"0f", b"\xff" * 64])
def test_a_damaged_entry_is_replaced(file: Path, folder: Path, content: bytes, hashed: list[str]) -> None:
    cached_sha256(file)
    (entry,) = folder.iterdir()
    entry.write_bytes(content)
    assert cached_sha256(file) == sha256_of(file) == entry.read_text()
    assert len(hashed) == 2


def test_a_cache_that_cannot_be_written_is_no_error(file: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file in place of the folder")
    assert cached_sha256(file) == sha256_of(file)


@pytest.fixture
def bundle(tiny_model: TinyModel, tmp_path: Path) -> Path:
    """A bundle whose files were modified a minute ago."""
    shutil.copytree(tiny_model.bundle, tmp_path / "bundle")
    for path in (tmp_path / "bundle").iterdir():
        _age(path)
    return tmp_path / "bundle"


def test_opening_a_bundle_again_reads_no_file(bundle: Path, hashed: list[str]) -> None:
    files = Bundle.open(bundle).manifest.files
    assert sorted(hashed) == sorted(files)
    Bundle.open(bundle)
    Bundle.open(bundle, verify=False).verify()
    assert len(hashed) == len(files)


def test_a_file_changed_after_the_first_opening_is_refused(bundle: Path) -> None:
    Bundle.open(bundle)
    decoder = bundle / "decoder.onnx"
    data = bytearray(decoder.read_bytes())
    data[-1] ^= 1
    decoder.write_bytes(bytes(data))
    with pytest.raises(BundleError, match=r"decoder\.onnx was changed"):
        Bundle.open(bundle)
