"""Baselines "demo" and "loop": plain PyTorch, one region after another, as the original demo answers each click."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import LlamaForCausalLM

from osprey_ros.bundle.bundle import Bundle
from osprey_ros.decoding.prompt import PromptBuilder
from osprey_ros.regions.regions import Regions
from osprey_ros.vision.preprocess import preprocess
from osprey_torch.model import Osprey
from osprey_torch.published import PublishedPixels
from osprey_torch.readback import model_from_bundle
from osprey_torch.reference import generate_region


@dataclass(frozen=True)
class LoopAnswers:
    """Tokens of each region, the seconds of all regions, and the part of them for encoding the image."""

    tokens: list[list[int]]
    seconds: float
    encoding_seconds: float


class TorchLoop:
    """For each region: preprocess and encode the image, pool the region, run the prompt, generate with a KV cache.

    Args:
        bundle: The weights, converted to fp32.
        device: Device of PyTorch.
        model: The model of the bundle on `device`; created if None.
    """

    def __init__(self, bundle: Bundle, device: str = "cpu", model: Osprey | None = None) -> None:
        self.device = device
        self.model = model_from_bundle(bundle).to(device) if model is None else model
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
            answers.append(self._answer(prompt, image_tokens[0], mask_tokens[0], position_tokens[0], new_tokens))
        return LoopAnswers(answers, time.perf_counter() - start, encoding)

    @torch.inference_mode()
    def region_tokens(self, rgb: np.ndarray, regions: Regions) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return image tokens [T, H], mask tokens [N, H] and position tokens [N, H], float32."""
        features, image_tokens = self._encode(rgb)
        mask_tokens, position_tokens = self._pool(features, regions)
        return image_tokens[0].cpu().numpy(), mask_tokens.cpu().numpy(), position_tokens.cpu().numpy()

    def _encode(self, rgb: np.ndarray) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
        return self.model.encode_image(self._pixels(rgb))

    def _pixels(self, rgb: np.ndarray) -> torch.Tensor:
        return self._tensor(preprocess(rgb, self.spec))

    def _answer(
        self,
        prompt: Sequence[int],
        image_tokens: torch.Tensor,
        mask_token: torch.Tensor,
        position_token: torch.Tensor,
        new_tokens: int,
    ) -> list[int]:
        tokens, _ = generate_region(self.model, prompt, image_tokens, mask_token, position_token, new_tokens)
        answer: list[int] = tokens.tolist()
        return answer

    def _pool(self, features: tuple[torch.Tensor, ...], regions: Regions) -> tuple[torch.Tensor, torch.Tensor]:
        masks = [self._tensor(m) for m in regions.pooling_masks(self.spec.feature_sizes)]
        positions = self._tensor(regions.position_grids(self.spec.position_size))
        return self.model.encode_regions(features, masks, positions)

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device)


class DemoLoop(TorchLoop):
    """The loop with the libraries of the original demo: CLIPImageProcessor, and `generate` of transformers.

    The demo samples its answers, which takes longer. This class decodes greedily, so that answers can be compared. It
    pools regions with our own masks and grids.
    """

    def __init__(self, bundle: Bundle, device: str = "cpu", model: Osprey | None = None) -> None:
        super().__init__(bundle, device, model)
        self._published = PublishedPixels(self.spec)
        with torch.device("meta"):  # without weights of its own
            self._language: Any = LlamaForCausalLM(self.model.model.config)
        self._language.model, self._language.lm_head = self.model.model, self.model.lm_head
        self._language.train(False)

    def _pixels(self, rgb: np.ndarray) -> torch.Tensor:
        return self._published(rgb).to(self.device)

    def _answer(
        self,
        prompt: Sequence[int],
        image_tokens: torch.Tensor,
        mask_token: torch.Tensor,
        position_token: torch.Tensor,
        new_tokens: int,
    ) -> list[int]:
        embeds = self.model.embed_prompt(prompt, image_tokens, mask_token, position_token)
        end = self.spec.eos_id
        tokens = self._language.generate(
            inputs_embeds=embeds[None],
            max_new_tokens=new_tokens,
            do_sample=False,
            use_cache=True,
            eos_token_id=end,
            pad_token_id=end,
        )
        answer: list[int] = tokens[0].tolist()
        return answer
