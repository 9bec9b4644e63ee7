"""How commands end: their streams, their signals and errors that they do not expect."""

from __future__ import annotations

import errno
import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from osprey_ros.cli._edge import command
from osprey_ros.cli._signals import stop_on_signals
from osprey_ros.cli.main import main
from osprey_ros.errors import InputError

LIGHT = "from osprey_ros.cli._edge import command\n@command('test: error')\ndef main() -> int:\n"


def _ended(body: str, redirections: str = "", **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a guarded main function with this body, in a shell with these redirections."""
    code = LIGHT + "".join(f"    {line}\n" for line in body.splitlines()) + "raise SystemExit(main())"
    script = f'exec "$0" -S -c "$1" {redirections}'
    return subprocess.run(
        ["bash", "-c", script, sys.executable, code],
        capture_output=True,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (InputError("a is 3; use 2"), "a is 3; use 2"),
        (InputError("image a\r\x1b[2J\n.png"), r"image a\r\x1b[2J\n.png"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "the disk is full; free some space"),
        (OSError(errno.EACCES, os.strerror(errno.EACCES), "/x"), "/x: permission denied; change the permissions"),
        (OSError("no\n connection"), "no connection"),
        (MemoryError(), "there is not enough memory; end other programs"),
        (ModuleNotFoundError("No module named 'x'", name="x"), "the Python package x is not installed; install it"),
    ],
)
def test_an_error_is_one_line_and_status_2(error: Exception, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    @command("test: error")
    def fail() -> int:
        raise error

    assert fail() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"test: error: {text}")


@pytest.mark.parametrize(
    ("redirections", "status", "text"),
    [
        (">&-", 0, ""),
        (">/dev/full", 2, "test: error: standard output cannot be written: the disk is full; free some space"),
        ("> >(:)", 0, ""),
        ("2>&-", 0, ""),
        ("2>/dev/full", 0, ""),
        ("<&- >&- 2>&-", 0, ""),
    ],
)
def test_streams_that_are_closed_or_full(tmp_path: Path, redirections: str, status: int, text: str) -> None:
    # The file is complete although the text before it cannot be written.
    done = _ended(
        "import sys\n"
        "for number in range(2000): print('a line of some length', flush=number > 1500)\n"
        "print('note', file=sys.stderr)\n"
        f"open({str(tmp_path / 'file')!r}, 'w').write('complete')\n"
        "return 0",
        redirections,
    )
    lines = [line for line in done.stderr.decode().splitlines() if line != "note"]
    assert (done.returncode, len(lines)) == (status, bool(text))
    assert all(line.startswith(text) for line in lines)
    assert (tmp_path / "file").read_text() == "complete"


def test_descriptors_of_closed_streams_are_not_given_to_files(tmp_path: Path) -> None:
    done = _ended(
        f"import os\nfile = open({str(tmp_path / 'file')!r}, 'w')\nos.write(1, b'of a library')\nreturn 0", ">&-"
    )
    assert (done.returncode, (tmp_path / "file").read_text()) == (0, "")


def test_characters_that_an_encoding_lacks_are_escaped() -> None:
    body = "import sys\nprint('grün', '\\udcff')\nprint('grün', file=sys.stderr)\nreturn 0"
    done = _ended(body, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"gr\\xfcn \\udcff\n", b"gr\\xfcn\n")
    done = _ended(body, PYTHONIOENCODING="utf-8")
    assert (done.returncode, done.stdout) == (0, "grün \\udcff\n".encode())
    assert _ended(body, PYTHONIOENCODING="ascii:replace").stdout == b"gr?n ?\n"


def test_words_of_a_user_are_printed_on_any_terminal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    monkeypatch.setattr(sys, "stderr", sys.stdout)
    assert main(["bundle", "show", str(tmp_path / "grüne Flasche")]) == 2
    assert b"gr\\xfcne Flasche" in written.getvalue()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_command_with_its_status(number: signal.Signals) -> None:
    @command("test: error")
    def wait() -> int:
        signal.raise_signal(number)
        return 0

    before = signal.signal(number, signal.SIG_DFL)  # the tests themselves can run in the background
    try:
        assert wait() == 128 + number
        assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, before)


def test_a_signal_that_arrives_twice_at_once_counts_once() -> None:
    cleaned = []

    @command("test: error")
    def wait() -> int:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)  # `timeout` signals a process, and then its group
            cleaned.append(True)
        return 0

    assert (wait(), cleaned) == (143, [True])


def test_an_ignored_signal_stays_ignored() -> None:
    done = _ended("import os, signal\nos.kill(os.getpid(), signal.SIGHUP)\nreturn 0", "; :")
    assert done.returncode == 129
    script = f"trap '' HUP; exec '{sys.executable}' -S -c \"$0\""
    code = LIGHT + "    import os\n    os.kill(os.getpid(), 1)\n    return 0\nraise SystemExit(main())"
    assert subprocess.run(["bash", "-c", script, code], check=False).returncode == 0


def test_a_forked_worker_ends_silently() -> None:
    done = _ended(
        "import os, signal\n"
        "worker = os.fork()\n"
        "if not worker: signal.raise_signal(signal.SIGTERM)\n"
        "return os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) == -signal.SIGTERM"
    )
    assert (done.returncode, done.stderr) == (1, b"")


def test_the_first_signal_is_a_request_and_a_later_one_interrupts(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [5.0]
    monkeypatch.setattr("osprey_ros.cli._signals.time.monotonic", lambda: clock[0])

    def run(act: Callable[[], None]) -> int:
        @command("test: error")
        def wait() -> int:
            with stop_on_signals() as stop:
                signal.raise_signal(signal.SIGTERM)
                act()
                return stop.status

        return wait()

    assert run(lambda: None) == 143
    assert run(lambda: signal.raise_signal(signal.SIGTERM)) == 143  # the same request again

    def later() -> None:
        clock[0] += 2
        signal.raise_signal(signal.SIGINT)

    assert run(later) == 130


@pytest.mark.parametrize("module", ["numpy", "osprey_ros.cli.describe", "osprey_ros.decoding.prompt"])
def test_ctrl_c_during_an_import_is_silent(module: str) -> None:
    code = (
        "import builtins, signal, sys\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name == {module!r}: signal.raise_signal(signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        "from osprey_ros.cli.main import main\n"
        "sys.exit(main(['bundle', 'show', 'nano']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")
