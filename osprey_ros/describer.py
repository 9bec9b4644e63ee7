"""The API: give it a picture once, then ask about as many regions as you like.

All regions and all questions of one call are decoded together behind one shared prefix: system words, picture and the
words before the region is named.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import overload

import numpy as np

from osprey_ros import bundle as bundles
from osprey_ros.bundle import Bundle, BundleError
from osprey_ros.decoder import Decoder, Generation, Prefix
from osprey_ros.engines import Engine, load_engine
from osprey_ros.errors import OspreyError
from osprey_ros.image import check_rgb, preprocess
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
from osprey_ros.regions import RegionError, Regions, as_regions

STYLES = tuple(QUESTIONS)

# Bounds on the answer where the caller gives none; fewer where the model has not so many positions left.
MAX_NEW_TOKENS = {"short": 32, "detailed": 192, "category": 16}
MAX_NEW_TOKENS_FREE = 96


class DescriberError(OspreyError):
    """A call that the describer cannot answer; the message says what to do first."""


@dataclass(frozen=True)
class Timing:
    """Where the time of one call went, in seconds of wall time, and how much was computed.

    ``preprocess`` and ``vision`` are spent in `Describer.set_image` and counted in the first call that follows it;
    later calls on the same picture have 0 there. ``prefix`` is (nearly) 0 where the keys and values of an earlier call
    could be used again. ``total`` is the whole call: the sum of the stages.
    """

    preprocess: float
    vision: float
    regions: float  # masks at four scales, position grids and the mask-extractor engine
    prefix: float
    branches: float  # the words about each region, and all decode steps
    total: float
    steps: int  # runs of the decoder engine over the branches
    prefix_tokens: int  # rows of the shared prefix, picture included
    branch_tokens: int  # prompt rows of all branches
    new_tokens: int


@dataclass(frozen=True)
class Description:
    """Words about one region. ``tokens`` (int32) and ``logprobs`` (float32, natural logarithm) are the answer's own."""

    region_id: int
    text: str
    tokens: np.ndarray
    logprobs: np.ndarray

    @property
    def confidence(self) -> float:
        """Geometric mean of the probabilities of the answer's tokens, in 0..1. It is not calibrated."""
        return float(np.exp(np.mean(self.logprobs, dtype=np.float64)))


@dataclass(frozen=True)
class Result(Sequence[Description]):
    """Answers to one question, one for each region in the order the regions were given."""

    question: str
    descriptions: tuple[Description, ...]
    timing: Timing

    def __len__(self) -> int:
        return len(self.descriptions)

    @overload
    def __getitem__(self, index: int) -> Description: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Description, ...]: ...

    def __getitem__(self, index: int | slice) -> Description | tuple[Description, ...]:
        return self.descriptions[index]


@dataclass
class _Picture:
    """What is known of the picture that was set. ``unbilled``: preprocess and vision seconds not yet reported."""

    shape: tuple[int, int]
    features: dict[str, np.ndarray]  # res2..res5, float32 [1, C, h, w]
    image_tokens: np.ndarray  # float32 [image_tokens, hidden]
    unbilled: tuple[float, float]
    prefix_ids: tuple[int, ...]  # of the last call: at first the words before the picture
    prefix: Prefix


