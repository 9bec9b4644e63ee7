"""Images with exact masks, on which engines are compared with PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from osprey_ros.errors import InputError


@dataclass(frozen=True)
class VerificationSample:
    """An image, uint8 [H, W, 3], and its id image, uint16 [H, W], in which 0 is background."""

    name: str
    rgb: np.ndarray
    ids: np.ndarray


def simulated_samples(count: int, first: int = 0) -> list[VerificationSample]:
    """Render `count` simulated tabletop scenes of the validation split, which are never trained on.

    Raises InputError where the simulator is not installed or cannot render.
    """
    try:
        from osprey_sim.render import Renderer
        from osprey_sim.scene import sample_scene

        samples = []
        with Renderer() as renderer:
            for seed in range(first, first + count):
                scene = sample_scene(seed, "validation")
                frame = renderer.render(scene, depth=False)
                samples.append(VerificationSample(f"validation scene {seed}", frame.rgb, frame.instance_ids))
        return samples
    except (ImportError, RuntimeError) as error:
        raise InputError(
            f"the simulated scenes for the verification cannot be rendered: {error}; build with --no-verify"
        ) from error
