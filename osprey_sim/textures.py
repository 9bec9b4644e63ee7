"""Gray patterns of the table tops, from noise with a fixed seed; the renderer multiplies them with the table color."""

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
