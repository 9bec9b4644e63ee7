"""Baseline "loop": plain PyTorch, one region after another, as the original demo answers each click."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch

from export.readback import model_from_bundle
from osprey_ros.bundle import Bundle
from osprey_ros.image import preprocess
from osprey_ros.prompt import PromptBuilder
from osprey_ros.regions import Regions
from osprey_torch.model import Osprey
from osprey_torch.reference import generate_region


@dataclass(frozen=True)
class LoopAnswers:
    """Tokens for each region, and the seconds spent on all regions, encoding of the picture included and apart."""

    tokens: list[list[int]]
    seconds: float
    encoding_seconds: float


class TorchLoop:
    """For every region: preprocess and encode the picture, pool the region, run the prompt, generate with a KV cache.

    The weights are the bundle's, int4 dequantized, in fp32.
    """

    def __init__(self, bundle: Bundle, device: str = "cpu") -> None:
        self.device = device
        self.model: Osprey = model_from_bundle(bundle).to(device)
        self.spec = bundle.manifest.model
        self.prompts = PromptBuilder(bundle.tokenizer(), self.spec)

    @torch.inference_mode()
    def __call__(self, rgb: np.ndarray, regions: Regions, question: str, new_tokens: int) -> LoopAnswers:
        prompt = self.prompts.prompt(question)
        answers = []
        encoding = 0.0
        start = time.perf_counter()
        for region_id in regions.ids:
            before = time.perf_counter()
            features, image_tokens = self._encode(rgb)
            encoding += time.perf_counter() - before
            mask_tokens, position_tokens = self._pool(features, regions.select([int(region_id)]))
            tokens, _ = generate_region(
                self.model, prompt, image_tokens[0], mask_tokens[0], position_tokens[0], new_tokens
            )
            answers.append(tokens.tolist())
        return LoopAnswers(answers, time.perf_counter() - start, encoding)

    @torch.inference_mode()
    def region_tokens(self, rgb: np.ndarray, regions: Regions) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Image tokens [T, H], mask tokens [N, H] and position tokens [N, H], float32."""
        features, image_tokens = self._encode(rgb)
        mask_tokens, position_tokens = self._pool(features, regions)
        return image_tokens[0].cpu().numpy(), mask_tokens.cpu().numpy(), position_tokens.cpu().numpy()

    def _encode(self, rgb: np.ndarray) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
        return self.model.encode_image(self._tensor(preprocess(rgb, self.spec)))

    def _pool(self, features: tuple[torch.Tensor, ...], regions: Regions) -> tuple[torch.Tensor, torch.Tensor]:
        masks = [self._tensor(m) for m in regions.pooling_masks(self.spec.feature_sizes)]
        positions = self._tensor(regions.position_grids(self.spec.position_size))
        return self.model.encode_regions(features, masks, positions)

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device)
