"""The API: give it a picture once, then ask about as many regions as you like.

All regions and all questions of one call are decoded together behind one shared prefix: system words, picture and the
words before the region is named.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from osprey_ros._moved import old_names
from osprey_ros.bundle.bundle import Bundle
from osprey_ros.decoding.constraints import Constraint, Guide, Guides
from osprey_ros.decoding.decoder import Decoder, Prefix, Token
from osprey_ros.decoding.embeddings import Embeddings
from osprey_ros.decoding.loop import Generation
from osprey_ros.decoding.prompt import (
    IMAGE,
    MASK,
    MASK_TEXT,
    POSITION_TEXT,
    QUESTIONS,
    REGION_TEXT,
    PromptBuilder,
    common_prefix,
    template_named,
)
from osprey_ros.decoding.prompt_batch import Asked, branch_together, branches_of
from osprey_ros.decoding.sampling import Guided, Sampling
from osprey_ros.engines.base import Engine, load_engine
from osprey_ros.errors import BundleError, InputError, PromptError, RegionError
from osprey_ros.regions.encoder import RegionEncoder
from osprey_ros.regions.regions import Regions, as_regions
from osprey_ros.results import Description, EncodedRegions, Result, Scores, Update
from osprey_ros.timing import Clock, Meter, PictureSeconds, Timing
from osprey_ros.vision.encoder import ImageEncoder
from osprey_ros.vision.image_io import check_rgb
from osprey_ros.vision.preprocess import Preprocessor

STYLES = tuple(QUESTIONS)

AnyRegions: TypeAlias = Regions | EncodedRegions | np.ndarray

# Bounds on the answer where the caller gives none; fewer where the model has not so many positions left.
MAX_NEW_TOKENS = {"short": 32, "detailed": 192, "category": 16}
MAX_NEW_TOKENS_FREE = 96
_PROMPTS = 256  # so many are kept
_SHOWN = 60  # characters of a question that is too long


@dataclass
class _Picture:
    """What is known of the picture that was set. ``unreported``: its seconds while no call has reported them."""

    shape: tuple[int, int]
    unreported: PictureSeconds
    prefix_ids: tuple[int, ...]  # of the last call: at first the words before the picture
    prefix: Prefix


class Describer:
    """Describes regions of a picture with the engines of one bundle. Use it from one thread at a time.

    Args:
        bundle: an opened bundle, its folder, or a name such as "nano".
        threads: CPU threads of each engine, by default one per core.
        max_parallel: how many region-question pairs are decoded together; more wait until one of them has ended.
        preprocessing: "exact" gives the published numbers, "fast" nearly so (see `Preprocessor`).

    Raises BundleError, EngineError or ImageError if the bundle cannot be used so.
    """

    def __init__(
        self,
        bundle: Bundle | str | os.PathLike[str] = "nano",
        threads: int | None = None,
        max_parallel: int = 64,
        preprocessing: str = "exact",
    ) -> None:
        self.bundle = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        self.spec = self.bundle.manifest.model
        cores = threads if threads is not None else len(os.sched_getaffinity(0))
        preprocess = Preprocessor(self.spec, preprocessing, cores)
        self._builder = PromptBuilder(self.bundle.tokenizer(), self.spec, template_named(self.bundle.manifest.template))
        self._guides = Guides(self._builder)
        # The same questions come frame after frame. What keeps them does not hold the describer, and so its engines.
        self._prompt = lru_cache(_PROMPTS)(partial(_prompt, self._builder))
        self._rows = Embeddings(self.bundle.embeddings())
        vision = self._load("vision", threads, "pixels", "image_tokens")
        extractor = self._load("mask_extractor", threads, "position", "position_tokens")
        self._image_encoder = ImageEncoder(vision, preprocess, self.spec)
        self._region_encoder = RegionEncoder(extractor, self.spec)
        last = self.spec.num_layers - 1
        decoder = self._load("decoder", threads, "inputs_embeds", f"new_value.{last}")
        self._decoder = Decoder(decoder, self.spec, max_parallel)
        # The words before the picture are the same for every picture and question: computed once for good.
        prompt = self._builder.prompt(QUESTIONS["short"])
        self._opening_ids = prompt[: prompt.index(IMAGE)]
        self._opening = self._decoder.prefill(self._rows(np.array(self._opening_ids, dtype=np.intp)))
        self._picture: _Picture | None = None
        self.pictures = 0  # how many have been set

    def set_image(self, rgb: np.ndarray) -> None:
        """Takes a picture, uint8 [H, W, 3] in RGB order, and computes its features.

        Raises ImageError for other arrays. A GPU goes on with it after the return: the call that follows waits for it,
        and raises EngineError where it has failed; the one after that waits for another try.
        """
        check_rgb(rgb)
        self.pictures += 1
        self._picture = None
        self._decoder.abandon()
        seconds = self._image_encoder.encode(rgb)
        self._picture = _Picture(rgb.shape[:2], seconds, self._opening_ids, self._opening)

    def encode(self, regions: Regions | np.ndarray) -> EncodedRegions:
        """Computes what the model sees of each region of the picture, to be given to several calls in its stead.

        The seconds of it are in the timing of the call that follows. Raises as `answer` does for regions.
        """
        picture, clock = self._current(), Clock()
        encoded = self._encoded(picture, self._checked(picture, as_regions(regions)), clock)
        seconds = clock.stage_done()
        before = picture.unreported
        engine = before.engine + clock.meter.engine_seconds
        picture.unreported = replace(before, regions=before.regions + seconds, engine=engine)
        return replace(encoded, seconds=seconds)

    def take_seconds(self) -> Timing:
        """What `set_image` and `encode` took, if no call has had it in its timing; the next one then has not.

        A GPU is waited for, as other calls do.
        """
        picture = self._current()
        self._wait(picture)
        spent, picture.unreported = picture.unreported, PictureSeconds()
        return spent.timing()

    def describe(
        self,
        regions: AnyRegions,
        style: str = "short",
        max_new_tokens: int | None = None,
        sampling: Sampling | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> Result:
        """Describes every region in one of the published styles: "short", "detailed" or "category".

        ``regions`` may be an id image or a stack of masks (see `as_regions`), of the picture's size,
        or what `encode` has made of them.
        """
        return self.answer(regions, [_style_question(style)], max_new_tokens, sampling, should_stop)[0]

    def ask(
        self,
        regions: AnyRegions,
        question: str,
        max_new_tokens: int | None = None,
        sampling: Sampling | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> Result:
        """Asks one question about every region; ``<mask><pos>`` in it says where the region is named."""
        return self.answer(regions, [question], max_new_tokens, sampling, should_stop)[0]

    def answer(
        self,
        regions: AnyRegions,
        questions: Sequence[str],
        max_new_tokens: int | None = None,
        sampling: Sampling | None = None,
        should_stop: Callable[[], bool] | None = None,
        constraints: Sequence[Constraint | None] | None = None,
    ) -> tuple[Result, ...]:
        """Asks several questions about every region, all decoded together; one Result for each, sharing one Timing.

        Args:
            max_new_tokens: where answers are cut; by default what suits each question.
            sampling: draws tokens at random; by default the most likely ones are taken. A region gets the same answer
                from the same seed, whatever else is asked.
            should_stop: asked before each decode step; what was decoded when it says yes is returned, and descriptions
                say by ``ended`` whether they are whole.
            constraints: for each question what its answers must be, or None. Such an answer is never drawn, and
                ``max_new_tokens`` does not cut one from a list.

        Raises InputError before `set_image` and for constraints that are not one for each question, RegionError for
        regions of another size than the picture, PromptError for a question that cannot be asked, PromptError for
        an answer that the model cannot give, InputError if question and answer do not fit the model.
        """
        picture, clock = self._current(), Clock()
        guides = self._guides_of(questions, constraints)
        asked = self._asked(picture, regions, questions, clock)
        limits, count = self._limits(asked, max_new_tokens), len(asked.regions)
        if any(guides):
            each = [guide for guide in guides for _ in range(count)]
            limits = np.maximum(limits, [guide.longest if guide else 0 for guide in each])
            sampling = Guided(guides=each, free=sampling)
        answers = self._decoded(asked, limits, sampling, should_stop, clock)
        texts = [self._builder.decode(answer.tokens.tolist()) for answer in answers]
        clock.stage_done()
        timing = self._timing(clock, picture, asked, sum(len(answer.tokens) for answer in answers))
        results = []
        for n, (question, guide) in enumerate(zip(asked.questions, guides, strict=True)):
            part = slice(n * count, (n + 1) * count)
            listed = guide is not None and guide.normalised
            results.append(Result(question, _descriptions(asked.regions, texts[part], answers[part], listed), timing))
        return tuple(results)

    def ask_together(
        self,
        regions: AnyRegions,
        question: str,
        max_new_tokens: int | None = None,
        sampling: Sampling | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> Description:
        """Asks one question about several regions at once, such as "What is between <mask><pos> and <mask><pos>?".

        ``<mask><pos>`` in it names each region once, in the order of the regions; a question without it gets all of
        them in front. Raises as `answer` does.
        """
        picture, clock = self._current(), Clock()
        asked = self._asked(picture, regions, [question], clock, together=True)
        (answer,) = self._decoded(asked, self._limits(asked, max_new_tokens), sampling, should_stop, clock)
        text = self._builder.decode(answer.tokens.tolist())
        clock.stage_done()
        self._timing(clock, picture, asked, len(answer.tokens))
        return Description(0, text, answer.tokens, answer.logprobs, answer.ended)

    def check(self, constraints: Iterable[Constraint | None], questions: Iterable[str] = ()) -> None:
        """Makes constraints ready for `answer`, and makes sure that questions about one region can be asked.

        No picture is needed. Raises PromptError for an answer that the model cannot give, PromptError for a
        question that cannot be asked or is longer than the model can read.
        """
        for constraint in constraints:
            if constraint is not None:
                self._guides.of(constraint)
        for question in questions:
            needed = len(self._prompt(question, 1)) - 1 + self.spec.image_tokens
            if needed > self.spec.max_positions:
                raise PromptError(
                    f"the question {question[:_SHOWN]!r}... needs {needed} positions with the picture, the model has "
                    f"{self.spec.max_positions}: shorten it"
                )

    def _guides_of(
        self, questions: Sequence[str], constraints: Sequence[Constraint | None] | None
    ) -> list[Guide | None]:
        if constraints is None:
            return [None] * len(questions)
        if len(constraints) != len(questions):
            raise InputError(
                f"there are {len(constraints)} constraints for {len(questions)} questions: give one or None for each"
            )
        return [self._guides.of(constraint) if constraint is not None else None for constraint in constraints]

    def stream(
        self,
        regions: AnyRegions,
        question: str,
        max_new_tokens: int | None = None,
        sampling: Sampling | None = None,
        together: bool = False,
    ) -> Iterator[Update]:
        """As `ask`, but gives each region's answer token by token as it is decoded; as `ask_together` if ``together``.

        Errors of the call itself are raised at once. Closing the iterator stops the decoding; so does any other call of
        the describer, and going on with the iterator then raises InputError. The call that follows has the seconds of
        `set_image` in its timing.
        """
        picture = self._current()
        asked = self._asked(picture, regions, [question], Clock(), together)
        limits = self._limits(asked, max_new_tokens)
        return self._updates(
            asked,
            self._decoder.stream(
                asked.prefix, asked.branches, self._rows, limits, self.spec.eos_id, sampling, _keys(asked, sampling)
            ),
        )

    def _decoded(
        self,
        asked: Asked,
        limits: np.ndarray,
        sampling: Sampling | None,
        should_stop: Callable[[], bool] | None,
        clock: Clock,
    ) -> list[Generation]:
        return self._decoder.generate(
            asked.prefix,
            asked.branches,
            self._rows,
            limits,
            self.spec.eos_id,
            sampling,
            _keys(asked, sampling),
            should_stop,
            clock.meter,
        )

    def _updates(self, asked: Asked, decoded: Iterator[Token]) -> Iterator[Update]:
        tokens: list[list[int]] = [[] for _ in range(len(asked.branches))]
        for token in decoded:
            own = tokens[token.branch]
            own.append(token.id)
            text = self._builder.decode(own)
            yield Update(asked.region_of(token.branch), text, token.id, token.logprob, token.last)

    def score(
        self,
        regions: AnyRegions,
        phrases: Sequence[str],
        question: str = QUESTIONS["category"],
        should_stop: Callable[[], bool] | None = None,
    ) -> Scores:
        """How likely each phrase is as the answer to a question about each region, all in one pass.

        ``should_stop`` is asked between runs of the decoder; where it says yes, StoppedError is raised.
        Raises as `answer` does; PromptError for no phrase, and for one that is empty or names a region.
        """
        if not phrases:
            raise PromptError("no phrase is given: there is nothing to score")
        for phrase in phrases:
            if not phrase.strip():
                raise PromptError(f"the phrase {phrase!r} is empty: give words that could be an answer")
            if MASK_TEXT in phrase or POSITION_TEXT in phrase:
                raise PromptError(f"the phrase {phrase!r} names a region: an answer is of words only")
        picture, clock = self._current(), Clock()
        ids = [self._builder.answer(phrase) for phrase in phrases]
        asked = self._asked(picture, regions, [question], clock)
        scores = self._decoder.score(asked.prefix, asked.branches, ids, self._rows, clock.meter, should_stop)
        sums = np.array([[part.sum(dtype=np.float64) for part in row] for row in scores], dtype=np.float32)
        clock.stage_done()
        timing = self._timing(clock, picture, asked, len(scores) * sum(len(phrase) for phrase in ids))
        parts = tuple(tuple(row) for row in scores)
        return Scores(question, tuple(phrases), asked.regions.ids.copy(), sums, parts, timing)

    def _load(self, role: str, threads: int | None, input_name: str, output_name: str) -> Engine:
        entry = self.bundle.engine(role)
        path = self.bundle.path(entry.file)
        engine = load_engine(path, entry.runtime, entry.device, threads)
        if input_name not in engine.input_names or output_name not in engine.output_names:
            raise BundleError(f"{path} has no {input_name} or no {output_name}: it is not the engine its name says")
        return engine

    def _timing(self, clock: Clock, picture: _Picture, asked: Asked, new_tokens: int) -> Timing:
        """Of a call that has ended; the seconds of `set_image` are reported once."""
        before, picture.unreported = picture.unreported, PictureSeconds()
        return clock.timing(before, asked.prefix.length, asked.branches.rows, new_tokens)

    def _current(self) -> _Picture:
        if self._picture is None:
            raise InputError("no picture is set: call set_image first")
        return self._picture

    def _encoded(self, picture: _Picture, regions: Regions, clock: Clock) -> EncodedRegions:
        pooled = self._region_encoder.pool(regions)
        clock.leave_out(self._wait(picture))
        tokens = self._region_encoder.encode(self._image_encoder.features, pooled, clock.meter)
        return EncodedRegions(regions, *tokens)

    def _wait(self, picture: _Picture) -> float:
        """Waits until the picture is encoded. The seconds of it, which are returned, count as vision."""
        seconds = self._image_encoder.synchronize()
        if seconds:
            before = picture.unreported
            picture.unreported = replace(before, vision=before.vision + seconds, engine=before.engine + seconds)
        return seconds

    def _asked(
        self,
        picture: _Picture,
        regions: AnyRegions,
        questions: Sequence[str],
        clock: Clock,
        together: bool = False,
    ) -> Asked:
        """Computes what all branches need; two stages of the clock."""
        encoded = regions if isinstance(regions, EncodedRegions) else None
        known = self._checked(picture, regions.regions if isinstance(regions, EncodedRegions) else as_regions(regions))
        prompts = [self._prompt(question, len(known) if together else 1) for question in questions]
        if not prompts:
            raise PromptError("no question is given")
        if encoded is None:
            encoded = self._encoded(picture, known, clock)
        else:
            clock.leave_out(self._wait(picture))
        clock.stage_done()
        split = common_prefix(prompts)
        prefix = self._prefix(picture, prompts[0][:split], clock.meter)
        clock.stage_done()
        tails = [prompt[split:] for prompt in prompts]
        if together:
            branches = branch_together(tails[0], encoded, self._rows)
        else:
            branches = branches_of(tails, encoded, self._rows)
        return Asked(known, tuple(questions), prefix, branches, together)

    def _checked(self, picture: _Picture, regions: Regions) -> Regions:
        if regions.shape != picture.shape:
            raise RegionError(
                f"the regions are {regions.shape[1]}x{regions.shape[0]} pixels, the picture is "
                f"{picture.shape[1]}x{picture.shape[0]}: segment the picture at its own size"
            )
        return regions

    def _limits(self, asked: Asked, max_new_tokens: int | None) -> np.ndarray:
        """The largest number of tokens of each branch's answer."""
        if max_new_tokens is not None:
            return np.full(len(asked.branches), max_new_tokens)
        usual = {QUESTIONS[style]: tokens for style, tokens in MAX_NEW_TOKENS.items()}
        limits = [usual.get(question, MAX_NEW_TOKENS_FREE) for question in asked.questions]
        room = self._decoder.room(asked.prefix, asked.branches)
        return np.repeat(np.clip(limits, 1, max(1, room)), 1 if asked.together else len(asked.regions))

    def _prefix(self, picture: _Picture, ids: tuple[int, ...], meter: Meter) -> Prefix:
        """The shared prefix; what it shares with the one of the last call on this picture is not computed again."""
        shared = 0
        for mine, known in zip(ids, picture.prefix_ids, strict=False):
            if mine != known:
                break
            shared += 1
        rows = shared + ids[:shared].count(IMAGE) * (self.spec.image_tokens - 1)
        # Set before the rest is computed: should that fail, this much is still good.
        picture.prefix_ids, picture.prefix = ids[:shared], picture.prefix.head(rows)
        prefix = self._decoder.prefill(self._prefix_rows(ids[shared:]), picture.prefix, meter)
        picture.prefix_ids, picture.prefix = ids, prefix
        return prefix

    def _prefix_rows(self, ids: tuple[int, ...]) -> np.ndarray:
        if IMAGE not in ids:
            return self._rows(np.array(ids, dtype=np.intp))
        at = ids.index(IMAGE)
        before, after = (self._rows(np.array(part, dtype=np.intp)) for part in (ids[:at], ids[at + 1 :]))
        return np.concatenate([before, self._image_encoder.image_tokens, after])


def _prompt(builder: PromptBuilder, question: str, regions: int) -> tuple[int, ...]:
    prompt = builder.prompt(question, regions)
    if prompt.count(MASK) != regions:
        named = "once: it is asked of each region" if regions == 1 else f"{regions} times, once for each region"
        raise PromptError(f"the question {question!r} must contain {REGION_TEXT} {named}")
    return prompt


def _keys(asked: Asked, sampling: Sampling | None) -> list[tuple[int, ...]] | None:
    """What tells branches apart, where that matters."""
    return None if sampling is None else asked.keys


def _style_question(style: str) -> str:
    if style not in QUESTIONS:
        raise PromptError(f"unknown style {style!r}: choose one of {', '.join(STYLES)}")
    return QUESTIONS[style]


def _descriptions(
    regions: Regions, texts: Sequence[str], answers: Sequence[Generation], listed: bool
) -> tuple[Description, ...]:
    return tuple(
        Description(int(region), text, answer.tokens, answer.logprobs, answer.ended, listed)
        for region, text, answer in zip(regions.ids, texts, answers, strict=True)
    )


if not TYPE_CHECKING:  # a type checker would accept any name
    __getattr__ = old_names("describer")
