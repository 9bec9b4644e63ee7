"""The grammar reads every word of a question or lists it as left out."""

from __future__ import annotations

import re
from time import perf_counter

import pytest

from osprey_ros.query.grammar import parse
from osprey_ros.query.question import Like, Located, Part, Phrase, Quality, Reading
from osprey_ros.query.vocabulary import tokens_of

KNOWN = {"red", "blue", "green", "open", "light blue"}


def written(phrase: Phrase) -> str:
    """Return a phrase in a short notation: "mug[red, !has cap, NEXT_TO(bowl)]#2 leftmost -words left out"."""
    conditions = []
    for condition in phrase.conditions:
        text = "!" if condition.negated else ""
        if isinstance(condition, Quality):
            text += "/".join(condition.values)
        elif isinstance(condition, Part):
            text += f"has {'/'.join(condition.names)}"
        elif isinstance(condition, Located):
            text += f"{condition.relation.name}({', '.join(written(reference) for reference in condition.references)})"
        else:
            assert isinstance(condition, Like)
            text += f"({written(condition.phrase)})"
        conditions.append(text)
    name = phrase.name or (f"'{phrase.free_text}'" if phrase.free_text else "*")
    rank = f"#{phrase.rank.place} {phrase.rank.order.value}" if phrase.rank else ""
    if phrase.rank and phrase.rank.reference:
        rank += f"({written(phrase.rank.reference)})"
    left_out = f" -{' '.join(phrase.left_out)}" if phrase.left_out else ""
    return f"{name}{'[' if conditions else ''}{', '.join(conditions)}{']' if conditions else ''}{rank}{left_out}"


