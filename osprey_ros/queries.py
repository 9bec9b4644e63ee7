"""Which objects are meant by some words: by what the model says of those in view, by what was said of the others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from osprey_ros.attributes import AttributeSpec
from osprey_ros.calibration import QUERY
from osprey_ros.describer import Describer
from osprey_ros.errors import OspreyError
from osprey_ros.objects import UNKNOWN, SceneObject
from osprey_ros.phrases import Noun, Query, Relation, mentions, parse, singular, with_article
from osprey_ros.prompt import QUESTIONS
from osprey_ros.relations import holds, places
from osprey_ros.results import EncodedRegions

if TYPE_CHECKING:
    from osprey_ros.pipeline import Seen

# The basic colour terms of English (Berlin and Kay, 1969) and one more; asked for as published data sets ask.
COLOUR = AttributeSpec(
    "colour",
    values=("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "white", "black", "grey", "cyan"),
)
_SPELLINGS = {"gray": "grey", "golden": "gold", "violet": "purple"}

MIN_SCORE = 0.5  # a match is rather right than wrong
_BACKGROUND = 0.05  # evidence that something else gives by chance: where the best has no more, it is as likely nothing
_UNLIKELY = 0.001  # so unlikely references are not looked at
_HEARSAY = 0.02  # that an object is what was not said of it
_SOFT = 0.6  # for a word about an object that nothing bears out, such as "old"
_LEAST_RATIO = 0.02  # of words that cannot be taken apart to the region's own answer, for each of their tokens
_PHRASES_KEPT = 4096


class QueryError(OspreyError):
    """A question about the scene that cannot be looked into."""


@dataclass(frozen=True)
class Match:
    """An object that may be meant: how likely it is, in 0..1, and what bears it out."""

    track_id: int
    score: float
    reason: str


@dataclass(frozen=True)
class Found:
    """Objects that may be meant, the likeliest first; where there are none, why. ``stamp``: of the frame in view."""

    matches: tuple[Match, ...]
    why: str
    stamp: int


class Finder:
    """Finds objects by words. Use it from the describer's thread, between frames.

    Args:
        describer: the objects in view are looked at in the picture that it has.
        attributes: those with lists say which words tell what things are like, and how that is asked.
        min_score: what is less likely meant is not found.
    """

    def __init__(
        self, describer: Describer, attributes: Iterable[AttributeSpec] = (COLOUR,), min_score: float = MIN_SCORE
    ) -> None:
        self._describer = describer
        self._attributes = [spec for spec in attributes if spec.values]
        self._min_score = min_score
        self._calibration = describer.bundle.calibration()
        self._looks: _Looks | None = None

    def find(self, text: str, objects: Sequence[SceneObject], seen: Seen | None, limit: int = 0) -> Found:
        """The objects that the words mean, at most ``limit`` of them (0: all that may be meant).

        ``seen``: the frame whose picture the describer has, or None where there is none. What it shows is judged by how
        likely the words are as answers about it, all else by the words that were said of it.
        Raises QueryError for an empty text.
        """
        if not text.strip():
            raise QueryError("the question is empty: ask for something, such as 'the red mug next to the bowl'")
        stamp = seen.stamp if seen is not None else max((thing.last_seen for thing in objects), default=0)
        if not objects:
            return Found((), "no object is known yet", stamp)
        query = self._parse(text)
        self._look_at(seen)
        evidence, reasons, why = self._judge(query, list(objects))
        scores = _odds(evidence)
        likely = [self._calibration.apply(QUERY, float(score)) for score in scores]
        order = [int(n) for n in np.argsort(-scores, kind="stable") if likely[n] >= self._min_score]
        if not order:
            best = int(np.argmax(scores))
            least = f"{likely[best]:.2f} for the likeliest, {_called(objects[best])}, below {self._min_score:.2f}"
            return Found((), f"{why}: {least}", stamp)
        kept = order[:limit] if limit > 0 else order
        return Found(tuple(Match(objects[n].track_id, likely[n], reasons[n]) for n in kept), "", stamp)

    def scores(self, text: str, objects: Sequence[SceneObject], seen: Seen | None) -> np.ndarray:
        """Float64 [objects] in 0..1: how likely each is meant, before calibration, which is fitted on these."""
        self._look_at(seen)
        return _odds(self._judge(self._parse(text), list(objects))[0])

    def _parse(self, text: str) -> Query:
        return parse(_spelled(text), {value.lower() for spec in self._attributes for value in spec.values})

    def _look_at(self, seen: Seen | None) -> None:
        if seen is None:
            self._looks = None
        elif self._looks is None or self._looks.seen is not seen:
            self._looks = _Looks(self._describer, seen)

    def _judge(self, query: Query, objects: list[SceneObject]) -> tuple[np.ndarray, list[str], str]:
        """Scores [objects], what bears each out, and why it would be that none is found."""
        target, reasons = self._noun(query.target, objects)
        name = _asked_for(query.target)
        if query.relation is None:
            return target, reasons, f"nothing here is {name}"
        references = [self._noun(reference, objects)[0] for reference in query.references]
        scores = target * self._related(query.relation, references, objects, reasons)
        for reference, part in zip(query.references, references, strict=True):
            if part.max() < _BACKGROUND:
                return scores, reasons, f"nothing here is {_asked_for(reference)}"
        if target.max() < _BACKGROUND:
            return scores, reasons, f"nothing here is {name}"
        return scores, reasons, f"no {query.target.text} is {query.relation.value} what was named"

    def _related(
        self, relation: Relation, references: list[np.ndarray], objects: list[SceneObject], reasons: list[str]
    ) -> np.ndarray:
        """How likely each object is in a relation to what is meant by the references, [objects] each.

        What bears it out is added to ``reasons``. The references may be none, for a side of the picture.
        """
        here = places(objects)
        scores = np.zeros(len(objects))
        for n in range(len(objects)):
            best: tuple[int, ...] = ()
            for others in product(*(np.flatnonzero(part > _UNLIKELY).tolist() for part in references)):
                if len({n, *others}) <= len(others):
                    continue  # the same thing twice
                likely = float(np.prod([part[m] for part, m in zip(references, others, strict=True)]))
                likely *= holds(relation, here, n, others)
                if likely > scores[n]:
                    scores[n], best = likely, others
            about = " and ".join(_called(objects[m]) for m in best)
            reasons[n] += f"; {relation.value} {about or 'the picture'} {scores[n]:.2f}"
        return scores

    def _noun(self, noun: Noun, objects: list[SceneObject]) -> tuple[np.ndarray, list[str]]:
        """How likely each object is the thing, float64 [objects], and what bears it out."""
        scores = np.ones(len(objects))
        parts: list[list[str]] = [[] for _ in objects]
        if noun.free:
            return self._phrase(noun.text, objects)
        if noun.head:
            _multiply(scores, parts, noun.head, self._category(noun, objects))
            for word in noun.name.split()[:-1]:
                borne_out = [mentions(f"{thing.category} {thing.description}", word) for thing in objects]
                _multiply(scores, parts, word, np.where(borne_out, 1.0, _SOFT))
        for word in noun.adjectives:
            _multiply(scores, parts, word, self._adjective(word, objects))
        return scores, [", ".join(part) for part in parts]

    def _category(self, noun: Noun, objects: list[SceneObject]) -> np.ndarray:
        """How likely each object is of a kind, compared with the kinds that are known."""
        names = list(dict.fromkeys([noun.name, noun.head, singular(noun.head)]))
        said = [thing.category for thing in objects if thing.category not in ("", UNKNOWN)]
        kinds = list(dict.fromkeys([*names, *said]))
        meant = np.array([any(mentions(kind, name) for name in names) for kind in kinds])
        scores = np.array([_hearsay(thing, names) for thing in objects])
        for n, row in self._in_view(objects):
            weights = np.exp(self._look(QUESTIONS["category"], kinds)[row])
            scores[n] = weights[meant].sum() / max(
                1e-30,
                weights.sum(),
            )
        return scores

    def _adjective(self, word: str, objects: list[SceneObject]) -> np.ndarray:
        """How likely the attribute that knows a word has it as its value."""
        spec = next(spec for spec in self._attributes if word in {value.lower() for value in spec.values})
        place = [value.lower() for value in spec.values].index(word)
        scores = np.array([_hearsay_of(thing, spec.name, word) for thing in objects])
        for n, row in self._in_view(objects):
            weights = np.exp(self._look(spec.question, spec.values)[row])
            scores[n] = weights[place] / max(1e-30, weights.sum())
        return scores

    def _phrase(self, text: str, objects: list[SceneObject]) -> tuple[np.ndarray, list[str]]:
        """How well words as a whole fit each object: beside its own description, and beside the other objects."""
        scores = np.array([1.0 if mentions(thing.description, text) else 0.0 for thing in objects])
        reasons = [text] * len(objects)
        in_view = self._in_view(objects)
        if in_view and self._looks is not None:
            rows = [row for _, row in in_view]
            given = self._looks.mean_logprobs(text)[rows]
            own = self._looks.own_logprobs()[rows]
            weights = np.exp(given - given.max())
            share = weights / weights.sum()
            ratio = np.exp(np.minimum(0.0, given - own))
            for (n, _), part, borne in zip(in_view, share, ratio, strict=True):
                scores[n] = max(scores[n], part if borne >= _LEAST_RATIO else part * borne / _LEAST_RATIO)
                reasons[n] = f"{text!r}: {borne:.3f} of its own description for each token, {part:.2f} of all in view"
        return scores, reasons

    def _in_view(self, objects: list[SceneObject]) -> list[tuple[int, int]]:
        """(number, row in the regions of the picture) of each object that is to be seen."""
        if self._looks is None:
            return []
        rows = {int(track): row for row, track in enumerate(self._looks.seen.track_ids)}
        return [(n, rows[thing.track_id]) for n, thing in enumerate(objects) if thing.track_id in rows]

    def _look(self, question: str, phrases: Sequence[str]) -> np.ndarray:
        assert self._looks is not None
        return self._looks.log_likelihoods(question, phrases)


class _Looks:
    """What the model says of the regions of one frame, each question about a phrase asked once."""

    def __init__(self, describer: Describer, seen: Seen) -> None:
        self.seen = seen
        self._describer = describer
        self._encoded: EncodedRegions = seen.encoded
        self._known: dict[tuple[str, str], np.ndarray] = {}
        self._means: dict[str, np.ndarray] = {}
        self._own: np.ndarray | None = None

    def log_likelihoods(self, question: str, phrases: Sequence[str]) -> np.ndarray:
        """Float64 [regions, phrases] of phrases as answers."""
        missing = [phrase for phrase in dict.fromkeys(phrases) if (question, phrase) not in self._known]
        if missing:
            if len(self._known) > _PHRASES_KEPT:
                self._known.clear()
                missing = list(dict.fromkeys(phrases))
            found = self._describer.score(self._encoded, missing, question).log_likelihoods.astype(np.float64)
            self._known |= {(question, phrase): found[:, n] for n, phrase in enumerate(missing)}
        return np.stack([self._known[question, phrase] for phrase in phrases], axis=1)

    def mean_logprobs(self, phrase: str) -> np.ndarray:
        """Float64 [regions]: of each token of a phrase as a short description."""
        if phrase not in self._means:
            if len(self._means) > _PHRASES_KEPT:
                self._means.clear()
            parts = self._describer.score(self._encoded, [phrase], QUESTIONS["short"]).token_logprobs
            self._means[phrase] = np.array([float(part[0].mean(dtype=np.float64)) for part in parts])
        return self._means[phrase]

    def own_logprobs(self) -> np.ndarray:
        """Float64 [regions]: of each token of the model's own short description."""
        if self._own is None:
            result = self._describer.describe(self._encoded, "short")
            self._own = np.log([max(1e-30, answer.confidence) for answer in result])
        return self._own


