"""Weight files beside a graph: tensors in sequence, and an index of their positions.

ONNX calls this external data. A large decoder is written as one such file per layer; its graph, and any other graph
over the same weights, is built from the indexes alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import numpy as np
import onnx
from onnx import GraphProto, TensorProto, numpy_helper
from onnx.checker import ValidationError

from osprey_ros.errors import BundleError
from osprey_ros.file_errors import native_path

# Pages of memory, so that runtimes can map a tensor where it lies.
_ALIGNMENT = 4096


class WeightFile:
    """Writes tensors to a file, without keeping them in memory. Use it in a `with` statement.

    Attributes:
        index: initializers that point into the file, by name.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.index: dict[str, TensorProto] = {}
        self._file = path.open("wb")

    def add(self, name: str, array: np.ndarray) -> TensorProto:
        """Append a tensor. Raises ValueError for a name that is there already."""
        if name in self.index:
            raise ValueError(f"{self.path.name} has a tensor {name} already")
        tensor = numpy_helper.from_array(array)
        self._file.write(b"\0" * (-self._file.tell() % _ALIGNMENT))
        place = {"location": self.path.name, "offset": self._file.tell(), "length": len(tensor.raw_data)}
        self._file.write(tensor.raw_data)
        stored = TensorProto(
            name=name, data_type=tensor.data_type, dims=tensor.dims, data_location=TensorProto.EXTERNAL
        )
        for key, value in place.items():
            stored.external_data.add(key=key, value=str(value))
        self.index[name] = stored
        return stored

    def close(self) -> None:
        """End the file; further calls do nothing."""
        self._file.close()

    def __enter__(self) -> WeightFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def write_index(path: Path, index: Mapping[str, TensorProto]) -> None:
    """Write the index of a weight file."""
    path.write_bytes(GraphProto(initializer=index.values()).SerializeToString())


def read_index(path: Path) -> dict[str, TensorProto]:
    """Read what `write_index` has written."""
    return {tensor.name: tensor for tensor in GraphProto.FromString(path.read_bytes()).initializer}


def index_of_graph(path: Path) -> dict[str, TensorProto]:
    """Return the initializers of a graph by name; those in files beside it are not read."""
    return {tensor.name: tensor for tensor in onnx.load(path, load_external_data=False).graph.initializer}


def load(tensor: TensorProto, folder: Path) -> np.ndarray:
    """Return the values of a tensor, also of one in a file of the folder. Raises BundleError if that is damaged."""
    try:
        return numpy_helper.to_array(tensor, native_path(folder))
    except (OSError, ValueError, ValidationError) as error:
        (file,) = (entry.value for entry in tensor.external_data if entry.key == "location")
        raise BundleError(f"{folder / file} is cut off or missing: build the bundle again") from error
