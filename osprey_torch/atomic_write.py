"""Writes files that are either complete or absent, even if the writer is killed."""

from __future__ import annotations

from pathlib import Path


def atomic_write(path: Path, data: str | bytes | memoryview) -> None:
    """Write a file atomically, text in UTF-8; an existing file is replaced."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_bytes(data.encode() if isinstance(data, str) else data)
    partial.replace(path)
