"""Read nouns with the words around them that say what an object is like, not where it is."""

from __future__ import annotations

from dataclasses import dataclass, field

from osprey_ros.query import vocabulary as words
from osprey_ros.query.question import Condition, Located, Order, Part, Phrase, Quality, Rank, Relation
from osprey_ros.query.token_reader import TokenReader

RESTING = (Relation.ON, Relation.IN)  # with a table or an image as reference, these are true of all objects


@dataclass
class Draft:
    """A phrase while it is read.

    Attributes:
        start: its first token.
        names: the noun with the words before it that are no attribute values.
        any_object: the word that stands for any object, such as "thing" or "one".
        excludes: whether it began with "not", so that what follows is excluded.
        order, place, reference: its superlative, its ordinal and what the distance is measured from.
        free: words that the grammar cannot read and that describe "something".
        left_out: all other words that the grammar cannot read.
    """

    start: int
    names: list[str] = field(default_factory=list)
    any_object: str = ""
    excludes: bool = False
    conditions: list[Condition] = field(default_factory=list)
    order: Order | None = None
    place: int | None = None
    reference: Phrase | None = None
    free: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The noun with the words before it."""
        return " ".join(self.names)

    @property
    def named(self) -> bool:
        """Whether a noun was read, or a word that stands for one."""
        return bool(self.names or self.any_object)

    def rank(self) -> Rank | None:
        """Return the rank that superlative and ordinal give together."""
        if self.order is None:
            return None
        if self.place == words.LAST:
            return Rank(self.order.opposite, reference=self.reference)
        return Rank(self.order, self.place or 1, self.reference)

    def phrase(self, text: str) -> Phrase:
        """Return the phrase that was read."""
        while (rest := text.split(" ", 1))[0] in words.ARTICLES and len(rest) > 1:
            text = rest[1]
        left_out = list(self.left_out)
        if self.place is not None and self.order is None:
            # "the second mug": people usually count from the left, but the question does not say so.
            self.order = Order.LEFT
            left_out.append(next(word for (word,), n in words.ORDINALS.items() if n == self.place))
        free, names = "", self.names
        if self.free or (self.any_object and self.names):
            free = " ".join([*self.names, *([self.any_object] if self.any_object else []), *self.free])
            names = []
        head = names[-1] if names else ""
        return Phrase(text, head, " ".join(names), tuple(self.conditions), self.rank(), free, tuple(left_out))


class NounReader(TokenReader):
    """Reads a noun and its attribute values, superlatives, ordinals and parts. Its rules return whether they apply."""

    def _before_noun(self, draft: Draft) -> None:
        """Read articles, ordinals, superlatives, sides and attribute values before a noun."""
        while self._word():
            if self._word() == "one" and self._word(1) == "of":
                self._at += 2
            elif self._word() in words.ARTICLES or (self._word() in words.NUMBERS and self._word(1)):
                self._at += 1
            elif self._is_superlative():
                draft.order = self._take(words.SUPERLATIVES)
                self._take(words.VIEWER)
            elif (found := self._take(words.ORDINALS)) is not None:
                draft.place = found
            elif self._word() == "not" and not self._adjective(1):
                draft.excludes = self._take_word("not")
                return
            elif self._word() == "not" or self._adjective():
                negated = self._take_word("not")
                draft.conditions.append(Quality(self._values(), negated))
            elif (side := words.SIDE_ADJECTIVES.get((self._word(),))) and self._is_name(1):
                self._at += 1
                draft.conditions.append(Located(side))
            elif self._word() in words.COLOR_WORDS and draft.conditions:
                self._at += 1
            else:
                return

    def _noun(self, draft: Draft) -> None:
        """Read the noun with the words before it that are no attribute values."""
        while not self._ends_noun(0):
            if draft.names and (self._find(words.SUPERLATIVES) or (self._word(),) in words.SIDE_ADJECTIVES):
                return  # "the mug furthest left"
            if self._word() in words.ANY_OBJECT:
                draft.any_object = self._word()
                self._at += 1
                return
            if value := self._adjective():
                draft.conditions.append(Quality((value,)))
                self._at += len(value.split())
            elif self._word() in words.ARTICLES:  # what is before it was no noun: "avoid the ball"
                draft.left_out += draft.names
                draft.names = []
                self._at += 1
            else:
                draft.names.append(self._word())
                self._at += 1

    def _filler(self, draft: Draft) -> bool:
        """Skip words that say nothing: "please", "in color" behind a color, "to me" behind "nearest"."""
        in_color = self._word() == "in" and self._word(1) in words.COLOR_WORDS
        if (in_color or self._word() in words.COLOR_WORDS) and any(isinstance(c, Quality) for c in draft.conditions):
            self._at += 2 if in_color else 1
            return not self._adjective()
        if draft.order in (Order.NEAR, Order.FAR) and self._take(words.VIEWER):
            return True
        return self._take(words.FILLERS) is not None

    def _quality_behind(self, draft: Draft) -> bool:
        """Read "in red", "of red color", "with a red color", "of the color red" and "red" behind a noun."""
        begins = self._take_word("in", "of", "with") or bool(self._adjective())
        return begins and self._quality(draft, negated=False)

    def _quality(self, draft: Draft, negated: bool) -> bool:
        """Read attribute values with the word "color" before or behind them, but not those of another noun."""
        start = self._at
        self._skip(words.ARTICLES, words.COLOR_WORDS)
        color = any(word in words.COLOR_WORDS for word in self._tokens[start : self._at])
        values = self._values()
        if not values or (self._is_name(0) and not color and self._word() not in words.COLOR_WORDS):
            self._at = start
            return False
        self._skip(words.COLOR_WORDS)
        draft.conditions.append(Quality(values, negated))
        return True

    def _parts(self, draft: Draft, negated: bool = False) -> bool:
        """Read "with a handle and a lid", "without a cap", "has no red color"."""
        if self._take(words.WITHOUT):
            negated = not negated
        elif self._take(words.WITH) is None:
            return False
        return self._quality(draft, negated) or self._part_names(draft, negated)

    def _part_names(self, draft: Draft, negated: bool) -> bool:
        """Read names of parts: joined by "and" all of them count, by "or" any of them."""
        names: list[str] = []
        while True:
            part = Draft(self._at)
            self._before_noun(part)
            self._noun(part)
            if not part.names:
                return False
            for condition in part.conditions:  # what a part is like cannot be asked: "a blue handle"
                draft.left_out += list(condition.values) if isinstance(condition, Quality) else []
            names.append(part.name)
            separator = self._find(words.SEPARATORS)
            if separator is None or not self._is_part(separator[0]):
                draft.conditions.append(Part(tuple(names), negated))
                return True
            either = self._word(separator[0] - 1) in ("or", "nor")
            self._at += separator[0]
            if not either or self._word() == "no":
                draft.conditions.append(Part(tuple(names), negated))
                names = []
            negated = self._take_word("no") or negated

    def _is_part(self, ahead: int) -> bool:
        """Return whether a list of parts goes on: with a single noun, not with another object that is asked for."""
        if self._word(ahead) in ("a", "an", "any", "no"):
            return self._is_name(ahead + 1) and not self._adjective(ahead + 1)
        return self._is_name(ahead) and not self._adjective(ahead) and self._ends_noun(ahead + 1)

    def _counted_from(self, draft: Draft) -> bool:
        """Read "from the left" of "the second mug from the left" and of "second from the left mug"."""
        order = self._take(words.COUNTED_FROM) if draft.place is not None else None
        if order is None or draft.order is not None:
            return False
        draft.order = order
        if not draft.named:
            self._before_noun(draft)
            self._noun(draft)
        return True

    def _ranked(self, draft: Draft) -> bool:
        """Read "furthest to the left" behind a noun."""
        if draft.order is not None or self._find(words.RELATIONS) or not self._is_superlative():
            return False
        draft.order = self._take(words.SUPERLATIVES)
        return True

    def _group(self, draft: Draft) -> bool:
        """Read the noun of "the biggest of the balls"."""
        if draft.named or not self._take_word("of", "among"):
            return False
        self._before_noun(draft)
        self._noun(draft)
        return draft.named

    def _resting(self, draft: Draft) -> bool:
        """Skip "on the table", which is true of all objects; what the table is like ("wooden") is left out."""
        if self._take(words.RELATIONS) not in RESTING or not self._is_ground(0):
            return False
        ground = Draft(self._at)
        self._before_noun(ground)
        self._noun(ground)
        draft.left_out += ground.names[:-1]
        return True
