"""The frozen vision tower of a model as an engine: means of its feature maps over regions, and over their crops."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnxruntime

from export.graph_vision import build_vision
from osprey_ros.regions.crops import Cropper
from osprey_ros.regions.regions import regions_from_masks
from osprey_ros.vision.encoder import FEATURES
from osprey_ros.vision.preprocess import normalize_and_square, resize_shortest_edge
from osprey_torch.config import OspreyConfig
from osprey_torch.model import Osprey

IMAGE, CROP = "image.onnx", "crop.onnx"


@dataclass(frozen=True)
class Regions:
    """What the frozen tower gives for N regions of an image.

    Attributes:
        pooled: Means of the four feature maps over each region, side by side, float16 [N, sum of C].
        crops: The same of the crop of each region; [N, 0] if the model has no crops.
        positions: Position grids, bool [N, P, P].
        level: The feature map of the image tokens, float16 [C, h, w].
        left: Rows of the regions that are left at the scales of the model, int [N]; the others are not in the arrays.
    """

    pooled: np.ndarray
    crops: np.ndarray
    positions: np.ndarray
    level: np.ndarray
    left: np.ndarray


def write_tower(model: Osprey, folder: Path) -> None:
    """Write the graphs of a model's vision tower, for whole images and for crops."""
    state = model.state_dict()
    folder.mkdir(parents=True, exist_ok=True)

    def read(name: str) -> np.ndarray:
        array: np.ndarray = state[name].detach().float().cpu().numpy()
        return array

    for name, size in ((IMAGE, model.config.image_size), (CROP, model.config.crop_size)):
        if size:
            partial = folder / f".{name}"
            build_vision(replace(model.config, image_size=size), read, partial)
            os.replace(partial, folder / name)


class FrozenTower:
    """Runs the graphs of `write_tower`, on one CPU thread.

    Args:
        folder: Has the graphs.
        config: Of the model.
    """

    def __init__(self, folder: Path, config: OspreyConfig) -> None:
        self.config, self._spec = config, config.model_spec()
        self._image = _session(folder / IMAGE)
        self._crop = _session(folder / CROP) if config.crop_size else None
        self._cropper = Cropper(self._spec) if config.crop_size else None

    def __call__(self, image: np.ndarray, masks: np.ndarray) -> Regions | None:
        """Return the features of regions, or None if none is left at the scales of the model.

        Args:
            image: uint8 [H, W, 3].
            masks: bool [N, H, W], each with a pixel.
        """
        spec = self._spec
        regions = regions_from_masks(masks)
        pooling = regions.pooling_masks(spec.feature_sizes)
        left = np.flatnonzero(np.array([level.any((1, 2)) for level in pooling]).all(0))
        if not len(left):
            return None
        regions = regions.take(left)
        pixels = normalize_and_square(resize_shortest_edge(image, spec.image_size), spec)
        maps = self._image.run(list(FEATURES), {"pixels": pixels.reshape(1, *pixels.shape[-3:])})
        pooled = _pooled(maps, [level[left] for level in pooling])
        crops = np.zeros((len(left), 0), np.float16)
        if self._crop is not None and self._cropper is not None:
            cut = self._cropper.cut(image, regions)
            rows = []
            for row in range(len(left)):
                found = self._crop.run(list(FEATURES), {"pixels": cut.pixels[row : row + 1]})
                rows.append(_pooled(found, [level[row : row + 1] for level in cut.masks]))
            crops = np.concatenate(rows)
        level = maps[self.config.image_token_level][0].astype(np.float16)
        return Regions(pooled, crops, regions.position_grids(spec.position_size) > 0, level, left)


def _session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _pooled(maps: list[np.ndarray], masks: list[np.ndarray]) -> np.ndarray:
    """Return the means of maps [1, C, h, w] over masks [N, h, w], side by side: float16 [N, sum of C]."""
    parts = []
    for features, mask in zip(maps, masks, strict=True):
        flat = mask.reshape(len(mask), -1).astype(np.float32)
        total = flat @ features[0].reshape(features.shape[1], -1).T
        parts.append(total / (flat.sum(1, keepdims=True) + np.float32(1e-8)))
    return np.concatenate(parts, axis=1).astype(np.float16)
