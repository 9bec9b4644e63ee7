"""Gray patterns of surfaces, from noise with a fixed seed; the renderer multiplies them with the surface's color."""

from __future__ import annotations

import numpy as np

_SIZE = 256


def table_textures() -> dict[str, np.ndarray]:
    """Return images uint8 [256, 256, 3] by table kind. The kind "plain" has no image."""
    rng = np.random.default_rng(7)
    y, x = np.mgrid[0:_SIZE, 0:_SIZE] / _SIZE
    grain = _smooth_noise(rng, 3, 40)
    wooden = 0.86 + 0.10 * np.sin(2 * np.pi * (6 * x + 1.2 * _smooth_noise(rng, 4, 2))) * 0.6 + 0.10 * grain
    wooden = np.where((x * 4) % 1 < 0.03, 0.62, wooden)  # gaps between the boards
    veins = np.abs(_smooth_noise(rng, 5, 5) + 0.4 * _smooth_noise(rng, 12, 12))
    marble = 0.98 - 0.30 * np.exp(-9 * veins)
    checkered = np.where((np.floor(8 * x) + np.floor(8 * y)) % 2 < 1, 1.0, 0.80)
    striped = np.where((8 * x) % 1 < 0.5, 1.0, 0.82)
    images = {"wooden": wooden, "marble": marble, "checkered": checkered, "striped": striped}
    return {name: _to_image(values) for name, values in images.items()}


def surface_textures() -> dict[str, np.ndarray]:
    """Return images uint8 [256, 256, 3] of all patterns: those of tables, and those of floors and walls."""
    rng = np.random.default_rng(11)
    y, x = np.mgrid[0:_SIZE, 0:_SIZE] / _SIZE
    row = np.floor(8 * y)
    joints = ((8 * y) % 1 < 0.08) | ((4 * x + 0.5 * (row % 2)) % 1 < 0.04)
    tone = _cells(rng, np.floor(4 * x + 0.5 * (row % 2)), row)
    bricks = np.where(joints, 1.0, 0.72 + 0.12 * tone)
    tiles = np.where(((4 * x) % 1 < 0.025) | ((4 * y) % 1 < 0.025), 0.70, 0.96)
    tiles = tiles + 0.03 * _smooth_noise(rng, 6, 6)
    boards = np.floor(6 * y)
    planks = 0.82 + 0.14 * _cells(rng, np.floor(2 * x + 0.37 * boards), boards) + 0.08 * _smooth_noise(rng, 3, 60)
    planks = np.where(((6 * y) % 1 < 0.03) | ((2 * x + 0.37 * boards) % 1 < 0.006), 0.55, planks)
    fibers = rng.normal(0, 0.12, (_SIZE, _SIZE))
    carpet = 0.82 + fibers + 0.06 * _smooth_noise(rng, 16, 16)
    concrete = 0.88 + 0.07 * _smooth_noise(rng, 4, 4) + 0.06 * _smooth_noise(rng, 32, 32) + 0.15 * fibers
    speckles = 0.95 - 0.35 * (np.abs(_smooth_noise(rng, 64, 64)) > 0.62)
    weave = 0.88 + 0.08 * np.sin(2 * np.pi * 32 * x) * np.sin(2 * np.pi * 32 * y) + 0.2 * fibers
    dots = np.where(((8 * x) % 1 - 0.5) ** 2 + ((8 * y) % 1 - 0.5) ** 2 < 0.05, 0.75, 1.0)
    images = {
        "brick": bricks,
        "tiled": tiles,
        "planked": planks,
        "carpeted": carpet,
        "concrete": concrete,
        "speckled": speckles,
        "woven": weave,
        "dotted": dots,
    }
    return {**table_textures(), **{name: _to_image(values) for name, values in images.items()}}


def _cells(rng: np.random.Generator, column: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Return a random value in 0..1 for each cell of a pattern, periodic."""
    values = rng.uniform(0, 1, (16, 16))
    cells: np.ndarray = values[row.astype(int) % 16, column.astype(int) % 16]
    return cells


def _smooth_noise(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """Return periodic noise [256, 256] in -1..1: random values on a grid, interpolated smoothly."""
    grid = rng.uniform(-1, 1, (columns, rows))
    for axis in (0, 1):
        count = grid.shape[axis]
        place = np.arange(_SIZE) * count / _SIZE
        low = np.floor(place).astype(int)
        weight = place - low
        weight = weight * weight * (3 - 2 * weight)
        weight = weight[:, None] if axis == 0 else weight[None, :]
        grid = np.take(grid, low % count, axis) * (1 - weight) + np.take(grid, (low + 1) % count, axis) * weight
    return grid


def _to_image(values: np.ndarray) -> np.ndarray:
    gray = (np.clip(values, 0, 1) * 255).astype(np.uint8)
    return np.ascontiguousarray(np.repeat(gray[:, :, None], 3, axis=2))
