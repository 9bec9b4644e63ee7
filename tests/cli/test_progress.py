"""Progress of long commands: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import struct
import termios

import pytest

from osprey_ros.cli._progress import progress_bar


def test_progress_is_a_bar_on_a_terminal_and_lines_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("tqdm.std.time", lambda: clock[0])
    monkeypatch.setattr("osprey_ros.cli._progress.time.monotonic", lambda: clock[0])
    lines = io.StringIO()
    master, slave = pty.openpty()
    drawn = ""
    with (
        os.fdopen(slave, "w") as terminal,
        progress_bar("describing", " frames", 200, lines) as log,
        progress_bar("describing", " frames", 200, terminal) as bar,
    ):
        for _ in range(100):
            clock[0] += 0.25
            log.update()
            bar.update()
            drawn += os.read(master, 1 << 16).decode()
        bar.write("a line", file=terminal)
        while "a line\r\n" not in drawn:
            drawn += os.read(master, 1 << 16).decode()
    os.close(master)
    first, second = lines.getvalue().splitlines()
    for line, done in ((first, "40/200"), (second, "80/200")):
        assert line.startswith("osprey: describing:")
        assert done in line
        assert "4.00 frames/s" in line
    assert "| 100/200 [00:25<00:25,  4.00 frames/s]" in drawn


@pytest.mark.parametrize("width", [40, 100])
def test_a_bar_is_not_wider_than_the_terminal(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    clock = [100.0]
    monkeypatch.setattr("tqdm.std.time", lambda: clock[0])
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    drawn = ""
    with os.fdopen(slave, "w") as terminal, progress_bar("reading stamps", " messages", 200_000, terminal) as bar:
        for _ in range(3):
            clock[0] += 0.25
            bar.update()
            drawn += os.read(master, 1 << 16).decode()
    os.close(master)
    lines = [line for line in drawn.split("\r") if line]
    assert len(lines) >= 3
    assert all(line.startswith("reading stamps:") and len(line) < width for line in lines)
