"""The two engines of a segmenter: the encoder reads an image once, the decoder answers prompts about it."""

from __future__ import annotations

from time import perf_counter

import numpy as np

from osprey_ros.engines.base import Buffer, check_finite, load_role
from osprey_ros.segmenter.bundle import SegmenterBundle
from osprey_ros.segmenter.spec import DECODER, ENCODER, OBJECTNESS
from osprey_ros.system.call import Call

_PROMPTS = ("point_coords", "point_labels")


class SegmenterEngines:
    """Runs the engines of a bundle. Use it from one thread at a time.

    Attributes:
        objectness: float32 [gh, gw] in 0..1 of the latest image, over the encoder's input: how likely a click at the
            center of a cell gives a whole object. None if the bundle has none.
        most_prompts: The most prompts of one run.

    Raises BundleError or EngineError if an engine cannot be loaded.
    """

    def __init__(self, bundle: SegmenterBundle, threads: int | None) -> None:
        self._encoder = load_role(bundle, ENCODER, threads, "image_embeddings")
        self._decoder = load_role(bundle, DECODER, threads, "mask_logits")
        self._names = [name for name in self._decoder.input_names if name not in _PROMPTS]
        self._types = self._decoder.input_dtypes
        limits = (bundle.manifest.model.max_prompts, self._decoder.most_rows("point_coords"))
        self.most_prompts = min(limit for limit in limits if limit)
        # On a GPU the features stay there, once their shapes are known.
        self._stays = self._encoder.device == self._decoder.device != "cpu" and all(
            self._encoder.output_dtypes[name] == self._types[name] for name in self._names
        )
        self._features: dict[str, np.ndarray | Buffer] = {}
        self.objectness: np.ndarray | None = None

    def encode(self, pixels: np.ndarray, call: Call) -> None:
        """Encode an image, float32 [1, 3, H, W].

        ``call`` gets the seconds, and can end the run. Raises EngineError if it fails or returns values that are not
        finite, StoppedError when canceled.
        """
        start = perf_counter()
        inputs = {"image": pixels.astype(self._encoder.input_dtypes["image"], copy=False)}
        extra = [OBJECTNESS] if OBJECTNESS in self._encoder.output_names else []
        if self._stays and self._features:
            targets = {name: value for name, value in self._features.items() if not isinstance(value, np.ndarray)}
            found = self._encoder.run(inputs, extra, targets, call.cancel)
        else:
            found = self._encoder.run(inputs, [*self._names, *extra], cancel=call.cancel)
            features = {name: found[name].astype(self._types[name], copy=False) for name in self._names}
            for array in features.values():
                check_finite(array, ENCODER)
            self._features = {name: self._moved(array) for name, array in features.items()}
        self.objectness = found[OBJECTNESS][0, 0].astype(np.float32) if extra else None
        if self.objectness is not None:
            check_finite(self.objectness, ENCODER)
        call.engine_seconds += perf_counter() - start

    def _moved(self, array: np.ndarray) -> np.ndarray | Buffer:
        if not self._stays:
            return array
        buffer = self._decoder.buffer(array.shape, array.dtype)
        buffer.write(array)
        return buffer

    def decode(self, coords: np.ndarray, labels: np.ndarray, call: Call) -> tuple[np.ndarray, np.ndarray]:
        """Return ``mask_logits`` float32 [P, M, h, w] and ``iou_scores`` float32 [P, M] of at most `most_prompts`.

        Args:
            coords: ``point_coords`` float32 [P, N, 2].
            labels: ``point_labels`` int64 [P, N].
            call: Gets the seconds, and can end the run.

        Raises EngineError if the run fails or returns values that are not finite, StoppedError when canceled.
        """
        start = perf_counter()
        inputs = {
            **self._features,
            "point_coords": np.ascontiguousarray(coords, self._types["point_coords"]),
            "point_labels": np.ascontiguousarray(labels, self._types["point_labels"]),
        }
        found = self._decoder.run(inputs, ["mask_logits", "iou_scores"], cancel=call.cancel)
        logits, scores = (found[name].astype(np.float32, copy=False) for name in ("mask_logits", "iou_scores"))
        check_finite(scores, DECODER)
        check_finite(logits, DECODER)
        call.engine_seconds += perf_counter() - start
        return logits, scores
