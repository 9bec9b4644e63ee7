"""A node in a process of its own, for the demo and the tests: started apart, watched, and always ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path


class Child:
    """Runs ``python -m MODULE ARGUMENTS`` in a session of its own, its output going to a file. Ends with the block."""

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

    def __enter__(self) -> Child:
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
        """What it has written so far, to stdout and stderr."""
        return self.log.read_text(errors="replace")

    def wait(self, patience: float) -> int:
        """Waits for its end. Returns the exit status; raises subprocess.TimeoutExpired after ``patience`` seconds."""
        return self._process.wait(patience)

    def stop(self, how: signal.Signals = signal.SIGINT, patience: float = 10.0) -> int:
        """Asks it to end as Ctrl-C does, kills it after ``patience`` seconds. Returns the exit status."""
        for _ in range(3):
            if self._process.poll() is None:
                self._process.send_signal(how)
            try:
                return self._process.wait(patience / 3)
            except subprocess.TimeoutExpired:
                continue  # Python loses an interrupt that comes while it runs a destructor: ask again
        os.killpg(self.pid, signal.SIGKILL)
        return self._process.wait()
