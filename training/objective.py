"""The training objective: the model with the loss of its answers, or of labels of its regions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from osprey_torch.model import Osprey
from training.data import LABELS, NO_LABEL, PLACE_LABELS, Batch


class LabelHeads(nn.Module):
    """Linear classifiers on a region's two tokens, used by stage 0 only."""

    def __init__(self, hidden_size: int, labels: Mapping[str, int]):
        """labels: the number of values of each label that the mask token predicts."""
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size)
        self.heads = nn.ModuleDict({name: nn.Linear(hidden_size, count) for name, count in labels.items()})
        self.place_norm = nn.LayerNorm(hidden_size)
        self.place_heads = nn.ModuleDict(
            {name: nn.Linear(hidden_size, len(values)) for name, values in PLACE_LABELS.items()}
        )

    def forward(
        self, mask_tokens: torch.Tensor, position_tokens: torch.Tensor, labels: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the summed cross-entropy of all labels of tokens [B, N, H], and the share of right categories.

        A label that no region of the batch has adds nothing.
        """
        looks, place = self.norm(mask_tokens), self.place_norm(position_tokens)
        logits = {name: head(looks) for name, head in self.heads.items()}
        logits |= {name: head(place) for name, head in self.place_heads.items()}
        loss = torch.stack([_cross_entropy(logits[name], labels[name]) for name in logits]).sum()
        known = labels["category"] != NO_LABEL
        right = (logits["category"].argmax(-1) == labels["category"])[known].float().mean()
        return loss, right


def _cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean over labeled rows; logits [B, N, C], labels [B, N]."""
    total = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=NO_LABEL, reduction="sum")
    return total / (labels != NO_LABEL).sum().clamp(min=1)


def seed_answers(model: Osprey, heads: LabelHeads, tokens: Sequence[int]) -> None:
    """Start the language model with what stage 0 has learned about kinds.

    Its output layer gets the classifier of the categories, whose norm it has, too; the values of its last layer pass
    as they are. What is left to learn is to look at the mask token.

    Args:
        model: Its language model has not learned anything.
        heads: The classifiers of stage 0.
        tokens: The token of each category, in the order of the classifier.
    """
    head: Any = heads.heads["category"]
    attention: Any = model.model.layers[-1].self_attn
    weight = head.weight * heads.norm.weight
    with torch.no_grad():
        model.lm_head.weight[list(tokens)] = weight - weight.mean(1, keepdim=True)
        for linear in (attention.v_proj, attention.o_proj):
            linear.weight.copy_(torch.eye(len(linear.weight)))


class Objective(nn.Module):
    """The model and its loss as one module, which can be distributed over devices."""

    def __init__(self, osprey: Osprey, labels: Mapping[str, int] | None = None, dropout: float = 0.0):
        """labels: as for `LabelHeads`, by default those of tabletops. dropout: of cached features."""
        super().__init__()
        self.osprey = osprey
        self.heads = LabelHeads(osprey.config.hidden_size, labels or {name: len(one) for name, one in LABELS.items()})
        self.dropout = nn.Dropout(dropout)

    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the loss of a batch, and the share of its answer tokens (or categories) that are the first choice."""
        model = self.osprey
        level, mask_tokens, position_tokens = self._cached(batch) if batch.features is not None else self._seen(batch)
        if batch.packed is None:
            result: tuple[torch.Tensor, torch.Tensor] = self.heads(mask_tokens, position_tokens, batch.labels)
            return result
        image_tokens = model.project(level)
        logits = model(image_tokens, mask_tokens, position_tokens, batch.packed).float()
        targets = batch.packed.targets[batch.packed.targets >= 0]
        # All answers of a batch can be cut off: the loss is 0 then.
        loss = functional.cross_entropy(logits, targets, reduction="sum") / max(1, len(targets))
        return loss, (logits.argmax(-1) == targets).float().mean()

    def _seen(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the feature map of the image tokens, and the mask and position tokens, of pixels."""
        model = self.osprey
        learning = any(p.requires_grad for p in model.model.vision_tower.parameters())
        with nullcontext() if learning else torch.no_grad():
            features = model.model.vision_tower(batch.pixels)
        return features[model.config.image_token_level], *model.mask_extractor(features, batch.masks, batch.positions)

    def _cached(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the same of cached features."""
        extractor, cached = self.osprey.mask_extractor, batch.features
        assert cached is not None
        mask_tokens = extractor.mask_tokens([self.dropout(level) for level in cached.pooled])
        if cached.crops:
            added = extractor.crop_tokens([self.dropout(level) for level in cached.crops])
            mask_tokens = mask_tokens + added * cached.cropped[:, None, None]
        return cached.level, mask_tokens, extractor.mask_linear(batch.positions.flatten(2))
