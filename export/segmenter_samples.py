"""Images with prompts, on which the engines of a segmenter are compared with PyTorch, and the masks of both sides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from export.samples import VerificationSample
from osprey_ros.engines.base import Engine
from osprey_ros.segmenter.input_image import InputImage
from osprey_ros.segmenter.prompts import Prompts
from osprey_ros.segmenter.spec import OBJECT, UNUSED, SegmenterSpec
from osprey_torch.segmenter_model import SegmenterModel

_MOST_REGIONS = 8  # of an image, the largest ones


@dataclass(frozen=True)
class PromptedImage:
    """What the engines read: image float32 [1, 3, H, W], coords float32 [P, N, 2] and labels int64 [P, N]."""

    name: str
    image: np.ndarray
    coords: np.ndarray
    labels: np.ndarray

    @property
    def prompts(self) -> dict[str, np.ndarray]:
        """The inputs of the decoder beside the features."""
        return {"point_coords": self.coords, "point_labels": self.labels}


@dataclass(frozen=True)
class Segmented:
    """One side's outputs for one image: those of the encoder by their names, mask logits and scores of all prompts."""

    features: dict[str, np.ndarray]
    mask_logits: np.ndarray
    iou_scores: np.ndarray


def prompted_images(samples: Sequence[VerificationSample], spec: SegmenterSpec) -> list[PromptedImage]:
    """Return images with a click and a box for each of their largest regions; images without regions are left out."""
    made, size = [], spec.max_points or 2
    for sample in samples:
        ids, counts = np.unique(sample.ids[sample.ids > 0], return_counts=True)
        largest = ids[np.argsort(-counts, kind="stable")[:_MOST_REGIONS]]
        if not len(largest):
            continue
        source = InputImage(spec)
        source.set(sample.rgb)
        coords, labels = [], []
        for mask in (sample.ids == one for one in largest):
            for prompts in _prompts_of(mask):
                found = prompts.encoded(source.placement, spec)
                spare = max(0, size - found[1].shape[1])
                coords.append(np.pad(found[0], ((0, 0), (0, spare), (0, 0))))
                labels.append(np.pad(found[1], ((0, 0), (0, spare)), constant_values=UNUSED))
        made.append(PromptedImage(sample.name, source.pixels, np.concatenate(coords), np.concatenate(labels)))
    return made


def _prompts_of(mask: np.ndarray) -> tuple[Prompts, Prompts]:
    """Return a click on the pixel of a mask, bool [H, W], that is farthest from its edge, and its box."""
    depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(depth.argmax(), depth.shape)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    corners = np.array([[[columns[0], rows[0]], [columns[-1] + 1, rows[-1] + 1]]], np.float64)
    click = Prompts(np.array([[[x, y]]], np.float64), np.full((1, 1), OBJECT), None)
    return click, Prompts(np.zeros((1, 0, 2)), np.zeros((1, 0), np.int64), corners)


@torch.no_grad()
def segment_with_torch(segmenter: SegmenterModel, images: Sequence[PromptedImage]) -> list[Segmented]:
    """Segment with PyTorch in float32."""
    found = []
    for one in images:
        features = segmenter.encode(torch.from_numpy(one.image))
        read = {name: features[name] for name in segmenter.features}
        logits, scores = segmenter.decode(read, torch.from_numpy(one.coords), torch.from_numpy(one.labels))
        outputs = {name: value.numpy() for name, value in features.items()}
        found.append(Segmented(outputs, logits.numpy(), scores.numpy()))
    return found


def encode_with_engine(encoder: Engine, images: Sequence[PromptedImage]) -> list[dict[str, np.ndarray]]:
    """Return the encoder's outputs for each image."""
    return [encoder.run({"image": one.image}) for one in images]


def decode_with_engine(
    decoder: Engine,
    images: Sequence[PromptedImage],
    encoded: Sequence[dict[str, np.ndarray]],
    most_prompts: int = 0,
) -> list[Segmented]:
    """Answer the prompts of encoded images, at most `most_prompts` in a run (0: any number)."""
    found = []
    for one, features in zip(images, encoded, strict=True):
        read = {name: features[name] for name in decoder.input_names if name in features}
        step = most_prompts or len(one.coords)
        runs = [
            decoder.run({**read, **{name: array[at : at + step] for name, array in one.prompts.items()}})
            for at in range(0, len(one.coords), step)
        ]
        logits, scores = (np.concatenate([run[name] for run in runs]) for name in ("mask_logits", "iou_scores"))
        found.append(Segmented(features, logits, scores))
    return found


def mask_ious(found: Segmented, reference: Segmented, threshold: float) -> np.ndarray:
    """Return the IoU of each prompt's best mask with the reference's, float64 [P]; the reference's scores decide."""
    best = reference.iou_scores.argmax(axis=1)
    rows = np.arange(len(best))
    own, other = (side.mask_logits[rows, best] > threshold for side in (found, reference))
    shared, either = (own & other).sum(axis=(1, 2)), (own | other).sum(axis=(1, 2))
    ious: np.ndarray = np.where(either > 0, shared / np.maximum(either, 1), 1.0)
    return ious
