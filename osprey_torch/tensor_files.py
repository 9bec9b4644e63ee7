"""Reads weight files tensor by tensor, safetensors and PyTorch's `.bin`, without running code that a file contains.

Both formats are mapped into memory: listing a file reads its header, and a tensor costs the memory of its copy.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from osprey_ros.errors import InputError

_LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a weight file: its name there, shape and dtype."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype


def list_file(path: Path) -> dict[str, StoredTensor]:
    """Return all tensors of a `.safetensors` file or of a `.bin` by name. Raises InputError."""
    return {name: StoredTensor(path, name, tuple(t.shape), t.dtype) for name, t in map_file(path).items()}


def read_stored(tensor: StoredTensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Read one tensor, in its stored type or as `dtype`. Raises InputError."""
    return map_file(tensor.path)[tensor.name].to(
        dtype or tensor.dtype, memory_format=torch.contiguous_format, copy=True
    )


def map_file(path: Path) -> dict[str, torch.Tensor]:
    """Map the tensors of a weight file; their bytes are read when they are used.

    Raises:
        InputError: the file is missing, damaged, of another format, or contains more than a dictionary of tensors.
    """
    try:
        with path.open("rb") as file:
            pointer = file.read(len(_LFS_POINTER)) == _LFS_POINTER
        if pointer:
            raise InputError(f"{path} is a Git LFS pointer instead of the file: run `git lfs pull` in its folder")
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it uses {found[1]}" if found else str(error).splitlines()[0]
        raise InputError(
            f"{path} is rejected and nothing in it was run: {reason}; download it again, from a source that you trust"
        ) from error
    except SafetensorError as error:
        raise InputError(f"{path} is cut short or not a safetensors file ({error}); download it again") from error
    except RuntimeError as error:
        reason = str(error).split(". ")[0]
        raise InputError(
            f"{path} is cut short, damaged, or in the format of PyTorch before 1.6 ({reason}); download it again"
        ) from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}, not a dictionary of tensors")
    return {name: value for name, value in content.items() if isinstance(value, torch.Tensor)}
