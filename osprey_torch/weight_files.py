"""Weight files beside a graph: tensors in sequence, and an index of their positions.

ONNX calls this external data. A large decoder is written as one such file per layer; its graph, and any other graph
over the same weights, is built from the indexes alone.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import onnx
from onnx import TensorProto, helper

from osprey_ros.errors import BundleError
from osprey_ros.strict_json import to_json

# Pages of memory, so that runtimes can map a tensor where it lies.
_ALIGNMENT = 4096


@dataclass(frozen=True)
class Tensor:
    """A tensor as it is stored: `data` holds its bytes, `data_type` is ONNX's, `dims` its shape in ONNX's sense.

    For 4-bit types two elements share a byte of `data`, the first in the low half.
    """

    data: np.ndarray
    data_type: int
    dims: tuple[int, ...]

    @classmethod
    def of(cls, array: np.ndarray) -> Tensor:
        """Wrap a numpy array."""
        return cls(np.ascontiguousarray(array), helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)

    @classmethod
    def from_bytes(cls, data: bytes, data_type: int, dims: tuple[int, ...]) -> Tensor:
        """Return a tensor from its stored bytes; `data` has the shape `dims`, for 4-bit types it is flat uint8."""
        if data_type in (TensorProto.INT4, TensorProto.UINT4):
            return cls(np.frombuffer(data, np.uint8), data_type, dims)
        return cls(np.frombuffer(data, helper.tensor_dtype_to_np_dtype(data_type)).reshape(dims), data_type, dims)


@dataclass(frozen=True)
class StoredWeight:
    """The position of a tensor: `nbytes` from `offset` in `file`, a file name beside the graph."""

    file: str
    offset: int
    nbytes: int
    data_type: int
    dims: tuple[int, ...]

    def proto(self, name: str) -> TensorProto:
        """Return the tensor as an initializer that points into the file."""
        tensor = TensorProto(name=name, data_type=self.data_type, dims=self.dims)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", self.file), ("offset", self.offset), ("length", self.nbytes)):
            tensor.external_data.add(key=key, value=str(value))
        return tensor

    def load(self, folder: Path) -> Tensor:
        """Read the tensor. Raises BundleError if the file is too short."""
        with (folder / self.file).open("rb") as file:
            file.seek(self.offset)
            data = file.read(self.nbytes)
        if len(data) != self.nbytes:
            raise BundleError(f"{folder / self.file} is cut off: {self.nbytes} bytes expected at {self.offset}")
        return Tensor.from_bytes(data, self.data_type, self.dims)


class WeightFile:
    """Writes tensors to a file, without keeping them in memory. Use it in a `with` statement."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.index: dict[str, StoredWeight] = {}
        self._file = path.open("wb")

    def add(self, name: str, tensor: Tensor) -> StoredWeight:
        """Append a tensor. Raises ValueError for a name that is there already."""
        if name in self.index:
            raise ValueError(f"{self.path.name} has a tensor {name} already")
        self._file.write(b"\0" * (-self._file.tell() % _ALIGNMENT))
        offset = self._file.tell()
        self._file.write(np.ascontiguousarray(tensor.data).reshape(-1).view(np.uint8).data)
        self.index[name] = StoredWeight(
            self.path.name, offset, self._file.tell() - offset, tensor.data_type, tuple(tensor.dims)
        )
        return self.index[name]

    def close(self) -> None:
        """End the file; further calls do nothing."""
        self._file.close()

    def __enter__(self) -> WeightFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def write_index(path: Path, index: dict[str, StoredWeight]) -> None:
    """Write an index as JSON."""
    path.write_text(to_json({name: asdict(weight) for name, weight in index.items()}, indent=1), encoding="utf-8")


def read_index(path: Path) -> dict[str, StoredWeight]:
    """Read what `write_index` has written."""
    data = json.loads(path.read_text(encoding="utf-8"))
    return {name: StoredWeight(**{**entry, "dims": tuple(entry["dims"])}) for name, entry in data.items()}


def index_of_graph(path: Path) -> dict[str, StoredWeight]:
    """Return the index of a graph's initializers in files beside it. Reads no weight."""
    index = {}
    for tensor in onnx.load(path, load_external_data=False).graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            entry = {item.key: item.value for item in tensor.external_data}
            place = (entry["location"], int(entry.get("offset", 0)), int(entry["length"]))
            index[tensor.name] = StoredWeight(*place, tensor.data_type, tuple(tensor.dims))
    return index
