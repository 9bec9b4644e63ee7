"""What the model sees: a picture becomes image tokens and feature maps, regions of it become two tokens each."""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter

import numpy as np

from osprey_ros.bundle import ModelSpec
from osprey_ros.decoder_engine import Meter
from osprey_ros.engines import Buffer, Engine
from osprey_ros.image import Preprocessor
from osprey_ros.region_grids import RegionGrids
from osprey_ros.regions import Regions
from osprey_ros.timing import PictureSeconds


class Encoders:
    """The vision engine and the mask extractor, with the feature maps of one picture between them."""

    def __init__(self, vision: Engine, extractor: Engine, preprocess: Preprocessor, spec: ModelSpec) -> None:
        self._extractor, self._preprocess = extractor, preprocess
        self._grids = RegionGrids(spec.feature_sizes, spec.position_size)
        # Feature maps of the latest picture, on the device of the vision engine.
        self._features: dict[str, Buffer] = {
            name: vision.buffer((1, channels, *size), vision.output_dtypes[name])
            for name, channels, size in zip(
                ("res2", "res3", "res4", "res5"), spec.feature_channels, spec.feature_sizes, strict=True
            )
        }
        # Every picture is encoded in the same memory.
        pixels, dtype = preprocess.pixels, vision.input_dtypes["pixels"]
        self._pixels = pixels if pixels.dtype == dtype else np.empty(pixels.shape, dtype)
        self._tokens = vision.buffer((spec.image_tokens, spec.hidden_size), vision.output_dtypes["image_tokens"])
        self._encode = vision.bind({"pixels": self._pixels}, {**self._features, "image_tokens": self._tokens})
        self._device = vision.device

    def picture(self, rgb: np.ndarray) -> tuple[np.ndarray, PictureSeconds]:
        """Image tokens float32 [image_tokens, hidden] of uint8 [H, W, 3], and what it took."""
        start = perf_counter()
        pixels = self._preprocess(rgb)
        ready = perf_counter()
        if pixels is not self._pixels:
            self._pixels[...] = pixels
        self._encode()
        tokens = self._tokens.read().astype(np.float32)
        vision = perf_counter() - ready
        return tokens, PictureSeconds(preprocess=ready - start, vision=vision, engine=vision)

    def regions(self, regions: Regions, meter: Meter) -> tuple[np.ndarray, np.ndarray]:
        """Mask tokens and position tokens, float32 [N, hidden] both, of regions of the latest picture."""
        engine = self._extractor
        *masks, positions = self._grids.of(regions)
        arrays = {f"mask_res{level}": mask for level, mask in enumerate(masks, start=2)}
        arrays["position"] = positions
        grids = {name: array.astype(engine.input_dtypes[name], copy=False) for name, array in arrays.items()}
        features: dict[str, np.ndarray | Buffer] = {}
        for name, feature in self._features.items():
            here = self._device == engine.device and feature.dtype == engine.input_dtypes[name]
            features[name] = feature if here else feature.read().astype(engine.input_dtypes[name])
        start = perf_counter()
        tokens = region_tokens(engine, features, grids)
        meter.engine_seconds += perf_counter() - start
        return tokens


def region_tokens(
    extractor: Engine, features: Mapping[str, np.ndarray | Buffer], grids: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Mask tokens and position tokens, float32 [N, hidden] both, in as many runs as the mask extractor needs.

    ``features`` are a picture's, ``grids`` pooling masks and "position" of its regions, [N, ...] each; both by the
    names of the extractor's inputs and of their types.
    """
    most, names = extractor.most_rows("position"), ["mask_tokens", "position_tokens"]
    outputs = []
    for at in range(0, max(1, len(grids["position"])), most):
        part = {name: array[at : at + most] for name, array in grids.items()}
        outputs.append(extractor.run({**part, **features}, names))
    mask_tokens, position_tokens = (
        np.concatenate([part[name] for part in outputs]).astype(np.float32, copy=False) for name in names
    )
    return mask_tokens, position_tokens
