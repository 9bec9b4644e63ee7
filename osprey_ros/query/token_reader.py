"""Look-ahead over the tokens of a question with the tables of `osprey_ros.query.vocabulary`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TypeVar

from osprey_ros.query import vocabulary as words

T = TypeVar("T")
Table = Mapping[tuple[str, ...], T]
_LONGEST_ENTRY = 7  # tokens
_LONGEST_VALUE = 3  # tokens of an attribute value
# Sequences at which a noun ends.
_NOUN_END_TABLES: tuple[Table[object], ...] = (
    *(words.RELATIONS, words.SIDES, words.COUNTED_FROM, words.EXCLUDING, words.SEPARATORS),
    *(words.WITH, words.WITHOUT, words.FILLERS),
)


class TokenReader:
    """Reads tokens from left to right.

    ``ahead`` in the methods is a number of tokens behind the current one.

    Args:
        tokens: lower-case words and commas.
        adjectives: words known as attribute values, in lower case.
        named_grounds: words of `vocabulary.GROUNDS` that name an object of the scene.
    """

    def __init__(self, tokens: list[str], adjectives: Collection[str], named_grounds: Collection[str] = ()) -> None:
        self._grounds = words.GROUNDS - frozenset(named_grounds)
        self._tokens = tokens
        self._adjectives = adjectives
        self._at = 0

    def _word(self, ahead: int = 0) -> str:
        """Return a token, "" behind the last one."""
        place = self._at + ahead
        return self._tokens[place] if place < len(self._tokens) else ""

    def _take_word(self, *options: str) -> bool:
        """Skip the current token if it is one of the options."""
        if self._word() in options and self._word():
            self._at += 1
            return True
        return False

    def _skip(self, *tables: Collection[str]) -> None:
        """Skip tokens that are in any of the sets."""
        while any(self._word() in table for table in tables):
            self._at += 1

    def _find(self, table: Table[T], ahead: int = 0) -> tuple[int, T] | None:
        """Return the length and the value of the longest entry of a table at a token."""
        start = self._at + ahead
        for length in range(min(_LONGEST_ENTRY, len(self._tokens) - start), 0, -1):
            entry = tuple(self._tokens[start : start + length])
            if entry in table:
                return length, table[entry]
        return None

    def _take(self, table: Table[T]) -> T | None:
        """Skip the longest entry of a table at the current token and return its value."""
        found = self._find(table)
        if found is None:
            return None
        self._at += found[0]
        return found[1]

    def _adjective(self, ahead: int = 0) -> str:
        """Return the attribute value at a token, "" if there is none."""
        start = self._at + ahead
        for length in range(min(_LONGEST_VALUE, len(self._tokens) - start), 0, -1):
            value = " ".join(self._tokens[start : start + length])
            if value in self._adjectives:
                return value
        return ""

    def _values(self) -> tuple[str, ...]:
        """Read attribute values: "red", "red or blue", "red, green and blue"."""
        values = []
        while value := self._adjective():
            values.append(value)
            self._at += len(value.split())
            separator = self._find(words.SEPARATORS)
            if separator is None or not self._adjective(separator[0]):
                break
            self._at += separator[0]
        return tuple(values)

    def _is_name(self, ahead: int) -> bool:
        """Return whether a token can belong to a noun."""
        return not self._ends_noun(ahead) and self._word(ahead) not in words.ARTICLES

    def _ends_noun(self, ahead: int) -> bool:
        """Return whether a noun before a token is complete."""
        if not self._word(ahead) or self._word(ahead) in words.NOUN_ENDS:
            return True
        return any(self._find(table, ahead) for table in _NOUN_END_TABLES)

    def _is_superlative(self) -> bool:
        """Return whether a superlative begins here: not "bigger than", and not the noun in "a red top"."""
        found = self._find(words.SUPERLATIVES)
        if found is None or self._word(found[0]) == "than":
            return False
        return self._word() not in ("top", "bottom") or not self._ends_noun(1)

    def _is_ground(self, ahead: int) -> bool:
        """Return whether the phrase at a token is the table, the image or another place where all objects are."""
        while self._word(ahead) in words.ARTICLES:
            ahead += 1
        while self._is_name(ahead) and self._is_name(ahead + 1):
            ahead += 1
        return self._word(ahead) in self._grounds

    def _is_middle(self) -> bool:
        return self._word(1 if self._word() in words.ARTICLES else 0) in words.MIDDLES
