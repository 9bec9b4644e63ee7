"""What agents ask about: a running node, a recording or an image, behind one interface. Values are those of JSON."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from osprey_ros.system.cancellation import CancellationToken

_KEPT = 256  # latest events


@dataclass(frozen=True)
class ImageFile:
    """An image as a JPEG file, with what it shows: stamp, frame_id and box in pixels of the image."""

    jpeg: bytes = field(repr=False)
    shows: dict[str, Any]


class Source(Protocol):
    """Answers the calls of agents, from one thread at a time. All methods raise OspreyError."""

    name: str
    """What it is, for people: "node /osprey"."""

    def scene(self, cancel: CancellationToken) -> dict[str, Any]:
        """Return ``stamp`` and ``frame_id`` of the latest frame, and all ``objects``."""

    def find(self, text: str, limit: int, cancel: CancellationToken) -> dict[str, Any]:
        """Return the ``answer`` to a question, its ``score``, ``matches``, ``events``, ``count`` and ``message``."""

    def describe(
        self, track_ids: Sequence[int], question: str, style: str, cancel: CancellationToken
    ) -> dict[str, Any]:
        """Return ``text`` and ``confidence`` about one object, or the answer to a question about several.

        Without track ids, the question is about the whole latest image.
        """

    def look(self, track_ids: Sequence[int], with_overlay: bool, side: int, cancel: CancellationToken) -> ImageFile:
        """Return an image of these objects, or of the whole latest image."""

    def events(self) -> EventRing:
        """Return the events so far."""

    def forget(self, track_ids: Sequence[int], cancel: CancellationToken) -> str:
        """Delete objects; return what was done in words."""

    def close(self) -> None:
        """Release what it holds."""


class EventRing:
    """The latest events, each with a number that rises by one."""

    def __init__(self) -> None:
        self._events: deque[dict[str, Any]] = deque(maxlen=_KEPT)
        self.last = 0
        """Number of the latest event; 0 before the first."""

    def add(self, events: Iterable[dict[str, Any]]) -> None:
        """Add events in their order."""
        for event in events:
            self.last += 1
            self._events.append({"number": self.last, **event})

    def after(self, number: int) -> list[dict[str, Any]]:
        """Return the events behind one that was read before, the oldest first."""
        return [event for event in self._events if event["number"] > number]
