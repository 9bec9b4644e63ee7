"""Pictures with exact masks, on which engines are compared with PyTorch and quantization is calibrated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from osprey_ros.errors import OspreyError
from osprey_ros.image import load_image
from osprey_ros.mask_files import load_regions

IMAGES, MASKS = "images", "masks"
_LAYOUT = (
    f"a calibration folder has pictures in {IMAGES}/ and for each an id picture of the same name and size in {MASKS}/ "
    f"({IMAGES}/table.jpg and {MASKS}/table.png: grey, 0 is background, every other value one region)"
)
_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


class SampleError(Exception):
    """No pictures could be made or read; the message says why and what to do."""


@dataclass(frozen=True)
class VerificationSample:
    """A picture, uint8 [H, W, 3], and its id image, uint16 [H, W], in which 0 is background.

    words: true short descriptions of regions by id, where they are known.
    """

    name: str
    rgb: np.ndarray
    ids: np.ndarray
    words: Mapping[int, str] = field(default_factory=dict)


def simulated_samples(count: int, first: int = 0) -> list[VerificationSample]:
    """Renders `count` simulated tabletop scenes of the validation split, which are never trained on.

    Raises SampleError where the simulator is not installed or cannot render.
    """
    try:
        from osprey_sim import words
        from osprey_sim.render import Renderer
        from osprey_sim.scene import sample_scene

        samples = []
        with Renderer() as renderer:
            for seed in range(first, first + count):
                scene = sample_scene(seed, "validation")
                frame = renderer.render(scene, depth=False)
                texts = {obj.instance_id: words.short(obj) for obj in scene.objects}
                samples.append(VerificationSample(f"validation scene {seed}", frame.rgb, frame.instance_ids, texts))
        return samples
    except (ImportError, RuntimeError) as error:
        raise SampleError(
            f"the simulated scenes could not be rendered: {error}; build with --no-verify and without --method awq, or "
            "with pictures of your own (--calibration FOLDER)"
        ) from error


def folder_samples(folder: Path) -> list[VerificationSample]:
    """Reads pictures and their id pictures: `images/NAME.jpg` (or .png ...) and `masks/NAME.png`, by name.

    Raises SampleError naming the file that is missing or cannot be used.
    """
    images = folder / IMAGES
    if not images.is_dir():
        raise SampleError(f"{folder} has no folder {IMAGES}: {_LAYOUT}")
    samples = []
    for picture in sorted(path for path in images.iterdir() if path.suffix.lower() in _SUFFIXES):
        masks = folder / MASKS / f"{picture.stem}.png"
        if not masks.is_file():
            raise SampleError(f"{picture} has no {masks}: {_LAYOUT}")
        try:
            rgb = load_image(picture)
            regions = load_regions(masks)
        except OspreyError as error:
            raise SampleError(f"{error}; {_LAYOUT}") from error
        if regions.shape != rgb.shape[:2]:
            raise SampleError(
                f"{masks} is {regions.shape[1]}x{regions.shape[0]} pixels, {picture} is {rgb.shape[1]}x{rgb.shape[0]}: "
                "both must have one size"
            )
        ids = np.zeros(regions.shape, np.uint16)  # what a PNG with one channel can hold
        for row, region in enumerate(regions.ids):
            x, y, width, height = regions.boxes[row]
            ids[y : y + height, x : x + width][regions.crop(row)] = region
        samples.append(VerificationSample(picture.name, rgb, ids))
    if not samples:
        raise SampleError(f"{images} has no pictures ({', '.join(_SUFFIXES)}): {_LAYOUT}")
    return samples
