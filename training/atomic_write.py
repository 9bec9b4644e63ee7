"""Files that appear whole or not at all, whenever their writer is stopped."""

from __future__ import annotations

from pathlib import Path


def atomic_write(path: Path, text: str) -> None:
    """Writes a text beside `path`, in UTF-8, and moves it there; what was there is replaced."""
    unfinished = path.with_name(f"{path.name}.part")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)
