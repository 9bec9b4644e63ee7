"""Questions about the scene over time: which, where, how many, what has changed, when something was last seen.

`World.answer` reads what is asked for, and leaves the objects that are meant to `osprey_ros.query.finder`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from osprey_ros.query.captions import label_of
from osprey_ros.query.finder import MAX_UNCONFIRMED_SCORE, Finder, Found, Match
from osprey_ros.scene.events import EventKind, SceneEvent
from osprey_ros.scene.history import ObservedFrame
from osprey_ros.scene.types import SceneObject, Snapshot
from osprey_ros.system.cancellation import CancellationToken

_NAMED = 10  # objects or events in the words of an answer
_NUMBERS = {"half an": 0.5, "a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5}
_NUMBERS |= {"six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10, "twenty": 20, "thirty": 30}
_UNITS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}
_SPAN = re.compile(rf"\b(?:(\d+(?:\.\d+)?|{'|'.join(_NUMBERS)}) )?(second|minute|hour|day)s?\b")
_COUNT = re.compile(r"^(?:how many|count(?: all)?|what is the number of) ")
_COUNT_END = re.compile(r"(?:^| )(?:are|is) there(?= |$)| (?:can|do) you (?:see|know)(?= of|$)(?: of)?| in total$")
_CHANGES = re.compile(
    r"^(?:what(?: has| have| is| was|'s)?|which (?:things|objects) (?:have|has)?|did anything|has anything|"
    r"is anything) ?(changed?|moved?|appear(?:ed)?|new|different|happen(?:ed)?)\b"
)
_CHANGE_KINDS = {"mov": {EventKind.MOVED}, "appear": {EventKind.APPEARED}, "new": {EventKind.APPEARED}}
_LAST_SEEN = re.compile(
    r"^(?:when (?:did|have) (?:you|we|i) (?:last )?(?:see|seen) |when was |how long ago did you (?:last )?see )"
)
_LAST_END = re.compile(r"(?: last| was)* (?:seen|in view|for the last time)$|,? last$")
_CHANGED = frozenset({EventKind.APPEARED, EventKind.MOVED, EventKind.CHANGED})


class Sort(str, Enum):
    """What a question asks for."""

    WHICH = "which"  # the objects that it means, and where they are
    COUNT = "count"
    CHANGES = "changes"
    LAST_SEEN = "last seen"


@dataclass(frozen=True)
class Answer:
    """An answer with its evidence.

    Attributes:
        sort: What was asked for.
        text: The answer in words.
        score: Probability that it is right, 0 to 1.
        found: The objects with their scores and evidence.
        events: What happened, for CHANGES.
        count: Number of objects or events.
    """

    sort: Sort
    text: str
    score: float
    found: Found
    events: tuple[SceneEvent, ...] = ()
    count: int = 0


@dataclass(frozen=True)
class WorldQuestion:
    """A question that was read.

    Attributes:
        sort: What it asks for.
        phrase: The objects, for the finder; "" for CHANGES.
        seconds: How far back CHANGES go; 0: as far as is known.
        kinds: Of the events of CHANGES.
    """

    sort: Sort
    phrase: str
    seconds: float = 0.0
    kinds: frozenset[EventKind] = _CHANGED

    @classmethod
    def read(cls, text: str) -> WorldQuestion:
        """Return what a question asks for."""
        line = re.sub(r"\s+", " ", text.lower()).strip(" ?!.")
        line = re.sub(r"^(?:please |can you tell me |tell me )+", "", line)
        if found := _CHANGES.match(line):
            kinds = next((kinds for stem, kinds in _CHANGE_KINDS.items() if found[1].startswith(stem)), _CHANGED)
            return cls(Sort.CHANGES, "", _span(line[found.end() :]), frozenset(kinds))
        if found := _COUNT.match(line):
            return cls(Sort.COUNT, _COUNT_END.sub("", line[found.end() :]).strip())
        if found := _LAST_SEEN.match(line):
            return cls(Sort.LAST_SEEN, _LAST_END.sub("", line[found.end() :]).strip())
        return cls(Sort.WHICH, text)


class World:
    """Answers questions about a scene. Use it from the describer's thread, between frames.

    Args:
        finder: Finds the objects that a question means.
    """

    def __init__(self, finder: Finder) -> None:
        self._finder = finder

    def answer(
        self,
        text: str,
        scene: Snapshot,
        seen: ObservedFrame | None,
        events: Iterable[SceneEvent] = (),
        limit: int = 0,
        cancel: CancellationToken | None = None,
    ) -> Answer:
        """Return the answer to a question.

        Args:
            text: An English question or noun phrase.
            scene: All known objects.
            seen: The frame with the describer's current image, None without one.
            events: What happened so far, the oldest first.
            limit: Most objects in the answer; 0 for all. A count is not limited.
            cancel: Ends the search; StoppedError is raised.

        Raises the errors of `osprey_ros.query.finder.read_question`.
        """
        question = WorldQuestion.read(text)
        if question.sort is Sort.CHANGES:
            return _changes(question, scene, list(events))
        found = self._finder.find(question.phrase, scene.objects, seen, 0, cancel)
        things = {thing.track_id: thing for thing in scene.objects}
        some = Found(found.matches[:limit] if limit > 0 else found.matches, found.message, found.likely)
        if question.sort is Sort.COUNT:
            return _count(some, things, len(found.matches))
        if question.sort is Sort.LAST_SEEN:
            return _last_seen(some, things, scene)
        said = _listed([_placed(things[match.track_id], scene) for match in some.matches])
        score = found.matches[0].score if found.matches else _absence(found)
        return Answer(Sort.WHICH, said or found.message, score, some, count=len(found.matches))


def _count(found: Found, things: dict[int, SceneObject], count: int) -> Answer:
    sure = [index for index, likely in enumerate(found.likely) if likely >= 0.5]
    names = _listed([label_of(things[match.track_id]) for match in found.matches])
    text = f"{count}: {names}" if count else f"0; {found.message}" if found.message else "0"
    score = _certainty(found, sure)
    if found.message:  # words were left out, or nothing was found
        score = min(score, MAX_UNCONFIRMED_SCORE)
    return Answer(Sort.COUNT, text, score, found, count=count)


def _certainty(found: Found, meant: Sequence[int]) -> float:
    """Return the probability that exactly these objects are meant."""
    likely = np.array(found.likely)
    likely[list(meant)] = 1 - likely[list(meant)]
    return float(np.prod(1 - likely))


def _absence(found: Found) -> float:
    """Return the score of an answer that nothing is meant. An object can also be known by other words."""
    return min(_certainty(found, ()), MAX_UNCONFIRMED_SCORE)


def _last_seen(found: Found, things: dict[int, SceneObject], scene: Snapshot) -> Answer:
    if not found.matches:
        return Answer(Sort.LAST_SEEN, f"never; {found.message}", _absence(found), found)
    # Of several that are meant equally, the one that was seen last.
    best = found.matches[0].score
    meant = [match for match in found.matches if match.score >= best - 0.1]
    match = max(meant, key=lambda one: things[one.track_id].last_seen)
    thing = things[match.track_id]
    when = "now" if thing.visible else f"{(scene.stamp - thing.last_seen) / 1e9:.1f} s ago"
    text = f"{_placed(thing, scene)}: {when}, in the frame {thing.last_seen / 1e9:.3f}"
    ordered = (match, *(other for other in found.matches if other is not match))
    return Answer(Sort.LAST_SEEN, text, match.score, Found(ordered, found.message, found.likely), count=1)


def _changes(question: WorldQuestion, scene: Snapshot, events: Sequence[SceneEvent]) -> Answer:
    since = scene.stamp - question.seconds * 1e9 if question.seconds else 0.0
    kept = tuple(event for event in events if event.stamp >= since and event.kind in question.kinds)
    current = {thing.track_id: thing for thing in scene.objects}
    latest = {event.object.track_id: event for event in kept}
    matches = tuple(
        Match(track_id, 1.0, f"{event.kind.value} at {event.stamp / 1e9:.3f}: {event.why}")
        for track_id, event in latest.items()
        if track_id in current
    )
    said = [
        f"{label_of(current.get(event.object.track_id, event.object))} {event.kind.value} "
        f"{max(0.0, (scene.stamp - event.stamp) / 1e9):.1f} s ago: {event.why}"
        for event in kept
    ]
    text = _listed(said[::-1]) or "nothing changed"
    return Answer(Sort.CHANGES, text, 0.9, Found(matches, "", (1.0,) * len(matches)), kept, len(kept))


def _placed(thing: SceneObject, scene: Snapshot) -> str:
    if thing.position is None:
        return label_of(thing)
    x, y, z = thing.position
    return f"{label_of(thing)} at ({x:.2f}, {y:.2f}, {z:.2f}) m in {scene.frame_id}"


def _listed(parts: Sequence[str]) -> str:
    more = f"; and {len(parts) - _NAMED} more" if len(parts) > _NAMED else ""
    return "; ".join(parts[:_NAMED]) + more


def _span(text: str) -> float:
    """Return the seconds that "since ten minutes ago" goes back; 0 if it names no span."""
    found = _SPAN.search(text)
    if found is None:
        return 0.0
    number = found[1] or "one"
    return float(_NUMBERS.get(number) or number) * _UNITS[found[2]]
