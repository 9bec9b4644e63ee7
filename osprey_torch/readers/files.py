"""Reading annotation files: JSON and JSON lines, with errors that name the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from osprey_ros.errors import InputError


def read_json(path: Path) -> Any:
    """Raise InputError for a file that is missing or is not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}") from error


def read_list(path: Path) -> list[dict[str, Any]]:
    """Read a JSON file that contains a list. Raises InputError."""
    data = read_json(path)
    if not isinstance(data, list):
        raise InputError(f"{path} must hold a list of records, not {type(data).__name__}")
    return data


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a file with one JSON object per line. Raises InputError with the number of an invalid line."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    entries = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entries.append(json.loads(line))
        except ValueError as error:
            raise InputError(f"{path}, line {number} is not JSON: {error}") from error
    return entries
