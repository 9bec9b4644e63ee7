"""English words for an object, taken apart."""

from __future__ import annotations

import pytest

from osprey_ros.query.grammar import Relation, mentions, parse, with_article

KNOWN = {"red", "blue", "open"}


@pytest.mark.parametrize(
    ("text", "head", "name", "adjectives"),
    [
        ("mug", "mug", "mug", ()),
        ("the red mug", "mug", "mug", ("red",)),
        ("Where is my small red mug?", "mug", "small mug", ("red",)),
        ("find me a coffee mug", "mug", "coffee mug", ()),
        ("the scissors with blue handles", "scissors", "scissors", ()),
        ("something red", "", "", ("red",)),
        ("the red one", "", "", ("red",)),
        ("red", "", "", ("red",)),
        ("an open red box", "box", "box", ("open", "red")),
        ("the mug on the table", "mug", "mug", ()),
    ],
)
def test_things_and_what_they_are_like(text: str, head: str, name: str, adjectives: tuple[str, ...]) -> None:
    query = parse(text, KNOWN)
    assert (query.target.head, query.target.name, query.target.adjectives) == (head, name, adjectives)
    assert not query.target.free
    assert query.relation is None


@pytest.mark.parametrize(
    ("text", "target", "relation", "references"),
    [
        ("the red mug next to the blue bowl", "mug", Relation.NEXT_TO, ["bowl"]),
        ("the bottle to the left of the box", "bottle", Relation.LEFT, ["box"]),
        ("a lamp right of a book", "lamp", Relation.RIGHT, ["book"]),
        ("the mug that is in front of the car", "mug", Relation.FRONT, ["car"]),
        ("the cup on top of the book", "cup", Relation.ON, ["book"]),
        ("the spoon in the bowl", "spoon", Relation.IN, ["bowl"]),
        ("what is between the ball and the box?", "", Relation.BETWEEN, ["ball", "box"]),
        ("the mug between the books", "mug", Relation.BETWEEN, ["books", "books"]),
        ("what is behind the lamp", "", Relation.BEHIND, ["lamp"]),
        ("the mug on the left", "mug", Relation.LEFT, []),
        ("what is on the right?", "", Relation.RIGHT, []),
        ("the leftmost bottle", "bottle", Relation.LEFT, []),
        ("the farthest red thing", "", Relation.BEHIND, []),
        # The first thing is meant, and the first relation that says something counts.
        ("the mug behind the bowl on the left", "mug", Relation.BEHIND, ["bowl"]),
        ("the mug on the left next to the bowl", "mug", Relation.NEXT_TO, ["bowl"]),
        ("the red mug on the table on the left", "mug", Relation.LEFT, []),
        ("the mug on the left of the picture on the table", "mug", Relation.LEFT, []),
        ("the mug between the bowl and the plate on the left", "mug", Relation.BETWEEN, ["bowl", "plate"]),
        ("the mug between the bowl on the table and the plate", "mug", Relation.BETWEEN, ["bowl", "plate"]),
        ("the mug next to the bowl on the table", "mug", Relation.NEXT_TO, ["bowl"]),
        ("the mug next to the bowl behind the plate", "mug", Relation.NEXT_TO, ["bowl"]),
        ("the mug on the table next to the bowl", "mug", Relation.NEXT_TO, ["bowl"]),
        ("what is on the table next to the bowl?", "", Relation.NEXT_TO, ["bowl"]),
    ],
)
def test_where_things_are(text: str, target: str, relation: Relation, references: list[str]) -> None:
    query = parse(text, KNOWN)
    assert (query.target.head, query.relation) == (target, relation)
    assert [reference.head for reference in query.references] == references
    assert not query.target.free


@pytest.mark.parametrize(
    "text", ["something to drink from", "anything you can eat", "the thing that I need to cut paper"]
)
def test_what_cannot_be_taken_apart_stays_whole(text: str) -> None:
    query = parse(text, KNOWN)
    assert query.target.free
    assert query.target.text in text.lower()


def test_words_are_compared_whatever_their_number() -> None:
    of_number = {
        **{"mugs": "mug", "boxes": "box", "dishes": "dish", "cherries": "cherry", "glasses": "glass", "buses": "bus"},
        **{"cookies": "cookie", "ties": "tie", "tomatoes": "tomato", "knives": "knife", "leaves": "leaf"},
        **{"axes": "axe", "shoes": "shoe"},
    }
    for words, word in of_number.items():
        assert mentions(f"some {words}", word), words
        assert mentions(f"a {word}", words), words
    for other, word in (("caps", "cape"), ("capes", "cap"), ("glass", "glas"), ("pens", "penny"), ("bass", "bas")):
        assert not mentions(other, word), other
    assert mentions("a small red mug", "mugs")
    assert mentions("two coffee mugs.", "coffee mug")
    assert not mentions("a mug of coffee", "coffee mug")
    assert not mentions("a football", "ball")
    assert mentions("a coffee-maker", "coffee-maker")
    assert not mentions("a mug", "")
    assert not mentions("a mug", "?")
    assert [with_article(words) for words in ("mug", "orange apple", "scissors", "glass", "uniform")] == [
        *("a mug", "an orange apple", "scissors", "a glass", "a uniform"),
    ]