def _odds(evidence: np.ndarray) -> np.ndarray:
    """Each against the best of all and against nothing at all: several that fit alike may all be meant."""
    return evidence / (evidence.max(initial=0.0) + _BACKGROUND)


def _multiply(scores: np.ndarray, parts: list[list[str]], word: str, likely: np.ndarray) -> None:
    scores *= likely
    for part, value in zip(parts, likely, strict=True):
        part.append(f"{word} {value:.2f}")


def _hearsay(thing: SceneObject, names: Sequence[str]) -> float:
    """How likely an object is what one of the names says, by the words and the label that it has."""
    words = thing.words
    best = _HEARSAY
    if words and any(mentions(f"{words.category} {words.description}", name) for name in names):
        best = max(best, words.confidence)
    if any(mentions(thing.label, name) for name in names):
        best = max(best, thing.score)
    return best


def _hearsay_of(thing: SceneObject, attribute: str, word: str) -> float:
    """How likely an attribute of an object has a value, by what was said."""
    if thing.words is None:
        return _HEARSAY
    for known in thing.words.attributes:
        if known.name == attribute:
            if known.value.lower() == word:
                return known.confidence
            return _HEARSAY if known.value != UNKNOWN else _SOFT
    return thing.words.confidence if mentions(thing.words.description, word) else _HEARSAY


def _asked_for(noun: Noun) -> str:
    """A noun as the question had it: "a red mug", "red", "something to drink from"."""
    return (
        with_article(noun.text) if noun.head else noun.text if noun.free else " and ".join(noun.adjectives) or "there"
    )


def _called(thing: SceneObject) -> str:
    known = thing.description if thing.description not in ("", UNKNOWN) else thing.category or thing.label
    return f"{known or 'an object without words'} (track {thing.track_id})"


def _spelled(text: str) -> str:
    return " ".join(_SPELLINGS.get(word.lower(), word) for word in text.split())
