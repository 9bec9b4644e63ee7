"""An animated GIF of images that are shown one after another."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from osprey_ros.files import write_file

WIDTH = 560  # pixels, so that words on the images can still be read
COLORS = 128  # of the palette of each image


def write_gif(path: Path, images: Sequence[np.ndarray], seconds: float = 1.5) -> None:
    """Write images, uint8 [H, W, 3], as a GIF that repeats; each is shown for ``seconds``.

    Raises:
        OSError: The file cannot be written.
    """
    frames = []
    for pixels in images:
        image = Image.fromarray(pixels)
        if image.width > WIDTH:
            image = image.resize((WIDTH, round(image.height * WIDTH / image.width)), Image.Resampling.LANCZOS)
        frames.append(image.quantize(COLORS, dither=Image.Dither.NONE))
    data = io.BytesIO()
    frames[0].save(
        data, "GIF", save_all=True, append_images=frames[1:], duration=round(seconds * 1000), loop=0, optimize=True
    )
    write_file(path, data.getvalue())
