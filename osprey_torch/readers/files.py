"""Reading annotation files: JSON and JSON lines, with errors that name the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from osprey_torch.readers.records import RecordError


def read_json(path: Path) -> Any:
    """Raises RecordError for a file that is missing or is not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise RecordError(f"{path} is not JSON: {error}") from error


def read_list(path: Path) -> list[dict]:
    """A JSON file that holds a list. Raises RecordError for another."""
    data = read_json(path)
    if not isinstance(data, list):
        raise RecordError(f"{path} must hold a list of records, not {type(data).__name__}")
    return data


def read_lines(path: Path) -> list[dict]:
    """A file of one JSON object a line. Raises RecordError naming the line that is none."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror}") from error
    entries = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entries.append(json.loads(line))
        except ValueError as error:
            raise RecordError(f"{path}, line {number} is not JSON: {error}") from error
    return entries
