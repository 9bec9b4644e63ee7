"""English words and word sequences that questions are made of, as sequences of lower-case tokens."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import product
from typing import TypeVar

from osprey_ros.query.question import Order, Relation

Words = tuple[str, ...]
T = TypeVar("T")


def _sequences(pattern: str) -> list[Words]:
    """Expand "to|on the far| left" into all token sequences; "|" separates options, an empty one may be absent."""
    options = [[part.replace("_", " ") for part in slot.split("|")] for slot in pattern.split()]
    return [tuple(" ".join(choice).split()) for choice in product(*options)]


def _table(entries: Iterable[tuple[str, T]]) -> dict[Words, T]:
    return {words: value for pattern, value in entries for words in _sequences(pattern)}


RELATIONS: Mapping[Words, Relation] = _table(
    [
        ("to|on|at the left hand| side| of", Relation.LEFT),
        ("just| left of|from", Relation.LEFT),
        ("to|on|at the right hand| side| of", Relation.RIGHT),
        ("just| right of|from", Relation.RIGHT),
        ("in_front_of|before", Relation.FRONT),
        ("at_the_back_of|in_back_of|behind", Relation.BEHIND),
        ("in_between|between", Relation.BETWEEN),
        ("right| next_to|beside|besides|alongside", Relation.NEXT_TO),
        ("close|near|adjacent to", Relation.NEXT_TO),
        ("near|by", Relation.NEXT_TO),
        ("on_top_of|above|over|upon|on|onto", Relation.ON),
        ("underneath|beneath|below|under", Relation.UNDER),
        ("inside_of|inside|within|in|into", Relation.IN),
    ]
)
SIDES: Mapping[Words, Relation] = _table(
    [
        ("to|on|at|in the far| left hand| side|", Relation.LEFT),
        ("to|on|at|in the far| right hand| side|", Relation.RIGHT),
        ("to|on|at|in the front|foreground", Relation.FRONT),
        ("to|on|at|in the back|background|rear", Relation.BEHIND),
    ]
)
SIDE_ADJECTIVES: Mapping[Words, Relation] = _table([("left", Relation.LEFT), ("right", Relation.RIGHT)])
SUPERLATIVES: Mapping[Words, Order] = _table(
    [
        ("leftmost|left-most|most_left|far_left", Order.LEFT),
        ("furthest|farthest to_the| left", Order.LEFT),
        ("rightmost|right-most|most_right|far_right", Order.RIGHT),
        ("furthest|farthest to_the| right", Order.RIGHT),
        ("topmost|uppermost|highest|top", Order.TOP),
        ("bottommost|lowest|lowermost|bottom", Order.BOTTOM),
        ("nearest|closest|frontmost|nearer|closer", Order.NEAR),
        ("farthest|furthest|farther|further|most_distant|rearmost", Order.FAR),
        ("biggest|largest|bigger|larger|greatest", Order.LARGE),
        ("smallest|tiniest|littlest|smaller|tinier", Order.SMALL),
        ("tallest|taller", Order.TALL),
        ("shortest|shorter", Order.SHORT),
    ]
)
COUNTED_FROM: Mapping[Words, Order] = _table(
    [
        ("counting|counted| from the| left side| to_the_right|to_right|", Order.LEFT),
        ("counting|counted| from the| right side| to_the_left|to_left|", Order.RIGHT),
        ("counting|counted| from the| top", Order.TOP),
        ("counting|counted| from the| bottom", Order.BOTTOM),
        ("counting|counted| from the| front", Order.NEAR),
        ("counting|counted| from the| back", Order.FAR),
    ]
)
# Where the camera is: "nearest to me" is "nearest".
VIEWER: Mapping[Words, bool] = _table([("to|from me|us|you|the_camera|the_robot", True)])
ORDINAL_NAMES = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
LAST = -1
_SHORT_ORDINALS = ("1st", "2nd", "3rd", "4th", "5th", "6th", "7th", "8th", "9th", "10th")
ORDINALS: Mapping[Words, int] = _table(
    [
        *((word, n) for n, word in enumerate(ORDINAL_NAMES, start=1)),
        *((word, n) for n, word in enumerate(_SHORT_ORDINALS, start=1)),
        ("last", LAST),
    ]
)

ARTICLES = frozenset(
    {"the", "a", "an", "some", "any", "this", "that", "these", "those", "all", "both", "every", "each", "another"}
)
ARTICLES |= {"either", "only", "just", "my", "your", "his", "her", "our", "their", "its"}
NUMBERS = frozenset({"two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"})
ANY_OBJECT = frozenset({"thing", "things", "object", "objects", "item", "items", "one", "ones", "something"})
ANY_OBJECT |= {"anything", "everything"}
# Where everything is or stands, which tells nothing about an object.
GROUNDS = frozenset({"table", "tabletop", "desk", "counter", "floor", "ground", "surface"})
GROUNDS |= {"picture", "image", "photo", "scene", "room", "view", "frame"}
MIDDLES = frozenset({"middle", "center", "centre"})
FILLERS: Mapping[Words, bool] = _table(
    [
        ("please|here|there|now|also|exactly|actually|currently|again", True),
        ("right_now|right_here|over_here|over_there|for_me|for_us|at_all", True),
        ("that| you|i|we can| see", True),
        ("do|can you see", True),
    ]
)
COLOR_WORDS = frozenset({"color", "colour", "colored", "coloured", "painted"})
BE = frozenset({"is", "are", "was", "were", "be", "being", "been"})
POSTURES = frozenset({"standing", "lying", "sitting", "placed", "located", "resting", "situated"})
PRONOUNS = frozenset({"that", "which", "who", "whose"})
EXCLUDING: Mapping[Words, bool] = _table(
    [
        ("but|except|excluding|excepting", True),
        ("except_for|other_than|apart_from|aside_from|rather_than", True),
        ("instead_of|not_counting|but_not|and_not", True),
    ]
)
SEPARATORS: Mapping[Words, bool] = _table([("and|or|,|nor|plus|as_well_as|and_also|but|,_and|,_or|,_but", True)])
WITHOUT: Mapping[Words, bool] = _table([("without|lacking|with_no|having_no|has_no|have_no|lacks|lack|missing", True)])
WITH: Mapping[Words, bool] = _table([("with|having|has|have", True)])
DO_NOT_HAVE: Mapping[Words, bool] = _table([("do|does|did not have", True)])
# Words at which a noun ends, beside those of the tables above.
NOUN_ENDS = BE | POSTURES | PRONOUNS | {"to", "for", "of", "from", "made", "i", "you", "we", "not", "does", "do", "did"}
NOUN_ENDS |= {"neither", "where", "than", "as", "at"}
NOUN_ENDS |= {"what", "how", "why", "when"}

_VERBS = (
    r"find|show|locate|look for|search for|get|give|bring|fetch|hand|pass|pick up|grab|take|point (?:to|at|out)|"
    r"tell me where|see|detect|identify|select|i want|i need|we need|i would like|i am looking for|we are looking for|"
    r"do (?:you|we|i) (?:see|have|know)|have you seen|did you see"
)
_WHERE = (
    r"(?:is|are|was|were|did (?:i|we|you) (?:put|leave|place|lay|see)|have (?:i|we|you) (?:put|left|placed|laid|seen)|"
    r"do (?:i|we|you) (?:have|see|keep)|can (?:i|we) (?:find|see))"
)
_OPENING = re.compile(
    r"^(?:(?:please|hey|hello|ok|okay|so|well|robot|,) )*(?:(?:can|could|would|will) (?:you|i|we) (?:please )?)?"
    r"(?:tell me )?"
    rf"(?:where {_WHERE}|which (?:one |thing |object |item |of (?:them|these|those) )?(?:is|are)|what (?:is|are)|"
    rf"(?:is|are) there|(?:{_VERBS})(?: me| us)?|which|is|are|does|do) "
)
_NOT_OPENING = re.compile(
    rf"^(?:please )?(?:(?:i|we) )?do not (?:{_VERBS}|want|need|mean|show|like)(?: me| us)? (?:the |an? |any )?"
)
_CONTRACTIONS = (
    (re.compile(r"\bcan't\b|\bcannot\b"), "can not"),
    (re.compile(r"n't\b"), " not"),
    (re.compile(r"\b(what|where|which|who|that|there|it|here)'s\b"), r"\1 is"),
    (re.compile(r"\bi'm\b"), "i am"),
    (re.compile(r"'ve\b"), " have"),
    (re.compile(r"'d like\b"), " would like"),
    (re.compile(r"\bnon-(?=\w)"), "not "),
)


def tokens_of(text: str) -> list[str]:
    """Return the lower-case words of a question without its opening, such as "where is"; commas are tokens."""
    words = text.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    for pattern, instead in _CONTRACTIONS:
        words = pattern.sub(instead, words)
    words = re.sub(r"[,;]|(?<=\s)-+(?=\s)", " , ", words)  # a dash between words separates like a comma
    tokens = [token.strip('?!.:"()') for token in words.split()]
    line = " ".join(token for token in tokens if token).strip(", ")
    if found := _NOT_OPENING.match(f"{line} "):
        return ["not", "the", *line[found.end() :].split()]
    if found := _OPENING.match(f"{line} "):
        line = line[found.end() :] or line
    return line.split()
