"""LLaVA's layout of image-text pairs: images with a question about the whole of them, for stage 1."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from osprey_torch.readers.files import read_list
from osprey_torch.readers.records import Record, Skipped, Turn, each_record


def image_text_pairs(file: Path, images: Path, skipped: Skipped) -> Iterator[Record]:
    """Read `chat.json` of LLaVA-CC3M-Pretrain-595K and files like it: one caption an image, no regions."""

    def read(entry: dict[str, Any], origin: str) -> Record | None:
        turns = entry["conversations"]
        if len(turns) % 2:
            raise ValueError(f"{len(turns)} turns do not come in pairs of question and answer")
        texts = [turn["value"].replace("<image>", "").strip() for turn in turns]
        pairs = zip(texts[0::2], texts[1::2], strict=True)
        dialogue = tuple(Turn(question, answer) for question, answer in pairs)
        return Record(images / entry["image"], (), (dialogue,), origin) if dialogue else None

    return each_record(read_list(file), file, skipped, read)
