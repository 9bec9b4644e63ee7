"""Osprey: vision tower, projector, mask extractor and language model, under the published parameter names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import transformers
from torch import nn

from osprey_ros.decoding.prompt import IMAGE, MASK, POSITION
from osprey_torch.backbone import BackboneTower
from osprey_torch.config import LLAMA_KEYS, OspreyConfig
from osprey_torch.mask_extractor import MaskExtractor
from osprey_torch.packing import PackedBatch
from osprey_torch.vision import VisionTower


def language_model(config: OspreyConfig) -> Any:
    """Return a language model of transformers, with the vision tower and the projector inside.

    There the published checkpoint has them.
    """
    shape = {key: getattr(config, name) for key, name in LLAMA_KEYS.items()}
    scaling = {"rope_type": "default"} if config.rope_scaling is None else config.rope_scaling.to_json()
    shape["rope_parameters"] = {**scaling, "rope_theta": shape.pop("rope_theta")}
    shape["tie_word_embeddings"] = config.tied_embeddings
    if config.language_model != "qwen2":  # its heads divide the hidden size
        shape["head_dim"] = config.head_dim
    name = config.family.name
    sizes = getattr(transformers, f"{name}Config")(**shape, attn_implementation="sdpa")
    if hasattr(sizes, "sliding_window"):  # the context ends before the window does
        sizes.sliding_window = None
        sizes.layer_types = ["full_attention"] * config.num_layers
    model = getattr(transformers, f"{name}Model")(sizes)
    model.vision_tower = VisionTower(config) if config.vision_backbone is None else BackboneTower(config)
    model.mm_projector = nn.Sequential(
        nn.Linear(config.vision_channels[config.image_token_level], config.hidden_size),
        nn.GELU(),
        nn.Linear(config.hidden_size, config.hidden_size),
    )
    return model


class Osprey(nn.Module):
    """The whole model. `state_dict()` has the names of the published checkpoint."""

    def __init__(self, config: OspreyConfig):
        super().__init__()
        self.config = config
        self.model = language_model(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        nn.init.normal_(self.lm_head.weight, std=0.02)
        if config.tied_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight
        self.mask_extractor = MaskExtractor(config)

    def project(self, level: torch.Tensor) -> torch.Tensor:
        """Project the feature level of image tokens [B, C, h, w] to image tokens [B, h*w, H], row by row."""
        result: torch.Tensor = self.model.mm_projector(level.flatten(2).transpose(1, 2))
        return result

    def encode_image(self, pixels: torch.Tensor) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
        """Encode pixels [B, 3, S, S]: four feature maps [B, C, h, w] and image tokens [B, T, H]."""
        features = self.model.vision_tower(pixels)
        return features, self.project(features[self.config.image_token_level])

    def encode_regions(
        self, features: Sequence[torch.Tensor], masks: Sequence[torch.Tensor], positions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode regions of an image: features [1, C, h, w] x 4, masks [N, h, w] x 4, positions [N, P, P]."""
        tokens = self.mask_extractor(features, [m.unsqueeze(0) for m in masks], positions.unsqueeze(0))
        return tokens[0][0], tokens[1][0]

    def encode_crops(self, pixels: torch.Tensor, masks: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return what the crops of N regions add to their mask tokens, [N, H]. The model must have crops.

        pixels [N, 3, crop_size, crop_size] and four masks [N, h, w]: as `osprey_ros.regions.crops.Cropper` makes them.
        """
        features = self.model.vision_tower(pixels)
        pooled = self.mask_extractor.pool(features, [mask[:, None] for mask in masks])
        return self.mask_extractor.crop_tokens([level[:, 0] for level in pooled])

    def embed_prompt(
        self,
        ids: Sequence[int],
        image_tokens: torch.Tensor,
        mask_token: torch.Tensor,
        position_token: torch.Tensor,
    ) -> torch.Tensor:
        """Embed a prompt with placeholders: [S, H] from image_tokens [T, H] and the two region tokens [H]."""
        rows: list[torch.Tensor] = []
        for token in ids:
            if token == IMAGE:
                rows.append(image_tokens)
            elif token == MASK:
                rows.append(mask_token[None])
            elif token == POSITION:
                rows.append(position_token[None])
            else:
                rows.append(self.model.embed_tokens.weight[token][None])
        return torch.cat(rows)

    def forward(
        self,
        image_tokens: torch.Tensor,
        mask_tokens: torch.Tensor,
        position_tokens: torch.Tensor,
        batch: PackedBatch,
    ) -> torch.Tensor:
        """Return logits of the labeled rows of packed sequences: many regions of one image behind one prefix.

        Args:
            image_tokens: [B, T, H]
            mask_tokens, position_tokens: [B, N, H], regions in the order of `batch.region`
            batch: sequences of length S, see `osprey_torch.packing`

        Returns:
            [R, vocab] for the R rows of `batch` that have a next token to learn, in row-major order.
        """
        hidden = self.hidden_states(image_tokens, mask_tokens, position_tokens, batch)
        result: torch.Tensor = self.lm_head(hidden[batch.targets >= 0])
        return result

    def hidden_states(
        self,
        image_tokens: torch.Tensor,
        mask_tokens: torch.Tensor,
        position_tokens: torch.Tensor,
        batch: PackedBatch,
    ) -> torch.Tensor:
        """As `forward`, but the language model's last hidden states [B, S, H] of all rows."""
        embeds = self.model.embed_tokens(batch.tokens.clamp(min=0))
        rows = torch.arange(len(embeds), device=embeds.device)[:, None]
        is_image, is_mask, is_position = (batch.tokens == kind for kind in (IMAGE, MASK, POSITION))
        image_rows = image_tokens[rows, (is_image.cumsum(1) - 1).clamp(min=0)]
        embeds = torch.where(is_image[..., None], image_rows.to(embeds.dtype), embeds)
        embeds = torch.where(is_mask[..., None], mask_tokens[rows, batch.region].to(embeds.dtype), embeds)
        embeds = torch.where(is_position[..., None], position_tokens[rows, batch.region].to(embeds.dtype), embeds)
        result: torch.Tensor = self.model(
            inputs_embeds=embeds,
            attention_mask=batch.attention_mask(),
            position_ids=batch.positions,
            use_cache=False,
        ).last_hidden_state
        return result
