"""Run a node in its own process, for the demo and the tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path


class NodeProcess:
    """``python -m MODULE ARGUMENTS`` in its own session, with its output in a file; stopped when the block ends."""

    def __init__(self, name: str, module: str, arguments: Sequence[str], log: Path, env: Mapping[str, str]) -> None:
        self.name = name
        self.log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(env),
                start_new_session=True,
            )

    def __enter__(self) -> NodeProcess:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Process id, which is also the id of its session and process group."""
        return self._process.pid

    @property
    def status(self) -> int | None:
        """Exit status, or None while it runs."""
        return self._process.poll()

    def output(self) -> str:
        """Return the output so far, stdout and stderr."""
        return self.log.read_text(errors="replace")

    def wait(self, patience: float) -> int:
        """Return the exit status. Raise subprocess.TimeoutExpired after ``patience`` seconds."""
        return self._process.wait(patience)

    def stop(self, how: signal.Signals = signal.SIGINT, patience: float = 10.0) -> int:
        """Interrupt the process as Ctrl-C does, kill it after ``patience`` seconds, and return the exit status."""
        for _ in range(3):
            if self._process.poll() is None:
                self._process.send_signal(how)
            try:
                return self._process.wait(patience / 3)
            except subprocess.TimeoutExpired:
                continue  # Python loses an interrupt that arrives in a destructor
        os.killpg(self.pid, signal.SIGKILL)
        return self._process.wait()
