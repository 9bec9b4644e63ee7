"""The crop encoder: what a region's own crop adds to its mask token."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter

import numpy as np

from osprey_ros.bundle.spec import ModelSpec
from osprey_ros.engines.base import Engine, check_finite
from osprey_ros.regions.crops import MOST_CROPS, Cropper, Crops
from osprey_ros.regions.regions import Regions
from osprey_ros.system.call import Call
from osprey_ros.system.cancellation import CancellationToken


class CropEncoder:
    """Runs the crop engine on the crops of regions. Use it from one thread at a time."""

    def __init__(self, engine: Engine, spec: ModelSpec) -> None:
        self._engine = engine
        self._cropper = Cropper(spec)
        self._hidden_size = spec.hidden_size
        # Allocating it for each image would take a third of the time of cutting.
        self._memory = np.empty((most_crops(engine), 3, spec.crop_size, spec.crop_size), np.float32)

    def encode(self, rgb: np.ndarray, regions: Regions, rows: Sequence[int] | np.ndarray, call: Call) -> np.ndarray:
        """Return what the crops of the regions in these rows add to their mask tokens, float32 [n, hidden size].

        Args:
            rgb: The image, uint8 [H, W, 3].
            regions: Regions of the image.
            rows: n row numbers, not ids.
            call: Gets the seconds spent in the engine, and can end the run.

        Raises EngineError if the engine fails or returns values that are not finite, StoppedError when canceled.
        """
        found = [np.zeros((0, self._hidden_size), np.float32)]
        step = len(self._memory)
        for start in range(0, len(rows), step):
            crops = self._cropper.cut(rgb, regions, rows[start : start + step], self._memory)
            began = perf_counter()
            found.append(crop_tokens(self._engine, crops, call.cancel))
            call.engine_seconds += perf_counter() - began
        tokens = np.concatenate(found)
        check_finite(tokens, "crop")
        return tokens


def most_crops(engine: Engine) -> int:
    """Return the number of crops for one run of the engine."""
    return min(MOST_CROPS, engine.most_rows("pixels"))


def crop_tokens(engine: Engine, crops: Crops, cancel: CancellationToken | None = None) -> np.ndarray:
    """Return what N crops add to the mask tokens of their regions, float32 [N, hidden size].

    Runs the crop engine several times if there are more crops than it takes.
    """
    arrays = {"pixels": crops.pixels}
    arrays |= {f"mask_res{level}": mask for level, mask in enumerate(crops.masks, start=2)}
    step, outputs = most_crops(engine), []
    for start in range(0, len(crops.pixels), step):
        part = {
            name: array[start : start + step].astype(engine.input_dtypes[name], copy=False)
            for name, array in arrays.items()
        }
        outputs.append(engine.run(part, ["crop_tokens"], cancel=cancel)["crop_tokens"])
    return np.concatenate(outputs).astype(np.float32, copy=False)
