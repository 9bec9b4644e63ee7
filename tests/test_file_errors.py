"""Causes of failed reads: each is said in words, with what helps."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from osprey_ros.errors import BundleError
from osprey_ros.file_errors import is_lfs_pointer, native_path, os_reason, read_text


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "the disk is full; free some space"),
        (errno.EACCES, "permission denied; change the permissions (chmod or chown)"),
        (errno.ENOTCONN, "transport endpoint is not connected"),
    ],
)
def test_causes_come_with_a_remedy(number: int, words: str) -> None:
    assert os_reason(OSError(number, os.strerror(number))) == words


def test_text_is_read_and_anything_else_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with pytest.raises(BundleError, match=r"a\.json is missing; copy it again"):
        read_text(path, BundleError, "copy it again")
    for data, words in (
        (
            b"version https://git-lfs.github.com/spec/v1\n",
            "is a Git LFS pointer instead of the file: run `git lfs pull`",
        ),
        ("ü".encode("utf-16"), "is UTF-16 text; save it as UTF-8"),
        (b"ok \xfc", r"is not UTF-8 text \(byte 0xfc at 3\); copy it again"),
    ):
        path.write_bytes(data)
        assert is_lfs_pointer(path) == data.startswith(b"version")
        with pytest.raises(BundleError, match=rf"a\.json {words}"):
            read_text(path, BundleError, "copy it again")
    path.write_text("größe", encoding="utf-8-sig")
    assert read_text(path, BundleError, "") == "größe"
    with pytest.raises(BundleError, match="cannot be read: it is a folder and not a file"):
        read_text(tmp_path, BundleError, "")


def test_paths_are_text_for_libraries_whatever_the_locale_is() -> None:
    assert native_path(Path("nänö")) == "nänö"
    program = "from osprey_ros.file_errors import native_path; import sys; print(ascii(native_path(sys.argv[1])))"
    environment = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    found = subprocess.run(
        [sys.executable, "-c", program, "nänö"], env=environment, capture_output=True, text=True, check=True
    )
    assert found.stdout == f"{'nänö'!a}\n"
