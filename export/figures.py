"""Limits and figures of the difference between engines and PyTorch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from osprey_ros.errors import EngineError


@dataclass(frozen=True)
class Limit:
    """Limits of a stage: the least cosine of any row, the largest difference relative to the largest value."""

    cosine: float
    relative: float


@dataclass(frozen=True)
class Limits:
    """Limits of every stage.

    Up to `decoder_graph` only rounding differs (float16 weights, int8 products), and correct engines stay far within
    the limits. The logits include the effect of int4, with loose limits: random weights of the published widths have a
    cosine of 0.95.

    Attributes:
        agreement: least share of decoding steps with the same token, among steps where PyTorch's first choice leads its
            second by `margin` in probability. Nearer ties are only reported.
        margin: see `agreement`.
    """

    vision_features: Limit = Limit(cosine=0.9999, relative=0.01)
    image_tokens: Limit = Limit(cosine=0.9999, relative=0.01)
    mask_tokens: Limit = Limit(cosine=0.9999, relative=0.01)
    position_tokens: Limit = Limit(cosine=0.9999, relative=0.01)
    crop_tokens: Limit = Limit(cosine=0.9999, relative=0.01)
    decoder_graph: Limit = Limit(cosine=0.999, relative=0.05)
    prefix_logits: Limit = Limit(cosine=0.9, relative=0.5)
    answer_logits: Limit = Limit(cosine=0.9, relative=0.5)
    agreement: float = 0.95
    margin: float = 0.1


CROP_STAGE = "crop_tokens"  # of models with crops only
STAGES = tuple(f.name for f in fields(Limits) if isinstance(f.default, Limit) and f.name != CROP_STAGE)


class VerificationError(EngineError):
    """Engines differ from PyTorch by more than the limits, or cannot be compared; the message names the stages.

    The builder tells it from other errors, because the engines are kept and can be used with --no-verify.

    Attributes:
        figures: figures of all stages as in a manifest, with "verified": False and a list of "failures"; None if
            nothing could be compared.
    """

    def __init__(self, message: str, figures: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.figures = figures


@dataclass
class StageFigures:
    """The worst values of one stage over all images."""

    cosine: float = 1.0
    max_difference: float = 0.0
    relative: float = 0.0

    def add(self, engine: np.ndarray, reference: np.ndarray) -> None:
        """Add a pair of arrays [..., D] of equal shape; cosines are computed over the last axis."""
        if engine.shape != reference.shape:
            raise VerificationError(f"the engine returned shape {engine.shape} where PyTorch has {reference.shape}")
        engine, reference = engine.astype(np.float64), reference.astype(np.float64)
        difference = float(np.abs(engine - reference).max())
        scale = max(float(np.abs(reference).max()), 1e-12)
        norms = np.linalg.norm(engine, axis=-1) * np.linalg.norm(reference, axis=-1)
        # A row of zeros has no direction: it agrees with zeros only, which the differences see.
        cosines = np.where(norms > 0, (engine * reference).sum(-1) / np.where(norms > 0, norms, 1.0), 1.0)
        # numpy's minimum and maximum keep NaN, Python's min and max may drop it.
        self.cosine = float(np.minimum(self.cosine, cosines.min()))
        self.max_difference = float(np.maximum(self.max_difference, difference))
        self.relative = float(np.maximum(self.relative, difference / scale))

    def within(self, limit: Limit) -> bool:
        """Return whether the figures are within a limit; NaN is not."""
        return self.cosine >= limit.cosine and self.relative <= limit.relative

    def to_json(self) -> dict[str, float]:
        """Return the figures, rounded."""
        return {
            "cosine": round(self.cosine, 8),
            "max_difference": _rounded(self.max_difference),
            "relative": _rounded(self.relative),
        }


@dataclass
class TokenFigures:
    """Greedy decoding, engine against PyTorch, over all regions of all images.

    PyTorch computes its next token after the same tokens as the engine at every step. Up to the first difference this
    compares two greedy answers, and afterwards the choices after equal prefixes.
    """

    regions: int = 0
    identical_answers: int = 0
    steps: int = 0
    steps_equal: int = 0
    decided_steps: int = 0
    decided_steps_equal: int = 0
    kl_sum: float = 0.0
    kl_largest: float = 0.0

    def add(self, tokens: np.ndarray, engine: np.ndarray, reference: np.ndarray, margin: float) -> None:
        """Add one answer: the engine's tokens [n], its logits [n, V], and PyTorch's [n, V].

        margin: by how much, in probability, PyTorch's first choice must lead its second for a step to be decided.
        """
        own, other = log_softmax(reference), log_softmax(engine)
        divergence = (np.exp(own) * (own - other)).sum(axis=-1)
        leading = np.sort(np.exp(own), axis=-1)
        decided = leading[:, -1] - leading[:, -2] >= margin
        equal = reference.argmax(axis=-1) == tokens
        self.regions += 1
        self.identical_answers += int(equal.all())
        self.steps += len(tokens)
        self.steps_equal += int(equal.sum())
        self.decided_steps += int(decided.sum())
        self.decided_steps_equal += int((decided & equal).sum())
        self.kl_sum += float(divergence.sum())
        self.kl_largest = float(np.maximum(self.kl_largest, divergence.max()))

    @property
    def agreement(self) -> float:
        """Share of decided steps with the same token."""
        return self.decided_steps_equal / max(self.decided_steps, 1)

    def to_json(self) -> dict[str, Any]:
        """Return the figures, KL divergences (natural logarithm) as mean and largest of a step."""
        counts = {name: value for name, value in asdict(self).items() if isinstance(value, int)}
        mean = self.kl_sum / max(self.steps, 1)
        return {**counts, "mean_kl_divergence": _rounded(mean), "max_kl_divergence": _rounded(self.kl_largest)}


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Return the logarithm of the softmax over the last axis, in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    result: np.ndarray = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def _rounded(value: float) -> float:
    """Round to three digits, which are significant and repeat from run to run."""
    return float(f"{value:.3g}")
