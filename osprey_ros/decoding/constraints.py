"""Constraints on an answer: a list of phrases or a pattern, and the tokens that they allow next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Protocol, TypeAlias, cast

import numpy as np

from osprey_ros.decoding.prompt import PromptBuilder
from osprey_ros.errors import PromptError

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer
    from llguidance._tokenizer import TokenizerWrapper

_MAX_CACHED = 512  # compiled constraints


class ConstraintState(Protocol):
    """One answer under a constraint, token by token."""

    def next_token(self, logits: np.ndarray) -> tuple[int, float]:
        """Take the most likely allowed token by logits, float32 [vocabulary size].

        Returns the token and its natural-log probability.
        """


class CompiledConstraint(Protocol):
    """A constraint in the tokens of one tokenizer.

    Attributes:
        longest: Tokens of the longest answer, its end included; 0 if there is no limit.
        normalized: Whether log-probabilities are relative to the allowed tokens, not to all tokens.
    """

    longest: int
    normalized: bool

    def start(self) -> ConstraintState:
        """Begin an answer."""


@dataclass(frozen=True)
class OneOf:
    """The answer is one of these phrases. Raises PromptError for an empty list and for an empty phrase."""

    values: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise PromptError("the list of answers is empty: give at least one")
        if not all(value.strip() for value in self.values):
            raise PromptError(f"an answer in the list {list(self.values)} is empty: leave it out")

    def accepts(self, text: str) -> bool:
        """Return whether a text is one of the phrases."""
        return text in {value.strip() for value in self.values}

    def compile(self, vocabulary: Vocabulary) -> CompiledConstraint:
        """Translate the phrases into tokens. Raises PromptError for a phrase that the tokenizer cannot spell."""
        builder = vocabulary.builder
        phrases = [builder.answer(value) for value in self.values]
        for value, phrase in zip(self.values, phrases, strict=True):
            spelled = builder.decode(phrase) if min(phrase) >= 0 else "a region"
            if spelled != value.strip():
                raise PromptError(
                    f"this model cannot give the answer {value!r}, which its tokenizer spells {spelled!r}: "
                    "write it differently or leave it out"
                )
        return TokenTree(phrases)


@dataclass(frozen=True)
class Matching:
    """The whole answer matches a regular expression, in the syntax of Rust's crate ``regex``.

    That is the common syntax without look-around, back-references and word boundaries; ``^`` at the beginning and
    ``$`` at the end are allowed. Matching takes time in proportion to the length of the answer, whatever the pattern.

    Raises PromptError for an invalid or empty pattern.
    """

    pattern: str

    def __post_init__(self) -> None:
        if not self.pattern or self.pattern.isspace():
            raise PromptError("the pattern is empty: give one that words can match, or leave it out")
        _matcher(_byte_tokenizer(), self.pattern, self.pattern)

    def accepts(self, text: str) -> bool:
        """Return whether a text matches."""
        tokenizer = _byte_tokenizer()
        matcher, data = _matcher(tokenizer, self.pattern, self.pattern), list(text.encode())
        return matcher.try_consume_tokens(data) == len(data) and matcher.is_accepting()

    def compile(self, vocabulary: Vocabulary) -> CompiledConstraint:
        """Prepare the pattern. Raises PromptError if no answer of this tokenizer can match it."""
        return TokenPattern(self.pattern, vocabulary)


Constraint: TypeAlias = OneOf | Matching


class TokenTree:
    """A prefix tree over the token ids of phrases. The probabilities of all phrases add up to 1.

    Args:
        phrases: Token ids of each phrase, ending with the end-of-sequence id. None is the beginning of another.
    """

    normalized = True

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
        self.tokens = [np.array(list(node), dtype=np.intp) for node in children]
        self.children = [list(node.values()) for node in children]

    def start(self) -> ConstraintState:
        """Begin an answer."""
        return _TreeState(self)


class _TreeState:
    """See `ConstraintState`."""

    def __init__(self, tree: TokenTree) -> None:
        self._tree, self._node = tree, 0

    def next_token(self, logits: np.ndarray) -> tuple[int, float]:
        tokens = self._tree.tokens[self._node]
        allowed = logits[tokens].astype(np.float64)
        best = int(allowed.argmax())
        logprob = -np.log(np.exp(allowed - allowed[best]).sum())
        self._node = self._tree.children[self._node][best]
        return int(tokens[best]), float(logprob)


class Vocabulary:
    """The text of each token, and the tokenizer of llguidance made of it, both made when first used."""

    is_tokenizer_wrapper = True  # read by LLTokenizer, with the attributes below

    def __init__(self, builder: PromptBuilder) -> None:
        self.builder = builder
        self.bos_token_id, self.eos_token_id = builder.spec.bos_id, builder.spec.eos_id

    @cached_property
    def pieces(self) -> list[str]:
        """The text that every token adds to an answer; "" for special tokens and parts of characters."""
        tokenizer = self.builder.tokenizer
        # Decoded behind a word, because tokenizers drop the space in front of the first word.
        lead = tokenizer.encode("a", add_special_tokens=False).ids
        before = tokenizer.decode(lead)
        texts = tokenizer.decode_batch([[*lead, token] for token in range(self.builder.spec.vocab_size)])
        return [
            text[len(before) :] if text.startswith(before) and "�" not in text[len(before) :] else "" for text in texts
        ]

    @property
    def tokens(self) -> list[bytes]:
        """The bytes of every token."""
        return [piece.encode() for piece in self.pieces]

    @property
    def special_token_ids(self) -> list[int]:
        """Ids of tokens that cannot be part of a match."""
        return [token for token, piece in enumerate(self.pieces) if not piece]

    def __call__(self, text: str) -> list[int]:
        """Return tokens that spell a text, the longest first, up to a character that has none.

        llguidance asks for text that a pattern leaves no choice about. The tokenizer itself would make special tokens
        of what it cannot spell.
        """
        spelled: list[int] = []
        while text:
            end = next((end for end in range(len(text), 0, -1) if text[:end] in self._token_of), 0)
            if not end:
                break
            spelled.append(self._token_of[text[:end]])
            text = text[end:]
        return spelled

    @cached_property
    def _token_of(self) -> dict[str, int]:
        return {piece: token for token, piece in enumerate(self.pieces) if piece}

    @cached_property
    def matching(self) -> LLTokenizer:
        """This vocabulary for llguidance."""
        from llguidance import LLTokenizer

        return LLTokenizer(cast("TokenizerWrapper", self), n_vocab=self.builder.spec.vocab_size)


class TokenPattern:
    """A regular expression over the text of tokens. Log-probabilities are relative to all tokens."""

    longest = 0
    normalized = False

    def __init__(self, pattern: str, vocabulary: Vocabulary) -> None:
        self._pattern, self._vocabulary = pattern, vocabulary
        # The first word of an answer may have a space in front.
        self._start = _matcher(vocabulary.matching, f" ?(?:{pattern.removeprefix('^')})", pattern)
        if not any(vocabulary.pieces[token].strip() for token in _allowed(self._start).tolist()):
            raise PromptError(
                f"no answer of this model can match the pattern {pattern!r}: begin it with a character that the model "
                "has a token for"
            )

    def start(self) -> ConstraintState:
        """Begin an answer."""
        return _PatternState(self._start.deep_copy(), self._vocabulary.eos_token_id)


class _PatternState:
    """See `ConstraintState`."""

    def __init__(self, matcher: LLMatcher, eos_id: int) -> None:
        self._matcher, self._eos_id = matcher, eos_id

    def next_token(self, logits: np.ndarray) -> tuple[int, float]:
        allowed = _allowed(self._matcher)
        # Without any, the tokenizer cannot spell the rest of the pattern: the answer ends without a match.
        token = int(allowed[logits[allowed].argmax()]) if len(allowed) else self._eos_id
        self._matcher.try_consume_tokens([token])
        best = logits.max()
        return token, float(logits[token] - best - np.log(np.exp(logits - best).sum(dtype=np.float64)))


class ConstraintCache:
    """Constraints compiled for one tokenizer, each once."""

    def __init__(self, builder: PromptBuilder) -> None:
        self._vocabulary = Vocabulary(builder)
        self._compiled: dict[Constraint, CompiledConstraint] = {}

    def compile(self, constraint: Constraint) -> CompiledConstraint:
        """Return a compiled constraint. Raises PromptError for an answer that the model cannot give."""
        if constraint not in self._compiled:
            if len(self._compiled) >= _MAX_CACHED:
                self._compiled.clear()
            self._compiled[constraint] = constraint.compile(self._vocabulary)
        return self._compiled[constraint]


@lru_cache(1)
def _byte_tokenizer() -> LLTokenizer:
    try:
        from llguidance import LLTokenizer
    except ImportError as error:
        raise PromptError(f"a pattern needs the package llguidance ({error}): `pip install llguidance`") from error
    return LLTokenizer("byte")


def _matcher(tokenizer: LLTokenizer, expression: str, pattern: str) -> LLMatcher:
    """Return a matcher at its beginning. Raises PromptError, which names ``pattern``, for an invalid one."""
    from llguidance import LLMatcher

    matcher = LLMatcher(tokenizer, LLMatcher.grammar_from_regex(expression.removeprefix("^")), log_level=0)
    if matcher.is_error():
        lines = [line.strip() for line in matcher.get_error().splitlines()]
        reason = next((line for line in lines if line.startswith("error:")), lines[0])
        raise PromptError(f"the pattern {pattern!r} is not a regular expression that can be used: {reason}")
    return matcher


def _allowed(matcher: LLMatcher) -> np.ndarray:
    """Return the token ids that may come next, ascending. Raises PromptError if the pattern is too complex."""
    if matcher.is_error():
        reason = matcher.get_error().splitlines()[0]
        raise PromptError(f"the pattern cannot be matched any further: {reason}; simplify it")
    if matcher.is_stopped():
        return np.zeros(0, np.intp)
    bits = np.frombuffer(matcher.compute_bitmask(), np.uint8)
    return np.flatnonzero(np.unpackbits(bits, bitorder="little"))
