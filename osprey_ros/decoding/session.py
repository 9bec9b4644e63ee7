"""Questions about regions of one image after another: from texts and region tokens to answers with confidence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from osprey_ros.bundle.bundle import Bundle
from osprey_ros.decoding.config import GenerationConfig
from osprey_ros.decoding.constraints import CompiledConstraint, Constraint, ConstraintCache
from osprey_ros.decoding.decoder import Decoder, PrefixCache, Token
from osprey_ros.decoding.embeddings import Embeddings
from osprey_ros.decoding.loop import DecodeRequest, Generation
from osprey_ros.decoding.prompt import (
    IMAGE,
    QUESTIONS,
    PromptBuilder,
    answer_kind,
    answer_tokens,
    common_prefix,
    template_named,
)
from osprey_ros.decoding.prompt_batch import PromptBatch, build_branches, build_joint_branch
from osprey_ros.engines.base import Engine
from osprey_ros.errors import InputError, PromptError
from osprey_ros.system.cancellation import CancellationToken
from osprey_ros.timing import StageTimer


@dataclass(frozen=True)
class RegionTokens:
    """What the model reads of N regions of an image.

    Attributes:
        ids: Integers [N], the region ids.
        mask_tokens, position_tokens: float32 [N, hidden size].
        image_tokens: float32 [image tokens, hidden size], of the image.
    """

    ids: np.ndarray
    mask_tokens: np.ndarray
    position_tokens: np.ndarray
    image_tokens: np.ndarray


@dataclass(frozen=True)
class Answer:
    """An answer about one region; the fields are those of `osprey_ros.results.Description`."""

    region_id: int
    text: str
    generation: Generation
    confidence: float
    raw_confidence: float
    constrained: bool


class DecodingSession:
    """Answers questions about regions of the current image. Use it from one thread at a time.

    Args:
        bundle: Tokenizer, embeddings and calibration.
        engine: The decoder engine.
        max_parallel: The most pairs of region and question that are decoded together.

    Raises PromptError for an unknown conversation template.
    """

    def __init__(self, bundle: Bundle, engine: Engine, max_parallel: int) -> None:
        self.spec = bundle.manifest.model
        self.builder = PromptBuilder(bundle.tokenizer(), self.spec, template_named(bundle.manifest.template))
        self._constraints = ConstraintCache(self.builder)
        self._calibration = bundle.calibration()
        self._embed = Embeddings(bundle.embeddings())
        self._decoder = Decoder(engine, self.spec, max_parallel)
        prompt = self.builder.prompt(QUESTIONS["short"])
        self._prefixes = PrefixCache(self._decoder, self._embed, prompt[: prompt.index(IMAGE)])

    def reset(self) -> None:
        """Forget the image: another one follows. Streams end."""
        self._decoder.end_streams()
        self._prefixes.reset()

    def compile(
        self, questions: Sequence[str], constraints: Sequence[Constraint | None] | None
    ) -> list[CompiledConstraint | None]:
        """Compile one constraint or None for each question.

        Raises InputError for another number, PromptError for an answer that the model cannot give.
        """
        if constraints is None:
            return [None] * len(questions)
        if len(constraints) != len(questions):
            raise InputError(
                f"there are {len(constraints)} constraints for {len(questions)} questions: give one or None for each"
            )
        return [None if constraint is None else self._constraints.compile(constraint) for constraint in constraints]

    def prompts(self, questions: Sequence[str], regions: int = 1) -> list[tuple[int, ...]]:
        """Return the prompts of questions that name ``regions`` regions each. Raises PromptError, also for none."""
        if not questions:
            raise PromptError("no question is given")
        return [self.builder.region_prompt(question, regions) for question in questions]

    def batch(
        self,
        questions: Sequence[str],
        tokens: RegionTokens,
        joint: bool,
        timer: StageTimer,
        cancel: CancellationToken | None,
    ) -> PromptBatch:
        """Compute the shared prefix of questions about regions, and their branches.

        If ``joint``, there is one question about all regions. Raises StoppedError when canceled.
        """
        prompts = self.prompts(questions, len(tokens.ids) if joint else 1)
        timer.enter("prefix")
        split = common_prefix(prompts)
        prefix = self._prefixes.prefill(prompts[0][:split], tokens.image_tokens, timer, cancel)
        timer.enter("branches")
        tails, pair = [prompt[split:] for prompt in prompts], (tokens.mask_tokens, tokens.position_tokens)
        if joint:
            branches = build_joint_branch(tails[0], *pair, self._embed)
        else:
            branches = build_branches(tails, *pair, self._embed)
        return PromptBatch(tokens.ids.copy(), tuple(questions), prefix, branches, joint)

    def answer(
        self,
        batch: PromptBatch,
        config: GenerationConfig,
        constraints: Sequence[CompiledConstraint | None],
        timer: StageTimer,
        cancel: CancellationToken | None,
    ) -> list[Answer]:
        """Return an answer for each branch of a batch. ``constraints``: one or None for each question."""
        found = self._decoder.generate(self._request(batch, config, constraints), timer, cancel)
        return [self._answer(batch, branch, generation, constraints) for branch, generation in enumerate(found)]

    def stream(
        self, batch: PromptBatch, config: GenerationConfig, cancel: CancellationToken | None
    ) -> Iterator[tuple[Answer, Token]]:
        """Yield each token of the answers, with the answer so far. Errors of the call are raised at once."""
        return self._answers_so_far(batch, self._decoder.stream(self._request(batch, config, [None]), cancel=cancel))

    def score(
        self,
        batch: PromptBatch,
        phrases: Sequence[Sequence[int]],
        timer: StageTimer,
        cancel: CancellationToken | None,
    ) -> list[list[np.ndarray]]:
        """Return log-probabilities, float32 [region][phrase][token]; see `Decoder.score`."""
        return self._decoder.score(batch.prefix, batch.branches, phrases, self._embed, timer, cancel)

    def _answers_so_far(self, batch: PromptBatch, decoded: Iterator[Token]) -> Iterator[tuple[Answer, Token]]:
        tokens: list[list[Token]] = [[] for _ in range(len(batch.branches))]
        for token in decoded:
            own = tokens[token.branch]
            own.append(token)
            ids, logprobs = np.array([one.id for one in own], np.int32), [one.logprob for one in own]
            generation = Generation(ids, np.array(logprobs, np.float32), token.last)
            yield self._answer(batch, token.branch, generation, [None]), token

    def _request(
        self, batch: PromptBatch, config: GenerationConfig, constraints: Sequence[CompiledConstraint | None]
    ) -> DecodeRequest:
        if config.max_new_tokens is None:
            room = max(1, self._decoder.room(batch.prefix, batch.branches))
            limits = [min(answer_tokens(question), room) for question in batch.questions]
        else:
            limits = [config.max_new_tokens] * len(batch.questions)
        limits = [max(n, one.longest if one else 0) for n, one in zip(limits, constraints, strict=True)]
        each = len(batch.branches) // len(limits)
        return DecodeRequest(
            batch.prefix,
            batch.branches,
            self._embed,
            np.repeat(limits, each),
            self.spec.eos_id,
            config.sampling,
            batch.keys if config.sampling else (),
            [one for one in constraints for _ in range(each)] if any(constraints) else (),
            self.spec.extra_eos_ids,
        )

    def _answer(
        self,
        batch: PromptBatch,
        branch: int,
        generation: Generation,
        constraints: Sequence[CompiledConstraint | None],
    ) -> Answer:
        number = branch * len(batch.questions) // len(batch.branches)
        constraint, text = constraints[number], self.builder.decode(generation.tokens.tolist())
        raw = raw_confidence(generation.logprobs, constraint is not None and constraint.normalized)
        confidence = self._calibration.apply(answer_kind(batch.questions[number]), raw) if text else 0.0
        return Answer(batch.region_of(branch), text, generation, confidence, raw, constraint is not None)


def raw_confidence(logprobs: np.ndarray, normalized: bool = False) -> float:
    """Return the confidence before calibration, 0 to 1, of log-probabilities, float32 [n]; 0 for none.

    It is the probability of the whole answer if the log-probabilities are ``normalized`` over the allowed answers,
    else the geometric mean of the probabilities of its tokens.
    """
    if not len(logprobs):
        return 0.0
    return float(np.exp((np.sum if normalized else np.mean)(logprobs, dtype=np.float64)))
