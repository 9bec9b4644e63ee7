"""Describe regions of an image: set the image once, then ask about any number of regions.

All regions and all questions of one call are decoded together behind one shared prefix: the system's words, the image,
and the words of the question before the region.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from osprey_ros._moved import old_names
from osprey_ros.bundle.bundle import Bundle
from osprey_ros.decoding.config import GenerationConfig
from osprey_ros.decoding.constraints import Constraint
from osprey_ros.decoding.decoder import Token
from osprey_ros.decoding.deprecated import old_arguments
from osprey_ros.decoding.prompt import QUESTIONS, style_question
from osprey_ros.decoding.prompt_batch import PromptBatch
from osprey_ros.decoding.session import Answer, DecodingSession, RegionTokens
from osprey_ros.engines.base import Engine, load_engine
from osprey_ros.errors import BundleError, InputError, PromptError, RegionError
from osprey_ros.regions.encoder import RegionEncoder, without_evidence
from osprey_ros.regions.regions import Regions, as_regions
from osprey_ros.regions.resize import fitted
from osprey_ros.results import Description, EncodedRegions, Result, Scores, StreamUpdate
from osprey_ros.scene.types import UNKNOWN
from osprey_ros.system.cancellation import CancellationToken
from osprey_ros.system.exclusive import ExclusiveUse
from osprey_ros.system.machine import cpu_count
from osprey_ros.timing import StageTimer, Timing
from osprey_ros.vision.encoder import ImageEncoder
from osprey_ros.vision.image_io import check_rgb
from osprey_ros.vision.preprocess import Preprocessor

AnyRegions: TypeAlias = Regions | EncodedRegions | np.ndarray | Sequence[Any]

_IMAGE_IDS = itertools.count(1)  # of all describers of the process
_DEFAULT = GenerationConfig()


class Describer:
    """Describes regions of an image with the engines of one bundle.

    One thread at a time may use it. A call that begins while another one is under way raises InputError, as does every
    call after `close`. Every answer is about the image that was set last; a call never mixes two images.

    Methods take regions as an id image, as masks (see `as_regions`) or as the result of `encode`. Regions of another
    resolution are resized to the image by nearest neighbor, which is logged once. The answer about a region of which no
    pixel is left at the scales of the model is "unknown" with a reason. Methods raise InputError before the first
    `set_image`, RegionError for regions of another aspect ratio or of another image, PromptError for a question that
    cannot be asked, and InputError if question and answer need more positions than the model has. ``cancel`` ends a
    call that is under way.

    Args:
        bundle: An opened bundle, its folder, or a name such as "nano".
        threads: CPU threads of each engine, by default one for each core.
        max_parallel: The most pairs of region and question that are decoded together; others wait.
        preprocessing: "exact" or "fast" (see `Preprocessor`).

    Attributes:
        bundle: The bundle.
        spec: Sizes of its model.
        image_id: Identifies the image that was set last; 0 before the first.
        image_timing: Where the time of the last `set_image` went.

    Raises BundleError, EngineError or ImageError if the bundle cannot be used in this way.
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
        preprocessor = Preprocessor(self.spec, preprocessing, threads if threads is not None else cpu_count())
        vision = self._load("vision", threads, "pixels", "image_tokens")
        self._image_encoder = ImageEncoder(vision, preprocessor, self.spec)
        extractor = self._load("mask_extractor", threads, "position", "position_tokens")
        self._region_encoder = RegionEncoder(extractor, self.spec)
        decoder = self._load("decoder", threads, "inputs_embeds", f"new_value.{self.spec.num_layers - 1}")
        self._session = DecodingSession(self.bundle, decoder, max_parallel)
        self._use = ExclusiveUse("describer")
        self._shape: tuple[int, int] | None = None  # height and width of the image
        self.image_id = 0
        self.image_timing = Timing()

    def __enter__(self) -> Describer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the engines and their memory. All later calls but `close` raise InputError."""
        if self._use.closed:
            return
        with self._use:
            self._use.close()
            del self._image_encoder, self._region_encoder, self._session

    def set_image(
        self, rgb: np.ndarray, image_id: int | None = None, *, cancel: CancellationToken | None = None
    ) -> None:
        """Set the image of the following calls and encode it. The time is in `image_timing`.

        A GPU encodes after the return: the next call waits for it. That call raises EngineError if it failed, and the
        call after it waits for another attempt.

        Args:
            rgb: uint8 [H, W, 3] in RGB order.
            image_id: That of an earlier image, to set the same image again: regions encoded then are valid again.
            cancel: Ends the encoding on the CPU. No image is set then.

        Raises ImageError for other arrays, StoppedError when canceled.
        """
        with self._use:
            check_rgb(rgb)
            timer, self._shape = StageTimer("preprocess"), None
            self._session.reset()
            self.image_id = next(_IMAGE_IDS) if image_id is None else image_id
            self._image_encoder.encode(rgb, timer, cancel)
            self._shape, self.image_timing = rgb.shape[:2], timer.timing()

    def encode(
        self, regions: Regions | np.ndarray | Sequence[Any], *, cancel: CancellationToken | None = None
    ) -> EncodedRegions:
        """Compute the two tokens of each region once, for several calls. Its ``timing`` says where the time went."""
        with self._use:
            return self._encode(self._checked(as_regions(regions)), StageTimer("regions"), cancel)

    @old_arguments
    def describe(
        self,
        regions: AnyRegions,
        style: str = "short",
        config: GenerationConfig = _DEFAULT,
        *,
        cancel: CancellationToken | None = None,
    ) -> Result:
        """Describe every region in one of the published styles: "short", "detailed" or "category".

        Arguments and errors are those of `answer`.
        """
        return self.answer(regions, [style_question(style)], config, cancel=cancel)[0]

    @old_arguments
    def ask(
        self,
        regions: AnyRegions,
        question: str,
        config: GenerationConfig = _DEFAULT,
        *,
        cancel: CancellationToken | None = None,
    ) -> Result:
        """Ask one question about every region. ``<mask><pos>`` in it marks where the region is named.

        Arguments and errors are those of `answer`.
        """
        return self.answer(regions, [question], config, cancel=cancel)[0]

    @old_arguments
    def answer(
        self,
        regions: AnyRegions,
        questions: Sequence[str],
        config: GenerationConfig = _DEFAULT,
        constraints: Sequence[Constraint | None] | None = None,
        *,
        cancel: CancellationToken | None = None,
    ) -> tuple[Result, ...]:
        """Ask several questions about every region, all decoded together.

        Args:
            regions: N regions, see above.
            questions: At least one, each about one region.
            config: Longest answer and sampling. It does not cut an answer from a list.
            constraints: What the answers to each question must be, or None. Such answers are never sampled.
            cancel: Ends decoding. Answers so far are returned, with ``ended`` False. Before the first token of any
                answer, StoppedError is raised.

        Returns one Result for each question; they share one Timing. Raises the errors above, PromptError for an answer
        that the model cannot give, and InputError if there is not one constraint for each question.
        """
        with self._use:
            timer = StageTimer("regions")
            compiled = self._session.compile(questions, constraints)
            batch, reasons = self._batch(regions, questions, timer, cancel)
            answers = self._session.answer(batch, config, compiled, timer, cancel)
            timing = _timing(timer, batch, sum(len(answer.generation.tokens) for answer in answers))
        described = [_description(answer, reasons.get(answer.region_id, "")) for answer in answers]
        count = len(batch.region_ids)
        return tuple(
            Result(question, tuple(described[n * count : (n + 1) * count]), timing)
            for n, question in enumerate(batch.questions)
        )

    @old_arguments
    def ask_together(
        self,
        regions: AnyRegions,
        question: str,
        config: GenerationConfig = _DEFAULT,
        *,
        cancel: CancellationToken | None = None,
    ) -> Description:
        """Ask one question about several regions, such as "What is between <mask><pos> and <mask><pos>?".

        ``<mask><pos>`` in it names each region once, in the order of the regions. If it names none, all are put in
        front. Arguments and errors are those of `answer`.
        """
        with self._use:
            timer = StageTimer("regions")
            batch, reasons = self._batch(regions, [question], timer, cancel, joint=True)
            (answer,) = self._session.answer(batch, config, [None], timer, cancel)
        return _description(answer, _joint_reason(reasons))

    def check(self, constraints: Iterable[Constraint | None], questions: Iterable[str] = ()) -> None:
        """Compile constraints, and check questions about one region. No image is needed.

        Raises PromptError for an answer that the model cannot give, and for a question that cannot be asked or is
        longer than the model can read.
        """
        with self._use:
            given = list(constraints)
            self._session.compile([""] * len(given), given)
            for question in questions:
                self._session.builder.check_question(question)

    @old_arguments
    def stream(
        self,
        regions: AnyRegions,
        question: str,
        config: GenerationConfig = _DEFAULT,
        together: bool = False,
        *,
        cancel: CancellationToken | None = None,
    ) -> Iterator[StreamUpdate]:
        """Ask like `ask`, or like `ask_together` if ``together``, and yield each token when it is decoded.

        Errors of the call are raised at once. Closing the iterator ends decoding. Another call of the describer does
        so, too: the iterator then raises InputError. After ``cancel`` it raises StoppedError.
        """
        with self._use:
            batch, reasons = self._batch(regions, [question], StageTimer("regions"), cancel, together)
            if together and reasons:
                reasons = {0: _joint_reason(reasons)}
            return self._updates(self._session.stream(batch, config, cancel), reasons)

    @old_arguments
    def score(
        self,
        regions: AnyRegions,
        phrases: Sequence[str],
        question: str = QUESTIONS["category"],
        *,
        cancel: CancellationToken | None = None,
    ) -> Scores:
        """Compute how likely each phrase is as the answer to a question about each region, all in one pass.

        ``cancel`` raises StoppedError. Other errors are those of `answer`, and PromptError for no phrase and for one
        that is empty or names a region.
        """
        if not phrases:
            raise PromptError("no phrase is given: there is nothing to score")
        with self._use:
            timer, ids = StageTimer("regions"), [self._session.builder.phrase(phrase) for phrase in phrases]
            batch, reasons = self._batch(regions, [question], timer, cancel)
            scores = self._session.score(batch, ids, timer, cancel)
            sums = np.array([[part.sum(dtype=np.float64) for part in row] for row in scores], dtype=np.float32)
            timing = _timing(timer, batch, len(scores) * sum(len(phrase) for phrase in ids))
        by_token = tuple(tuple(row) for row in scores)
        return Scores(question, tuple(phrases), batch.region_ids, sums, by_token, timing, reasons)

    def _load(self, role: str, threads: int | None, input_name: str, output_name: str) -> Engine:
        entry = self.bundle.engine(role)
        path = self.bundle.path(entry.file)
        engine = load_engine(path, entry.runtime, entry.device, threads)
        if input_name not in engine.input_names or output_name not in engine.output_names:
            raise BundleError(f"{path} has no {input_name} or no {output_name}: it is not the engine its name says")
        return engine

    def _checked(self, regions: Regions) -> Regions:
        if self._shape is None:
            raise InputError("no image is set: call set_image first")
        return fitted(regions, self._shape)

    def _encode(self, regions: Regions, timer: StageTimer, cancel: CancellationToken | None) -> EncodedRegions:
        pooled = self._region_encoder.pool(regions)  # while a GPU encodes the image
        reasons = without_evidence(regions, pooled)
        self._image_encoder.synchronize(timer)
        timer.enter("regions")
        mask_tokens, position_tokens = self._region_encoder.encode(self._image_encoder.features, pooled, timer, cancel)
        return EncodedRegions(regions, mask_tokens, position_tokens, self.image_id, timer.timing(), reasons)

    def _batch(
        self,
        regions: AnyRegions,
        questions: Sequence[str],
        timer: StageTimer,
        cancel: CancellationToken | None,
        joint: bool = False,
    ) -> tuple[PromptBatch, Mapping[int, str]]:
        """Encode regions, unless they are, and compute what all branches need.

        Returns the branches, and why nothing can be said about a region, by its id.
        """
        known = self._checked(regions.regions if isinstance(regions, EncodedRegions) else as_regions(regions))
        self._session.prompts(questions, len(known) if joint else 1)  # errors first
        if not isinstance(regions, EncodedRegions):
            regions = self._encode(known, timer, cancel)
        elif regions.image_id != self.image_id:
            raise RegionError("these regions were encoded for another image: encode them again after set_image")
        self._image_encoder.synchronize(timer)
        tokens = RegionTokens(known.ids, regions.mask_tokens, regions.position_tokens, self._image_encoder.image_tokens)
        return self._session.batch(questions, tokens, joint, timer, cancel), regions.reasons

    def _updates(self, decoded: Iterator[tuple[Answer, Token]], reasons: Mapping[int, str]) -> Iterator[StreamUpdate]:
        while True:
            with self._use:
                found = next(decoded, None)
            if found is None:
                return
            answer, token = found
            known = _description(answer, reasons.get(answer.region_id, ""))
            yield StreamUpdate(
                answer.region_id,
                known.text,
                token.id,
                token.logprob,
                token.last,
                known.confidence,
                known.raw_confidence,
                known.reason,
            )


def _joint_reason(reasons: Mapping[int, str]) -> str:
    """Return why nothing can be said about several regions together: the first region without evidence."""
    return next((f"region {region}: {reason}" for region, reason in reasons.items()), "")


def _description(answer: Answer, reason: str = "") -> Description:
    if reason:
        nothing = np.zeros(0, np.int32), np.zeros(0, np.float32)
        return Description(
            answer.region_id, UNKNOWN, *nothing, 0.0, 0.0, answer.generation.ended, answer.constrained, reason
        )
    return Description(
        answer.region_id,
        answer.text,
        answer.generation.tokens,
        answer.generation.logprobs,
        answer.confidence,
        answer.raw_confidence,
        answer.generation.ended,
        answer.constrained,
    )


def _timing(timer: StageTimer, batch: PromptBatch, new_tokens: int) -> Timing:
    return timer.timing(batch.prefix.length, batch.branches.rows, new_tokens)


if not TYPE_CHECKING:  # a type checker would accept any name
    __getattr__ = old_names("describer")
