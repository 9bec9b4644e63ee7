"""The table of tensors of a PyTorch zip file (`.bin`, `.pt`), read without running code.

`torch.save` writes an uncompressed zip: `data.pkl` holds the dictionary of tensors, `data/KEY` the bytes of each
storage. The pickle is read by an unpickler that knows the four names a plain dictionary of tensors needs, each of them
replaced by a harmless stand-in; any other name refuses the file. Nothing that the file names is imported.
"""

from __future__ import annotations

import io
import math
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from osprey_torch.errors import CheckpointError
from osprey_torch.tensor_files import StoredTensor, check_length

_STORAGE_TYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # of a zip member: signature, length of the name, length of the extra field


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: torch.dtype


@dataclass(frozen=True)
class _View:
    """A tensor as the pickle describes it: `shape` of `storage` from element `offset` on."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def is_sound(self) -> bool:
        """Whether all parts are of the types and in the ranges that torch.save writes."""
        numbers = (self.offset, *self.shape, *self.strides)
        return (
            isinstance(self.storage, _Storage)
            and isinstance(self.storage.key, str)
            and isinstance(self.storage.dtype, torch.dtype)
            and all(type(n) is int and n >= 0 for n in numbers)
            and len(self.shape) == len(self.strides)
        )

    @property
    def is_contiguous(self) -> bool:
        expected = 1
        for size, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if size != 1 and stride != expected:
                return False
            expected *= size
        return True


class _Function:
    """Stands in for a function that the pickle names. Without a dictionary, so that a pickle cannot change it."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        object.__setattr__(self, "_call", call)

    def __setattr__(self, name: str, value: Any) -> None:
        raise pickle.UnpicklingError(f"the file sets the attribute {name!r} of a function")

    def __call__(self, *arguments: Any) -> Any:
        return self._call(*arguments)


def _tensor(storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any) -> _View:
    return _View(storage, offset, tuple(shape), tuple(strides))


def _parameter(tensor: _View, *_: Any) -> _View:
    return tensor


class _TableUnpickler(pickle.Unpickler):
    """Reads a dictionary of tensors as a dictionary of `_View`."""

    _KNOWN: ClassVar = {
        ("collections", "OrderedDict"): OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): _Function(_tensor),
        ("torch._utils", "_rebuild_parameter"): _Function(_parameter),
        **{("torch", name): dtype for name, dtype in _STORAGE_TYPES.items()},
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._KNOWN[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which weights have no use for") from None

    def persistent_load(self, pid: Any) -> _Storage:
        _kind, dtype, key, _location, _elements = pid
        return _Storage(key, dtype)


def list_torch_zip(path: Path) -> dict[str, StoredTensor]:
    """Names and places of all tensors of a file that `torch.save` wrote from a dictionary of tensors.

    Raises:
        CheckpointError: the file is damaged, of another format, or holds anything but tensors; none of it was run.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except zipfile.BadZipFile as error:
        raise CheckpointError(
            f"{path} is cut short, damaged, or of the format that PyTorch wrote before 1.6 ({error}); download it again"
        ) from error
    table = next((member for member in members if member.filename.endswith("/data.pkl")), None)
    if table is None:
        raise CheckpointError(f"{path} was not written by torch.save: it has no data.pkl")
    folder = table.filename.removesuffix("data.pkl") + "data/"
    storages = {member.filename.removeprefix(folder): member for member in members}
    with path.open("rb") as file:
        file.seek(_start(path, file, table))
        views = _unpickle(path, file.read(table.file_size))
        found = {name: _place(path, file, name, view, storages) for name, view in views.items()}
    check_length(path, found)
    return found


def _unpickle(path: Path, data: bytes) -> dict[str, _View]:
    try:
        content = _TableUnpickler(io.BytesIO(data)).load()
    except Exception as error:  # a damaged pickle may raise nearly anything
        raise CheckpointError(
            f"{path} is refused, and nothing in it was run: {error}; download it again, from where you trust it"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a dictionary of tensors")
    return {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, _View)}


def _place(
    path: Path, file: io.BufferedReader, name: str, view: _View, storages: dict[str, zipfile.ZipInfo]
) -> StoredTensor:
    if not view.is_sound:
        raise CheckpointError(f"{path} is damaged: {name} is not described as torch.save does it; download it again")
    member = storages.get(view.storage.key)
    if member is None:
        raise CheckpointError(f"{path} is damaged: the bytes of {name} are missing; download it again")
    if not view.is_contiguous:
        raise CheckpointError(f"{path}: {name} is stored with strides {view.strides}; save it with .contiguous()")
    width = view.storage.dtype.itemsize
    nbytes = math.prod(view.shape) * width
    if view.offset * width + nbytes > member.file_size:
        raise CheckpointError(f"{path} is damaged: {name} is larger than its storage; download it again")
    whole = nbytes == member.file_size
    return StoredTensor(
        path=path,
        start=_start(path, file, member) + view.offset * width,
        shape=view.shape,
        dtype=view.storage.dtype,
        crc32=member.CRC if whole and member.CRC else None,  # 0: torch.save was told to leave checksums out
    )


def _start(path: Path, file: io.BufferedReader, member: zipfile.ZipInfo) -> int:
    """First byte of a member's data: behind its local header, whose length only the header itself tells."""
    file.seek(member.header_offset)
    header = file.read(_LOCAL_HEADER.size)
    if len(header) < _LOCAL_HEADER.size or not header.startswith(b"PK\x03\x04") or member.compress_type:
        raise CheckpointError(
            f"{path} is damaged: no uncompressed {member.filename} at byte {member.header_offset}; download it again"
        )
    _, name, extra = _LOCAL_HEADER.unpack(header)
    return member.header_offset + _LOCAL_HEADER.size + name + extra
