"""What the model sees: a picture becomes image tokens and feature maps, regions of it become two tokens each."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent import futures
from time import perf_counter

import numpy as np

from osprey_ros.bundle.spec import ModelSpec
from osprey_ros.engines.base import Buffer, Engine
from osprey_ros.regions.pooling import RegionGrids
from osprey_ros.regions.regions import Regions
from osprey_ros.timing import Meter, PictureSeconds
from osprey_ros.vision.preprocess import Preprocessor


class Encoders:
    """The vision engine and the mask extractor, with the feature maps of one picture between them.

    A GPU encodes a picture while its regions are prepared. The engines of the CPU have all cores for themselves: a
    picture's regions wait for it (`benchmarks/README.md`).
    """

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
        self._beside = futures.ThreadPoolExecutor(1, "vision") if vision.device != "cpu" else None
        self._under_way: futures.Future[object] | None = None
        self.image_tokens = np.zeros(self._tokens.shape, np.float32)  # [image_tokens, hidden], once `wait` has returned

    def picture(self, rgb: np.ndarray) -> PictureSeconds:
        """Takes a picture, uint8 [H, W, 3], and says what that took; `wait` before anything of it is used."""
        if self._under_way is not None:
            futures.wait([self._under_way])  # that run still reads the pixels
        start = perf_counter()
        pixels = self._preprocess(rgb)
        ready = perf_counter()
        if pixels is not self._pixels:
            self._pixels[...] = pixels
        self._under_way = self._begin()
        if self._under_way is None:
            self._take_tokens()
        vision = perf_counter() - ready
        return PictureSeconds(preprocess=ready - start, vision=vision, engine=vision)

    def wait(self) -> float:
        """Waits for the latest picture and says for how many seconds.

        Raises EngineError if it could not be encoded; it is tried again, and the next call waits for that.
        """
        if self._under_way is None:
            return 0.0
        start = perf_counter()
        try:
            self._under_way.result()
        except Exception:
            self._under_way = self._begin()
            raise
        self._under_way = None
        self._take_tokens()
        return perf_counter() - start

    def grids(self, regions: Regions) -> dict[str, np.ndarray]:
        """The extractor's inputs of regions, which the next call overwrites. They do not depend on the picture."""
        *masks, positions = self._grids.of(regions)
        arrays = {f"mask_res{level}": mask for level, mask in enumerate(masks, start=2)}
        arrays["position"] = positions
        dtypes = self._extractor.input_dtypes
        return {name: array.astype(dtypes[name], copy=False) for name, array in arrays.items()}

    def tokens(self, grids: Mapping[str, np.ndarray], meter: Meter) -> tuple[np.ndarray, np.ndarray]:
        """Mask tokens and position tokens, float32 [N, hidden] both, of regions of the latest picture."""
        engine = self._extractor
        features: dict[str, np.ndarray | Buffer] = {}
        for name, feature in self._features.items():
            here = self._device == engine.device and feature.dtype == engine.input_dtypes[name]
            features[name] = feature if here else feature.read().astype(engine.input_dtypes[name])
        start = perf_counter()
        tokens = region_tokens(engine, features, grids)
        meter.engine_seconds += perf_counter() - start
        return tokens

    def _begin(self) -> futures.Future[object] | None:
        """Encodes the pixels: on the CPU at once, elsewhere beside what this thread does."""
        if self._beside is not None:
            return self._beside.submit(self._encode)
        self._encode()
        return None

    def _take_tokens(self) -> None:
        self.image_tokens = self._tokens.read().astype(np.float32)


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
