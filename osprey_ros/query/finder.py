"""Which objects are meant by some words: by what the model says of those in view, by what was said of the others."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from osprey_ros.bundle.calibration import QUERY
from osprey_ros.decoding.prompt import QUESTIONS
from osprey_ros.describer import Describer
from osprey_ros.errors import PromptError, StoppedError
from osprey_ros.query.grammar import Noun, Query, Relation, mentions, parse, singulars, with_article
from osprey_ros.query.spatial import holds, places
from osprey_ros.results import EncodedRegions, Result
from osprey_ros.scene.attributes import AttributeSpec
from osprey_ros.scene.types import UNKNOWN, SceneObject

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
_UNLIKELY = 0.001  # things that are so unlikely meant are not related to others
_REFERENCES = 1024  # the likeliest ones, or pairs of the likeliest, that things are related to
_CELLS = 1 << 16  # targets times references that are worked on at once
_KINDS = 32  # that a thing in view is told from at most, those asked for included
_HEARSAY = 0.02  # that an object is what was not said of it
_SOFT = 0.6  # for a word about an object that nothing bears out, such as "old"
_LEAST_RATIO = 0.02  # of words that cannot be taken apart to the region's own answer, for each of their tokens
_PHRASES_KEPT = 4096


_REMEDY = "ask for something, such as 'the red mug next to the bowl'"


@dataclass(frozen=True)
class Match:
    """An object that may be meant: how likely it is, in 0..1, and what bears it out."""

    track_id: int
    score: float
    reason: str


@dataclass(frozen=True)
class Found:
    """Objects that may be meant, the likeliest first; where there are none, why."""

    matches: tuple[Match, ...]
    why: str


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
        self._should_stop: Callable[[], bool] | None = None  # of the search under way

    def find(
        self,
        text: str,
        objects: Sequence[SceneObject],
        seen: Seen | None,
        limit: int = 0,
        should_stop: Callable[[], bool] | None = None,
    ) -> Found:
        """The objects that the words mean, at most ``limit`` of them (0: all that may be meant).

        ``seen``: the frame whose picture the describer has, or None where there is none. What it shows is judged by how
        likely the words are as answers about it, all else by the words that were said of it.
        ``should_stop`` is asked again and again, between runs of the engine at the latest.
        Raises PromptError for a text without words, StoppedError where the search was stopped.
        """
        query = self._parse(text)
        if not objects:
            return Found((), "no object is known yet")
        self._look_at(seen, should_stop)
        evidence, reasons, why = self._judge(query, list(objects))
        scores = _odds(evidence)
        likely = [self._calibration.apply(QUERY, float(score)) for score in scores]
        order = [int(n) for n in np.argsort(-scores, kind="stable") if likely[n] >= self._min_score]
        if not order:
            best = int(np.argmax(scores))
            least = f"{likely[best]:.2f} for the likeliest, {_called(objects[best])}, below {self._min_score:.2f}"
            return Found((), f"{why}: {least}")
        kept = order[:limit] if limit > 0 else order
        return Found(tuple(Match(objects[n].track_id, likely[n], reasons[n]) for n in kept), "")

    def check(self, text: str) -> None:
        """Raises PromptError for a text without words."""
        self._parse(text)

    def scores(self, text: str, objects: Sequence[SceneObject], seen: Seen | None) -> np.ndarray:
        """Float64 [objects] in 0..1: how likely each is meant, before calibration, which is fitted on these."""
        self._look_at(seen)
        return _odds(self._judge(self._parse(text), list(objects))[0])

    def _parse(self, text: str) -> Query:
        if not text.strip():
            raise PromptError(f"the question is empty: {_REMEDY}")
        query = parse(_spelled(text), {value.lower() for spec in self._attributes for value in spec.values})
        if not all(re.search(r"\w", noun.text) for noun in (query.target, *query.references)):
            raise PromptError(f"the question {text!r} has no word for what is meant: {_REMEDY}")
        return query

    def _look_at(self, seen: Seen | None, should_stop: Callable[[], bool] | None = None) -> None:
        self._should_stop = should_stop
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
        scores = target * self._related(query.relation, target, references, objects, reasons)
        for reference, part in zip(query.references, references, strict=True):
            if part.max() < _BACKGROUND:
                return scores, reasons, f"nothing here is {_asked_for(reference)}"
        if target.max() < _BACKGROUND:
            return scores, reasons, f"nothing here is {name}"
        return scores, reasons, f"no {query.target.text} is {query.relation.value} what was named"

    def _related(
        self,
        relation: Relation,
        own: np.ndarray,
        references: list[np.ndarray],
        objects: list[SceneObject],
        reasons: list[str],
    ) -> np.ndarray:
        """How likely each object is in a relation to what is meant by the references, [objects] each.

        What bears it out is added to ``reasons``. The references may be none, for a side of the picture. Objects that
        are hardly meant for their ``own`` sake are left at 0.
        """
        # Without references they are compared with all. Else what is hardly meant must not decide how all are compared.
        likeliest = np.max([own, *references], axis=0)
        here = places(objects, likeliest >= _BACKGROUND if references else None)
        others, likely = _combinations(references)
        targets = np.flatnonzero(own > _UNLIKELY)
        scores, best = np.zeros(len(objects)), np.zeros(len(objects), dtype=np.intp)
        step = max(1, _CELLS // max(1, len(targets)))
        for start in range(0, len(others), step):
            self._check_stop()
            part = others[start : start + step]
            degrees = holds(relation, here, targets[:, None], tuple(part.T)) * likely[start : start + step]
            degrees[np.isnan(degrees)] = 0.0  # of what has no place in space
            degrees[(targets[:, None, None] == part).any(axis=2)] = 0.0  # nothing is next to itself
            first = degrees.argmax(axis=1)
            found = degrees[np.arange(len(targets)), first]
            better = found > scores[targets]
            scores[targets[better]], best[targets[better]] = found[better], start + first[better]
        for n, score in enumerate(scores):
            about = " and ".join(_called(objects[m]) for m in others[best[n]]) if score else "nothing"
            reasons[n] += f"; {relation.value} {about or 'the picture'} {score:.2f}"
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
        """How likely each object is of a kind, compared with the kinds of all that is in view."""
        names = list(dict.fromkeys([noun.name, noun.head, *singulars(noun.head)]))
        scores = np.array([_hearsay(thing, names) for thing in objects])
        in_view = self._in_view(objects)
        if in_view:
            kinds = self._kinds(names, objects, in_view)
            meant = np.array([any(mentions(kind, name) for name in names) for kind in kinds])
            weights = np.exp(self._look(QUESTIONS["category"], kinds))
            for n, row in in_view:
                scores[n] = weights[row, meant].sum() / max(1e-30, weights[row].sum())
        return scores

    def _kinds(self, names: list[str], objects: list[SceneObject], in_view: list[tuple[int, int]]) -> list[str]:
        """The names, and what to tell them from: what was said of the objects in view, or would be said now."""
        said: Counter[str] = Counter()
        for n, row in in_view:
            known = objects[n].category
            if known in ("", UNKNOWN) and self._looks is not None:
                known = self._looks.own_categories(self._should_stop)[row]
            said[known] += 1
        kinds = dict.fromkeys([*names, *(kind for kind, _ in said.most_common() if kind)])
        return list(kinds)[:_KINDS]

    def _adjective(self, word: str, objects: list[SceneObject]) -> np.ndarray:
        """How likely the attribute that knows a word has it as its value."""
        spec = next(spec for spec in self._attributes if word in {value.lower() for value in spec.values})
        place = [value.lower() for value in spec.values].index(word)
        scores = np.array([_hearsay_of(thing, spec.name, word) for thing in objects])
        in_view = self._in_view(objects)
        if in_view:
            weights = np.exp(self._look(spec.question, spec.values))
            for n, row in in_view:
                scores[n] = weights[row, place] / max(1e-30, weights[row].sum())
        return scores

    def _phrase(self, text: str, objects: list[SceneObject]) -> tuple[np.ndarray, list[str]]:
        """How well words as a whole fit each object: beside its own description, and beside the other objects."""
        scores = np.array([1.0 if mentions(thing.description, text) else 0.0 for thing in objects])
        reasons = [text] * len(objects)
        in_view = self._in_view(objects)
        if in_view and self._looks is not None:
            rows = [row for _, row in in_view]
            given = self._looks.mean_logprobs(text, self._should_stop)[rows]
            own = self._looks.own_logprobs(self._should_stop)[rows]
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
        self._check_stop()
        return self._looks.log_likelihoods(question, phrases, self._should_stop)

    def _check_stop(self) -> None:
        if self._should_stop is not None and self._should_stop():
            raise StoppedError("the search was stopped before it had found anything")


class _Looks:
    """What the model says of the regions of one frame, each question about a phrase asked once."""

    def __init__(self, describer: Describer, seen: Seen) -> None:
        self.seen = seen
        self._describer = describer
        self._encoded: EncodedRegions = seen.encoded
        self._known: dict[tuple[str, str], np.ndarray] = {}
        self._means: dict[str, np.ndarray] = {}
        self._own: np.ndarray | None = None
        self._categories: list[str] | None = None

    def log_likelihoods(
        self, question: str, phrases: Sequence[str], should_stop: Callable[[], bool] | None
    ) -> np.ndarray:
        """Float64 [regions, phrases] of phrases as answers."""
        missing = [phrase for phrase in dict.fromkeys(phrases) if (question, phrase) not in self._known]
        if missing:
            if len(self._known) > _PHRASES_KEPT:
                self._known.clear()
                missing = list(dict.fromkeys(phrases))
            scored = self._describer.score(self._encoded, missing, question, should_stop)
            found = scored.log_likelihoods.astype(np.float64)
            self._known |= {(question, phrase): found[:, n] for n, phrase in enumerate(missing)}
        return np.stack([self._known[question, phrase] for phrase in phrases], axis=1)

    def mean_logprobs(self, phrase: str, should_stop: Callable[[], bool] | None) -> np.ndarray:
        """Float64 [regions]: of each token of a phrase as a short description."""
        if phrase not in self._means:
            if len(self._means) > _PHRASES_KEPT:
                self._means.clear()
            parts = self._describer.score(self._encoded, [phrase], QUESTIONS["short"], should_stop).token_logprobs
            self._means[phrase] = np.array([float(part[0].mean(dtype=np.float64)) for part in parts])
        return self._means[phrase]

    def own_logprobs(self, should_stop: Callable[[], bool] | None) -> np.ndarray:
        """Float64 [regions]: of each token of the model's own short description."""
        if self._own is None:
            result = self._described("short", should_stop)
            self._own = np.log([max(1e-30, answer.confidence) for answer in result])
        return self._own

    def own_categories(self, should_stop: Callable[[], bool] | None) -> list[str]:
        """The model's own word for each region, [regions]; "" where it has none."""
        if self._categories is None:
            self._categories = [answer.text for answer in self._described("category", should_stop)]
        return self._categories

    def _described(self, style: str, should_stop: Callable[[], bool] | None) -> Result:
        result = self._describer.describe(self._encoded, style, should_stop=should_stop)
        if not all(answer.ended for answer in result):
            raise StoppedError("the search was stopped before all in view was described")
        return result


def _odds(evidence: np.ndarray) -> np.ndarray:
    """Each against the best of all and against nothing at all: several that fit alike may all be meant."""
    return evidence / (evidence.max(initial=0.0) + _BACKGROUND)


def _combinations(references: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Objects that are meant together, one by each reference: integers [C, references], and how likely, [C].

    Without references that is one of nobody. They come by rising numbers.
    """
    if not references:
        return np.zeros((1, 0), dtype=np.intp), np.ones(1)
    most = round(_REFERENCES ** (1 / len(references)))
    kept = []
    for part in references:
        likely = np.flatnonzero(part > _UNLIKELY)
        kept.append(np.sort(likely[np.argsort(-part[likely], kind="stable")[:most]]))
    together = np.stack([numbers.ravel() for numbers in np.meshgrid(*kept, indexing="ij")], axis=1)
    return together, np.prod([part[together[:, n]] for n, part in enumerate(references)], axis=0)


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
