"""Read an English question about objects: "where is the second red mug from the left that is not next to the bowl?".

Every word is either part of the result or among the words that the result lists as left out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

from osprey_ros.query import vocabulary as words
from osprey_ros.query.noun_reader import RESTING, Draft, NounReader
from osprey_ros.query.question import Like, Located, Order, Phrase, Quality, Query, Reading, Relation
from osprey_ros.query.token_reader import Table
from osprey_ros.query.word_forms import singulars

# Words behind a reference that can also belong to an earlier noun.
_CONTINUING: tuple[Table[object], ...] = (words.RELATIONS, words.SIDES, words.COUNTED_FROM, words.EXCLUDING)
_DISTANCES = (Order.NEAR, Order.FAR)


def parse(text: str, adjectives: Collection[str] = (), named_grounds: Collection[str] = ()) -> Query:
    """Return the readings of a question.

    A second reading exists if the last words may belong to the object that is asked for or to one that it is related
    to: "the mug next to the bowl on the left". Readings that leave out more words than another one are dropped.

    Args:
        text: the question.
        adjectives: words known as attribute values, in lower case, such as colors.
        named_grounds: words such as "table" that name an object of the scene, and not where everything stands.
    """
    tokens = words.tokens_of(text)
    readings = [_QuestionReader(tokens, adjectives, nested, named_grounds).reading() for nested in (True, False)]
    fewest = min(len(reading.left_out()) for reading in readings)
    kept = dict.fromkeys(reading for reading in readings if len(reading.left_out()) == fewest)
    return Query(text, tuple(kept))


class _QuestionReader(NounReader):
    """A recursive descent parser for questions.

    ``nested``: whether words behind a reference ("on the left" in "next to the bowl on the left") belong to the
    reference; else they belong to the object that is asked for.
    """

    def __init__(
        self, tokens: list[str], adjectives: Collection[str], nested: bool, named_grounds: Collection[str] = ()
    ) -> None:
        super().__init__(tokens, adjectives, named_grounds)
        self._nested = nested
        self._in_pair = False  # whether "and" ends the first reference of "between"
        self._any_object = ""  # of the latest phrase

    def reading(self) -> Reading:
        """Read all tokens."""
        if self._take_word("neither"):
            return Reading((Phrase(" ".join(self._tokens), conditions=tuple(self._excluded())),))
        phrases: list[Phrase] = []
        without_noun: list[bool] = []
        while self._word() or not phrases:
            while phrases and self._take(words.FILLERS) is not None:  # "the mug, please"
                pass
            if phrases and not self._word():
                break
            phrase = self._phrase(reference=False)
            without_noun.append(not phrase.head and self._any_object in ("", "one", "ones"))
            if without_noun[-1] and phrase.rank and self._word() == ",":  # "which is bigger, the ball or the lamp"
                phrase = replace(phrase, left_out=(*phrase.left_out, phrase.text))
            phrases.append(phrase)
            self._take(words.SEPARATORS)
        named = [phrase for phrase, without in zip(phrases, without_noun, strict=True) if not without]
        for n, without in enumerate(without_noun):  # "the red mug and the green one", "the red and the green mug"
            earlier = [phrase for phrase in phrases[:n] if phrase.head]
            if named and without and not phrases[n].free_text:
                phrases[n] = _named_like(phrases[n], earlier[-1].name if earlier else named[0].name)
        return Reading(tuple(phrases))

    # Phrases

    def _phrase(self, reference: bool) -> Phrase:
        draft = Draft(self._at)
        self._before_noun(draft)
        if draft.excludes:
            draft.conditions += self._excluded()
            draft.any_object = "thing"
        else:
            self._noun(draft)
        rules = self._rules(reference)
        while self._word():
            if any(self._applies(rule, draft) for rule in rules):
                continue
            if self._find(words.SEPARATORS) or (reference and self._continues()):
                break
            self._leave_out(draft)
        self._any_object = draft.any_object
        return draft.phrase(" ".join(self._tokens[draft.start : self._at]))

    def _rules(self, reference: bool) -> tuple[Callable[[Draft], bool], ...]:
        """Return the rules for words behind a noun, in the order in which they are tried."""
        own = (self._filler, self._quality_behind, self._parts, self._resting)
        if reference and not self._nested:
            return own
        ranks = (self._counted_from, self._ranked, self._measured_from)
        nested = (*ranks, *own, self._clause, self._located, self._group, self._negated_predicate)
        return nested if reference else (self._exclusion, *nested, self._joined_predicate)

    def _applies(self, rule: Callable[[Draft], bool], draft: Draft) -> bool:
        """Apply a rule. If it does not fit, restore the position."""
        start = self._at
        if rule(draft):
            return True
        self._at = start
        return False

    def _continues(self) -> bool:
        """Return whether words behind a reference can belong to an earlier noun."""
        words_of_clauses = self._word() == "not" or self._word() in words.PRONOUNS
        return words_of_clauses or any(self._find(table) for table in _CONTINUING)

    def _leave_out(self, draft: Draft) -> None:
        # Behind "something", and without any noun, unknown words describe the object: "something to drink from".
        free = draft.any_object or not (draft.names or draft.conditions or draft.order)
        (draft.free if free else draft.left_out).append(self._word())
        self._at += 1

    # Orders

    def _measured_from(self, draft: Draft) -> bool:
        """Read "to the bowl" of "the nearest mug to the bowl" and of "the mug closest to the bowl"."""
        if draft.order not in _DISTANCES or draft.reference is not None or self._find(words.VIEWER):
            return False
        if not self._take_word("to", "from") or not self._word():
            return False
        draft.reference = self._phrase(reference=True)
        return True

    # Exclusions

    def _exclusion(self, draft: Draft) -> bool:
        """Read "but the mug", "except the red one", ", not the blue one"."""
        if self._word() == "," and self._word(1) == "not":
            self._at += 1
        if self._word() == "not" and self._word(1) in words.ARTICLES:
            self._at += 1
        elif self._take(words.EXCLUDING) is None or self._find(words.RELATIONS) or self._word() in words.BE:
            return False
        for like in self._excluded():
            # "the mugs except the biggest"
            phrase = _named_like(like.phrase, draft.name) if like.phrase.rank and not like.phrase.head else like.phrase
            draft.conditions.append(Like(phrase, negated=True))
        return True

    def _excluded(self) -> list[Like]:
        """Read phrases that are excluded, up to the end of the list."""
        found = [Like(self._phrase(reference=True), negated=True)]
        while self._take(words.SEPARATORS):
            self._take_word("not")
            found.append(Like(self._phrase(reference=True), negated=True))
        return found

    # Clauses

    def _clause(self, draft: Draft) -> bool:
        """Read "that is red and not next to the bowl", "which has a handle", "standing on the book"."""
        if self._word() == "," and self._word(1) in words.PRONOUNS:  # "the ball, which is red"
            self._at += 1
        start = self._at
        self._skip(words.PRONOUNS, words.BE, words.POSTURES)
        if self._at > start:
            self._skip(words.COLOR_WORDS, words.BE)  # "whose color is red"
        return self._at > start and self._predicates(draft)

    def _predicates(self, draft: Draft) -> bool:
        """Read predicates joined by "and"; "or" joins them only behind a negation."""
        negated = self._word() in ("not", "neither")
        if not self._predicate(draft):
            return False
        while separator := self._find(words.SEPARATORS):
            start = self._at
            either = self._word(separator[0] - 1) in ("or", "nor")
            self._at += separator[0]
            self._skip(words.BE, words.PRONOUNS)
            # "not a ball or a lamp"
            starts = self._starts_predicate() or (negated and either and self._word() in words.ARTICLES)
            if (either and not negated) or not starts or not self._predicate(draft, either):
                self._at = start
                break
        return True

    def _starts_predicate(self) -> bool:
        if self._word() in ("not", "does", "do") or self._find(words.WITH) or self._find(words.WITHOUT):
            return True
        if value := self._adjective():
            return not self._is_name(len(value.split()))
        return bool(self._find(words.RELATIONS) or self._find(words.SIDES))

    def _predicate(self, draft: Draft, negated: bool = False) -> bool:
        """Read what "is" or "is not" says about the object."""
        if self._take(words.DO_NOT_HAVE):
            return self._part_names(draft, negated=True)
        negated = self._take_word("neither", "not") or negated
        self._take_word("either")
        if self._find(words.WITH) or self._find(words.WITHOUT):
            return self._parts(draft, negated)
        if self._word() == "in" and self._adjective(1):
            self._at += 1
        if self._adjective() and not self._is_name(len(self._adjective().split())):
            draft.conditions.append(Quality(self._values(), negated))
            return True
        if self._find(words.RELATIONS) or self._find(words.SIDES):
            return self._located(draft, negated)
        return self._kind(draft, negated)

    def _kind(self, draft: Draft, negated: bool) -> bool:
        """Read "the biggest", "a mug" and "broken" behind "is"."""
        if self._word() in words.ARTICLES or self._is_superlative():
            phrase = self._phrase(reference=True)
            if phrase.rank and not (phrase.head or phrase.conditions or negated or draft.order):
                draft.order, draft.place, draft.reference = phrase.rank.order, phrase.rank.place, phrase.rank.reference
                draft.left_out += phrase.left_out
                return True
            if phrase.rank and not phrase.head:
                phrase = _named_like(phrase, draft.name)
            draft.conditions.append(Like(phrase, negated))
            return True
        if self._ends_noun(0):
            return False
        word = self._word()
        self._at += 1
        if not draft.names and singulars(word):  # "things that are balls"
            draft.conditions.append(Like(Phrase(word, word, word), negated))
        elif negated or not draft.names:
            draft.left_out += ["not", word] if negated else [word]
        else:  # a word that is not a known attribute value, such as "broken", is read as if it stood before the noun
            draft.names.insert(0, word)
        return True

    def _negated_predicate(self, draft: Draft) -> bool:
        return self._word() == "not" and self._predicate(draft)

    def _joined_predicate(self, draft: Draft) -> bool:
        """Read "and behind the plate", "but not red" behind a noun."""
        separator = self._find(words.SEPARATORS)
        if separator is None or self._word(separator[0] - 1) in ("or", "nor"):
            return False
        self._at += separator[0]
        return self._starts_predicate() and self._predicate(draft)

    # Places

    def _located(self, draft: Draft, negated: bool = False) -> bool:
        """Read a side of the image or a relation with its references."""
        side = self._find(words.SIDES)
        if side and (self._word(side[0]) != "of" or self._is_ground(side[0] + 1)):
            self._at += side[0]
            if self._take_word("of"):
                self._phrase(reference=True)
            draft.conditions.append(Located(side[1], negated=negated))
            return True
        if not negated and self._applies(self._resting, draft):
            return True
        relation = self._take(words.RELATIONS)
        if relation is None or not self._word():
            return False
        if relation in RESTING and (self._is_ground(0) or self._is_middle()):
            return False
        if relation is Relation.BETWEEN:
            nested, self._nested, self._in_pair = self._nested, True, True
            first = self._phrase(reference=True)
            self._nested, self._in_pair = nested, False
            second = self._phrase(reference=True) if self._take(words.SEPARATORS) else first
            draft.conditions.append(Located(relation, (first, second), negated))
            return True
        draft.conditions.append(Located(relation, (self._phrase(reference=True),), negated))
        while self._nested and not self._in_pair and self._another_reference():
            draft.conditions.append(Located(relation, (self._phrase(reference=True),), negated))
        return True

    def _another_reference(self) -> bool:
        """Skip "and" before another reference: "next to the bowl and the plate"."""
        separator = self._find(words.SEPARATORS)
        if separator is None or self._word(separator[0]) not in words.ARTICLES:
            return False
        self._at += separator[0]
        return True


def _named_like(phrase: Phrase, name: str) -> Phrase:
    """Return a phrase with the noun of another one: "the green one" behind "the red mug"."""
    return replace(phrase, name=name, head=name.split()[-1] if name else "")
