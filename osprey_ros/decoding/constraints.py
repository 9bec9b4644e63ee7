"""Answers that must be one of a list or match a pattern: which tokens may come next, and the likeliest of them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, TypeAlias

import numpy as np
import regex
from tokenizers import Tokenizer

from osprey_ros.decoding.prompt import PromptBuilder
from osprey_ros.errors import PromptError

_TRIED_AT_ONCE = 64  # likeliest tokens that are tried against a pattern before all are
_PATTERN_SECONDS = 0.2  # that one comparison with a pattern may take: nested repeats can take for ever
_TEXTS_KEPT = 512  # beginnings of answers whose next tokens are remembered, for one pattern
_CONSTRAINTS_KEPT = 512
_LAST_CHARACTER = "\U0010ffff"


@dataclass(frozen=True)
class OneOf:
    """The answer is one of these phrases, each at most once. Raises PromptError for none and for an empty one."""

    values: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise PromptError("the list of answers is empty: give at least one")
        if not all(value.strip() for value in self.values):
            raise PromptError(f"an answer in the list {list(self.values)} is empty: leave it out")

    def accepts(self, text: str) -> bool:
        """Whether a text is one of the phrases."""
        return text in {value.strip() for value in self.values}


@dataclass(frozen=True)
class Matching:
    """The whole answer matches a regular expression, in the syntax of the package ``regex``.

    Raises PromptError for an expression that cannot be read, and for one without characters.
    """

    pattern: str

    def __post_init__(self) -> None:
        try:
            regex.compile(self.pattern)
        except regex.error as error:
            raise PromptError(f"the pattern {self.pattern!r} is not a regular expression: {error}") from error
        if not self.pattern or self.pattern.isspace():
            raise PromptError("the pattern is empty: give one that words can match, or leave it out")

    def accepts(self, text: str) -> bool:
        """Whether a text matches. Raises PromptError where that takes for ever."""
        return _compare(regex.compile(self.pattern), text)


Constraint: TypeAlias = OneOf | Matching


class Walk(Protocol):
    """One answer on its way; each call chooses its next token."""

    def __call__(self, logits: np.ndarray) -> tuple[int, float]:
        """The likeliest token that may come next by logits [vocab], and its natural-log probability."""


class Guide(Protocol):
    """A constraint in the tokens of one tokenizer."""

    longest: int  # tokens of the longest answer, the end included; 0 where there is no bound
    normalised: bool  # whether log-probabilities are among the tokens that may come, not among all

    def begin(self) -> Walk:
        """A new answer."""


class ListGuide:
    """A prefix tree over the token ids of phrases. The probabilities of all phrases add up to 1.

    Args:
        phrases: token ids of each, the end of the sequence the last; none is the beginning of another.
    """

    normalised = True

    def __init__(self, phrases: Sequence[Sequence[int]]) -> None:
        self.longest = max(len(phrase) for phrase in phrases)
        children: list[dict[int, int]] = [{}]
        for phrase in phrases:
            node = 0
            for token in phrase:
                if token not in children[node]:
                    children[node][token] = len(children)
                    children.append({})
                node = children[node][token]
        self._tokens = [np.array(list(node), dtype=np.intp) for node in children]
        self._nodes = [list(node.values()) for node in children]

    def begin(self) -> Walk:
        """A new answer."""
        node = 0

        def walk(logits: np.ndarray) -> tuple[int, float]:
            nonlocal node
            tokens = self._tokens[node]
            allowed = logits[tokens].astype(np.float64)
            best = int(allowed.argmax())
            logprob = -np.log(np.exp(allowed - allowed[best]).sum())
            node = self._nodes[node][best]
            return int(tokens[best]), float(logprob)

        return walk


class Vocabulary:
    """What each token adds to a text, and where the text begins: read from the tokenizer when first needed."""

    def __init__(self, tokenizer: Tokenizer, size: int, eos_id: int) -> None:
        self._tokenizer, self._size, self.eos_id = tokenizer, size, eos_id

    @cached_property
    def pieces(self) -> list[str]:
        """The text of every token behind another one, "" for those without one: special tokens, parts of characters."""
        # Behind a word, because tokenizers leave the space of a first word out.
        lead = self._tokenizer.encode("a", add_special_tokens=False).ids
        before = self._tokenizer.decode(lead)
        texts = self._tokenizer.decode_batch([[*lead, token] for token in range(self._size)])
        return [
            text[len(before) :] if text.startswith(before) and "�" not in text[len(before) :] else "" for text in texts
        ]

    @cached_property
    def by_piece(self) -> list[tuple[str, int]]:
        """Pieces in alphabetical order with their tokens: those that begin alike stand together."""
        return sorted((piece, token) for token, piece in enumerate(self.pieces) if piece)


class PatternGuide:
    """A regular expression. A few of the likeliest tokens are tried, then all: at once those that begin alike.

    Log-probabilities are among all tokens.
    """

    longest = 0
    normalised = False

    def __init__(self, pattern: str, vocabulary: Vocabulary) -> None:
        self._pattern = pattern
        self._regex = regex.compile(pattern)
        self._vocabulary = vocabulary
        self._possible: dict[str, np.ndarray] = {}

    def can_begin(self) -> bool:
        """Whether any token with a word in it can be the first: where none can, no answer matches."""
        return any(self._fits("", token) for token, piece in enumerate(self._vocabulary.pieces) if piece.strip())

    def begin(self) -> Walk:
        """A new answer."""
        text = ""

        def walk(logits: np.ndarray) -> tuple[int, float]:
            nonlocal text
            token = self._next(text, logits)
            if token != self._vocabulary.eos_id:
                text += self._vocabulary.pieces[token]
            best = logits.max()
            return token, float(logits[token] - best - np.log(np.exp(logits - best).sum(dtype=np.float64)))

        return walk

    def _next(self, text: str, logits: np.ndarray) -> int:
        count = min(_TRIED_AT_ONCE, len(logits))
        likeliest = np.argpartition(-logits, count - 1)[:count]
        for token in likeliest[np.argsort(-logits[likeliest], kind="stable")]:
            if self._fits(text, int(token)):
                return int(token)
        possible = self._possible_tokens(text)
        if len(possible):
            return int(possible[logits[possible].argmax()])
        # Nothing can be added and this is no match: the tokenizer cannot spell what the pattern wants.
        return self._vocabulary.eos_id

    def _fits(self, text: str, token: int) -> bool:
        if token == self._vocabulary.eos_id:
            return bool(text.strip()) and self._compare(text.lstrip(), partial=False)
        piece = self._vocabulary.pieces[token]
        if not piece:
            return False
        longer = text + piece
        if not longer.strip():  # the space before the first word
            return not text
        return self._compare(longer.lstrip(), partial=True)

    def _possible_tokens(self, text: str) -> np.ndarray:
        """All tokens that fit."""
        if text not in self._possible:
            found = [self._vocabulary.eos_id] if self._fits(text, self._vocabulary.eos_id) else []
            groups = [(0, len(self._vocabulary.by_piece), 0)]
            while groups:
                self._split(text, *groups.pop(), found, groups)
            if len(self._possible) >= _TEXTS_KEPT:
                self._possible.clear()
            self._possible[text] = np.array(found, dtype=np.intp)
        return self._possible[text]

    def _split(
        self, text: str, start: int, end: int, depth: int, found: list[int], groups: list[tuple[int, int, int]]
    ) -> None:
        """Of pieces number ``start`` to ``end``, which share ``depth`` characters that fit.

        Adds to ``found`` tokens that have no more, and to ``groups`` those that share one more that fits.
        """
        ordered = self._vocabulary.by_piece
        while start < end:
            piece, token = ordered[start]
            if len(piece) == depth:
                if self._fits(text, token):
                    found.append(token)
                start += 1
                continue
            shared = piece[: depth + 1]
            stop = bisect_left(ordered, (shared + _LAST_CHARACTER,), start, end)
            if self._compare((text + shared).lstrip(), partial=True):
                groups.append((start, stop, depth + 1))
            start = stop

    def _compare(self, text: str, partial: bool) -> bool:
        return _compare(self._regex, text, partial)


def _compare(pattern: regex.Pattern[str], text: str, partial: bool = False) -> bool:
    """Whether a text matches, or is the beginning of one that does."""
    try:
        return pattern.fullmatch(text, partial=partial, timeout=_PATTERN_SECONDS) is not None
    except TimeoutError as error:
        raise PromptError(
            f"the pattern {pattern.pattern!r} takes more than {_PATTERN_SECONDS} s to compare with a text of "
            f"{len(text)} characters: write it without repeats inside repeats"
        ) from error


class Guides:
    """Guides for constraints, each made once for one model's tokenizer."""

    def __init__(self, builder: PromptBuilder) -> None:
        self._builder = builder
        self._vocabulary = Vocabulary(builder.tokenizer, builder.spec.vocab_size, builder.spec.eos_id)
        self._known: dict[Constraint, Guide] = {}

    def of(self, constraint: Constraint) -> Guide:
        """The guide of a constraint.

        Raises PromptError for a phrase that the tokenizer cannot spell and a pattern that no token can begin.
        """
        if constraint not in self._known:
            if len(self._known) >= _CONSTRAINTS_KEPT:
                self._known.clear()
            self._known[constraint] = self._make(constraint)
        return self._known[constraint]

    def _make(self, constraint: Constraint) -> Guide:
        if isinstance(constraint, Matching):
            guide = PatternGuide(constraint.pattern, self._vocabulary)
            if not guide.can_begin():
                raise PromptError(
                    f"no answer of this model can match the pattern {constraint.pattern!r}: write one that begins with "
                    "a character it can say"
                )
            return guide
        phrases = [self._builder.answer(value) for value in constraint.values]
        for value, phrase in zip(constraint.values, phrases, strict=True):
            spelled = self._builder.decode(phrase) if min(phrase) >= 0 else "a region"
            if spelled != value.strip():
                raise PromptError(
                    f"the answer {value!r} cannot be said by this model, whose tokenizer makes {spelled!r} of it: "
                    "write it otherwise or leave it out"
                )
        return ListGuide(phrases)
