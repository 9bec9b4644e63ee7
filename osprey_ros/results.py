"""Results of the describer: answers with their confidence, likelihoods, encoded regions. Plain data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, overload

import numpy as np

from osprey_ros._moved import old_names
from osprey_ros.bundle import unlike_training
from osprey_ros.decoding.decoder import Token
from osprey_ros.decoding.session import Answer
from osprey_ros.kinds.back_off import KindProbability
from osprey_ros.regions.regions import Regions
from osprey_ros.scene.types import UNKNOWN
from osprey_ros.timing import Timing


@dataclass(frozen=True)
class EncodedRegions:
    """Regions of an image with the two tokens that the model reads for each, from `Describer.encode`.

    Attributes:
        regions: The regions, N of them.
        mask_tokens: float32 [N, hidden size], the appearance of each region in the whole image.
        position_tokens: float32 [N, hidden size], its place in the image.
        unlike_training: float32 [N], 0 (as in training) to 1 (like nothing in training); 0 if the bundle has no such
            score. See `osprey_ros.bundle.unlike_training`.
        image_id: `Describer.image_id` of their image. They are valid while an image with this id is set.
        timing: Where the time of the encoding went.
        reasons: Why nothing can be said about a region, by its id; for regions that can be described there is none.
        crop_tokens: float32 [N, hidden size], what their own crops add to the mask tokens when the model reads them;
            zeros for regions without a crop. None if no crop was asked for.
    """

    regions: Regions
    mask_tokens: np.ndarray
    position_tokens: np.ndarray
    unlike_training: np.ndarray
    image_id: int = 0
    timing: Timing = field(default_factory=Timing)
    reasons: Mapping[int, str] = field(default_factory=dict)
    crop_tokens: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.regions)

    def select(self, ids: Iterable[int]) -> EncodedRegions:
        """Return the regions with these ids, in this order. Raises RegionError as `Regions.select` does."""
        kept = self.regions.select(ids)
        row_of = {int(region): row for row, region in enumerate(self.regions.ids)}
        rows = np.array([row_of[int(region)] for region in kept.ids], dtype=np.intp)
        return replace(
            self,
            regions=kept,
            mask_tokens=self.mask_tokens[rows],
            position_tokens=self.position_tokens[rows],
            crop_tokens=None if self.crop_tokens is None else self.crop_tokens[rows],
            unlike_training=self.unlike_training[rows],
        )


@dataclass(frozen=True)
class Description:
    """An answer about one region.

    Attributes:
        region_id: Id of the region, 0 if the answer is about several.
        text: The answer; "unknown" if the region has a ``reason``.
        tokens: int32 [n], its token ids.
        logprobs: float32 [n], natural-log probability of each token: relative to the allowed tokens if the answer was
            chosen from a list, else to all tokens.
        confidence: How likely the answer is right, 0 to 1, by the bundle's calibration: the share of right answers of
            this kind (description, category, or anything else) that had the same raw confidence. 0 without an answer.
            Equal to ``raw_confidence`` if the bundle has no calibration. Lower if the region is ``unlike_training``.
        raw_confidence: The probability of an answer chosen from a list, where all of the list add up to 1; of others
            the geometric mean of the probabilities of their tokens.
        ended: False if decoding was canceled before the answer reached its end or its limit.
        constrained: Whether the answer was limited to a list or a pattern.
        reason: Why nothing can be said about the region, such as a mask that is empty or so small that no pixel of it
            is left at the scales of the model; "" otherwise. There are no tokens then, and the confidences are 0. Or
            the region is unlike anything that the model was trained on: tokens and ``raw_confidence`` are then those of
            the answer that the model gave, and ``confidence`` is low.
        chain: Of an answer from the bundle's tree of kinds (see `GenerationConfig.back_off`): from the most likely
            kind, such as "coffee mug", up to the root, "object", each with the calibrated probability that the region
            is of this kind. ``text`` is the first of them that is probable enough; ``confidence`` and
            ``raw_confidence`` are its probabilities. Empty for other answers.
        unlike_training: How unlike the region is to everything in the training data, 0 to 1; the highest of several
            regions. 0 if the bundle has no such score. Above 0.5 it lowers ``confidence``, to 0 at 1. From 0.9 on the
            text is "unknown", except for an answer from a list or a pattern.
    """

    region_id: int
    text: str
    tokens: np.ndarray
    logprobs: np.ndarray
    confidence: float
    raw_confidence: float
    ended: bool = True
    constrained: bool = False
    reason: str = ""
    chain: tuple[KindProbability, ...] = ()
    unlike_training: float = 0.0

    @classmethod
    def of(cls, answer: Answer, reason: str = "") -> Description:
        """Return the description of a decoded answer; "unknown" if there is a reason why it says nothing."""
        generation = answer.generation
        if reason:
            tokens, logprobs = np.zeros(0, np.int32), np.zeros(0, np.float32)
            ended, constrained = generation.ended, answer.constrained
            return cls(answer.region_id, UNKNOWN, tokens, logprobs, 0.0, 0.0, ended, constrained, reason)
        text, confidence = answer.text, answer.confidence
        if answer.unlike_training >= unlike_training.UNKNOWN_FROM and text and (answer.chain or not answer.constrained):
            text, reason = UNKNOWN, unlike_training.REASON
            confidence = answer.chain[0].probability if answer.chain else confidence  # not that of the root
        return cls(
            answer.region_id,
            text,
            generation.tokens,
            generation.logprobs,
            confidence,
            answer.raw_confidence,
            generation.ended,
            answer.constrained,
            reason,
            answer.chain,
            answer.unlike_training,
        )


@dataclass(frozen=True)
class Result(Sequence[Description]):
    """Answers to one question, one for each region in the order in which the regions were given."""

    question: str
    descriptions: tuple[Description, ...]
    timing: Timing

    @classmethod
    def split(
        cls, questions: Sequence[str], answers: Sequence[Answer], timing: Timing, reasons: Mapping[int, str]
    ) -> tuple[Result, ...]:
        """Return one result for each question: ``answers`` has those to the first one, then those to the second.

        ``reasons``: as in `EncodedRegions`.
        """
        described = tuple(Description.of(answer, reasons.get(answer.region_id, "")) for answer in answers)
        count = len(answers) // len(questions)
        return tuple(cls(text, described[n * count : (n + 1) * count], timing) for n, text in enumerate(questions))

    def __len__(self) -> int:
        return len(self.descriptions)

    @overload
    def __getitem__(self, index: int) -> Description: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Description, ...]: ...

    def __getitem__(self, index: int | slice) -> Description | tuple[Description, ...]:
        return self.descriptions[index]


@dataclass(frozen=True)
class StreamUpdate:
    """One more token of an answer.

    Attributes:
        region_id: Id of the region, 0 if the answer is about several.
        text: The answer so far.
        token: The token id.
        logprob: Its natural-log probability.
        ended: Whether the answer is complete.
        confidence, raw_confidence, reason, chain: Of the answer so far; see `Description`.
    """

    region_id: int
    text: str
    token: int
    logprob: float
    ended: bool
    confidence: float
    raw_confidence: float
    reason: str = ""
    chain: tuple[KindProbability, ...] = ()

    @classmethod
    def of(cls, answer: Answer, token: Token, reason: str = "") -> StreamUpdate:
        """Return the update for an answer so far and its latest token; ``reason``: as in `Description.of`."""
        known = Description.of(answer, reason)
        confidences = (known.confidence, known.raw_confidence)
        return cls(
            known.region_id, known.text, token.id, token.logprob, token.last, *confidences, known.reason, known.chain
        )


@dataclass(frozen=True)
class Scores:
    """Likelihood of phrases as answers to one question about each region.

    Attributes:
        question: The question.
        phrases: The phrases, M of them.
        region_ids: Integers [N].
        log_likelihoods: float32 [N, M], natural logarithm of the probability that the answer is the phrase and ends
            there. It is not calibrated: a calibration maps the confidence of answers that the model chose itself.
        token_logprobs: float32 [n] for each region and phrase: the parts of the sum, the end-of-sequence token last.
        timing: Where the time of the call went.
        reasons: As in `EncodedRegions`. The likelihoods of such regions say nothing about them.
        unlike_training: float32 [N], as in `EncodedRegions`. It does not change the likelihoods.
    """

    question: str
    phrases: tuple[str, ...]
    region_ids: np.ndarray
    log_likelihoods: np.ndarray
    token_logprobs: tuple[tuple[np.ndarray, ...], ...]
    timing: Timing
    reasons: Mapping[int, str] = field(default_factory=dict)
    unlike_training: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))


if not TYPE_CHECKING:  # a type checker would accept any name
    __getattr__ = old_names("results")
