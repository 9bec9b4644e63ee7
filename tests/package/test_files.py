"""Files appear when they are complete, also on a full disk."""

from __future__ import annotations

import errno
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from osprey_ros.cli._edge import command
from osprey_ros.errors import ImageError
from osprey_ros.files import completed_file, write_file, write_json
from osprey_ros.vision.image_io import save_image
from osprey_sim.__main__ import main as sim


@contextmanager
def _largest_file(size: int) -> Iterator[None]:
    """Let writes beyond a size of a file fail, as on a full disk."""
    limits, before = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)


def test_an_older_file_stays_if_the_new_one_cannot_be_completed(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    write_json(path, {"a": 1})
    with _largest_file(1000), pytest.raises(OSError, match="File too large") as caught:
        write_file(path, "x" * 5000)
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(path))
    with suppress(KeyboardInterrupt), completed_file(path) as partial:
        partial.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == '{\n "a": 1\n}\n'
    assert [found.name for found in tmp_path.iterdir()] == ["report.json"]


def test_links_stay_links_and_pipes_are_written(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link, target = tmp_path / "link.json", tmp_path / "real" / "report.json"
    link.symlink_to(target)
    write_json(link, 3)
    assert link.is_symlink()
    assert target.read_text() == "3\n"
    reader, writer = os.pipe()
    write_file(f"/dev/fd/{writer}", "text")
    assert os.read(reader, 100) == b"text"
    write_file(os.devnull, b"text")
    assert Path(os.devnull).is_char_device()
    for descriptor in (reader, writer):
        os.close(descriptor)


def test_no_part_of_an_image_stays(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (100, 100, 3), np.uint8)
    with _largest_file(1000), pytest.raises(ImageError, match=r"image .*a.png cannot be written: the file is larger"):
        save_image(tmp_path / "a.png", noise)
    assert list(tmp_path.iterdir()) == []


def test_a_command_names_the_file_that_does_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with _largest_file(1000):
        assert sim(["--width", "64", "--height", "48", "--output", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"osprey: error: {tmp_path / 'image.png'}: the file is larger")
    assert list(tmp_path.iterdir()) == []


def test_a_device_without_space_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    @command("test: error")
    def write() -> int:
        write_json("/dev/full", [1])
        return 0

    assert write() == 2
    assert "the disk is full; free some space" in capsys.readouterr().err
