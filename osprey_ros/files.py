"""Write files that appear when they are complete: a stop or a full disk leaves the old file, or none."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from osprey_ros.strict_json import to_json


@contextmanager
def completed_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield the path to write to. It becomes ``path`` if the block succeeds, and is removed if it fails.

    The temporary file has the extension of ``path`` and is in the same folder. A device or a pipe is written directly,
    and a symbolic link stays one.

    Raises:
        OSError: The file cannot be written. Its ``filename`` is ``path``.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        yield Path(path)
        return
    final = Path(os.path.realpath(path))
    partial = final.with_name(f"{final.stem}.partial{final.suffix}")
    try:
        yield partial
        partial.replace(final)
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), os.fspath(path)) from error
    finally:
        partial.unlink(missing_ok=True)


def write_file(path: str | os.PathLike[str], data: str | bytes | memoryview) -> None:
    """Write a file as `completed_file` does, text in UTF-8. Raises OSError."""
    with completed_file(path) as partial:
        partial.write_bytes(data.encode() if isinstance(data, str) else data)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write a value as JSON, as `write_file` does. Missing folders are created. Raises OSError."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_file(path, to_json(value, indent=1, default=str) + "\n")
