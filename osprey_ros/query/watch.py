"""Events that are asked for in words: "tell me when a mug appears", "let me know if the red vase is moved"."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from osprey_ros.query.finder import Finder, read_question
from osprey_ros.scene.events import EventKind, SceneEvent
from osprey_ros.scene.types import Snapshot

_OPENING = re.compile(
    r"^(?:please )?(?:(?:tell|notify|alert|warn|inform) (?:me|us)|let (?:me|us) know|watch(?: for)?|report)?"
    r"(?:\b ?(?:when(?:ever)?|if|once|as soon as)\b)? ?(?:there is )?"
)
_VERBS = (
    (r"(?:appears?|shows? up|arrives?|comes? into view|(?:is|are) (?:new|found|seen))", EventKind.APPEARED),
    (r"(?:moves?|moved|(?:is|are|was|were) (?:moved|being moved|carried away))", EventKind.MOVED),
    (r"(?:changes?|changed|(?:is|are) (?:changed|different)|looks? different)", EventKind.CHANGED),
    (r"(?:(?:is|are|gets?) described)", EventKind.DESCRIBED),
    (r"(?:(?:is|are) (?:unsure|uncertain|unclear))", EventKind.LOW_CONFIDENCE),
)
_CLOSING = tuple((re.compile(rf"(?:^|(?<= )){verb}$"), kind) for verb, kind in _VERBS)
_JOINT = re.compile(r"(?:,| or| and)+$")
_ANYTHING = frozenset({"", "anything", "something", "any object", "an object", "everything", "objects", "a new object"})


@dataclass(frozen=True)
class Watch:
    """What to report.

    Attributes:
        kinds: Kinds of events; all without a verb.
        phrase: The objects, as `Finder.find` reads them; "" for any.
    """

    kinds: frozenset[EventKind]
    phrase: str

    @classmethod
    def parse(cls, text: str) -> Watch:
        """Return what a sentence such as "tell me when a mug appears or moves" asks for; "": everything.

        Raises the errors of `osprey_ros.query.finder.read_question`.
        """
        words = re.sub(r"\s+", " ", text.lower()).strip(" ?!.")
        words = words[_OPENING.match(words).end() :].strip()  # type: ignore[union-attr]
        kinds: set[EventKind] = set()
        while True:
            found = next(((verb.search(words), kind) for verb, kind in _CLOSING if verb.search(words)), None)
            if found is None or found[0] is None:
                break
            kinds.add(found[1])
            words = _JOINT.sub("", words[: found[0].start()].strip()).strip()
        phrase = "" if words in _ANYTHING else words
        if phrase:
            read_question(phrase)
        return cls(frozenset(kinds or EventKind), phrase)


class EventFilter:
    """Keeps the events that a sentence asks for. No engine runs: objects are judged by their captions.

    An object that appears has no caption at first. Its event is kept back until the object has one.

    Args:
        text: The sentence; "" keeps all events.
        finder: Judges which objects are meant.

    Raises the errors of `Watch.parse`.
    """

    def __init__(self, text: str, finder: Finder) -> None:
        self.text = text
        self._watch, self._finder = Watch.parse(text), finder
        self._unnamed: dict[int, SceneEvent] = {}  # objects that appeared, without a caption so far

    def keep(self, events: Iterable[SceneEvent], scene: Snapshot) -> tuple[SceneEvent, ...]:
        """Return the events that are asked for, of those of one frame. ``scene`` is the scene after the frame."""
        if not self._watch.phrase:
            return tuple(event for event in events if event.kind in self._watch.kinds)
        asked: list[SceneEvent] = []
        for event in events:
            track_id = event.object.track_id
            if event.kind is EventKind.DESCRIBED and track_id in self._unnamed:
                asked.append(replace(self._unnamed.pop(track_id), object=event.object))
            if event.kind is EventKind.APPEARED and event.object.caption is None:
                self._unnamed[track_id] = event
            elif event.kind in self._watch.kinds:
                asked.append(event)
        if self._unnamed:
            known = {thing.track_id for thing in scene.objects}
            self._unnamed = {track: event for track, event in self._unnamed.items() if track in known}
        asked = [event for event in asked if event.kind in self._watch.kinds]
        if not asked:
            return ()
        meant = {match.track_id for match in self._finder.find(self._watch.phrase, scene.objects, None).matches}
        return tuple(event for event in asked if event.object.track_id in meant)