class Describer:
    """Describes regions of a picture with the engines of one bundle. Use it from one thread at a time.

    Args:
        bundle: an opened bundle, its folder, or a name such as "nano".
        threads: CPU threads of each engine, by default one per core.
        max_parallel: how many region-question pairs are decoded together; more wait for the next wave.

    Raises BundleError or EngineError if the bundle cannot be used.
    """

    def __init__(
        self, bundle: Bundle | str | os.PathLike[str] = "nano", threads: int | None = None, max_parallel: int = 64
    ) -> None:
        self.bundle = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        self.spec = self.bundle.manifest.model
        self._builder = PromptBuilder(self.bundle.tokenizer(), self.spec, template_named(self.bundle.manifest.template))
        self._embeddings = self.bundle.embeddings()
        self._vision = self._load(bundles.VISION, threads, "pixels", "image_tokens")
        self._extractor = self._load(bundles.MASK_EXTRACTOR, threads, "position", "position_tokens")
        last = self.spec.num_layers - 1
        decoder = self._load(bundles.DECODER, threads, f"branch_value.{last}", f"new_value.{last}")
        self._decoder = Decoder(decoder, self.spec, max_parallel)
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
        start = perf_counter()
        pixels = preprocess(rgb, self.spec)
        ready = perf_counter()
        features = self._vision.run({"pixels": pixels})
        tokens = features.pop("image_tokens")
        unbilled = (ready - start, perf_counter() - ready)
        self._picture = _Picture(rgb.shape[:2], features, tokens, unbilled, self._opening_ids, self._opening)

    def describe(
        self, regions: Regions | np.ndarray, style: str = "short", max_new_tokens: int | None = None
    ) -> Result:
        """Describes every region in one of the published styles: "short", "detailed" or "category".

        ``regions`` may be an id image or a stack of masks (see `osprey_ros.regions.as_regions`), of the picture's size.
        """
        if style not in QUESTIONS:
            raise PromptError(f"unknown style {style!r}: choose one of {', '.join(STYLES)}")
        return self.answer(regions, [QUESTIONS[style]], max_new_tokens)[0]

    def ask(self, regions: Regions | np.ndarray, question: str, max_new_tokens: int | None = None) -> Result:
        """Asks one question about every region; ``<mask><pos>`` in it says where the region is named."""
        return self.answer(regions, [question], max_new_tokens)[0]

    def answer(
        self, regions: Regions | np.ndarray, questions: Sequence[str], max_new_tokens: int | None = None
    ) -> tuple[Result, ...]:
        """Asks several questions about every region, all decoded together; one Result for each, sharing one Timing.

        Raises DescriberError before `set_image`, RegionError for regions of another size than the picture, PromptError
        for a question that cannot be asked, DecoderError if question and answer do not fit the model.
        """
        picture = self._picture
        if picture is None:
            raise DescriberError("no picture is set: call set_image first")
        start = perf_counter()
        regions = as_regions(regions)
        if regions.shape != picture.shape:
            raise RegionError(
                f"the regions are {regions.shape[1]}x{regions.shape[0]} pixels, the picture is "
                f"{picture.shape[1]}x{picture.shape[0]}: segment the picture at its own size"
            )
        prompts = [self._prompt(question) for question in questions]
        if not prompts:
            raise PromptError("no question is given")
        mask_tokens, position_tokens = self._region_tokens(picture, regions)
        regions_done = perf_counter()

        split = common_prefix(prompts)
        prefix = self._prefix(picture, prompts[0][:split])
        prefix_done = perf_counter()

        branches = [
            branch for prompt in prompts for branch in self._branches(prompt[split:], mask_tokens, position_tokens)
        ]
        limit = max_new_tokens
        if limit is None:
            usual = {QUESTIONS[style]: tokens for style, tokens in MAX_NEW_TOKENS.items()}
            limit = max(usual.get(question, MAX_NEW_TOKENS_FREE) for question in questions)
            limit = max(1, min(limit, self._decoder.room(prefix, branches)))
        answers = self._decoder.generate(prefix, branches, self._rows, limit, self.spec.eos_id)
        texts = [self._builder.decode(answer.tokens) for answer in answers]
        end = perf_counter()

        preprocess_seconds, vision_seconds = picture.unbilled
        picture.unbilled = (0.0, 0.0)
        timing = Timing(
            preprocess=preprocess_seconds,
            vision=vision_seconds,
            regions=regions_done - start,
            prefix=prefix_done - regions_done,
            branches=end - prefix_done,
            total=preprocess_seconds + vision_seconds + end - start,
            steps=self._decoder.steps(branches, answers),
            prefix_tokens=prefix.length,
            branch_tokens=sum(len(branch) for branch in branches),
            new_tokens=sum(len(answer.tokens) for answer in answers),
        )
        results = []
        for n, question in enumerate(questions):
            part = slice(n * len(regions), (n + 1) * len(regions))
            results.append(Result(question, _descriptions(regions, texts[part], answers[part]), timing))
        return tuple(results)

    def _load(self, file: str, threads: int | None, input_name: str, output_name: str) -> Engine:
        path = self.bundle.path(file)
        engine = load_engine(path, self.bundle.manifest.runtime, threads)
        if input_name not in engine.input_names or output_name not in engine.output_names:
            raise BundleError(f"{path} has no {input_name} or no {output_name}: it is not the engine its name says")
        return engine

    def _prompt(self, question: str) -> tuple[int, ...]:
        prompt = self._builder.prompt(question)
        if prompt.count(MASK) != 1:
            raise PromptError(f"the question {question!r} must contain {REGION_TEXT} once: it is asked of each region")
        return prompt

    def _region_tokens(self, picture: _Picture, regions: Regions) -> tuple[np.ndarray, np.ndarray]:
        masks = regions.pooling_masks(self.spec.feature_sizes)
        inputs = {f"mask_res{level}": mask for level, mask in enumerate(masks, start=2)}
        inputs["position"] = regions.position_grids(self.spec.position_size)
        outputs = self._extractor.run({**picture.features, **inputs})
        return outputs["mask_tokens"], outputs["position_tokens"]

    def _prefix(self, picture: _Picture, ids: tuple[int, ...]) -> Prefix:
        """The shared prefix; what it shares with the one of the last call on this picture is not computed again."""
        shared = 0
        for mine, known in zip(ids, picture.prefix_ids, strict=False):
            if mine != known:
                break
            shared += 1
        rows = shared + ids[:shared].count(IMAGE) * (len(picture.image_tokens) - 1)
        prefix = self._decoder.prefill(self._prefix_rows(ids[shared:], picture), picture.prefix.head(rows))
        picture.prefix_ids, picture.prefix = ids, prefix
        return prefix

    def _prefix_rows(self, ids: tuple[int, ...], picture: _Picture) -> np.ndarray:
        if IMAGE not in ids:
            return self._rows(np.array(ids, dtype=np.intp))
        at = ids.index(IMAGE)
        before, after = (self._rows(np.array(part, dtype=np.intp)) for part in (ids[:at], ids[at + 1 :]))
        return np.concatenate([before, picture.image_tokens, after])

    def _branches(
        self, ids: tuple[int, ...], mask_tokens: np.ndarray, position_tokens: np.ndarray
    ) -> Sequence[np.ndarray]:
        """Rows of the question behind the prefix for every region, [N][T, hidden]: words and the region's tokens."""
        array = np.array(ids, dtype=np.intp)
        words = self._rows(np.maximum(array, 0))
        rows = np.repeat(words[None], len(mask_tokens), axis=0)
        rows[:, array == MASK] = mask_tokens[:, None]
        rows[:, array == POSITION] = position_tokens[:, None]
        return list(rows)

    def _rows(self, ids: np.ndarray) -> np.ndarray:
        """Embedding rows of token ids [n], float32 [n, hidden]."""
        return self._embeddings[ids].astype(np.float32)


def _descriptions(regions: Regions, texts: Sequence[str], answers: Sequence[Generation]) -> tuple[Description, ...]:
    return tuple(
        Description(int(region), text, answer.tokens, answer.logprobs)
        for region, text, answer in zip(regions.ids, texts, answers, strict=True)
    )
