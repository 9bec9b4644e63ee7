"""Images with exact masks, on which engines are compared with PyTorch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from osprey_ros.errors import InputError
from osprey_sim.render import MIN_AREA, render_scenes


@dataclass(frozen=True)
class VerificationSample:
    """An image, uint8 [H, W, 3], and its id image, uint16 [H, W], in which 0 is background."""

    name: str
    rgb: np.ndarray
    ids: np.ndarray


def simulated_samples(count: int) -> list[VerificationSample]:
    """Render `count` simulated tabletop scenes of the validation split, which are never trained on.

    Raises InputError where the simulator is not installed or cannot render.
    """
    try:
        return [
            VerificationSample(f"validation scene {scene.seed}", frame.rgb, frame.instance_ids)
            for scene, frame in render_scenes("validation", range(count))
        ]
    except (ImportError, InputError) as error:
        raise InputError(
            f"the simulated scenes for the verification cannot be rendered: {error}; build with --no-verify"
        ) from error


def scenes_of_test_split(regions: int, min_area: int = MIN_AREA) -> Iterator[tuple[int, VerificationSample]]:
    """Yield simulated scenes of the test split with their seeds, until they have `regions` large objects in total."""
    for scene, frame in render_scenes("test"):
        large = frame.objects(min_area)[:regions]
        if large:
            ids = np.where(np.isin(frame.instance_ids, large), frame.instance_ids, 0)
            yield scene.seed, VerificationSample(f"test scene {scene.seed}", frame.rgb, ids.astype(np.uint16))
        regions -= len(large)
        if not regions:
            return
