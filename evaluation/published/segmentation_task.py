"""What the commands of open-vocabulary segmentation share: options, and the two ways to the scores of classes."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from evaluation.published.answers import Answers
from evaluation.published.asking import Asking, BundleAsker, by_image
from evaluation.published.command import Task
from evaluation.published.items import Item, Scored
from evaluation.published.ovseg import score, sentence_scores
from evaluation.published.segmentation_data import PanopticData
from evaluation.published.sentences import SentenceEncoder, add_sentence_model_option, sentence_model_folder
from osprey_ros.cli._progress import progress_bar
from osprey_ros.decoding.prompt import QUESTIONS
from osprey_ros.errors import InputError, OspreyError
from osprey_torch.readers.records import Skipped

SENTENCES, LIKELIHOOD = "sentences", "likelihood"


class SegmentationTask(Task):
    """Open-vocabulary segmentation of one data set."""

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--split", choices=("val", "train"), default="val", help="(default: %(default)s)")
        parser.add_argument("--classes", type=Path, metavar="FILE", help="list of classes with synonyms")
        parser.add_argument(
            "--by",
            choices=(SENTENCES, LIKELIHOOD),
            default=SENTENCES,
            help="how classes are scored: by the similarity of the answer and sentences of the class, as published, or "
            "by the likelihood of each name as an answer, which needs no sentence model (default: %(default)s)",
        )
        add_sentence_model_option(parser)

    def check(self, arguments: argparse.Namespace) -> None:
        if arguments.by == SENTENCES:
            sentence_model_folder(arguments.sentence_model)
        elif arguments.answers:
            raise InputError("--by likelihood asks a bundle for likelihoods; give --bundle in place of --answers")

    def limited(self, data: PanopticData, items: Sequence[Item]) -> PanopticData:
        kept = {item.image for item in items}
        return replace(data, items=items, images=[one for one in data.images if one.image in kept])

    def score(
        self, data: PanopticData, answers: Answers, arguments: argparse.Namespace, skipped: Skipped, name: str
    ) -> Scored:
        if arguments.by == LIKELIHOOD:
            scores = _likelihoods(data, arguments, name, skipped)
        else:
            scores = sentence_scores(data, answers, SentenceEncoder(arguments.sentence_model))
        return score(data, scores, skipped.add)


def _likelihoods(
    data: PanopticData, arguments: argparse.Namespace, bundle: str, skipped: Skipped
) -> Mapping[str, np.ndarray]:
    """Return the probability of each class among all, float32 [classes]: the likeliest synonym of each, normalized."""
    synonyms = data.classes.synonyms()
    phrases = [word for own in synonyms for word in own]
    starts = np.concatenate([[0], np.cumsum([len(own) for own in synonyms])[:-1]]).astype(np.intp)
    asking = Asking(arguments.opening, threads=arguments.threads)
    result: dict[str, np.ndarray] = {}
    groups = by_image(data.items)
    with BundleAsker(bundle, asking) as asker, progress_bar(f"{bundle}, likelihoods", " images", len(groups)) as bar:
        for group in groups:
            try:
                found = asker.likelihoods(group, phrases, QUESTIONS["category"])
            except OspreyError as error:
                skipped.add(f"{group[0].image}, {len(group)} items", str(error))
            else:
                best = np.maximum.reduceat(found.astype(np.float64), starts, axis=1)
                shares = np.exp(best - best.max(axis=1, keepdims=True))
                shares /= shares.sum(axis=1, keepdims=True)
                result |= {item.id: row.astype(np.float32) for item, row in zip(group, shares, strict=True)}
            bar.update(1)
    return result
