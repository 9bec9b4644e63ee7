"""Convert an OBJ model to meshes in meters: one for each material, standing on z = 0, centered in x and y."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from osprey_ros.errors import InputError
from osprey_sim.meshes.obj import Part, read_obj
from osprey_sim.meshes.store import Mesh

_FLAT = 1e-9  # extents below this are not scaled
_UP = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])  # y up to z up
UPRIGHT = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
"""Rotation of files in which y is up."""
Z_UP = (1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, -1.0, 0.0)
"""Rotation of files in which z is up."""

_FEWEST = 4  # vertices of a mesh


def convert(
    file: Path, size: tuple[float, float, float] | None, rotation: Sequence[float], name: str, texture: int = 256
) -> list[Mesh]:
    """Return the meshes of an OBJ file, scaled to its true size.

    Args:
        file: The OBJ file.
        size: Meters along x (width), y (depth) and z (height) of the result; None for a file in meters.
        rotation: 9 values, rows of the rotation of the file's frame to one with y up, which is applied first.
        name: Name of the model.
        texture: Longest side of a texture in pixels; larger ones are reduced.

    Raises:
        InputError: The file is damaged or has no visible triangle.
    """
    parts = [part for part in read_obj(file) if len(part.vertices) >= _FEWEST]
    if not parts:
        raise InputError(f"{file} has no visible triangle")
    turn = _UP @ np.array(rotation, dtype=np.float64).reshape(3, 3)
    everything = np.concatenate([part.vertices for part in parts]) @ turn.T
    if not np.isfinite(everything).all():
        raise InputError(f"{file} has coordinates that are not finite")
    low, high = everything.min(axis=0), everything.max(axis=0)
    scale = np.ones(3)
    if size is not None:
        scale = np.where(high - low > _FLAT, np.array(size) / np.maximum(high - low, _FLAT), 1.0)
    origin = np.array([(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2]])
    return [_mesh(part, turn, scale, origin, f"{name}/{number}", texture) for number, part in enumerate(parts)]


def _mesh(
    part: Part, turn: NDArray[np.float64], scale: NDArray[np.float64], origin: NDArray[np.float64], name: str, most: int
) -> Mesh:
    vertices = (part.vertices @ turn.T - origin) * scale
    normals = None
    if part.normals is not None:
        normals = part.normals @ turn.T / scale  # the inverse transpose of a scaling
        normals = (normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), _FLAT)).astype(np.float32)
    look = part.material
    image = _texture(look.texture, most) if look.texture is not None and part.uv is not None else None
    r, g, b = (float(np.clip(value, 0.0, 1.0)) for value in (look.rgb if image is None else (1.0, 1.0, 1.0)))
    return Mesh(
        name,
        vertices.astype(np.float32),
        normals,
        None if image is None or part.uv is None else part.uv.astype(np.float32),
        part.faces.astype(np.int32),
        image,
        (r, g, b),
        float(np.clip(look.specular, 0.0, 1.0)),
        float(np.clip(look.opacity, 0.0, 1.0)),
    )


def _texture(file: Path, most: int) -> NDArray[np.uint8] | None:
    """Return the image uint8 [H, W, 3], reduced to `most` pixels a side; None if it cannot be read."""
    try:
        with Image.open(file) as image:
            reduced = image.convert("RGB")
    except (OSError, ValueError):
        return None
    reduced.thumbnail((most, most))
    return np.asarray(reduced)
