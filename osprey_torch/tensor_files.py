"""Reads weight files tensor by tensor, safetensors and PyTorch's `.bin`, without running code that a file contains.

Both formats are mapped into memory: listing a file reads its header, and a tensor costs the memory of its copy. Only
files of PyTorch before 1.6 are read whole.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from osprey_ros.errors import InputError
from osprey_ros.file_errors import LFS_POINTER, is_lfs_pointer, native_path, os_reason

# Files of PyTorch before 1.6 are a sequence of pickles instead of an archive: they cannot be mapped.
_PICKLE = b"\x80"


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a weight file: its name there, shape and dtype. The first axis may be longer in the file."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    def head(self, rows: int) -> StoredTensor:
        """Return the first rows of this tensor, which has at least one axis."""
        return replace(self, shape=(rows, *self.shape[1:]))


def list_file(path: Path) -> dict[str, StoredTensor]:
    """Return all tensors of a `.safetensors` file or of a `.bin` by name. Raises InputError."""
    return {name: StoredTensor(path, name, tuple(t.shape), t.dtype) for name, t in map_file(path).items()}


def read_stored(tensor: StoredTensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Read one tensor, in its stored type or as `dtype`. Raises InputError."""
    stored = map_file(tensor.path, tensor.name)[tensor.name]
    used = stored[: tensor.shape[0]] if tensor.shape else stored
    return used.to(dtype or tensor.dtype, memory_format=torch.contiguous_format, copy=True)


def map_file(path: Path, only: str | None = None) -> dict[str, torch.Tensor]:
    """Map the tensors of a weight file; their bytes are read when they are used.

    only: the one tensor that is needed, where the format has a table of them.

    Raises:
        InputError: the file is missing, damaged, of another format, or contains more than a dictionary of tensors.
    """
    try:
        if is_lfs_pointer(path):
            raise InputError(f"{path} {LFS_POINTER}")
        if path.suffix == ".safetensors":
            return load_file(path) if only is None else _one_of_safetensors(path, only)
        content = _load_bin(path)
    except UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it uses {found[1]}" if found else "it contains more than tensors"
        raise InputError(
            f"{path} is rejected and nothing in it was run: {reason}; download it again, from a source that you trust"
        ) from error
    except SafetensorError as error:
        raise InputError(f"{path} is cut short or not a safetensors file; download it again") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {os_reason(error)}") from error
    except (RuntimeError, EOFError, ValueError, KeyError, AttributeError) as error:
        raise InputError(f"{path} is cut short or damaged; download it again") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}, not a dictionary of tensors")
    return {name: value for name, value in content.items() if isinstance(value, torch.Tensor)}


def _load_bin(path: Path) -> Any:
    """Return what a `.bin` holds, its tensors mapped; files of PyTorch before 1.6 are read."""
    with path.open("rb") as file:
        archive = not file.peek(1).startswith(_PICKLE)
        # Without a UTF-8 locale PyTorch cannot open a path with other characters: it gets the open file's own path.
        usable = native_path(path) == os.fspath(path)
        return torch.load(
            path if usable else f"/proc/self/fd/{file.fileno()}", map_location="cpu", mmap=archive, weights_only=True
        )


def _one_of_safetensors(path: Path, name: str) -> dict[str, torch.Tensor]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name)}
