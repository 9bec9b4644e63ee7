"""What the model answers about the regions of one frame, each question asked once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from osprey_ros.bundle.unlike_training import UNKNOWN_FROM
from osprey_ros.decoding.config import GenerationConfig
from osprey_ros.decoding.prompt import QUESTIONS
from osprey_ros.errors import StoppedError
from osprey_ros.results import Result
from osprey_ros.system.cancellation import CancellationToken

if TYPE_CHECKING:
    from osprey_ros.describer import Describer
    from osprey_ros.scene.history import ObservedFrame

MAX_CACHED_PHRASES = 4096
# Log-likelihood of any phrase for a region of which the model has no pixel, or that is unlike anything in training.
_NO_EVIDENCE = -100.0


@dataclass
class AnswerCache:
    """Answers about the regions of one frame. Holds no image and no tokens."""

    likelihoods: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)
    token_means: dict[str, np.ndarray] = field(default_factory=dict)
    own: dict[str, tuple[tuple[str, float], ...]] = field(default_factory=dict)


class FrameAnswers:
    """Asks the model about the regions of a frame, for one search.

    Args:
        describer: its current image must be that of the frame.
        frame: the frame with its encoded regions.
        cache: the answers so far about this frame; new ones are added.
        cancel: ends the search; StoppedError is raised.
    """

    def __init__(
        self,
        describer: Describer,
        frame: ObservedFrame,
        cache: AnswerCache,
        cancel: CancellationToken | None = None,
    ) -> None:
        self._describer, self._frame, self._cache, self._cancel = describer, frame, cache, cancel
        unknown = frame.encoded.unlike_training >= UNKNOWN_FROM
        self._blank = np.isin(frame.encoded.regions.ids, list(frame.encoded.reasons)) | unknown

    def rows(self) -> dict[int, int]:
        """Return the row of each track id in the regions of the frame."""
        return {int(track): row for row, track in enumerate(self._frame.track_ids)}

    def log_likelihoods(self, question: str, phrases: Sequence[str]) -> np.ndarray:
        """Return the log-likelihood of each phrase as an answer about each region, float64 [regions, phrases]."""
        self.check_stop()
        known = self._cache.likelihoods
        missing = [phrase for phrase in dict.fromkeys(phrases) if (question, phrase) not in known]
        if missing:
            if len(known) > MAX_CACHED_PHRASES:
                known.clear()
                missing = list(dict.fromkeys(phrases))
            scored = self._describer.score(self._frame.encoded, missing, question, cancel=self._cancel)
            found = scored.log_likelihoods.astype(np.float64)
            found[self._blank] = _NO_EVIDENCE
            known |= {(question, phrase): found[:, n] for n, phrase in enumerate(missing)}
        return np.stack([known[question, phrase] for phrase in phrases], axis=1)

    def shares(self, question: str, phrases: Sequence[str]) -> np.ndarray:
        """Return the probability of each phrase if one of them is the answer, float64 [regions, phrases]."""
        likelihoods = np.exp(self.log_likelihoods(question, phrases))
        result: np.ndarray = likelihoods / np.maximum(1e-30, likelihoods.sum(axis=1, keepdims=True))
        return result

    def mean_logprobs(self, phrase: str) -> np.ndarray:
        """Return the mean log-probability of a phrase's tokens as a short description, float64 [regions]."""
        known = self._cache.token_means
        if phrase not in known:
            if len(known) > MAX_CACHED_PHRASES:
                known.clear()
            question = QUESTIONS["short"]
            parts = self._describer.score(self._frame.encoded, [phrase], question, cancel=self._cancel).token_logprobs
            known[phrase] = np.array([float(part[0].mean(dtype=np.float64)) for part in parts])
            known[phrase][self._blank] = _NO_EVIDENCE
        return known[phrase]

    def own(self, style: str) -> tuple[tuple[str, float], ...]:
        """Return the model's own answer about each region in a style, with its raw confidence."""
        if style not in self._cache.own:
            config = GenerationConfig(back_off=False)  # specific words tell objects apart
            result: Result = self._describer.describe(self._frame.encoded, style, config, cancel=self._cancel)
            if not all(answer.ended for answer in result):
                raise StoppedError("the search was stopped before all regions were described")
            self._cache.own[style] = tuple((answer.text, answer.raw_confidence) for answer in result)
        return self._cache.own[style]

    def check_stop(self) -> None:
        """Raise StoppedError if the search should stop."""
        check_stop(self._cancel)


def check_stop(cancel: CancellationToken | None) -> None:
    """Raise StoppedError if a search should stop."""
    if cancel is not None and cancel.canceled:
        raise StoppedError("the search was stopped before it had found anything")
