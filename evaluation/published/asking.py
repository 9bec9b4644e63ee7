"""Ask a bundle the questions of a task, image by image, and keep every answer as soon as it is there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from evaluation.published.answers import Answers
from evaluation.published.items import Item
from osprey_ros.cli._progress import progress_bar
from osprey_ros.decoding.config import GenerationConfig, Sampling
from osprey_ros.decoding.prompt import IMAGE_TEXT
from osprey_ros.describer import Describer
from osprey_ros.errors import InputError, OspreyError
from osprey_ros.regions.regions import regions_from_masks
from osprey_ros.regions.resize import resized
from osprey_ros.strict_json import to_json
from osprey_ros.vision.image_io import load_image
from osprey_torch.readers.records import Skipped

Found = list[tuple[str, str]] | str  # id and answer of each item of an image, or why there are none
TEMPERATURE = 0.2  # of the published sampling


@dataclass(frozen=True)
class Asking:
    """How a bundle is asked.

    Attributes:
        opening: A key of `OPENINGS` for all items; None for that of each item.
        sample: Whether to sample as the published code does, at a temperature of 0.2.
        seed: Seed of the sampling.
        max_new_tokens: Longest answer in tokens; None for the usual limit of each question.
        threads: CPU threads; None for one for each core.
    """

    opening: str | None = None
    sample: bool = False
    seed: int = 0
    max_new_tokens: int | None = None
    threads: int | None = None

    @property
    def config(self) -> GenerationConfig:
        """The settings of the describer: the model's own words, also where the bundle has a tree of kinds."""
        sampling = Sampling(TEMPERATURE, seed=self.seed) if self.sample else None
        return GenerationConfig(self.max_new_tokens, sampling, back_off=False)

    def header(self, bundle: str, task: str) -> dict[str, Any]:
        """Return what identifies a run: answers of another one are not mixed with it."""
        fields = (self.opening, self.sample, self.seed if self.sample else None, self.max_new_tokens)
        names = ("opening", "sample", "seed", "max_new_tokens")
        return {"task": task, "bundle": bundle, **dict(zip(names, fields, strict=True))}


class Workers(Protocol):
    """Processes that answer images."""

    def answers(self, bundle: str, asking: Asking, groups: Sequence[list[Item]]) -> Iterable[tuple[list[Item], Found]]:
        """Yield the items of each image, in this order, with their answers."""


class Journal:
    """Answers in JSON lines, the first of which identifies the run. A line that a kill has cut off is dropped.

    Args:
        path: The file; it is created, or continued.
        header: What identifies the run.

    Raises InputError if the file belongs to another run.
    """

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        self.answers: dict[str, str] = {}
        lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
        whole = 0
        for number, line in enumerate(lines):
            if not line.endswith(b"\n"):
                break
            whole += len(line)
            entry = json.loads(line)
            if number == 0:
                self._check(path, entry, header)
            else:
                self.answers[entry["item"]] = entry["answer"]
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: BinaryIO = path.open("ab")
        self._file.truncate(whole)
        if not whole:
            self._write([dict(header)])

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, answers: Iterable[tuple[str, str]]) -> None:
        """Keep the answers about one image."""
        pairs = list(answers)
        self._write([{"item": item, "answer": answer} for item, answer in pairs])
        self.answers.update(pairs)

    def _write(self, entries: Sequence[Mapping[str, Any]]) -> None:
        self._file.write(b"".join(to_json(entry).encode() + b"\n" for entry in entries))
        self._file.flush()
        os.fsync(self._file.fileno())

    @staticmethod
    def _check(path: Path, found: Any, header: Mapping[str, Any]) -> None:
        other = [key for key in header if not isinstance(found, dict) or found.get(key) != header[key]]
        if other:
            was = {key: found.get(key) if isinstance(found, dict) else None for key in other}
            wanted = {key: header[key] for key in other}
            raise InputError(
                f"{path} has answers of another run: {was} in place of {wanted}; choose another --work, or remove it"
            )


