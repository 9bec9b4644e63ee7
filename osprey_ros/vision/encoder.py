"""The image encoder: an image becomes image tokens and four feature maps."""

from __future__ import annotations

from concurrent import futures
from time import perf_counter

import numpy as np

from osprey_ros.bundle.spec import ModelSpec
from osprey_ros.bundle.unlike_training import IMAGE_MAPS, channel_statistics
from osprey_ros.engines.base import Buffer, Engine, check_finite
from osprey_ros.system.call import Call
from osprey_ros.system.cancellation import CancellationToken
from osprey_ros.vision.preprocess import Preprocessor

FEATURES = ("res2", "res3", "res4", "res5")  # names of the feature maps, from fine to coarse


class ImageEncoder:
    """Runs the vision engine on one image after another. Use it from one thread at a time.

    A GPU encodes in a background thread, so that the caller can prepare regions meanwhile. On the CPU the engine uses
    all cores, and `encode` returns when it has finished (`docs/history/benchmarks.md`).

    Attributes:
        features: Feature maps of the latest image by FEATURES, [1, channels, h, w] each, on the engine's device.
        image_tokens: float32 [image tokens, hidden size] of the latest image.
        statistics: Of the latest image, see `read_statistics`; None unless they are wanted.

    They are valid once `synchronize` has returned, until the next `encode`.

    Args:
        engine: The vision engine.
        preprocessor: Makes its input.
        spec: Sizes of the model.
        statistics: Whether the statistics of every image are wanted.
    """

    def __init__(self, engine: Engine, preprocessor: Preprocessor, spec: ModelSpec, statistics: bool = False) -> None:
        self._preprocessor, self._keeps_statistics = preprocessor, statistics
        self.features: dict[str, Buffer] = {
            name: engine.buffer((1, channels, *size), engine.output_dtypes[name])
            for name, channels, size in zip(FEATURES, spec.feature_channels, spec.feature_sizes, strict=True)
        }
        # All images use the same memory, so that the engine is bound to it once.
        pixels, dtype = preprocessor.pixels, engine.input_dtypes["pixels"]
        self._pixels = pixels if pixels.dtype == dtype else np.empty(pixels.shape, dtype)
        self._tokens = engine.buffer((spec.image_tokens, spec.hidden_size), engine.output_dtypes["image_tokens"])
        self._run = engine.bind({"pixels": self._pixels}, {**self.features, "image_tokens": self._tokens})
        self._background = futures.ThreadPoolExecutor(1, "vision") if engine.device != "cpu" else None
        self._running: futures.Future[object] | None = None
        self.image_tokens = np.zeros(self._tokens.shape, np.float32)
        self.statistics: np.ndarray | None = None

    def encode(self, rgb: np.ndarray, call: Call) -> None:
        """Preprocess and encode an image, uint8 [H, W, 3]. Call `synchronize` before using the results.

        ``call`` gets the seconds, and can end the run on the CPU. Raises ImageError for another kind of array and, on
        the CPU, EngineError if the engine fails or returns values that are not finite and StoppedError when canceled.
        """
        if self._running is not None:
            call.marks.append(("vision", perf_counter()))
            futures.wait([self._running])  # the previous run still reads the pixels
        call.marks.append(("preprocess", perf_counter()))
        pixels = self._preprocessor(rgb)
        call.marks.append(("vision", perf_counter()))
        start = perf_counter()
        if pixels is not self._pixels:
            self._pixels[...] = pixels
        self._running = self._start(call.cancel)
        if self._running is None:
            self._read_tokens()
        call.engine_seconds += perf_counter() - start

    def synchronize(self, call: Call) -> None:
        """Wait until the latest image is encoded. The time counts as vision.

        Raises EngineError if the run failed. The run is then repeated, and the next call waits for the repetition.
        """
        if self._running is None:
            return
        call.marks.append(("vision", perf_counter()))
        start = perf_counter()
        try:
            self._running.result()
        except Exception:
            self._running = self._start()
            raise
        self._read_tokens()
        self._running = None
        call.engine_seconds += perf_counter() - start

    def _start(self, cancel: CancellationToken | None = None) -> futures.Future[object] | None:
        """Run the engine: here on the CPU, in the background thread on another device."""
        if self._background is not None:
            return self._background.submit(self._run)
        self._run(cancel)
        return None

    def read_statistics(self) -> np.ndarray:
        """Return the statistics of the latest image for `UnlikeTraining`, float32 [F]. Call `synchronize` before."""
        return channel_statistics([self.features[name].read() for name in IMAGE_MAPS])

    def _read_tokens(self) -> None:
        """Copy the tokens. Raises EngineError if they are not finite, as does every later call for this image."""
        tokens = self._tokens.read().astype(np.float32)
        maps = [self.features[name].read() for name in IMAGE_MAPS] if self._keeps_statistics else []
        check_finite(tokens, "vision")
        self.image_tokens = tokens
        self.statistics = channel_statistics(maps) if maps else None
