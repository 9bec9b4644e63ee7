"""The API: give it a picture once, then ask about as many regions as you like.

All regions and all questions of one call are decoded together behind one shared prefix: system words, picture and the
words before the region is named.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from osprey_ros.bundle import Bundle, BundleError
from osprey_ros.decoder import Branches, Decoder, Generation, Meter, Prefix, Token
from osprey_ros.engines import Buffer, Engine, load_engine
from osprey_ros.errors import OspreyError
from osprey_ros.image import Preprocessor, check_rgb
from osprey_ros.prompt import (
    IMAGE,
    MASK,
    POSITION,
    QUESTIONS,
    REGION_TEXT,
    PromptBuilder,
    PromptError,
    common_prefix,
    template_named,
)
from osprey_ros.region_grids import RegionGrids
from osprey_ros.regions import RegionError, Regions, as_regions
from osprey_ros.results import Description, Result, Scores, Timing, Update
from osprey_ros.sampling import Sampling
from osprey_ros.timing import Clock, PictureSeconds

__all__ = ["STYLES", "Describer", "DescriberError", "Description", "Result", "Scores", "Timing", "Update"]

STYLES = tuple(QUESTIONS)

# Bounds on the answer where the caller gives none; fewer where the model has not so many positions left.
MAX_NEW_TOKENS = {"short": 32, "detailed": 192, "category": 16}
MAX_NEW_TOKENS_FREE = 96


class DescriberError(OspreyError):
    """A call that the describer cannot answer; the message says what to do first."""


@dataclass
class _Picture:
    """What is known of the picture that was set. ``unreported``: its seconds while no call has reported them."""

    shape: tuple[int, int]
    image_tokens: np.ndarray  # float32 [image_tokens, hidden]
    unreported: PictureSeconds
    prefix_ids: tuple[int, ...]  # of the last call: at first the words before the picture
    prefix: Prefix


@dataclass(frozen=True)
class _Asked:
    """Questions about regions, ready for the decoder."""

    regions: Regions
    questions: tuple[str, ...]
    prefix: Prefix
    branches: Branches  # all regions for the first question, then all for the second, and so on


class Describer:
    """Describes regions of a picture with the engines of one bundle. Use it from one thread at a time.

    Args:
        bundle: an opened bundle, its folder, or a name such as "nano".
        threads: CPU threads of each engine, by default one per core.
        max_parallel: how many region-question pairs are decoded together; more wait until one of them has ended.
        preprocessing: "exact" gives the published numbers, "fast" nearly so (see `osprey_ros.image.Preprocessor`).

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
        self._preprocess = Preprocessor(self.spec, preprocessing, cores)
        self._builder = PromptBuilder(self.bundle.tokenizer(), self.spec, template_named(self.bundle.manifest.template))
        self._embeddings = np.asarray(self.bundle.embeddings())  # a plain view: numpy is slow to index its memory maps
        self._vision = self._load("vision", threads, "pixels", "image_tokens")
        self._extractor = self._load("mask_extractor", threads, "position", "position_tokens")
        last = self.spec.num_layers - 1
        decoder = self._load("decoder", threads, f"branch_value.{last}", f"new_value.{last}")
        self._decoder = Decoder(decoder, self.spec, max_parallel)
        self._grids = RegionGrids(self.spec.feature_sizes, self.spec.position_size)
        # Feature maps of the picture that is set, on the device of the vision engine.
        self._features: dict[str, Buffer] = {
            name: self._vision.buffer((1, channels, *size), self._vision.output_dtypes[name])
            for name, channels, size in zip(
                ("res2", "res3", "res4", "res5"), self.spec.feature_channels, self.spec.feature_sizes, strict=True
            )
        }
        # The words before the picture are the same for every picture and question: computed once for good.
        prompt = self._builder.prompt(QUESTIONS["short"])
        self._opening_ids = prompt[: prompt.index(IMAGE)]
        self._opening = self._decoder.prefill(self._rows(np.array(self._opening_ids, dtype=np.intp)))
        self._picture: _Picture | None = None

    def set_image(self, rgb: np.ndarray) -> None:
        """Takes a picture, uint8 [H, W, 3] in RGB order, and computes its features.

        Raises ImageError for other arrays.
        """
        check_rgb(rgb)
        self._picture = None
        self._decoder.abandon()
        start = perf_counter()
        pixels = self._preprocess(rgb)
        ready = perf_counter()
        inputs = {"pixels": pixels.astype(self._vision.input_dtypes["pixels"], copy=False)}
        tokens = self._vision.run(inputs, ["image_tokens"], self._features)["image_tokens"].astype(np.float32)
        vision = perf_counter() - ready
        unreported = PictureSeconds(preprocess=ready - start, vision=vision, engine=vision)
        self._picture = _Picture(rgb.shape[:2], tokens, unreported, self._opening_ids, self._opening)

    def describe(
        self,
        regions: Regions | np.ndarray,
        style: str = "short",
        max_new_tokens: int | None = None,
        sampling: Sampling | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> Result:
        """Describes every region in one of the published styles: "short", "detailed" or "category".

        ``regions`` may be an id image or a stack of masks (see `osprey_ros.regions.as_regions`), of the picture's size.
        """
        return self.answer(regions, [_style_question(style)], max_new_tokens, sampling, should_stop)[0]

    def ask(
        self,
        regions: Regions | np.ndarray,
        question: str,
        max_new_tokens: int | None = None,
        sampling: Sampling | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> Result:
        """Asks one question about every region; ``<mask><pos>`` in it says where the region is named."""
        return self.answer(regions, [question], max_new_tokens, sampling, should_stop)[0]

    def answer(
        self,
        regions: Regions | np.ndarray,
        questions: Sequence[str],
        max_new_tokens: int | None = None,
        sampling: Sampling | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> tuple[Result, ...]:
        """Asks several questions about every region, all decoded together; one Result for each, sharing one Timing.

        Args:
            max_new_tokens: where answers are cut; by default what suits each question.
            sampling: draws tokens at random; by default the most likely ones are taken. A region gets the same answer
                from the same seed, whatever else is asked.
            should_stop: asked before each decode step; what was decoded when it says yes is returned, and descriptions
                say by ``ended`` whether they are whole.

        Raises DescriberError before `set_image`, RegionError for regions of another size than the picture, PromptError
        for a question that cannot be asked, DecoderError if question and answer do not fit the model.
        """
        picture, clock = self._current(), Clock()
        asked = self._asked(picture, regions, questions, clock)
        answers = self._decoder.generate(
            asked.prefix,
            asked.branches,
            self._rows,
            self._limits(asked, max_new_tokens),
            self.spec.eos_id,
            sampling,
            _keys(asked),
            should_stop,
            clock.meter,
        )
        texts = [self._builder.decode(answer.tokens) for answer in answers]
        clock.stage_done()
        timing = self._timing(clock, picture, asked, sum(len(answer.tokens) for answer in answers))
        count = len(asked.regions)
        results = []
        for n, question in enumerate(asked.questions):
            part = slice(n * count, (n + 1) * count)
            results.append(Result(question, _descriptions(asked.regions, texts[part], answers[part]), timing))
        return tuple(results)

    def stream(
        self,
        regions: Regions | np.ndarray,
        question: str,
        max_new_tokens: int | None = None,
        sampling: Sampling | None = None,
    ) -> Iterator[Update]:
        """As `ask`, but gives each region's answer token by token as it is decoded.

        Errors of the call itself are raised at once. Closing the iterator stops the decoding; so does any other call of
        the describer, and going on with the iterator then raises DecoderError. The call that follows has the seconds of
        `set_image` in its timing.
        """
        picture = self._current()
        asked = self._asked(picture, regions, [question], Clock())
        limits = self._limits(asked, max_new_tokens)
        return self._updates(
            asked,
            self._decoder.stream(
                asked.prefix, asked.branches, self._rows, limits, self.spec.eos_id, sampling, _keys(asked)
            ),
        )

    def _updates(self, asked: _Asked, decoded: Iterator[Token]) -> Iterator[Update]:
        tokens: list[list[int]] = [[] for _ in range(len(asked.branches))]
        for token in decoded:
            own = tokens[token.branch]
            own.append(token.id)
            yield Update(
                int(asked.regions.ids[token.branch]), self._builder.decode(own), token.id, token.logprob, token.last
            )

    def score(
        self, regions: Regions | np.ndarray, phrases: Sequence[str], question: str = QUESTIONS["category"]
    ) -> Scores:
        """How likely each phrase is as the answer to a question about each region, all in one pass.

        Raises as `answer` does; PromptError for an empty phrase and for no phrase.
        """
        if not phrases:
            raise PromptError("no phrase is given: there is nothing to score")
        for phrase in phrases:
            if not phrase.strip():
                raise PromptError(f"the phrase {phrase!r} is empty: give words that could be an answer")
        picture, clock = self._current(), Clock()
        ids = [self._builder.answer(phrase) for phrase in phrases]
        asked = self._asked(picture, regions, [question], clock)
        scores = self._decoder.score(asked.prefix, asked.branches, ids, self._rows, clock.meter)
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

    def _timing(self, clock: Clock, picture: _Picture, asked: _Asked, new_tokens: int) -> Timing:
        """Of a call that has ended; the seconds of `set_image` are reported once."""
        before, picture.unreported = picture.unreported, PictureSeconds()
        return clock.timing(before, asked.prefix.length, asked.branches.rows, new_tokens)

    def _current(self) -> _Picture:
        if self._picture is None:
            raise DescriberError("no picture is set: call set_image first")
        return self._picture

    def _asked(
        self, picture: _Picture, regions: Regions | np.ndarray, questions: Sequence[str], clock: Clock
    ) -> _Asked:
        """Computes what all branches need; two stages of the clock."""
        regions = as_regions(regions)
        if regions.shape != picture.shape:
            raise RegionError(
                f"the regions are {regions.shape[1]}x{regions.shape[0]} pixels, the picture is "
                f"{picture.shape[1]}x{picture.shape[0]}: segment the picture at its own size"
            )
        prompts = [self._prompt(question) for question in questions]
        if not prompts:
            raise PromptError("no question is given")
        mask_tokens, position_tokens = self._region_tokens(regions, clock.meter)
        clock.stage_done()
        split = common_prefix(prompts)
        prefix = self._prefix(picture, prompts[0][:split], clock.meter)
        clock.stage_done()
        branches = self._branches([prompt[split:] for prompt in prompts], mask_tokens, position_tokens)
        return _Asked(regions, tuple(questions), prefix, branches)

    def _prompt(self, question: str) -> tuple[int, ...]:
        prompt = self._builder.prompt(question)
        if prompt.count(MASK) != 1:
            raise PromptError(f"the question {question!r} must contain {REGION_TEXT} once: it is asked of each region")
        return prompt

    def _limits(self, asked: _Asked, max_new_tokens: int | None) -> np.ndarray:
        """The largest number of tokens of each branch's answer."""
        if max_new_tokens is not None:
            return np.full(len(asked.branches), max_new_tokens)
        usual = {QUESTIONS[style]: tokens for style, tokens in MAX_NEW_TOKENS.items()}
        limits = [usual.get(question, MAX_NEW_TOKENS_FREE) for question in asked.questions]
        room = self._decoder.room(asked.prefix, asked.branches)
        return np.repeat(np.clip(limits, 1, max(1, room)), len(asked.regions))

    def _region_tokens(self, regions: Regions, meter: Meter) -> tuple[np.ndarray, np.ndarray]:
        engine = self._extractor
        *masks, positions = self._grids.of(regions)
        arrays = {f"mask_res{level}": mask for level, mask in enumerate(masks, start=2)}
        arrays["position"] = positions
        inputs: dict[str, np.ndarray | Buffer] = {
            name: array.astype(engine.input_dtypes[name], copy=False) for name, array in arrays.items()
        }
        for name, feature in self._features.items():
            here = self._vision.device == engine.device and feature.dtype == engine.input_dtypes[name]
            inputs[name] = feature if here else feature.read().astype(engine.input_dtypes[name])
        start = perf_counter()
        outputs = engine.run(inputs, ["mask_tokens", "position_tokens"])
        meter.engine_seconds += perf_counter() - start
        return outputs["mask_tokens"].astype(np.float32), outputs["position_tokens"].astype(np.float32)

    def _prefix(self, picture: _Picture, ids: tuple[int, ...], meter: Meter) -> Prefix:
        """The shared prefix; what it shares with the one of the last call on this picture is not computed again."""
        shared = 0
        for mine, known in zip(ids, picture.prefix_ids, strict=False):
            if mine != known:
                break
            shared += 1
        rows = shared + ids[:shared].count(IMAGE) * (len(picture.image_tokens) - 1)
        # Set before the rest is computed: should that fail, this much is still good.
        picture.prefix_ids, picture.prefix = ids[:shared], picture.prefix.head(rows)
        prefix = self._decoder.prefill(self._prefix_rows(ids[shared:], picture), picture.prefix, meter)
        picture.prefix_ids, picture.prefix = ids, prefix
        return prefix

    def _prefix_rows(self, ids: tuple[int, ...], picture: _Picture) -> np.ndarray:
        if IMAGE not in ids:
            return self._rows(np.array(ids, dtype=np.intp))
        at = ids.index(IMAGE)
        before, after = (self._rows(np.array(part, dtype=np.intp)) for part in (ids[:at], ids[at + 1 :]))
        return np.concatenate([before, picture.image_tokens, after])

    def _branches(
        self, tails: Sequence[tuple[int, ...]], mask_tokens: np.ndarray, position_tokens: np.ndarray
    ) -> Branches:
        """What follows the prefix, for each question and region.

        The words of a question before its region are the same for all regions: shared by their branches, unless the
        prefix ends where they do.
        """
        count = len(mask_tokens)
        rows: list[np.ndarray] = []
        stems: list[np.ndarray] = []
        stem_of: list[int] = []
        for tail in tails:
            at = tail.index(MASK)
            stem_of += [len(stems) if at else -1] * count
            if at:
                stems.append(self._rows(np.array(tail[:at], dtype=np.intp)))
            ids = np.array(tail[at:], dtype=np.intp)
            own = np.repeat(self._rows(np.maximum(ids, 0))[None], count, axis=0)
            own[:, ids == MASK] = mask_tokens[:, None]
            own[:, ids == POSITION] = position_tokens[:, None]
            rows += list(own)
        return Branches(rows, stems, stem_of)

    def _rows(self, ids: np.ndarray) -> np.ndarray:
        """Embedding rows of token ids [n], float32 [n, hidden]."""
        return self._embeddings[ids].astype(np.float32)


def _style_question(style: str) -> str:
    if style not in QUESTIONS:
        raise PromptError(f"unknown style {style!r}: choose one of {', '.join(STYLES)}")
    return QUESTIONS[style]


def _keys(asked: _Asked) -> list[tuple[int, ...]]:
    """What tells a branch apart from all others, whatever else is asked: its region's id and its question."""
    return [
        (zlib.crc32(question.encode()), int(region) & 0xFFFFFFFF)
        for question in asked.questions
        for region in asked.regions.ids
    ]


def _descriptions(regions: Regions, texts: Sequence[str], answers: Sequence[Generation]) -> tuple[Description, ...]:
    return tuple(
        Description(int(region), text, answer.tokens, answer.logprobs, answer.ended)
        for region, text, answer in zip(regions.ids, texts, answers, strict=True)
    )
