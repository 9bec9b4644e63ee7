"""Score how well each object fits a phrase: by the model's answers if it is in view, else by its caption."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from osprey_ros.decoding.prompt import QUESTIONS, REGION_TEXT
from osprey_ros.query.answers import FrameAnswers
from osprey_ros.query.captions import (
    UNCAPTIONED_PRIOR,
    UNSUPPORTED,
    attribute_from_captions,
    called,
    kind_from_captions,
    kind_from_tree,
    label_of,
)
from osprey_ros.query.question import Like, Located, Order, Part, Phrase, Quality, Rank
from osprey_ros.query.spatial import places, rank_probabilities, related
from osprey_ros.query.vocabulary import ORDINAL_NAMES
from osprey_ros.query.word_forms import mentions, singulars, with_article
from osprey_ros.scene.attributes import AttributeSpec
from osprey_ros.scene.types import UNKNOWN, SceneObject
from osprey_ros.system.cancellation import CancellationToken

SPELLINGS = {"gray": "grey", "golden": "gold", "violet": "purple"}
SIZE_WORDS = {
    **dict.fromkeys(("small", "little", "tiny"), "small"),
    **dict.fromkeys(("large", "big", "huge"), "large"),
}

NULL_EVIDENCE = 0.05  # evidence that an unrelated object reaches by chance
MIN_TOKEN_RATIO = 0.02  # least likelihood per token of free text, relative to the region's own description
MAX_KINDS = 32  # kinds that are compared for an object in view


@dataclass(frozen=True)
class Evidence:
    """How well objects fit a phrase.

    Attributes:
        scores: float64 [N] in 0..1, not normalized over the objects.
        absolute: float64 [N] in 0..1, the part of the scores that comes from negated conditions. It counts as it is,
            however poorly all other objects fit: that a question asks for a ball that is not red does not mean that
            there is one.
        reasons: for each object, the evidence in words.
        doubts: for each object, words of the phrase that nothing confirms or denies.
    """

    scores: np.ndarray
    absolute: np.ndarray
    reasons: list[list[str]]
    doubts: list[set[str]]

    @classmethod
    def neutral(cls, count: int) -> Evidence:
        """Return evidence that every object fits."""
        return cls(np.ones(count), np.ones(count), [[] for _ in range(count)], [set() for _ in range(count)])

    def add(self, word: str, likely: np.ndarray, negated: bool = False, unconfirmed: np.ndarray | None = None) -> None:
        """Add independent evidence about a word.

        Args:
            word: the word or phrase, for the reasons.
            likely: how likely it is true of each object, [N].
            negated: whether it should not be true.
            unconfirmed: for which objects nothing confirms or denies it, bool [N]; none by default. There, the negated
                word is as uncertain as the word itself.
        """
        unknown = np.zeros(len(likely), dtype=np.bool_) if unconfirmed is None else unconfirmed
        if negated:
            self.absolute[:] *= np.where(unknown, 1.0, 1 - likely)
            likely = np.where(unknown, likely, 1 - likely)
        self.scores[:] *= likely
        for n, value in enumerate(likely):
            self.reasons[n].append(f"{'not ' if negated else ''}{word} {value:.2f}")
            if unknown[n]:
                self.doubts[n].add(word)


@dataclass
class PhraseScorer:
    """Scores objects for the phrases of one question.

    Attributes:
        objects: all known objects.
        attributes: attributes with a list of values; their questions are asked for words of these lists.
        answers: answers about the frame in view, None if there is none.
        knows_word: whether the model's vocabulary covers a word.
        cancel: ends the work; StoppedError is raised.
        missing: filled with the phrases that fit no object.
    """

    objects: Sequence[SceneObject]
    attributes: Sequence[AttributeSpec]
    answers: FrameAnswers | None
    knows_word: Callable[[str], bool]
    cancel: CancellationToken | None = None
    missing: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        rows = self.answers.rows() if self.answers is not None else {}
        # (index of the object, row of its region) of each object in view
        self._in_view = [(n, rows[thing.track_id]) for n, thing in enumerate(self.objects) if thing.track_id in rows]

    def score(self, phrase: Phrase) -> Evidence:
        """Return the evidence for a phrase with all its conditions."""
        found = self._noun(phrase)
        for condition in phrase.conditions:
            if isinstance(condition, Quality):
                self._quality(condition, found)
            elif isinstance(condition, Part):
                self._part(condition, found)
            elif isinstance(condition, Like):
                self._like(condition, found)
        self._note_missing(phrase, found)
        for condition in phrase.conditions:
            if isinstance(condition, Located):
                self._located(condition, found)
        if phrase.rank is not None:
            self._rank(phrase.rank, found)
        return found

    def _note_missing(self, phrase: Phrase, found: Evidence) -> None:
        if found.scores.max(initial=0.0) < NULL_EVIDENCE:
            self.missing.append(called(phrase))

    # Nouns

    def _noun(self, phrase: Phrase) -> Evidence:
        found = Evidence.neutral(len(self.objects))
        if phrase.free_text:
            self._free_text(phrase.free_text, found)
        if phrase.head:
            found.add(phrase.head, self._category(phrase), unconfirmed=self._uncaptioned())
            for word in phrase.name.split()[:-1]:
                self._modifier(word, found)
        return found

    def _category(self, phrase: Phrase) -> np.ndarray:
        """Return how likely each object is of a kind, compared with the kinds of all objects in view."""
        names = list(dict.fromkeys([phrase.name, phrase.head, *singulars(phrase.head)]))
        scores = np.array([kind_from_captions(thing, names) for thing in self.objects])
        if self._in_view and self.answers is not None:
            kinds = self._kinds(names)
            meant = np.array([any(mentions(kind, name) for name in names) for kind in kinds])
            weights = np.exp(self.answers.log_likelihoods(QUESTIONS["category"], kinds))
            for n, row in self._in_view:
                share = weights[row, meant].sum() / max(1e-30, weights[row].sum())
                scores[n] = max(share, kind_from_tree(self.objects[n], names))
        return scores

    def _uncaptioned(self) -> np.ndarray:
        """Return for which objects nothing is known: out of view, without caption and label; bool [N]."""
        unknown = np.array([thing.caption is None and not thing.label for thing in self.objects], dtype=np.bool_)
        unknown[[n for n, _ in self._in_view]] = False
        return unknown

    def _kinds(self, names: list[str]) -> list[str]:
        """Return the names and the kinds to compare them with: the categories of the objects in view."""
        categories: Counter[str] = Counter()
        for n, row in self._in_view:
            thing = self.objects[n]
            known = thing.caption.kinds[0].name if thing.caption and thing.caption.kinds else thing.category
            if known in ("", UNKNOWN) and self.answers is not None:
                known = self.answers.own("category")[row][0]
            categories[known] += 1
        kinds = dict.fromkeys([*names, *(kind for kind, _ in categories.most_common() if kind not in ("", UNKNOWN))])
        return list(kinds)[:MAX_KINDS]

    def _modifier(self, word: str, found: Evidence) -> None:
        """Weigh a word before the noun that is no attribute value, such as "coffee" in "coffee mug"."""
        confirmed = np.array([mentions(f"{thing.category} {thing.description}", word) for thing in self.objects])
        found.add(word, np.where(confirmed, 1.0, UNSUPPORTED), unconfirmed=~confirmed)

    def _free_text(self, text: str, found: Evidence) -> None:
        """Weigh words as a whole: by their likelihood relative to the region's own description and to other regions."""
        scores = np.array([1.0 if mentions(thing.description, text) else 0.0 for thing in self.objects])
        for n, score in enumerate(scores):
            found.reasons[n].append(text)
            if not score:
                found.doubts[n].add(text)
        if self._in_view and self.answers is not None:
            rows = [row for _, row in self._in_view]
            given = self.answers.mean_logprobs(text)[rows]
            own = np.log([max(1e-30, confidence) for _, confidence in self.answers.own("short")])[rows]
            weights = np.exp(given - given.max())
            share = weights / weights.sum()
            ratio = np.exp(np.minimum(0.0, given - own))
            for (n, _), part, likely in zip(self._in_view, share, ratio, strict=True):
                scores[n] = max(scores[n], part if likely >= MIN_TOKEN_RATIO else part * likely / MIN_TOKEN_RATIO)
                found.reasons[n][-1] = (
                    f"{text!r}: {likely:.3f} of its own description per token, {part:.2f} of all in view"
                )
        found.scores[:] *= scores

    # Conditions

    def _quality(self, condition: Quality, found: Evidence) -> None:
        word = " or ".join(condition.values)
        if all(value in SIZE_WORDS and self._spec(value) is None for value in condition.values):
            likely, unconfirmed = self._size(condition.values)
        else:
            likely, unconfirmed = np.zeros(len(self.objects)), np.zeros(len(self.objects), dtype=np.bool_)
            for value in condition.values:
                one, unknown = self._attribute(value)
                likely, unconfirmed = np.minimum(1.0, likely + one), unconfirmed | unknown
        found.add(word, likely, condition.negated, unconfirmed)

    def _spec(self, value: str) -> AttributeSpec | None:
        return next((spec for spec in self.attributes if value in {v.lower() for v in spec.values}), None)

    def _attribute(self, value: str) -> tuple[np.ndarray, np.ndarray]:
        """Return how likely each object has an attribute value, and for which objects nothing is known, [N] each."""
        spec = self._spec(value) or self._spec(SPELLINGS.get(value, value))
        if spec is None:
            return np.full(len(self.objects), UNSUPPORTED), np.ones(len(self.objects), dtype=np.bool_)
        values = [v.lower() for v in spec.values]
        value = value if value in values else SPELLINGS[value]
        known = [attribute_from_captions(thing, spec, value) for thing in self.objects]
        scores, unconfirmed = np.array([k for k, _ in known]), np.array([not sure for _, sure in known], dtype=np.bool_)
        if self._in_view and self.answers is not None:
            shares = self.answers.shares(spec.question, spec.values)
            for n, row in self._in_view:
                scores[n], unconfirmed[n] = shares[row, values.index(value)], False
        return scores, unconfirmed

    def _size(self, words: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return how likely each object has one of some sizes, and for which nothing is known, [N] each.

        Captions tell sizes: "a small red mug", "a large red mug".
        """
        wanted = {SIZE_WORDS[word] for word in words}
        likely, unconfirmed = np.full(len(self.objects), UNSUPPORTED), np.ones(len(self.objects), dtype=np.bool_)
        for n, (text, confidence) in enumerate(self._captions()):
            sizes = {SIZE_WORDS[said] for said in text.lower().split() if said in SIZE_WORDS}
            if sizes:
                likely[n], unconfirmed[n] = (confidence if sizes & wanted else UNCAPTIONED_PRIOR), False
        return likely, unconfirmed

    def _captions(self) -> list[tuple[str, float]]:
        """Return the description of each object with its confidence; the model's own one if it has none yet."""
        found = [
            (thing.caption.description, thing.caption.confidence) if thing.caption else ("", 0.0)
            for thing in self.objects
        ]
        if self.answers is not None and any(not found[n][0] for n, _ in self._in_view):
            own = self.answers.own("short")
            for n, row in self._in_view:
                found[n] = found[n] if found[n][0] else own[row]
        return found

    def _part(self, condition: Part, found: Evidence) -> None:
        """Weigh whether objects have a part: by a yes-or-no question in view, else by the caption."""
        without, unconfirmed = np.ones(len(self.objects)), np.zeros(len(self.objects), dtype=np.bool_)
        for name in condition.names:
            unknown = np.array([not mentions(thing.description, name) for thing in self.objects], np.bool_)
            likely = np.where(unknown, UNSUPPORTED, 1.0)
            if self._in_view and self.answers is not None:
                shares = self.answers.shares(f"Does {REGION_TEXT} have {with_article(name)}?", ("yes", "no"))
                for n, row in self._in_view:
                    likely[n], unknown[n] = shares[row, 0], not self.knows_word(name)
            without, unconfirmed = without * (1 - likely), unconfirmed | unknown
        parts = " or ".join(with_article(name) for name in condition.names)
        found.add(f"with {parts}", 1 - without, condition.negated, unconfirmed)

    def _like(self, condition: Like, found: Evidence) -> None:
        missing = len(self.missing)
        other = self.score(condition.phrase)
        if condition.negated:
            del self.missing[missing:]  # that no object is excluded is no reason to find none
        likely = share_of_best(other, unique=condition.phrase.rank is not None)
        if condition.negated:  # where nothing clearly fits, nothing is clearly excluded
            likely *= min(1.0, float(other.scores.max(initial=0.0)) / NULL_EVIDENCE)
        found.add(called(condition.phrase), likely, condition.negated)
        for doubts, others in zip(found.doubts, other.doubts, strict=True):
            doubts |= others

    # Places

    def _located(self, condition: Located, found: Evidence) -> None:
        references = [self.score(reference) for reference in condition.references]
        for reference in references:
            best = int(reference.scores.argmax())
            for doubts in found.doubts:
                doubts |= reference.doubts[best]
        likely = [reference.scores for reference in references]
        # Unlikely objects must not decide whether places are compared in space or in the image. Without references,
        # objects are compared with all others.
        needed = np.max([found.scores, *likely], axis=0) >= NULL_EVIDENCE if references else None
        here = places(self.objects, needed)
        degrees, best_reference = related(condition.relation, here, found.scores, likely, self.cancel)
        if condition.negated:
            degrees = 1 - degrees
            found.absolute[:] *= degrees
        found.scores[:] *= degrees
        name = f"{'not ' if condition.negated else ''}{condition.relation.value}"
        asked_for = " and ".join(called(reference) for reference in condition.references) or "the image"
        for n, degree in enumerate(degrees):
            nearest = " and ".join(label_of(self.objects[m]) for m in best_reference[n])
            about = nearest if nearest and degree and not condition.negated else asked_for
            found.reasons[n].append(f"{name} {about} {degree:.2f}")

    def _rank(self, rank: Rank, found: Evidence) -> None:
        """Replace the scores by the probability of being at a place in an order among the objects that fit so far."""
        fits = share_of_best(found)
        fits[fits < NULL_EVIDENCE] = 0.0
        name, reference, certainty = f"{ORDINAL_NAMES[rank.place - 1]} {rank.order.value}", None, 1.0
        if rank.place == 1:
            name = rank.order.value
        if rank.reference is not None:
            evidence = self.score(rank.reference)
            best = int(evidence.scores.argmax())
            reference, certainty = self.objects[best], float(share_of_best(evidence, unique=True)[best])
            fits[best] = 0.0
            name += f" {'to' if rank.order is Order.NEAR else 'from'} {label_of(reference)}"
            for doubts in found.doubts:
                doubts |= evidence.doubts[best]
        likely = certainty * rank_probabilities(rank, self.objects, fits, reference)
        found.scores[:], found.absolute[:] = fits * likely, 1.0
        for reasons, value in zip(found.reasons, likely, strict=True):
            reasons.append(f"{name} {value:.2f}")


def share_of_best(found: Evidence, unique: bool = False) -> np.ndarray:
    """Return the probability of each object, float64 [N]: its evidence relative to the best one and `NULL_EVIDENCE`.

    Several objects that fit alike may all be meant. With ``unique`` only one can be, and they share the probability.
    """
    best = float(found.scores.max(initial=0.0))
    total = max(best, float(found.scores.sum())) if unique else best
    result: np.ndarray = found.scores / (total + NULL_EVIDENCE) * found.absolute
    return result
