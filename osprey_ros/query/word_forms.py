"""English word forms: singular and plural, articles, and whether a text mentions a name."""

from __future__ import annotations

import re

# Beside -s: plural endings and the singular endings that they may stand for.
_PLURAL_ENDINGS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("ies", ("y",)),
    ("ves", ("f", "fe")),
    *((f"{ending}es", (ending,)) for ending in ("sh", "ch", "x", "s", "z", "o")),
)
_CONSONANT_Y_SOUND = ("uni", "use", "eu")  # "a uniform", although it starts with a vowel letter


def same_word(a: str, b: str) -> bool:
    """Return whether two words are the same apart from singular and plural."""
    return a == b or not {a, *singulars(a)}.isdisjoint((b, *singulars(b)))


def singulars(word: str) -> tuple[str, ...]:
    """Return the possible singulars of a word, none if it has no plural ending.

    Spelling alone does not tell "cookies" (cookie) from "cherries" (cherry), so there can be more than one.
    """
    if len(word) < 3 or not word.endswith("s") or word.endswith("ss"):
        return ()
    found = [word[:-1]]
    for ending, endings in _PLURAL_ENDINGS:
        if word.endswith(ending):
            found += [word[: -len(ending)] + instead for instead in endings]
    return tuple(found)


def mentions(text: str, name: str) -> bool:
    """Return whether a text contains the words of a name in order, in singular or plural."""
    words, wanted = re.findall(r"\w+", text.lower()), re.findall(r"\w+", name.lower())
    return bool(wanted) and any(
        all(same_word(word, other) for word, other in zip(words[start:], wanted, strict=False))
        for start in range(len(words) - len(wanted) + 1)
    )


def with_article(words: str) -> str:
    """Return the words with their article: "a mug", "an orange apple", "a uniform". Plurals get none."""
    lowered = words.lower()
    if lowered.endswith("s") and not lowered.endswith(("ss", "us")):
        return words
    vowel = lowered[:1] in "aeiou" and not lowered.startswith(_CONSONANT_Y_SOUND)
    return f"{'an' if vowel else 'a'} {words}"
