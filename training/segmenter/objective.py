"""The loss of the segmenter: masks of prompts, their scores, and where to click."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn import functional

from osprey_torch.small_segmenter import Candidates, Encoded

_FIRST = 0.5  # weight of the first masks, which only guide the second ones
_OTHERS = 0.05  # weight of the candidates that are not the best: none dies out
_AREA = 64.0  # cells that are added to an object's area, so that small ones do not outweigh all others
_CHOICE = 0.03  # difference of scores that makes one candidate e times as likely to be chosen
_FOCUS = 2.0  # exponent of the focal loss (Lin et al., arXiv 1708.02002)


class Losses(NamedTuple):
    """The parts of the loss, and the mean IoU of the candidate with the best score."""

    mask: torch.Tensor
    score: torch.Tensor
    objectness: torch.Tensor
    iou: torch.Tensor

    @property
    def total(self) -> torch.Tensor:
        """What the optimizer minimizes."""
        return self.mask + self.score + self.objectness


def losses(
    encoded: Encoded,
    found: Candidates,
    targets: torch.Tensor,
    known: torch.Tensor,
    objectness: torch.Tensor,
    weight: torch.Tensor,
) -> Losses:
    """Return the losses of B images with P prompts each.

    Args:
        encoded: Of the images.
        found: Masks for the prompts.
        targets: float32 [B, P, h, w], shares of cells.
        known: float32 [B, h, w], 0 for cells to ignore.
        objectness: float32 [B, h / 2, w / 2].
        weight: The same size, of the cells.
    """
    known = known[:, None, None]
    wanted = targets[:, :, None]
    coarse = functional.avg_pool2d(targets, 2)[:, :, None]
    coarse_known = functional.avg_pool2d(known[:, :, 0], 2)[:, :, None]
    second, first = _mask_loss(found.logits, wanted, known), _mask_loss(found.first, coarse, coarse_known)
    mask = _best(second) + _FIRST * _best(first)
    with torch.no_grad():
        ious = _ious(found.logits, wanted, known)
        chosen = ious.gather(2, found.scores.argmax(2, keepdim=True)).mean()
    score = functional.mse_loss(found.scores, ious) * 2 + 0.1 * _choice_loss(found.scores, ious)
    return Losses(mask, score, _quality_focal(encoded.objectness[:, 0], objectness, weight), chosen)


def _mask_loss(logits: torch.Tensor, targets: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Return focal plus dice loss of each candidate, [B, P, 3]. Targets are shares of cells."""
    soft = torch.sigmoid(logits)
    cross = functional.binary_cross_entropy_with_logits(logits, targets.expand_as(logits), reduction="none")
    focal = ((soft - targets).abs() ** _FOCUS * cross * known).sum((-2, -1)) / (targets.sum((-2, -1)) + _AREA)
    both = (soft * targets * known).sum((-2, -1))
    dice = 1 - (2 * both + 1) / ((soft * soft * known).sum((-2, -1)) + (targets * targets).sum((-2, -1)) + 1)
    return 2 * focal + dice


def _choice_loss(scores: torch.Tensor, ious: torch.Tensor) -> torch.Tensor:
    """Return how far the choice by score is from the choice by IoU: the cross-entropy of the two, less its least value.

    Errors that change no order cost little, so that close candidates get told apart.
    """
    wanted = torch.softmax(ious / _CHOICE, 2)
    chosen = torch.log_softmax(scores / _CHOICE, 2)
    return functional.kl_div(chosen, wanted, reduction="sum") / wanted[..., 0].numel()


def _best(loss: torch.Tensor) -> torch.Tensor:
    return loss.amin(2).mean() + _OTHERS * loss.mean()


def _ious(logits: torch.Tensor, targets: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    inside, meant = (logits > 0) & (known > 0), (targets > 0.5) & (known > 0)
    return (inside & meant).sum((-2, -1)) / (inside | meant).sum((-2, -1)).clamp(min=1)


def _quality_focal(logits: torch.Tensor, targets: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return the quality focal loss (Li et al., arXiv 2006.04388), per cell well inside an object."""
    cross = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    focal = (torch.sigmoid(logits) - targets).abs() ** _FOCUS * cross * weight
    return focal.sum() / (targets > 0.5).sum().clamp(min=1)
