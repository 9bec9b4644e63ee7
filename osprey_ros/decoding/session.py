"""Questions about regions of one image after another: from texts and region tokens to answers with confidence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from time import perf_counter

import numpy as np

from osprey_ros.bundle.bundle import Bundle
from osprey_ros.bundle.calibration import CATEGORY
from osprey_ros.bundle.unlike_training import trust
from osprey_ros.decoding.config import GenerationConfig
from osprey_ros.decoding.constraints import CompiledConstraint, Constraint, ConstraintCache
from osprey_ros.decoding.decoder import Decoder, PrefixCache, Token
from osprey_ros.decoding.embeddings import Embeddings
from osprey_ros.decoding.kind_names import KindChoice, KindNames
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
from osprey_ros.kinds.back_off import KindProbability, NamedKind
from osprey_ros.system.call import Call
from osprey_ros.timing import Timing


@dataclass(frozen=True)
class RegionTokens:
    """What the model reads of N regions of an image.

    Attributes:
        ids: Integers [N], the region ids.
        mask_tokens, position_tokens: float32 [N, hidden size].
        image_tokens: float32 [image tokens, hidden size], of the image.
        reasons: Why nothing can be said about a region, by its id.
        unlike_training: float32 [N], 0 to 1, how unlike the regions are to the training data.
    """

    ids: np.ndarray
    mask_tokens: np.ndarray
    position_tokens: np.ndarray
    image_tokens: np.ndarray
    reasons: Mapping[int, str]
    unlike_training: np.ndarray

    @property
    def joint_reason(self) -> str:
        """Why nothing can be said about all regions together: that of the first region with a reason."""
        return next((f"region {region}: {reason}" for region, reason in self.reasons.items()), "")


@dataclass(frozen=True)
class Questions:
    """The questions of one call, checked by `DecodingSession.check`. All fields but ``split`` have one item for each.

    Attributes:
        texts: As they were given.
        prompts: Token ids.
        split: Leading token ids that all prompts share.
        lengths: Usual limit of an answer in tokens.
        kinds: Kind of the answers in the calibration.
        constraints: What the answers must be, or None.
        joint: Whether the question is about all regions together.
    """

    texts: Sequence[str]
    prompts: Sequence[tuple[int, ...]]
    split: int
    lengths: Sequence[int]
    kinds: Sequence[str]
    constraints: Sequence[CompiledConstraint | None]
    joint: bool

    def select(self, numbers: Sequence[int]) -> Questions:
        """Return the questions with these numbers."""
        prompts = [self.prompts[number] for number in numbers]
        return Questions(
            [self.texts[number] for number in numbers],
            prompts,
            common_prefix(prompts),
            [self.lengths[number] for number in numbers],
            [self.kinds[number] for number in numbers],
            [self.constraints[number] for number in numbers],
            self.joint,
        )


@dataclass(frozen=True)
class Answer:
    """An answer about one region; the fields are those of `osprey_ros.results.Description`."""

    region_id: int
    text: str
    generation: Generation
    confidence: float
    raw_confidence: float
    constrained: bool
    chain: tuple[KindProbability, ...] = ()
    unlike_training: float = 0.0


class DecodingSession:
    """Answers questions about regions of the current image. Use it from one thread at a time.

    Args:
        bundle: Tokenizer, embeddings and calibration.
        engine: The decoder engine.
        max_parallel: The most pairs of region and question that are decoded together.
        opening: A key of `OPENINGS`.

    Raises PromptError for an unknown conversation template, and BundleError for a tree of kinds that the tokenizer
    cannot spell.
    """

    def __init__(self, bundle: Bundle, engine: Engine, max_parallel: int, opening: str = "overview") -> None:
        self.spec = bundle.manifest.model
        self.builder = PromptBuilder(bundle.tokenizer(), self.spec, template_named(bundle.manifest.template, opening))
        self._constraints = ConstraintCache(self.builder)
        self._calibration = bundle.calibration()
        self._kinds = KindNames.of(bundle, self.builder, self._calibration)
        self._embed = Embeddings(bundle.embeddings())
        self._decoder = Decoder(engine, self.spec, max_parallel)
        prompt = self.builder.prompt(QUESTIONS["short"])
        self._prefixes = PrefixCache(self._decoder, self._embed, prompt[: prompt.index(IMAGE)])

    def reset(self) -> None:
        """Forget the image: another one follows. Streams end."""
        self._decoder.end_streams()
        self._prefixes.reset()

    def compile(self, constraints: Sequence[Constraint | None]) -> list[CompiledConstraint | None]:
        """Compile constraints. Raises PromptError for an answer that the model cannot give."""
        return [None if constraint is None else self._constraints.compile(constraint) for constraint in constraints]

    def check(
        self,
        questions: Sequence[str],
        constraints: Sequence[Constraint | None] | None = None,
        joint_regions: int | None = None,
    ) -> Questions:
        """Check questions about one region each, or one question about ``joint_regions`` regions together.

        With 0 joint regions the question is about the whole image.

        Raises PromptError for none, for one that cannot be asked and for an answer that the model cannot give, and
        InputError if there is not one constraint for each question.
        """
        if constraints is not None and len(constraints) != len(questions):
            raise InputError(
                f"there are {len(constraints)} constraints for {len(questions)} questions: give one or None for each"
            )
        if not questions:
            raise PromptError("no question is given")
        compiled = self.compile(constraints or [None] * len(questions))
        joint, named = joint_regions is not None, 1 if joint_regions is None else joint_regions
        prompts = [self.builder.region_prompt(question, named) for question in questions]
        lengths, kinds = [answer_tokens(text) for text in questions], [answer_kind(text) for text in questions]
        # A branch has at least one row, also where no region ends the prefix.
        split = min(common_prefix(prompts), *(len(prompt) - 1 for prompt in prompts))
        return Questions(tuple(questions), prompts, split, lengths, kinds, compiled, joint)

    def answer(
        self, questions: Questions, tokens: RegionTokens, config: GenerationConfig, call: Call
    ) -> tuple[list[Answer], Timing]:
        """Return the answers about all regions to the first question, then those to the second, and so on.

        Raises StoppedError when canceled before the first token of any answer.
        """
        questions, scored = self._with_kinds(questions, config)
        if not scored:
            return self._generate(questions, tokens, config, call)
        others = [number for number in range(len(questions.texts)) if number not in scored]
        parts = {number: self._score_kinds(questions.select([number]), tokens, config, call) for number in scored}
        timings = [timing for _, timing in parts.values()]
        answers = {number: found for number, (found, _) in parts.items()}
        if others:
            found, timing = self._generate(questions.select(others), tokens, config, call)
            timings.append(timing)
            each = len(found) // len(others)
            answers |= {number: found[n * each : (n + 1) * each] for n, number in enumerate(others)}
        branch_tokens, new_tokens = (sum(getattr(t, name) for t in timings) for name in ("branch_tokens", "new_tokens"))
        timing = replace(timings[-1], branch_tokens=branch_tokens, new_tokens=new_tokens)
        return [answer for number in sorted(answers) for answer in answers[number]], timing

    def stream(
        self, questions: Questions, tokens: RegionTokens, config: GenerationConfig, call: Call
    ) -> Iterator[tuple[Answer, Token]]:
        """Yield each token of the answers, with the answer so far. Errors of the call are raised at once.

        The name of a kind is yielded as a whole, with its first token.
        """
        questions, scored = self._with_kinds(questions, config)
        if scored:
            answers, _ = self._score_kinds(questions, tokens, config, call)
            return ((answer, _token_of(answer, branch)) for branch, answer in enumerate(answers))
        batch = self._batch(questions, tokens, call)
        decoded = self._decoder.stream(self._request(batch, questions, config), call)
        return self._answers_so_far(batch, questions, config, decoded)

    def score(
        self, questions: Questions, tokens: RegionTokens, phrases: Sequence[Sequence[int]], call: Call
    ) -> tuple[list[list[np.ndarray]], Timing]:
        """Return log-probabilities, float32 [region][phrase][token]; see `Decoder.score`."""
        batch = self._batch(questions, tokens, call)
        scores = self._decoder.score(batch.prefix, batch.branches, phrases, self._embed, call)
        new_tokens = len(scores) * sum(len(phrase) for phrase in phrases)
        return scores, call.timing(batch.prefix.length, batch.branches.rows, new_tokens)

    def _with_kinds(self, questions: Questions, config: GenerationConfig) -> tuple[Questions, list[int]]:
        """Return the questions with constraints to the tree of kinds, and the numbers of those that need scoring."""
        if self._kinds is None or not config.back_off:
            return questions, []
        free = [constraint is None for constraint in questions.constraints]
        asked = [n for n, kind in enumerate(questions.kinds) if kind == CATEGORY and free[n]]
        if not self._kinds.one_token:
            return questions, asked
        constraints = [self._kinds.choice() if n in asked else one for n, one in enumerate(questions.constraints)]
        return replace(questions, constraints=constraints), []

    def _generate(
        self, questions: Questions, tokens: RegionTokens, config: GenerationConfig, call: Call
    ) -> tuple[list[Answer], Timing]:
        """Decode the answers to all questions together."""
        batch = self._batch(questions, tokens, call)
        found = self._decoder.generate(self._request(batch, questions, config), call)
        answers = self._answers(batch, questions, range(batch.branches.count), found, config)
        new_tokens = sum(len(generation.tokens) for generation in found)
        return answers, call.timing(batch.prefix.length, batch.branches.rows, new_tokens)

    def _score_kinds(
        self, questions: Questions, tokens: RegionTokens, config: GenerationConfig, call: Call
    ) -> tuple[list[Answer], Timing]:
        """Answer one question with the tree of kinds, by the likelihood of all names."""
        assert self._kinds is not None
        batch = self._batch(questions, tokens, call)
        phrases = self._kinds.phrases
        scores = self._decoder.score(batch.prefix, batch.branches, phrases, self._embed, call)
        sums = np.array([[part.sum(dtype=np.float64) for part in row] for row in scores]).reshape(-1, len(phrases))
        named = self._kinds.named(sums, config.kind_threshold, trust(batch.unlike_training))
        answers = [self._named_answer(batch, row, one) for row, one in enumerate(named)]
        new_tokens = len(scores) * sum(map(len, phrases))
        return answers, call.timing(batch.prefix.length, batch.branches.rows, new_tokens)

    def _named_answer(self, batch: PromptBatch, row: int, named: NamedKind) -> Answer:
        """Return the answer that names a kind. The first of its tokens has the probability of the whole name."""
        assert self._kinds is not None
        tokens = self._kinds.tokens(named.name)
        logprobs = np.zeros(len(tokens), np.float32)
        logprobs[0] = np.log(max(named.raw_confidence, 1e-30))
        generation = Generation(tokens, logprobs)
        region, unlike = batch.region_ids[row], float(batch.unlike_training[row])
        return Answer(region, named.name, generation, named.confidence, named.raw_confidence, True, named.chain, unlike)

    def _batch(self, questions: Questions, tokens: RegionTokens, call: Call) -> PromptBatch:
        """Compute the shared prefix of questions about regions, and their branches."""
        call.marks.append(("prefix", perf_counter()))
        split = questions.split
        prefix = self._prefixes.prefill(questions.prompts[0][:split], tokens.image_tokens, call)
        call.marks.append(("branches", perf_counter()))
        tails = [prompt[split:] for prompt in questions.prompts]
        pair = (tokens.mask_tokens, tokens.position_tokens)
        if questions.joint:
            branches = build_joint_branch(tails[0], *pair, self._embed)
            highest = np.array([tokens.unlike_training.max(initial=0.0)])
            return PromptBatch([0], questions.texts, prefix, branches, highest)
        branches, ids = build_branches(tails, *pair, self._embed), tokens.ids.tolist()
        return PromptBatch(ids, questions.texts, prefix, branches, tokens.unlike_training)

    def _answers_so_far(
        self, batch: PromptBatch, questions: Questions, config: GenerationConfig, decoded: Iterator[Token]
    ) -> Iterator[tuple[Answer, Token]]:
        tokens: list[list[Token]] = [[] for _ in range(batch.branches.count)]
        for token in decoded:
            own = tokens[token.branch]
            own.append(token)
            ids, logprobs = np.array([one.id for one in own], np.int32), [one.logprob for one in own]
            generation = Generation(ids, np.array(logprobs, np.float32), token.last)
            (answer,) = self._answers(batch, questions, [token.branch], [generation], config)
            yield answer, _token_of(answer, token.branch) if answer.chain else token

    def _request(self, batch: PromptBatch, questions: Questions, config: GenerationConfig) -> DecodeRequest:
        if config.max_new_tokens is None:
            room = max(1, self._decoder.room(batch.prefix, batch.branches))
            limits = [min(length, room) for length in questions.lengths]
        else:
            limits = [config.max_new_tokens] * len(questions.texts)
        constraints = questions.constraints
        limits = [(one.longest if one else 0) or limit for limit, one in zip(limits, constraints, strict=True)]
        each = len(batch.region_ids)
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

    def _answers(
        self,
        batch: PromptBatch,
        questions: Questions,
        branches: Sequence[int],
        generations: Sequence[Generation],
        config: GenerationConfig,
    ) -> list[Answer]:
        """Return the answers that branches gave."""
        each = len(batch.region_ids)
        constraints = [questions.constraints[branch // each] for branch in branches]
        kinds = [questions.kinds[branch // each] for branch in branches]
        texts = [self.builder.decode(generation.tokens.tolist()) for generation in generations]
        raw = [
            raw_confidence(generation.logprobs, constraint is not None and constraint.normalized)
            for generation, constraint in zip(generations, constraints, strict=True)
        ]
        rows = [branch % each for branch in branches]
        unlike, trusted = batch.unlike_training[rows], trust(batch.unlike_training[rows])
        confidences = [
            self._calibration.apply(kind, value) * float(factor) if text else 0.0
            for kind, value, text, factor in zip(kinds, raw, texts, trusted, strict=True)
        ]
        regions = [batch.region_ids[row] for row in rows]
        constrained = [constraint is not None for constraint in constraints]
        scores = unlike.tolist()
        answers = list(map(Answer, regions, texts, generations, confidences, raw, constrained, repeat(()), scores))
        for choice in questions.constraints:
            if isinstance(choice, KindChoice):
                assert self._kinds is not None
                named = [n for n, one in enumerate(constraints) if one is choice and len(generations[n].tokens)]
                logits = choice.logits([rows[n] for n in named])
                found = self._kinds.named(logits, config.kind_threshold, trusted[named])
                for n, kind in zip(named, found, strict=True):
                    answers[n] = self._named_answer(batch, rows[n], kind)
        return answers


def _token_of(answer: Answer, branch: int) -> Token:
    """Return the first token of a complete answer."""
    return Token(branch, int(answer.generation.tokens[0]), float(answer.generation.logprobs[0]), True)


def raw_confidence(logprobs: np.ndarray, normalized: bool = False) -> float:
    """Return the confidence before calibration, 0 to 1, of log-probabilities, float32 [n]; 0 for none.

    It is the probability of the whole answer if the log-probabilities are ``normalized`` over the allowed answers,
    else the geometric mean of the probabilities of its tokens.
    """
    if not len(logprobs):
        return 0.0
    return float(np.exp((np.sum if normalized else np.mean)(logprobs, dtype=np.float64)))
