"""Where each tensor lies in a weight file, and reading one of them: nothing is mapped and no pickled code is run.

Both formats, safetensors and PyTorch's zip (`.bin`, `.pt`), keep tensors as plain runs of bytes. The headers say where;
a tensor is then read with `seek` and `readinto` into its own memory, which is all the memory that it costs.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import torch

from osprey_torch.errors import CheckpointError

_SAFETENSORS_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
# What safetensors itself allows; a larger number means that the file is something else.
_LARGEST_HEADER = 100_000_000
_CHUNK_BYTES = 8 << 20


@dataclass(frozen=True)
class StoredTensor:
    """Place of one tensor: `start` and `nbytes` are its row-major bytes in the file `path`.

    crc32: checksum of those bytes where the format keeps one.
    """

    path: Path
    start: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    crc32: int | None = None

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def list_safetensors(path: Path) -> dict[str, StoredTensor]:
    """Names and places of all tensors of a .safetensors file; reads the header only.

    Raises:
        CheckpointError: the file is damaged or of another format.
    """
    with path.open("rb") as file:
        head = file.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else _LARGEST_HEADER + 1
        header = file.read(length) if length <= _LARGEST_HEADER else b""
    if len(header) != length:
        raise CheckpointError(f"{path} is cut short or not a safetensors file; download it again")
    try:
        entries = {name: entry for name, entry in json.loads(header).items() if name != "__metadata__"}
        found = {name: _entry(path, 8 + length, entry) for name, entry in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path}: the header of this safetensors file is damaged ({error!r}); download it again"
        ) from error
    check_length(path, found)
    return found


def _entry(path: Path, data: int, entry: dict[str, Any]) -> StoredTensor:
    start, stop = entry["data_offsets"]
    tensor = StoredTensor(path, data + start, tuple(entry["shape"]), _SAFETENSORS_TYPES[entry["dtype"]])
    if start < 0 or stop - start != tensor.nbytes:
        raise ValueError(f"{entry}: offsets and shape do not agree")
    return tensor


def check_length(path: Path, found: dict[str, StoredTensor]) -> None:
    """Raises CheckpointError if the file ends before one of its tensors does."""
    size = path.stat().st_size
    for name, tensor in found.items():
        if tensor.start + tensor.nbytes > size:
            raise CheckpointError(
                f"{path} is cut short: {name} ends at byte {tensor.start + tensor.nbytes} and the file at {size}; "
                "download it again"
            )


def read_stored(name: str, tensor: StoredTensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Read one tensor, in its stored type or as `dtype`; memory for the result and a few megabytes, no second copy.

    Raises:
        CheckpointError: the file is cut short or its checksum is wrong.
    """
    result = torch.empty(tensor.shape, dtype=dtype or tensor.dtype)
    flat = result.reshape(-1)
    same = result.dtype == tensor.dtype
    rows = min(flat.numel(), _CHUNK_BYTES // tensor.dtype.itemsize)
    chunk = None if same else torch.empty(rows, dtype=tensor.dtype)
    checksum = 0
    try:
        with tensor.path.open("rb", buffering=0) as file:
            file.seek(tensor.start)
            for part in flat.split(rows) if rows else ():
                stored = part if chunk is None else chunk[: len(part)]
                raw = memoryview(stored.view(torch.uint8).numpy())
                _fill(file, raw, name)
                if tensor.crc32 is not None:
                    checksum = zlib.crc32(raw, checksum)
                if chunk is not None:
                    part.copy_(stored)
    except OSError as error:
        raise CheckpointError(f"{tensor.path} cannot be read: {error}") from error
    if tensor.crc32 not in (None, checksum):
        raise CheckpointError(f"{tensor.path} is damaged: the checksum of {name} is wrong; download it again")
    return result


def _fill(file: FileIO, view: memoryview, name: str) -> None:
    done = 0
    while done < len(view):
        count = file.readinto(view[done:])
        if not count:
            raise CheckpointError(f"{file.name} is cut short: it ends inside {name}; download it again")
        done += count
