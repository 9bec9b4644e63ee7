"""The region encoder: each region becomes a mask token and a position token."""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter

import numpy as np

from osprey_ros.bundle.spec import ModelSpec
from osprey_ros.engines.base import Buffer, Engine, check_finite
from osprey_ros.regions.pooling import MaskPooler
from osprey_ros.regions.regions import Regions
from osprey_ros.system.call import Call
from osprey_ros.system.cancellation import CancellationToken


class RegionEncoder:
    """Runs the mask-extractor engine on the regions of an image. Use it from one thread at a time."""

    def __init__(self, engine: Engine, spec: ModelSpec) -> None:
        self._engine = engine
        self._pooler = MaskPooler(spec.feature_sizes, spec.position_size)

    def pool(self, regions: Regions) -> dict[str, np.ndarray]:
        """Return the engine's inputs for N regions, [N, ...] each: "mask_res2" to "mask_res5" and "position".

        They do not depend on the image, so they can be made while it is encoded. The next call overwrites them.
        """
        *masks, positions = self._pooler.pool(regions)
        arrays = {f"mask_res{level}": mask for level, mask in enumerate(masks, start=2)}
        arrays["position"] = positions
        dtypes = self._engine.input_dtypes
        return {name: array.astype(dtypes[name], copy=False) for name, array in arrays.items()}

    def encode(
        self,
        features: Mapping[str, Buffer],
        pooled: Mapping[str, np.ndarray],
        call: Call,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the mask tokens and position tokens of N regions, float32 [N, hidden size] each.

        Args:
            features: Feature maps of the image, from `ImageEncoder.features`.
            pooled: The regions, from `pool`.
            call: Gets the seconds spent in the engine, and can end the run.

        Raises EngineError if the engine fails or returns values that are not finite, StoppedError when canceled.
        """
        engine = self._engine
        usable: dict[str, np.ndarray | Buffer] = {}
        for name, feature in features.items():
            in_place = feature.device == engine.device and feature.dtype == engine.input_dtypes[name]
            usable[name] = feature if in_place else feature.read().astype(engine.input_dtypes[name])
        start = perf_counter()
        tokens = region_tokens(engine, usable, pooled, call.cancel)
        call.engine_seconds += perf_counter() - start
        for array in tokens:
            check_finite(array, "mask_extractor")
        return tokens


def without_evidence(regions: Regions, pooled: Mapping[str, np.ndarray]) -> dict[int, str]:
    """Return why nothing can be said about a region, by its id, for each mask of which no pixel is left.

    ``pooled`` are the masks from `RegionEncoder.pool`. Masks of a few pixels, and thin ones, can lie between the pixels
    of all feature maps; the tokens of such a region depend on nothing but its place.
    """
    rows = np.arange(len(regions.ids))
    for level in (5, 4, 3, 2):  # the smallest map first: it has a pixel of nearly every region
        masks = pooled[f"mask_res{level}"]
        rows = rows[~masks[rows].any(axis=(1, 2))]
    return {
        int(regions.ids[row]): (
            f"no pixel of its mask ({regions.areas[row]} pixels) is left at the scales of the model; give a larger "
            "mask, or crop the image around it"
            if regions.areas[row]
            else "its mask is empty; set the pixels inside the region"
        )
        for row in rows
    }


def region_tokens(
    extractor: Engine,
    features: Mapping[str, np.ndarray | Buffer],
    pooled: Mapping[str, np.ndarray],
    cancel: CancellationToken | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mask tokens and position tokens of N regions, float32 [N, hidden size] each.

    Runs the mask extractor several times if its engine takes fewer than N regions. ``features`` are the feature maps
    of one image, ``pooled`` the masks and "position" of its regions, [N, ...] each; both by the names of the engine's
    inputs and with their types.
    """
    step, names = extractor.most_rows("position"), ["mask_tokens", "position_tokens"]
    outputs = []
    for start in range(0, max(1, len(pooled["position"])), step):
        part = {name: array[start : start + step] for name, array in pooled.items()}
        outputs.append(extractor.run({**part, **features}, names, cancel=cancel))
    mask_tokens, position_tokens = (
        np.concatenate([part[name] for part in outputs]).astype(np.float32, copy=False) for name in names
    )
    return mask_tokens, position_tokens
