"""Read Wavefront OBJ and MTL files: triangles by material, with texture coordinates, normals, colors and textures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from osprey_ros.errors import InputError

_UNNAMED = "default"  # material of the faces before the first usemtl
_WIDTHS = {"v": 3, "vt": 2, "vn": 3}  # numbers of a vertex, texture coordinate and normal
_INVISIBLE = 0.01  # opacity; materials below it are left out


@dataclass
class Material:
    """A material of an MTL file.

    Attributes:
        rgb: Diffuse color in 0..1.
        specular: Largest component of the specular color, 0..1.
        opacity: 0 (invisible) to 1.
        texture: Image file, or None.
    """

    rgb: tuple[float, float, float] = (0.7, 0.7, 0.7)
    specular: float = 0.0
    opacity: float = 1.0
    texture: Path | None = None


@dataclass
class Part:
    """The triangles of one material.

    Attributes:
        vertices: float64 [V, 3], in the unit of the file.
        normals: float64 [V, 3], unit length; None if the file has none for some face.
        uv: float64 [V, 2] texture coordinates with the origin at the bottom left; None if the file has none.
        faces: int64 [F, 3], indices of vertices.
    """

    material: Material
    vertices: NDArray[np.float64]
    normals: NDArray[np.float64] | None
    uv: NDArray[np.float64] | None
    faces: NDArray[np.int64]


@dataclass
class _Faces:
    """Triangles of one material while a file is read: unique corners (vertex, uv, normal), and indices of corners."""

    corners: dict[tuple[int, int, int], int] = field(default_factory=dict)
    triangles: list[tuple[int, int, int]] = field(default_factory=list)

    def add(self, corners: list[tuple[int, int, int]]) -> None:
        """Add a polygon as a fan of triangles."""
        indices = [self.corners.setdefault(corner, len(self.corners)) for corner in corners]
        fan = ((indices[0], indices[k], indices[k + 1]) for k in range(1, len(indices) - 1))
        self.triangles += [triangle for triangle in fan if len(set(triangle)) == 3]


def read_obj(path: Path) -> list[Part]:
    """Return the visible parts of an OBJ file, one for each material. Materials come from its mtllib.

    Raises:
        InputError: The file cannot be read, or a line is invalid.
    """
    rows: dict[str, list[list[float]]] = {key: [] for key in _WIDTHS}
    faces: dict[str, _Faces] = {}
    materials: dict[str, Material] = {}
    current = _UNNAMED
    for number, words in _lines(path):
        key, values = words[0], words[1:]
        try:
            if key in rows:
                rows[key].append(_numbers(values, _WIDTHS[key]))
            elif key == "f":
                counts = (len(rows["v"]), len(rows["vt"]), len(rows["vn"]))
                faces.setdefault(current, _Faces()).add([_corner(value, counts) for value in values])
            elif key == "usemtl":
                current = values[0] if values else _UNNAMED
            elif key == "mtllib":
                materials.update(read_mtl(path.parent / " ".join(values)))
        except ValueError as error:
            raise InputError(f"{path}, line {number}: {' '.join(words)[:60]!r} is invalid ({error})") from error
    tables = [np.array(rows[key], dtype=np.float64).reshape(-1, width) for key, width in _WIDTHS.items()]
    parts = []
    for name, group in faces.items():
        material = materials.get(name, Material())
        if group.triangles and material.opacity >= _INVISIBLE:
            parts.append(_part(material, group, tables))
    return parts


def read_mtl(path: Path) -> dict[str, Material]:
    """Return the materials of an MTL file by name. A file that does not exist has none.

    Raises:
        InputError: The file cannot be read, or a line is invalid.
    """
    materials: dict[str, Material] = {}
    if not path.is_file():
        return materials
    material = Material()
    for number, words in _lines(path):
        key, values = words[0], words[1:]
        try:
            if key == "newmtl":
                material = materials[values[0] if values else _UNNAMED] = Material()
            elif key == "Kd":
                r, g, b = (float(value) for value in values[:3])
                material.rgb = (r, g, b)
            elif key == "Ks":
                material.specular = max(float(value) for value in values[:3])
            elif key == "d":
                material.opacity = float(values[-1])
            elif key == "map_Kd" and values:
                texture = path.parent / " ".join(values)
                material.texture = texture if texture.is_file() else None
        except (ValueError, IndexError) as error:
            raise InputError(f"{path}, line {number}: {' '.join(words)[:60]!r} is invalid") from error
    return materials


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and words of each line that is neither empty nor a comment."""
    try:
        text = path.read_text(encoding="latin-1")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    for number, line in enumerate(text.replace("\\\n", " ").splitlines(), start=1):
        words = line.split()
        if words and not words[0].startswith("#"):
            yield number, words


def _numbers(values: list[str], count: int) -> list[float]:
    if len(values) < count:
        raise ValueError(f"{len(values)} numbers, not {count}")
    return [float(value) for value in values[:count]]


def _corner(text: str, counts: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return indices (vertex, uv, normal) from 0 of "3/1/2", "3//2", "3" or "-1"; -1 for a missing uv or normal."""
    fields = [*text.split("/"), "", ""][:3]
    found = []
    for value, count in zip(fields, counts, strict=True):
        index = int(value) if value else 0
        index = index - 1 if index > 0 else index + count if index < 0 else -1
        if not -1 <= index < count:
            raise ValueError(f"index {value} is outside of 1 to {count}")
        found.append(index)
    if found[0] < 0:
        raise ValueError("a corner needs a vertex")
    return (found[0], found[1], found[2])


def _part(material: Material, group: _Faces, tables: list[NDArray[np.float64]]) -> Part:
    corners = np.array(list(group.corners), dtype=np.int64)
    vertices, uv, normals = (
        table[corners[:, k]] if (corners[:, k] >= 0).all() else None for k, table in enumerate(tables)
    )
    assert vertices is not None  # each corner has a vertex
    if normals is not None:
        lengths = np.linalg.norm(normals, axis=1, keepdims=True)
        normals = normals / lengths if (lengths > 0).all() else None
    return Part(material, vertices, normals, uv, np.array(group.triangles, dtype=np.int64))
