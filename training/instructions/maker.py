"""From known regions to the six files: words by templates or by an endpoint, everything that is unfit left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from training.instructions import answers, templates
from training.instructions.answers import UnfitAnswer
from training.instructions.endpoint import Endpoint, EndpointError, Reply, Request
from training.instructions.facts import KnownPicture, KnownRegion
from training.instructions.files import (
    CONVERSATION,
    DESCRIPTION,
    KINDS,
    MASKS,
    PART_LEVEL,
    POSITIVE_NEGATIVE,
    SHORT_FORM,
    description_entry,
    masks_file,
    talk_entry,
)  # fmt: skip
from training.instructions.journal import Journal
from training.instructions.purse import Purse


@dataclass
class Made:
    """What was made: contents by kind, samples counted by kind, and what was left out and why."""

    contents: dict[str, Any]
    samples: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    not_asked: int = 0  # requests beyond the bound on spending


@dataclass
class Writer:
    """A language model that is asked through a journal and within a bound."""

    endpoint: Endpoint
    model: str
    journal: Journal
    purse: Purse
    parallel: int = 4

    def __post_init__(self) -> None:
        self.purse.count(self.journal.sent, self.journal.received)
        self.endpoint.lost = self._lost

    def ask_all(self, requests: Sequence[Request], progress: Callable[[], None]) -> int:
        """Asks what has no answer in the journal yet; returns how many were left because of the bound.

        Raises EndpointError; answers that came before are in the journal.
        """
        missing = iter(dict.fromkeys(request for request in requests if self.journal.get(request) is None))
        left = 0
        running: set[Future[None]] = set()
        with ThreadPoolExecutor(self.parallel) as pool:
            try:
                for request in missing:
                    fits = self.purse.reserve(request.most_sent, request.max_tokens)
                    while not fits and running:
                        running = _finish(running, progress)  # it cost less than was set aside for it
                        fits = self.purse.reserve(request.most_sent, request.max_tokens)
                    if not fits:
                        left += 1  # a shorter one may still fit
                        continue
                    running.add(pool.submit(self._ask, request))
                    if len(running) >= self.parallel:
                        running = _finish(running, progress)
                while running:
                    running = _finish(running, progress)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return left

    def _ask(self, request: Request) -> None:
        reply = Reply("", 0, 0)
        try:
            reply = self.endpoint.ask(request)
            self.journal.add(request, reply)
        finally:
            self.purse.settle((request.most_sent, request.max_tokens), reply.sent, reply.received)

    def _lost(self, request: Request) -> None:
        self.journal.lose(request)
        self.purse.count(request.most_sent, request.max_tokens)
        if not self.purse.has_room:
            raise EndpointError(f"{self.endpoint.url}: requests without an answer have used up the bound on spending")


def make(
    pictures: Sequence[KnownPicture],
    names: Sequence[str],
    kinds: Sequence[str] = KINDS,
    seed: int = 0,
    max_regions: int = 8,
    writer: Writer | None = None,
    progress: Callable[[], None] = lambda: None,
) -> Made:
    """The content of the files of `kinds`, by templates, or the kinds in answers.ASKED by `writer`.

    names: categories of the whole data set, of which `pictures` may be a part. max_regions: of one record; a picture
    with more gives several records. Positive and negative questions, parts and masks are exact as they are and always
    come from templates.
    """
    asked = [kind for kind in kinds if kind in answers.ASKED] if writer is not None else []
    groups = list(_groups(pictures, max_regions))
    made = Made({kind: [] for kind in kinds if kind != MASKS})
    if writer is not None and asked:
        requests = [
            answers.request_for(kind, picture, objects, writer.model)
            for picture, objects, _, _ in groups
            if objects
            for kind in asked
        ]
        made.not_asked = writer.ask_all(requests, progress)
    for picture, objects, parts, number in groups:
        for kind in made.contents:
            regions = parts if kind == PART_LEVEL else objects
            if not regions:
                continue
            rng = np.random.default_rng([seed, number, KINDS.index(kind)])
            try:
                if writer is not None and kind in asked:
                    reply = writer.journal.get(answers.request_for(kind, picture, regions, writer.model))
                    entry = _from_answer(kind, reply, picture, regions, names)
                else:
                    entry = _from_templates(kind, picture, regions, names, rng)
            except UnfitAnswer as error:
                made.refused[f"{kind}: {error.reason}"] += 1
                continue
            if entry is not None:
                made.contents[kind].append(entry)
                made.samples[kind] += len(entry.get("description", ())) or len(entry["conversations"]) // 2
    if MASKS in kinds:
        made.contents[MASKS] = masks_file(pictures)
        made.samples[MASKS] = len(made.contents[MASKS]["annotations"])
    return made


_Group = tuple[KnownPicture, Sequence[KnownRegion], Sequence[KnownRegion], int]


def _groups(pictures: Sequence[KnownPicture], most: int) -> Iterator[_Group]:
    """(picture, objects, parts, number) with at most so many of each."""
    number = 0
    for picture in pictures:
        for start in range(0, max(len(picture.objects), len(picture.parts)), most):
            piece = slice(start, start + most)
            yield picture, picture.objects[piece], picture.parts[piece], number
            number += 1


def _from_answer(
    kind: str, reply: Reply | None, picture: KnownPicture, regions: Sequence[KnownRegion], names: Sequence[str]
) -> dict[str, Any] | None:
    if reply is None:
        return None
    if kind == DESCRIPTION:
        texts = answers.read_descriptions(reply.content, picture, regions, names)
        return description_entry(picture, regions, texts)
    return talk_entry(picture, regions, answers.read_turns(kind, reply.content, picture, regions, names))


def _from_templates(
    kind: str,
    picture: KnownPicture,
    regions: Sequence[KnownRegion],
    names: Sequence[str],
    rng: np.random.Generator,
) -> dict[str, Any] | None:
    if kind == DESCRIPTION:
        return description_entry(picture, regions, templates.descriptions(picture, regions))
    pairs = {
        CONVERSATION: lambda: templates.conversation(picture, regions, rng),
        SHORT_FORM: lambda: templates.short_form(picture, regions, rng),
        PART_LEVEL: lambda: templates.part_level(regions),
        POSITIVE_NEGATIVE: lambda: templates.positive_negative(picture, regions, names, rng),
    }[kind]()
    return talk_entry(picture, regions, pairs) if pairs else None


def _finish(running: set[Future[None]], progress: Callable[[], None]) -> set[Future[None]]:
    done, rest = wait(running, return_when=FIRST_COMPLETED)
    for future in done:
        future.result()
        progress()
    return rest
