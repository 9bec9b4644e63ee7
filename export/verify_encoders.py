"""Verification of the engines for images, regions and crops: from pixels and masks to image and region tokens."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from export.figures import CROP_STAGE, StageFigures
from export.graph_mask_extractor import LEVELS
from export.samples import VerificationSample
from osprey_ros.decoding.prompt import IMAGE, MASK, POSITION
from osprey_ros.engines.base import Engine
from osprey_ros.regions.crop_encoder import crop_tokens
from osprey_ros.regions.crops import Cropper, Crops
from osprey_ros.regions.encoder import region_tokens
from osprey_ros.regions.regions import regions_from_id_image
from osprey_ros.system.process_memory import release_freed_memory
from osprey_ros.vision.preprocess import preprocess
from osprey_torch.config import OspreyConfig
from osprey_torch.model import Osprey

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tokens:
    """What the encoders make of one image: image tokens [T, H], mask and position tokens [N, H], float32."""

    image: np.ndarray
    mask: np.ndarray
    position: np.ndarray

    def rows(self, ids: Sequence[int], table: np.ndarray, region: int = 0) -> np.ndarray:
        """Return the input rows float32 [S, H] of token ids and placeholders; `table` is the embedding table [V, H]."""
        own = slice(region, region + 1)
        special = {IMAGE: self.image, MASK: self.mask[own], POSITION: self.position[own]}
        rows = [special[i] if i in special else table[i : i + 1].astype(np.float32) for i in map(int, ids)]
        return np.concatenate(rows)


@dataclass
class EncoderInputs:
    """What the encoders read: pixels float32 [1, 3, S, S], N masks [N, h, w] at four scales, grids [N, P, P].

    crops: of the regions, for a model with crops.
    """

    pixels: np.ndarray
    masks: tuple[np.ndarray, ...]
    positions: np.ndarray
    ids: tuple[int, ...]  # of the regions
    crops: Crops | None = None

    @classmethod
    def of(cls, sample: VerificationSample, config: OspreyConfig, most: int | None = None) -> EncoderInputs:
        """Prepare the regions of an image, or its `most` largest ones."""
        spec = config.model_spec()
        regions = regions_from_id_image(sample.ids, masks_anyway=True)
        if most is not None:
            regions = regions.select(sorted(regions.ids[np.argsort(-regions.areas, kind="stable")[:most]]))
        masks = tuple(regions.pooling_masks(spec.feature_sizes))
        grids = regions.position_grids(spec.position_size)
        crops = Cropper(spec).cut(sample.rgb, regions) if spec.crop_size else None
        return cls(preprocess(sample.rgb, spec), masks, grids, tuple(map(int, regions.ids)), crops)


@dataclass
class Encoded:
    """One side's outputs for one image: four feature maps [1, C, h, w], image tokens and region tokens.

    crops: what crops add to the mask tokens, float32 [N, H]; None for a model without crops.
    """

    features: list[np.ndarray]
    image: np.ndarray
    regions: tuple[np.ndarray, np.ndarray] = field(default_factory=lambda: (np.empty(0), np.empty(0)))
    crops: np.ndarray | None = None

    @property
    def tokens(self) -> Tokens:
        return Tokens(self.image, *self.regions)


def encode_with_engines(inputs: Sequence[EncoderInputs], load: Callable[[str], Engine]) -> list[Encoded]:
    """Run the engines for images, regions and crops over all images; one is in memory at a time.

    `load` returns an engine by its role. Regions that the mask extractor cannot take in one run are run in parts.
    """
    log.info("verify: vision engine")
    engine = load("vision")
    encoded = []
    for one in inputs:
        outputs = _run(engine, {"pixels": one.pixels})
        encoded.append(Encoded([outputs[level] for level in LEVELS], outputs["image_tokens"]))
    del engine
    release_freed_memory()
    log.info("verify: mask-extractor engine")
    engine = load("mask_extractor")
    for one, out in zip(inputs, encoded, strict=True):
        grids = {f"mask_{level}": mask for level, mask in zip(LEVELS, one.masks, strict=True)}
        grids["position"] = one.positions
        features = _typed(engine, dict(zip(LEVELS, out.features, strict=True)))
        out.regions = region_tokens(engine, features, _typed(engine, grids))
    del engine
    release_freed_memory()
    if any(one.crops is not None for one in inputs):
        log.info("verify: crop engine")
        engine = load("crop")
        for one, out in zip(inputs, encoded, strict=True):
            out.crops = None if one.crops is None else crop_tokens(engine, one.crops)
        del engine
        release_freed_memory()
    return encoded


@torch.inference_mode()
def encode_with_torch(inputs: Sequence[EncoderInputs], model: Osprey) -> list[Encoded]:
    """Run the vision tower over all images at once, then the mask extractor, in fp32 PyTorch."""
    log.info("verify: vision and mask extractor in PyTorch")
    features, image_tokens = model.encode_image(torch.from_numpy(np.concatenate([one.pixels for one in inputs])))
    encoded = []
    for n, one in enumerate(inputs):
        maps = [level[n : n + 1] for level in features]
        masks = [torch.from_numpy(mask) for mask in one.masks]
        mask_tokens, position_tokens = model.encode_regions(maps, masks, torch.from_numpy(one.positions))
        regions = (mask_tokens.numpy(), position_tokens.numpy())
        encoded.append(Encoded([level.numpy() for level in maps], image_tokens[n].numpy(), regions))
    for one, out in zip(inputs, encoded, strict=True):
        if one.crops is not None:
            masks = [torch.from_numpy(mask) for mask in one.crops.masks]
            out.crops = model.encode_crops(torch.from_numpy(one.crops.pixels), masks).numpy()
    return encoded


def compare_encoders(engine: Encoded, reference: Encoded, stages: Mapping[str, StageFigures]) -> None:
    """Add the outputs of both sides for one image to the figures."""
    for own, other in zip(engine.features, reference.features, strict=True):
        # A map is one direction: single pixels of it may be near zero.
        stages["vision_features"].add(own.reshape(1, -1), other.reshape(1, -1))
    stages["image_tokens"].add(engine.image, reference.image)
    stages["mask_tokens"].add(engine.regions[0], reference.regions[0])
    stages["position_tokens"].add(engine.regions[1], reference.regions[1])
    if engine.crops is not None and reference.crops is not None:
        stages[CROP_STAGE].add(engine.crops, reference.crops)


def _run(engine: Engine, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Run an engine of any precision on float32 arrays; float32 comes back."""
    return {name: array.astype(np.float32) for name, array in engine.run(_typed(engine, inputs)).items()}


def _typed(engine: Engine, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return arrays in the types of the engine's inputs of these names."""
    return {name: array.astype(engine.input_dtypes[name]) for name, array in inputs.items()}
