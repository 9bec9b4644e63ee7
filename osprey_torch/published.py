"""The published preprocessing by the libraries of the published code: the reference for `vision.preprocess`."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import interpolate
from transformers import CLIPImageProcessorPil

from osprey_ros.bundle.spec import ModelSpec


class PublishedPixels:
    """CLIPImageProcessor, the one that resizes with Pillow, and the bilinear squeezing behind it.

    spec: the model's image size, mean and standard deviation.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self._size = (spec.image_size, spec.image_size)
        self._processor = CLIPImageProcessorPil(
            size={"shortest_edge": spec.image_size},
            do_center_crop=False,
            image_mean=list(spec.image_mean),
            image_std=list(spec.image_std),
        )

    def __call__(self, rgb: np.ndarray) -> torch.Tensor:
        """Return float32 [1, 3, S, S] of an image, uint8 [H, W, 3]."""
        # It would take an image of 1 or 3 rows for one whose colors come first.
        pixels = self._processor(images=rgb, return_tensors="pt", input_data_format="channels_last")["pixel_values"]
        return interpolate(pixels, self._size, mode="bilinear", align_corners=False)
