"""Sets of models: a folder with models.json, one compact file a model, and ATTRIBUTION.md."""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from osprey_ros.errors import InputError
from osprey_ros.files import completed_file
from osprey_ros.strict_json import to_json

INDEX = "models.json"
ATTRIBUTION = "ATTRIBUTION.md"
HOME = Path(__file__).with_name("home")
"""Folder of the set that ships with the simulator."""

_STEPS = 65535  # coordinates are stored as 16-bit steps of the bounding box
_JPEG_QUALITY = 85


@dataclass(frozen=True, eq=False)
class Mesh:
    """The surface of one material of a model. Equal only to itself.

    Attributes:
        vertices: float32 [V, 3] meters, in the model's frame.
        normals: float32 [V, 3], or None.
        uv: float32 [V, 2], or None without texture.
        faces: int32 [F, 3].
        texture: uint8 [H, W, 3], or None.
        rgb: Color in 0..1; with a texture it is white.
        specular: 0..1.
        opacity: 0..1.
    """

    name: str
    vertices: NDArray[np.float32] = field(repr=False)
    normals: NDArray[np.float32] | None = field(repr=False)
    uv: NDArray[np.float32] | None = field(repr=False)
    faces: NDArray[np.int32] = field(repr=False)
    texture: NDArray[np.uint8] | None = field(repr=False)
    rgb: tuple[float, float, float] = (1.0, 1.0, 1.0)
    specular: float = 0.0
    opacity: float = 1.0

    @cached_property
    def bounds(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the lowest and highest coordinates, float64 [3] each, in meters."""
        return self.vertices.min(axis=0).astype(np.float64), self.vertices.max(axis=0).astype(np.float64)


@dataclass(frozen=True)
class ModelInfo:
    """What models.json says about a model.

    Attributes:
        name: Unique name and name of the file.
        kind: What it is: "mug".
        material: "ceramic", or "" if it is not known.
        size: Meters along x, y and z (up).
        lies_down: Whether it can also lie on its side.
        title: Name in the catalog of its source.
        author: Who made it.
        license: Short name, such as "CC-BY-3.0".
        source: Catalog and identifier.
        url: Page of the model if the source names one, else "".
        notice: Copyright notice that the source asks to keep.
    """

    name: str
    kind: str
    material: str
    size: tuple[float, float, float]
    title: str
    author: str
    license: str
    source: str
    url: str = ""
    notice: str = ""
    lies_down: bool = False


class ModelSet:
    """The models of a folder. Meshes are read on first use and kept."""

    def __init__(self, folder: Path = HOME) -> None:
        """Read the index.

        Raises:
            InputError: The folder has no valid models.json.
        """
        self.folder = folder
        try:
            entries = json.loads((folder / INDEX).read_text(encoding="utf-8"))
            infos = [ModelInfo(**{**entry, "size": tuple(entry["size"])}) for entry in entries]
        except OSError as error:
            raise InputError(
                f"{folder} has no readable {INDEX}; make a set with python -m osprey_sim.meshes.furniture"
            ) from error
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f"{folder / INDEX} is not an index of models: {error}") from error
        self.models: dict[str, ModelInfo] = {info.name: info for info in infos}
        self._read = lru_cache(maxsize=None)(self._read_file)

    def meshes(self, name: str) -> tuple[Mesh, ...]:
        """Return the meshes of a model, one for each material.

        Raises:
            InputError: The file is missing or damaged.
        """
        return self._read(name)

    def _read_file(self, name: str) -> tuple[Mesh, ...]:
        path = self.folder / f"{name}.npz"
        try:
            with np.load(path, allow_pickle=False) as stored:
                return tuple(_unpack(name, stored, number) for number in range(int(stored["parts"])))
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"cannot read the model {path}: {error}") from error


def save_model(folder: Path, info: ModelInfo, meshes: list[Mesh]) -> None:
    """Write the file of a model: positions in 16-bit steps of their bounding box, normals in 8 bits, JPEG textures."""
    arrays: dict[str, NDArray[np.generic]] = {"parts": np.array(len(meshes))}
    for number, mesh in enumerate(meshes):
        low, high = mesh.bounds
        span = np.maximum(high - low, 1e-9)
        look = [*low, *span, *mesh.rgb, mesh.specular, mesh.opacity]
        small = len(mesh.vertices) <= _STEPS
        arrays |= {
            f"look{number}": np.array(look, np.float32),
            f"v{number}": np.round((mesh.vertices - low) / span * _STEPS).astype(np.uint16),
            f"f{number}": mesh.faces.astype(np.uint16 if small else np.uint32),
        }
        if mesh.normals is not None:
            arrays[f"n{number}"] = np.round(mesh.normals * 127).astype(np.int8)
        if mesh.uv is not None and mesh.texture is not None:
            arrays[f"t{number}"] = mesh.uv.astype(np.float32)
            coded = io.BytesIO()
            Image.fromarray(mesh.texture).save(coded, "JPEG", quality=_JPEG_QUALITY)
            arrays[f"i{number}"] = np.frombuffer(coded.getvalue(), np.uint8)
    with completed_file(folder / f"{info.name}.npz") as partial:
        np.savez_compressed(partial, **arrays)  # type: ignore[arg-type]


def save_index(folder: Path, infos: list[ModelInfo]) -> None:
    """Write models.json, ordered by name."""
    entries = [asdict(info) for info in sorted(infos, key=lambda info: info.name)]
    with completed_file(folder / INDEX) as partial:
        partial.write_text(to_json(entries, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _unpack(name: str, stored: np.lib.npyio.NpzFile, number: int) -> Mesh:
    look = stored[f"look{number}"]
    vertices = (look[:3] + stored[f"v{number}"].astype(np.float32) / _STEPS * look[3:6]).astype(np.float32)
    normals: NDArray[np.float32] | None = None
    texture = uv = None
    if f"n{number}" in stored:
        normals = (stored[f"n{number}"] / np.float32(127)).astype(np.float32)
    if f"i{number}" in stored:
        texture = np.asarray(Image.open(io.BytesIO(stored[f"i{number}"].tobytes())).convert("RGB"))
        uv = stored[f"t{number}"]
    rgb = (float(look[6]), float(look[7]), float(look[8]))
    faces = stored[f"f{number}"].astype(np.int32)
    return Mesh(f"{name}/{number}", vertices, normals, uv, faces, texture, rgb, float(look[9]), float(look[10]))
