"""Words are compared in singular and plural, and get the right article."""

from __future__ import annotations

from osprey_ros.query.word_forms import mentions, with_article


def test_singular_and_plural_are_the_same_word() -> None:
    plurals = {
        **{"mugs": "mug", "boxes": "box", "dishes": "dish", "cherries": "cherry", "glasses": "glass", "buses": "bus"},
        **{"cookies": "cookie", "ties": "tie", "tomatoes": "tomato", "knives": "knife", "leaves": "leaf"},
        **{"axes": "axe", "shoes": "shoe"},
    }
    for words, word in plurals.items():
        assert mentions(f"some {words}", word), words
        assert mentions(f"a {word}", words), words
    for other, word in (("caps", "cape"), ("capes", "cap"), ("glass", "glas"), ("pens", "penny"), ("bass", "bas")):
        assert not mentions(other, word), other


def test_a_name_is_mentioned_by_its_words_in_order() -> None:
    assert mentions("a small red mug", "mugs")
    assert mentions("two coffee mugs.", "coffee mug")
    assert not mentions("a mug of coffee", "coffee mug")
    assert not mentions("a football", "ball")
    assert mentions("a coffee-maker", "coffee-maker")
    assert not mentions("a mug", "")
    assert not mentions("a mug", "?")


def test_articles_follow_the_sound_and_plurals_get_none() -> None:
    words = ("mug", "orange apple", "scissors", "glass", "uniform")
    assert [with_article(word) for word in words] == ["a mug", "an orange apple", "scissors", "a glass", "a uniform"]
