"""Describe regions of an image: set the image once, then ask about any number of regions.

All regions and all questions of one call are decoded together behind one shared prefix: the system's words, the image,
and the words of the question before the region.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from osprey_ros._moved import old_names
from osprey_ros.bundle.bundle import Bundle
from osprey_ros.bundle.default import default_bundle
from osprey_ros.current_image import AnyRegions, CurrentImage
from osprey_ros.decoding.config import GenerationConfig
from osprey_ros.decoding.constraints import Constraint
from osprey_ros.decoding.decoder import Token
from osprey_ros.decoding.deprecated import old_arguments
from osprey_ros.decoding.prompt import QUESTIONS, style_question
from osprey_ros.decoding.session import Answer, DecodingSession
from osprey_ros.engines.base import load_role
from osprey_ros.errors import PromptError
from osprey_ros.results import Description, EncodedRegions, Result, Scores, StreamUpdate
from osprey_ros.system.call import Call
from osprey_ros.system.cancellation import CancellationToken
from osprey_ros.system.exclusive import ExclusiveUse, exclusive
from osprey_ros.timing import Timing

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
        bundle: An opened bundle, its folder, or a name such as "nano". By default "home", or what the environment
            variable OSPREY_BUNDLE names.
        threads: CPU threads of each engine, by default one for each core.
        max_parallel: The most pairs of region and question that are decoded together; others wait.
        preprocessing: "exact" or "fast" (see `Preprocessor`).
        opening: Text between the role and each question, a key of `osprey_ros.decoding.prompt.OPENINGS`. The bundles
            that ship were trained with "overview" only.

    Attributes:
        bundle: The bundle.
        spec: Sizes of its model.
        image_id: Identifies the image that was set last; 0 before the first.
        image_timing: Where the time of the last `set_image` went.
        has_crops: Whether the bundle has an engine for crops of regions (see `GenerationConfig`).

    Raises BundleError, EngineError or ImageError if the bundle cannot be used in this way.
    """

    def __init__(
        self,
        bundle: Bundle | str | os.PathLike[str] | None = None,
        threads: int | None = None,
        max_parallel: int = 64,
        preprocessing: str = "exact",
        opening: str = "overview",
    ) -> None:
        self.bundle = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle or default_bundle())
        self.spec = self.bundle.manifest.model
        self._image = CurrentImage(self.bundle, threads, preprocessing)
        decoder = load_role(self.bundle, "decoder", threads, f"new_value.{self.spec.num_layers - 1}")
        self._session = DecodingSession(self.bundle, decoder, max_parallel, opening)
        self.has_crops = self._image.has_crops
        self._use = ExclusiveUse("describer")
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
            del self._image, self._session

    @exclusive
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
        call = Call(cancel, [("preprocess", perf_counter())])
        self._session.reset()
        self._image.set(rgb, image_id, call)
        self.image_id, self.image_timing = self._image.id, call.timing()

    @exclusive
    def encode(
        self,
        regions: AnyRegions,
        *,
        crops: str | Collection[int] = "none",
        cancel: CancellationToken | None = None,
    ) -> EncodedRegions:
        """Compute the two tokens of each region once, for several calls. Its ``timing`` says where the time went.

        Args:
            regions: N regions, see above. Regions that were encoded without crops get crops.
            crops: Regions that the model reads a second time, in a crop of their own, which takes about as long as an
                image of that size: "none", "small" or "all" (see `GenerationConfig`), or the ids of the regions.
            cancel: Ends the call: StoppedError is raised.

        Raises InputError for crops if the bundle has no engine for them.
        """
        return self._image.encode(regions, _call(cancel), crops)

    @exclusive
    def image_statistics(self) -> np.ndarray:
        """Return statistics of the feature maps of the image, float32 [F], from which `UnlikeTraining` judges images.

        Raises InputError before the first `set_image`.
        """
        return self._image.statistics(_call(None))

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
    @exclusive
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
            config: Longest answer, sampling, crops, and the choice of a category from a tree of kinds. It does not cut
                an answer from a list.
            constraints: What the answers to each question must be, or None. Such answers are never sampled.
            cancel: Ends decoding. Answers so far are returned, with ``ended`` False. Before the first token of any
                answer, StoppedError is raised.

        Returns one Result for each question; they share one Timing. Raises the errors above, PromptError for an answer
        that the model cannot give, and InputError if there is not one constraint for each question.
        """
        call, checked = _call(cancel), self._session.check(questions, constraints)
        tokens = self._image.tokens(regions, call, config.crops)
        answers, timing = self._session.answer(checked, tokens, config, call)
        return Result.split(checked.texts, answers, timing, tokens.reasons)

    @old_arguments
    @exclusive
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
        call, known = _call(cancel), self._image.checked(regions)
        checked = self._session.check([question], joint_regions=len(known))
        tokens = self._image.tokens(known, call, config.crops)
        (answer,), _ = self._session.answer(checked, tokens, config, call)
        return Description.of(answer, tokens.joint_reason)

    @exclusive
    def ask_image(
        self, question: str, config: GenerationConfig = _DEFAULT, *, cancel: CancellationToken | None = None
    ) -> Description:
        """Ask a question about the whole image, which names no region. Its region id is 0.

        Models that were trained on regions only have not learned to answer such questions. Arguments and errors are
        those of `answer`.
        """
        call, checked = _call(cancel), self._session.check([question], joint_regions=0)
        (answer,), _ = self._session.answer(checked, self._image.no_regions(call), config, call)
        return Description.of(answer)

    @exclusive
    def check(
        self, constraints: Iterable[Constraint | None], questions: Iterable[str] = (), crops: str = "none"
    ) -> None:
        """Compile constraints, and check questions about one region and the choice of crops. No image is needed.

        Raises PromptError for an answer that the model cannot give, and for a question that cannot be asked or is
        longer than the model can read. Raises InputError for crops if the bundle has no engine for them.
        """
        self._image.check_crops(crops)
        self._session.compile(list(constraints))
        for question in questions:
            self._session.builder.check_question(question)

    @old_arguments
    @exclusive
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
        call, known = _call(cancel), self._image.checked(regions)
        checked = self._session.check([question], joint_regions=len(known) if together else None)
        tokens = self._image.tokens(known, call, config.crops)
        reasons = {0: tokens.joint_reason} if together else tokens.reasons
        return self._updates(self._session.stream(checked, tokens, config, call), reasons)

    @old_arguments
    @exclusive
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
        call, ids = _call(cancel), [self._session.builder.phrase(phrase) for phrase in phrases]
        checked = self._session.check([question])
        tokens = self._image.tokens(regions, call)
        scores, timing = self._session.score(checked, tokens, ids, call)
        sums = np.array([[part.sum(dtype=np.float64) for part in row] for row in scores], dtype=np.float32)
        return Scores(
            question,
            tuple(phrases),
            tokens.ids.copy(),
            sums,
            tuple(map(tuple, scores)),
            timing,
            tokens.reasons,
            tokens.unlike_training,
        )

    def _updates(self, decoded: Iterator[tuple[Answer, Token]], reasons: Mapping[int, str]) -> Iterator[StreamUpdate]:
        while True:
            with self._use:
                found = next(decoded, None)
            if found is None:
                return
            yield StreamUpdate.of(*found, reasons.get(found[0].region_id, ""))


def _call(cancel: CancellationToken | None) -> Call:
    return Call(cancel, [("regions", perf_counter())])


if not TYPE_CHECKING:  # a type checker would accept any name
    __getattr__ = old_names("describer")