def readings(text: str) -> list[str]:
    def joined(reading: Reading) -> str:
        return " + ".join(written(phrase) for phrase in reading.phrases)

    return [joined(reading) for reading in parse(text, KNOWN).readings]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mug", "mug"),
        ("the red mug", "mug[red]"),
        ("Where is my small red mug?", "small mug[red]"),
        ("find me a coffee mug", "coffee mug"),
        ("something red", "*[red]"),
        ("the red one", "*[red]"),
        ("red", "*[red]"),
        ("an open red box", "box[open, red]"),
        ("a light blue box", "box[light blue]"),
        ("the mug on the table", "mug"),
        ("the mug, please", "mug"),
        ("the two red mugs", "mugs[red]"),
    ],
)
def test_nouns_and_attribute_values_are_read(text: str, expected: str) -> None:
    assert readings(text) == [expected]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the red mug next to the blue bowl", "mug[red, NEXT_TO(bowl[blue])]"),
        ("the bottle to the left of the box", "bottle[LEFT(box)]"),
        ("a lamp right of a book", "lamp[RIGHT(book)]"),
        ("the cup on top of the book", "cup[ON(book)]"),
        ("the spoon in the bowl", "spoon[IN(bowl)]"),
        ("what is between the ball and the box?", "*[BETWEEN(ball, box)]"),
        ("the mug between the books", "mug[BETWEEN(books, books)]"),
        ("what is behind the lamp", "*[BEHIND(lamp)]"),
        ("the mug on the left", "mug[LEFT()]"),
        ("what is on the right?", "*[RIGHT()]"),
        ("the left mug", "mug[LEFT()]"),
        ("the mug on the left next to the bowl", "mug[LEFT(), NEXT_TO(bowl)]"),
        ("the red mug on the table on the left", "mug[red, LEFT()]"),
        ("the mug on the left of the picture on the table", "mug[LEFT()]"),
        ("the mug between the bowl on the table and the plate", "mug[BETWEEN(bowl, plate)]"),
        ("the mug next to the bowl on the table", "mug[NEXT_TO(bowl)]"),
        ("what is on the table next to the bowl?", "*[NEXT_TO(bowl)]"),
        ("the mug next to the bowl and behind the plate", "mug[NEXT_TO(bowl), BEHIND(plate)]"),
    ],
)
def test_places_are_read(text: str, expected: str) -> None:
    assert readings(text) == [expected]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("not the red ball", "*[!(ball[red])]"),
        ("I don't want the red ball", "*[!(ball[red])]"),
        ("the vase that is not green", "vase[!green]"),
        ("the ball that isn't red", "ball[!red]"),
        ("the non-red ball", "ball[!red]"),
        ("a ball that is neither red nor blue", "ball[!red/blue]"),
        ("a ball that is either red or blue", "ball[red/blue]"),
        ("a mug that is neither red nor next to the bowl", "mug[!red, !NEXT_TO(bowl)]"),
        ("the mug that is not next to the bowl or behind the plate", "mug[!NEXT_TO(bowl), !BEHIND(plate)]"),
        ("the bottle without a cap", "bottle[!has cap]"),
        ("the bottle that doesn't have a cap", "bottle[!has cap]"),
        ("the mug with no handle", "mug[!has handle]"),
        ("the ball that has no red color", "ball[!red]"),
        ("anything but the mug", "*[!(mug)]"),
        ("everything except the mugs and the bowls", "*[!(mugs), !(bowls)]"),
        ("neither the mug nor the bowl", "*[!(mug), !(bowl)]"),
        ("anything that isn't a mug or a bowl", "*[!(mug), !(bowl)]"),
        ("things that are not mugs", "*[!(mugs)]"),
        ("the mug without a handle or a lid", "mug[!has handle/lid]"),
        ("the ball - not red", "ball[!red]"),
        ("the mug, not the red one", "mug[!(*[red])]"),
        ("the mugs except the biggest", "mugs[!(mugs#1 largest)]"),
        ("the mug that isn't the biggest", "mug[!(mug#1 largest)]"),
        ("the mug not next to the bowl", "mug[!NEXT_TO(bowl)]"),
        ("the one that is not a mug", "*[!(mug)]"),
    ],
)
def test_negation_is_read(text: str, expected: str) -> None:
    assert readings(text) == [expected]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the biggest ball", "ball#1 largest"),
        ("the smaller of the two balls", "balls#1 smallest"),
        ("which one is the tallest?", "*#1 tallest"),
        ("the mug which is the biggest", "mug#1 largest"),
        ("the leftmost bottle", "bottle#1 leftmost"),
        ("the mug furthest to the left", "mug#1 leftmost"),
        ("the farthest red thing", "*[red]#1 farthest"),
        ("the closest thing to me", "*#1 nearest"),
        ("second mug from the left", "mug#2 leftmost"),
        ("the mug nearest to the red bowl", "mug#1 nearest(bowl[red])"),
        ("the closest mug to the bowl", "mug#1 nearest(bowl)"),
        ("the mug farthest from the bowl on the table", "mug#1 farthest(bowl)"),
        ("the second closest mug to the bowl", "mug#2 nearest(bowl)"),
        ("third bottle from the right", "bottle#3 rightmost"),
        ("the first mug from the top", "mug#1 topmost"),
        ("the last mug from the left", "mug#1 rightmost"),
        ("the 2nd from left", "*#2 leftmost"),
        ("the second biggest mug", "mug#2 largest"),
        ("the biggest ball that is not red", "ball[!red]#1 largest"),
        ("the thing next to the second mug from the left", "*[NEXT_TO(mug#2 leftmost)]"),
        ("the biggest and the smallest ball", "ball#1 largest + ball#1 smallest"),
        ("the red top", "top[red]"),
    ],
)
def test_superlatives_and_ordinals_are_read(text: str, expected: str) -> None:
    assert readings(text) == [expected]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the ball in red", "ball[red]"),
        ("the mug of red color", "mug[red]"),
        ("the mug with a red colour", "mug[red]"),
        ("the red colored ball", "ball[red]"),
        ("the ball that is red in color", "ball[red]"),
        ("the mug whose color is red", "mug[red]"),
        ("the mug which is red", "mug[red]"),
        ("which mug is red?", "mug[red]"),
        ("the mug that is in front of the car", "mug[FRONT(car)]"),
        ("the mug that is red and next to the bowl", "mug[red, NEXT_TO(bowl)]"),
        ("the mug with a handle and a lid", "mug[has handle, has lid]"),
        ("the mug with a handle or a lid", "mug[has handle/lid]"),
        ("the mug, which is red", "mug[red]"),
        ("only the red mug", "mug[red]"),
        ("the lamp that has a shade", "lamp[has shade]"),
        ("the red mug and the green bowl", "mug[red] + bowl[green]"),
        ("the red mug or the blue one", "mug[red] + mug[blue]"),
        ("the red and the green ball", "ball[red] + ball[green]"),
        ("the red, green and blue balls", "balls[red/green/blue]"),
        ("a mug that is red or next to the bowl", "mug[red] + mug[NEXT_TO(bowl)]"),
        ("mug, bowl and plate", "mug + bowl + plate"),
        ("where did I put the keys", "keys"),
        ("can you see the red mug?", "mug[red]"),
        ("is there a mug here?", "mug"),
    ],
)
def test_clauses_lists_and_openings_are_read(text: str, expected: str) -> None:
    assert readings(text) == [expected]


