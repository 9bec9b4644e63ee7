"""What a real camera does to an image: exposure, white balance, vignette, blur and noise. Geometry does not change."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

_ROWS = 240  # lengths are in pixels of an image with this number of rows


@dataclass(frozen=True)
class Sensor:
    """Properties of a camera.

    Attributes:
        gain: Exposure; 1 does not change the image.
        balance: Factors of red and blue.
        gamma: Exponent of the tone curve.
        vignette: Loss of light in the corners, 0..1.
        blur: Standard deviation of the defocus in pixels at 240 rows.
        motion: Length of motion blur in pixels at 240 rows.
        angle: Direction of the motion in radians.
        noise: Standard deviation of the noise of a medium gray, 0..255.
    """

    gain: float = 1.0
    balance: tuple[float, float] = (1.0, 1.0)
    gamma: float = 1.0
    vignette: float = 0.0
    blur: float = 0.0
    motion: float = 0.0
    angle: float = 0.0
    noise: float = 0.0


def sample_sensor(rng: np.random.Generator) -> Sensor:
    """Return the sensor of a random camera: often sharp and clean, sometimes blurred, dark or noisy."""
    blur = rng.uniform(0.3, 1.1) if rng.random() < 0.4 else 0.0
    motion = rng.uniform(1.0, 5.0) if rng.random() < 0.15 else 0.0
    return Sensor(
        gain=float(rng.uniform(0.75, 1.3)),
        balance=(float(rng.uniform(0.92, 1.08)), float(rng.uniform(0.92, 1.08))),
        gamma=float(rng.uniform(0.85, 1.15)),
        vignette=float(rng.uniform(0.0, 0.35)),
        blur=float(blur),
        motion=float(motion),
        angle=float(rng.uniform(0, np.pi)),
        noise=float(rng.uniform(0.5, 7.0)),
    )


def exposed(rgb: np.ndarray, sensor: Sensor, seed: int) -> np.ndarray:
    """Return the image uint8 [H, W, 3] as the sensor records it. The seed is that of the noise."""
    height, width = rgb.shape[:2]
    scale = height / _ROWS
    image: np.ndarray = rgb.astype(np.float32) / 255
    if sensor.blur > 0:
        image = cv2.GaussianBlur(image, (0, 0), sensor.blur * scale)
    if sensor.motion * scale > 1:
        image = cv2.filter2D(image, -1, _motion_kernel(sensor.motion * scale, sensor.angle))
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    radius = ((x / width - 0.5) ** 2 + (y / height - 0.5) ** 2) / 0.5
    light = sensor.gain * (1 - sensor.vignette * radius)
    image = image * light[..., None] * np.array([sensor.balance[0], 1.0, sensor.balance[1]], np.float32)
    image = np.clip(image, 0, 1) ** np.float32(sensor.gamma)
    if sensor.noise > 0:
        rng = np.random.default_rng([seed, 1])
        grain = rng.standard_normal(image.shape, dtype=np.float32)
        # Photons: the variance grows with the light. The rest is noise of the electronics.
        image = image + grain * (sensor.noise / 255) * np.sqrt(0.3 + 1.4 * image)
    recorded: np.ndarray = np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
    return recorded


def _motion_kernel(length: float, angle: float) -> np.ndarray:
    """Return a line of this length in pixels, float32 [K, K] with sum 1."""
    half = int(np.ceil(length / 2))
    kernel = np.zeros((2 * half + 1, 2 * half + 1), np.float32)
    for step in np.linspace(-length / 2, length / 2, 4 * half + 1):
        kernel[half + round(step * np.sin(angle)), half + round(step * np.cos(angle))] += 1
    kernel /= kernel.sum()
    return kernel
