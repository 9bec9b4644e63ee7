"""Run a command in this process, and check what holds for every input."""

from __future__ import annotations

import io
import itertools
import json
import re
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ERROR_CLASS = re.compile(r"\b[A-Za-z]*(?:Error|Exception)\b")
_FOLDERS = itertools.count()


@dataclass(frozen=True)
class Outcome:
    """Status and output of a command."""

    status: int
    out: str
    err: str

    def json(self) -> Any:
        """Return the JSON document on standard output. NaN and infinities are no JSON."""

        def refuse(name: str) -> None:
            raise AssertionError(f"{name} in JSON")

        return json.loads(self.out, parse_constant=refuse)


def run(main: Callable[[list[str]], int | None], argv: Sequence[str], speaks: bool = True) -> Outcome:
    """Run a command, and assert what every input may expect; an exception is an error of the command.

    ``speaks`` tells whether the command prints something when it succeeds.
    """
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            status = main(list(argv)) or 0
        except SystemExit as ended:  # argparse
            status = ended.code if isinstance(ended.code, int) else 2
    outcome = Outcome(status, out.getvalue(), err.getvalue())
    assert status in (0, 1, 2), outcome
    assert not ERROR_CLASS.search(outcome.err), f"the name of an exception: {outcome.err}"
    if status == 0 and speaks:
        assert outcome.out.strip(), f"status 0 without output: {outcome}"
    if status == 2:
        assert outcome.err.strip(), "status 2 without a reason"
        assert outcome.out == "", outcome
        assert "Traceback" not in outcome.err, outcome.err
        lines = outcome.err.splitlines()
        errors = [line for line in lines if "error: " in line or "cannot start: " in line]
        assert not errors or errors == lines[-1:], f"the error has more than one line: {outcome.err}"
    return outcome


def new_folder(parent: Path) -> Path:
    """Return a new empty folder."""
    folder = parent / str(next(_FOLDERS))
    folder.mkdir()
    return folder


def check_text(text: str, *names: str) -> None:
    """Assert that the text of an error is one line, names one of these inputs and is not that of a library."""
    assert "\n" not in text, text
    assert not ERROR_CLASS.search(text), text
    assert "cv2" not in text, text
    assert any(name in text for name in names), text
