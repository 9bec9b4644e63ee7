"""Questions in other languages are recognized."""

from __future__ import annotations

from itertools import product

import pytest

from osprey_ros.query.language import ENGLISH_WORDS, FOREIGN_WORDS, is_english
from osprey_sim import words


@pytest.mark.parametrize(
    "text",
    [
        "wo ist der rote Ball?",
        "die Flasche ohne Deckel neben dem Buch",
        "où est la tasse rouge",
        "le vase bleu",
        "¿Dónde está la taza roja?",
        "dov'è la tazza rossa",
        "onde está a caneca vermelha",
        "waar is de rode mok",
        "красный мяч",
        "赤いボールはどこですか",
        "die größte Straße",
    ],
)
def test_other_languages_are_recognized(text: str) -> None:
    assert not is_english(text)


@pytest.mark.parametrize(
    "text",
    [
        "the red ball",
        "red ball",
        "Where is the crème brûlée?",
        "jalapeño jar",
        "the café au lait bowl next to the façade",
        "xyzzy plugh 42",
        "the bottle of eau de toilette",
        "banana",
        "un-red ball",
    ],
)
def test_english_with_loan_words_is_english(text: str) -> None:
    assert is_english(text)


def test_no_word_of_the_shipped_model_is_taken_for_another_language() -> None:
    known = (*words.CLASSES, *words.COLORS, *words.SIZES, *words.PARTS, *words.TABLES)
    for word in known:
        assert is_english(word), word
    for color, kind in product(words.COLORS, words.CLASSES):
        assert is_english(f"{color} {kind}")
        assert is_english(f"a {color} {kind}s")


def test_the_word_lists_do_not_overlap() -> None:
    assert not ENGLISH_WORDS & FOREIGN_WORDS