class BundleAsker:
    """A bundle that answers items. It opens one describer for each opening.

    Args:
        bundle: Folder or name of the bundle.
        asking: How it is asked.
    """

    def __init__(self, bundle: str, asking: Asking) -> None:
        self._bundle, self._asking = bundle, asking
        self._describers: dict[str, Describer] = {}

    def __enter__(self) -> BundleAsker:
        return self

    def __exit__(self, *_: object) -> None:
        for describer in self._describers.values():
            describer.close()

    def answer(self, items: Sequence[Item]) -> list[tuple[str, str]]:
        """Return id and answer of each item about one image, those with the same question decoded together.

        Raises OspreyError for an image, a mask or a question that cannot be used.
        """
        result: list[tuple[str, str]] = []
        for question, own, describer, masks in self._groups(items):
            if masks is None:
                text = describer.ask_image(question.replace(IMAGE_TEXT, ""), self._asking.config).text
                result += [(item.id, text) for item in own]
                continue
            found = describer.ask(regions_from_masks(masks), question, self._asking.config)
            # "unknown" with a reason is an answer, too: a region that no pixel of is left at the model's scales.
            result += [(item.id, one.text) for item, one in zip(own, found, strict=True)]
        return result

    def likelihoods(self, items: Sequence[Item], phrases: Sequence[str], question: str) -> np.ndarray:
        """Return the log-likelihood of each phrase as the answer about each item of one image, float32 [n, phrases]."""
        rows: dict[str, np.ndarray] = {}
        for _, own, describer, masks in self._groups(items):
            assert masks is not None
            scores = describer.score(regions_from_masks(masks), phrases, question).log_likelihoods
            rows |= {item.id: row for item, row in zip(own, scores, strict=True)}
        return np.stack([rows[item.id] for item in items])

    def _groups(self, items: Sequence[Item]) -> Iterator[tuple[str, list[Item], Describer, list[np.ndarray] | None]]:
        """Yield question, items, describer with the image set, and masks; None for whole images."""
        rgb = load_image(items[0].image)
        shape = (rgb.shape[0], rgb.shape[1])
        ordered = sorted(items, key=lambda item: (self._opening(item), item.question, item.mask is None))
        before = None
        for (opening, question, whole), group in groupby(
            ordered, key=lambda item: (self._opening(item), item.question, item.mask is None)
        ):
            own, describer = list(group), self._describer(opening)
            if describer is not before:
                describer.set_image(rgb)
                before = describer
            if whole:
                yield question, own, describer, None
                continue
            masks = [resized(item.mask.decode()[None], shape)[0] for item in own if item.mask is not None]
            yield question, own, describer, masks

    def _opening(self, item: Item) -> str:
        return self._asking.opening or item.opening

    def _describer(self, opening: str) -> Describer:
        if opening not in self._describers:
            self._describers[opening] = Describer(self._bundle, self._asking.threads, opening=opening)
        return self._describers[opening]


def by_image(items: Iterable[Item]) -> list[list[Item]]:
    """Return the items of each image together, images in the order of their first item."""
    groups: dict[Path, list[Item]] = {}
    for item in items:
        groups.setdefault(item.image, []).append(item)
    return list(groups.values())


def ask_bundle(
    bundle: str,
    items: Sequence[Item],
    asking: Asking,
    journal: Journal,
    skipped: Skipped,
    workers: Workers | None = None,
) -> Answers:
    """Return the answers of a bundle; those of the journal are not asked for again.

    Images that cannot be used are counted in ``skipped``.

    Args:
        bundle: Folder or name of the bundle.
        items: The items.
        asking: How it is asked.
        journal: Keeps the answers of each image.
        skipped: Counts images that cannot be used.
        workers: Where images are answered; None for this process.
    """
    waiting = by_image(item for item in items if item.id not in journal.answers)
    answers = _in_this_process if workers is None else workers.answers
    with progress_bar(bundle, " images", len(waiting)) as bar:
        for group, found in answers(bundle, asking, waiting):
            if isinstance(found, str):
                skipped.add(f"{group[0].image}, {len(group)} items", found)
            else:
                journal.add(found)
            bar.update(1)
    known = {item.id for item in items}
    return Answers({one: text for one, text in journal.answers.items() if one in known})


def _in_this_process(bundle: str, asking: Asking, groups: Sequence[list[Item]]) -> Iterator[tuple[list[Item], Found]]:
    with BundleAsker(bundle, asking) as asker:
        for group in groups:
            yield group, answer_or_reason(asker, group)


def answer_or_reason(asker: BundleAsker, group: Sequence[Item]) -> Found:
    """Return the answers about one image, or why there are none."""
    try:
        return asker.answer(group)
    except OspreyError as error:
        return str(error)
