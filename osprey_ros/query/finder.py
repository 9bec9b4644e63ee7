"""Find the objects that a question is about: `Finder.find("the red mug next to the bowl", objects, frame)`."""

from __future__ import annotations

import re
import weakref
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from osprey_ros.bundle.calibration import QUERY
from osprey_ros.decoding.prompt import REGION_TEXT, find_marker
from osprey_ros.describer import Describer
from osprey_ros.errors import PromptError
from osprey_ros.query.answers import AnswerCache, FrameAnswers
from osprey_ros.query.captions import label_of
from osprey_ros.query.evidence import SIZE_WORDS, SPELLINGS, Evidence, PhraseScorer, share_of_best
from osprey_ros.query.grammar import parse
from osprey_ros.query.language import is_english
from osprey_ros.query.question import Located, Query, Reading
from osprey_ros.query.vocabulary import GROUNDS
from osprey_ros.query.word_forms import mentions
from osprey_ros.scene.attributes import AttributeSpec
from osprey_ros.scene.types import SceneObject
from osprey_ros.system.cancellation import CancellationToken

if TYPE_CHECKING:
    from osprey_ros.scene.history import ObservedFrame

# The basic color terms of English (Berlin and Kay, 1969) and cyan, asked for with the question of published data sets.
COLOR = AttributeSpec(
    "colour",
    values=("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "white", "black", "grey", "cyan"),
)
MIN_SCORE = 0.5  # matches are more likely right than wrong
MAX_UNCONFIRMED_SCORE = 0.5  # of a match if part of the question was left out or not confirmed
MAX_WORDS = 60  # of a question
MIN_LETTERS_PER_TOKEN = 2.5  # the tokenizer splits words that the model has hardly met into shorter pieces
_EXAMPLE = "ask for something, such as 'the red mug next to the bowl'"


@dataclass(frozen=True)
class Match:
    """An object that may be asked for, the probability in 0..1 that it is, and the evidence in words."""

    track_id: int
    score: float
    reason: str


@dataclass(frozen=True)
class Found:
    """Matches, the most likely first.

    ``message``: why nothing was found, or which words of the question were left out; else "".
    ``likely``: the probability of each object, in their order.
    """

    matches: tuple[Match, ...]
    message: str
    likely: tuple[float, ...] = ()


class Finder:
    """Finds objects by words. Use it from the describer's thread, between frames.

    Between calls only answers about the latest frame are kept, without its image.

    Args:
        describer: must have the image of the frame in view as its current image.
        attributes: those with a list of values tell which words are attribute values, and how to ask for them.
        min_score: objects with a lower score are not among the matches.
    """

    def __init__(
        self, describer: Describer, attributes: Iterable[AttributeSpec] = (COLOR,), min_score: float = MIN_SCORE
    ) -> None:
        self._describer = describer
        self._attributes = [spec for spec in attributes if spec.values]
        self._min_score = min_score
        self._calibration = describer.bundle.calibration()
        self._cache = AnswerCache()
        self._cached_frame: weakref.ref[ObservedFrame] | None = None
        values = {value.lower() for spec in self._attributes for value in spec.values}
        self._adjectives = values | {word for word, known in SPELLINGS.items() if known in values} | set(SIZE_WORDS)

    def find(
        self,
        text: str,
        objects: Sequence[SceneObject],
        seen: ObservedFrame | None,
        limit: int = 0,
        cancel: CancellationToken | None = None,
    ) -> Found:
        """Return the objects that a question is about.

        Objects in view are judged by the likelihood of answers about them, all others by their captions. If words were
        left out or nothing confirms them, scores are at most `MAX_UNCONFIRMED_SCORE`.

        Args:
            text: an English question or noun phrase.
            objects: all known objects.
            seen: the frame with the describer's current image, None without one.
            limit: the number of matches to return at most, 0 for all.
            cancel: ends the search; StoppedError is raised.

        Raises the errors of `read_question`.
        """
        query = read_question(text, self._adjectives, named_grounds(objects))
        if not objects:
            return Found((), "no object is known yet")
        results = list(self._readings(query, objects, seen, cancel))
        likely = results[0].likely
        if len(results) > 1:  # a match of only one reading is uncertain
            likely = np.median([*(result.likely for result in results), np.full(len(objects), 0.5)], axis=0)
        order = [int(n) for n in np.argsort(-likely, kind="stable") if likely[n] >= self._min_score]
        notes = dict.fromkeys(note for result in results for note in result.notes)
        if not order:
            best = int(np.argmax(likely))
            least = f"{likely[best]:.2f} for the likeliest, {label_of(objects[best])}, below {self._min_score:.2f}"
            message = "; ".join([f"{results[0].empty_reason}: {least}", *notes])
            return Found((), message, tuple(likely.tolist()))
        kept = order[:limit] if limit > 0 else order
        best_of = [max(results, key=lambda result: result.likely[n]) for n in range(len(objects))]
        matches = (Match(objects[n].track_id, float(likely[n]), best_of[n].reasons[n]) for n in kept)
        return Found(tuple(matches), "; ".join(notes), tuple(likely.tolist()))

    def check(self, text: str) -> None:
        """Raise the errors of `read_question`."""
        read_question(text, self._adjectives)

    def scores(self, text: str, objects: Sequence[SceneObject], seen: ObservedFrame | None) -> np.ndarray:
        """Return the scores of all objects before calibration, float64 [objects] in 0..1.

        Calibration is fitted on these. Of a question with two readings, the first one counts.
        """
        query = read_question(text, self._adjectives, named_grounds(objects))
        return next(self._readings(query, objects, seen, None)).scores

    def _readings(
        self,
        query: Query,
        objects: Sequence[SceneObject],
        seen: ObservedFrame | None,
        cancel: CancellationToken | None,
    ) -> Iterator[_Judged]:
        answers = None
        if seen is not None:
            if self._cached_frame is None or self._cached_frame() is not seen:
                self._cache, self._cached_frame = AnswerCache(), weakref.ref(seen)
            answers = FrameAnswers(self._describer, seen, self._cache, cancel)
        for reading in query.readings:
            scorer = PhraseScorer(objects, self._attributes, answers, self._knows_word, cancel)
            yield self._judge(reading, scorer)

    def _judge(self, reading: Reading, scorer: PhraseScorer) -> _Judged:
        """Score all objects for one reading: for its phrases one by one, of which any may fit."""
        evidence = [(phrase, scorer.score(phrase)) for phrase in reading.phrases]
        scores = np.array([share_of_best(found, phrase.rank is not None) for phrase, found in evidence])
        best = scores.argmax(axis=0)
        left_out = reading.left_out()
        notes = [f"left out: {' '.join(left_out)}"] if left_out else []
        likely, reasons = np.zeros(len(best)), []
        for n, fitting in enumerate(best):
            found: Evidence = evidence[fitting][1]
            likely[n] = self._calibration.apply(QUERY, float(scores[fitting, n]))
            reason = ", ".join(found.reasons[n])
            if left_out or found.doubts[n]:
                likely[n] = min(likely[n], MAX_UNCONFIRMED_SCORE)
            if found.doubts[n]:
                reason += f"; not confirmed: {', '.join(sorted(found.doubts[n]))}"
            reasons.append("; ".join([reason, *notes]))
        return _Judged(scores.max(axis=0), likely, tuple(reasons), _empty_reason(reading, scorer), tuple(notes))

    @cached_property
    def _tokenizer(self) -> object:
        return self._describer.bundle.tokenizer()

    def _knows_word(self, words: str) -> bool:
        """Return whether the model has probably met words, by how long their tokens are."""
        tokens = self._tokenizer.encode(words, add_special_tokens=False).tokens  # type: ignore[attr-defined]
        return len(words.replace(" ", "")) >= MIN_LETTERS_PER_TOKEN * len(tokens)


def named_grounds(objects: Iterable[SceneObject]) -> frozenset[str]:
    """Return which of the words "table", "desk", "floor" ... name an object of the scene."""
    named = {" ".join((thing.category, thing.label)) for thing in objects if thing.category or thing.label}
    return frozenset(word for word in GROUNDS if any(mentions(name, word) for name in named))


def read_question(text: str, adjectives: Collection[str] = (), grounds: Collection[str] = ()) -> Query:
    """Return the readings of a question; see `osprey_ros.query.grammar.parse`.

    Raises PromptError for a text without words, with too many words or in another language.
    """
    if not text.strip():
        raise PromptError(f"the question is empty: {_EXAMPLE}")
    if len(text.split()) > MAX_WORDS:
        raise PromptError(f"the question has {len(text.split())} words; ask with at most {MAX_WORDS}")
    marker = find_marker(text)
    if marker is not None:
        raise PromptError(
            f"the question {text!r} contains {marker}: say in words which object is meant; questions about a "
            f"region, with {REGION_TEXT}, are asked with `osprey describe --ask` or ~/describe_region"
        )
    if not is_english(text):
        raise PromptError(f"English only: the question {text!r} seems to be in another language; {_EXAMPLE}")
    query = parse(text, adjectives, grounds)
    phrases = [inner for reading in query.readings for phrase in reading.phrases for inner in phrase.inner()]
    if not all(re.search(r"\w", phrase.text) for phrase in phrases):
        raise PromptError(f"the question {text!r} has no word for what is meant: {_EXAMPLE}")
    return query


@dataclass(frozen=True)
class _Judged:
    """The result of one reading: scores before and after calibration, float64 [N], and what to say about them."""

    scores: np.ndarray
    likely: np.ndarray
    reasons: tuple[str, ...]
    empty_reason: str
    notes: tuple[str, ...]


def _empty_reason(reading: Reading, scorer: PhraseScorer) -> str:
    """Return why no object fits a reading."""
    phrase = reading.phrases[0]
    relations = [condition.relation for condition in phrase.conditions if isinstance(condition, Located)]
    if scorer.missing:
        return f"nothing here is {scorer.missing[-1] if relations else scorer.missing[0]}"
    if phrase.rank:
        return f"nothing is clearly the {phrase.text}"
    if relations:
        return f"no {phrase.name or 'object'} is {relations[0].value} what was named"
    return f"nothing fits {phrase.text!r}"