@pytest.mark.parametrize(
    ("text", "nearer", "farther"),
    [
        (
            "the mug that's next to the bowl that's red",
            "mug[NEXT_TO(bowl[red])]",
            "mug[NEXT_TO(bowl), red]",
        ),
        ("the mug behind the bowl on the left", "mug[BEHIND(bowl[LEFT()])]", "mug[BEHIND(bowl), LEFT()]"),
        (
            "the mug next to the bowl behind the plate",
            "mug[NEXT_TO(bowl[BEHIND(plate)])]",
            "mug[NEXT_TO(bowl), BEHIND(plate)]",
        ),
        ("the mug next to the bowl and the plate", "mug[NEXT_TO(bowl), NEXT_TO(plate)]", "mug[NEXT_TO(bowl)] + plate"),
    ],
)
def test_ambiguous_words_give_two_readings(text: str, nearer: str, farther: str) -> None:
    assert readings(text) == [nearer, farther]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the mug for coffee next to the bowl", "mug[NEXT_TO(bowl)] -for coffee"),
        ("the scissors with blue handles", "scissors[has handles] -blue"),
        ("the mug in the middle of the table", "mug -in the middle of the table"),
        ("the mug on the wooden table", "mug -wooden"),
        ("the mug bigger than the bowl", "mug -bigger than the bowl"),
        ("the second mug", "mug#2 leftmost -second"),
        ("the mug that is not on the table", "mug -that is not"),
        ("the mug next to", "mug -next to"),
        ("the vase I bought yesterday", "vase -i bought yesterday"),
        ("avoid the red ball", "ball[red] -avoid"),
        ("which is bigger, the mug or the bowl", "mug#1 largest -bigger + mug + bowl"),
    ],
)
def test_unknown_words_are_left_out(text: str, expected: str) -> None:
    assert readings(text) == [expected]


@pytest.mark.parametrize(
    ("text", "free"),
    [
        ("something to drink from", "something to drink from"),
        ("anything you can eat", "anything you can eat"),
        ("the thing that I need to cut paper", "thing that i need to cut paper"),
        ("some wooden thing", "wooden thing"),
    ],
)
def test_words_without_a_noun_stay_together(text: str, free: str) -> None:
    ((phrase,),) = [reading.phrases for reading in parse(text, KNOWN).readings]
    assert phrase.free_text == free
    assert not phrase.head


@pytest.mark.parametrize(
    "text",
    [
        "where did I put the second red mug from the left for coffee next to the biggest bowl without a lid please",
        "everything but the mug that is neither red nor behind the old lamp and not the ball in green with a dent",
        "of the to a than who and but not",
        "the the the",
        "which which is is not not red red and and",
        "between and the mug between",
    ],
)
def test_any_words_are_read_to_their_end(text: str) -> None:
    for reading in parse(text, KNOWN).readings:
        spoken = " ".join(phrase.text for phrase in reading.phrases)
        words = [word for word in tokens_of(text) if re.fullmatch(r"\w+", word)]
        assert words[-1] in f"{spoken} {' '.join(reading.left_out())}" or words[-1] in ("the", "and")


@pytest.mark.parametrize(
    "words", ["mug that is not broken", "thing that is", "mug next to", "not", "mug that is the biggest", "neither a"]
)
def test_long_questions_are_read_in_little_time(words: str) -> None:
    start = perf_counter()
    parse(f"{words} " * 12, KNOWN)
    assert perf_counter() - start < 2.0  # milliseconds, unless words are read again and again
