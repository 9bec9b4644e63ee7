"""Answers to requests about the scene. Runs in the worker's thread, between frames."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import closing
from typing import Any

from std_msgs.msg import Header

from osprey_ros.decoding.prompt import QUESTIONS
from osprey_ros.errors import InputError
from osprey_ros.pipeline import Pipeline
from osprey_ros.query.finder import Finder
from osprey_ros.query.world import World
from osprey_ros.ros import interfaces
from osprey_ros.ros.outputs import messages
from osprey_ros.ros.services.region_targets import target_of
from osprey_ros.scene.events import SceneEvent
from osprey_ros.scene.recall import recent_frame
from osprey_ros.scene.settings import StepSettings
from osprey_ros.scene.types import Snapshot
from osprey_ros.system.cancellation import CancellationToken
from osprey_ros.viz.look import MAX_SIDE, SIDE, view_of

_TRACKS_LISTED = 12  # unknown track ids in an error message


class Requests:
    """Answer requests from the scene and the latest frames of a pipeline.

    Each method takes a request, fills the response (for an action, the result) and returns it. ``cancel`` ends a method
    with StoppedError; the response then has the text that was complete.

    Args:
        pipeline: scene and frames.
        finder: evaluates queries.
        events: returns what happened so far, the oldest first.
        settings: returns the settings of the latest frame.
        on_change: called after objects were forgotten.

    All methods raise OspreyError for a request that cannot be answered.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        finder: Finder,
        events: Callable[[], Iterable[SceneEvent]],
        settings: Callable[[], StepSettings],
        on_change: Callable[[], None],
    ) -> None:
        self._pipeline, self._world, self._events = pipeline, World(finder), events
        self._settings, self._on_change = settings, on_change

    def use_finder(self, finder: Finder) -> None:
        """Evaluate queries with another finder from now on."""
        self._world = World(finder)

    def query_scene(self, request: Any, response: Any, cancel: CancellationToken) -> Any:
        """Answer a question about the scene, and find the objects that it refers to."""
        snapshot = self._pipeline.memory.snapshot()
        seen = self._pipeline.memory.latest
        if seen is not None and seen.stamp != snapshot.stamp:
            seen = None  # the latest frame has no region
        if seen is not None:
            self._pipeline.look_at(seen, cancel)
        response.header = _header(snapshot)
        answer = self._world.answer(request.text, snapshot, seen, self._events(), int(request.limit), cancel)
        found = answer.found
        response.answer, response.score, response.count = answer.text, answer.score, answer.count
        response.events = [
            messages.event_message(event, messages.header_message(event.stamp, snapshot.frame_id))
            for event in answer.events
        ]
        things = {thing.track_id: thing for thing in snapshot.objects}
        response.matches = [
            interfaces.ObjectMatch(
                object=messages.object_message(things[match.track_id]), score=match.score, reason=match.reason
            )
            for match in found.matches
        ]
        self._pipeline.memory.prioritize(match.track_id for match in found.matches)
        response.success, response.message = True, found.message
        return response

    def get_scene(self, request: Any, response: Any) -> Any:
        """Return all objects."""
        snapshot = self._pipeline.memory.snapshot()
        response.header, response.success = _header(snapshot), True
        response.objects = [
            messages.object_message(thing) for thing in snapshot.objects if thing.visible or not request.visible_only
        ]
        if not response.objects:
            response.message = "no object is visible" if snapshot.objects else "no object is known yet"
        return response

    def look(self, request: Any, response: Any) -> Any:
        """Return an image of a recent frame."""
        if request.max_side > MAX_SIDE:
            raise InputError(f"max_side is {request.max_side}; it must be at most {MAX_SIDE}")
        memory, track_ids = self._pipeline.memory, [int(track_id) for track_id in request.track_ids]
        seen = recent_frame(memory, track_ids)
        view = view_of(seen, memory.snapshot(), track_ids, request.overlay, request.max_side or SIDE)
        response.header = messages.header_message(view.stamp, view.frame_id)
        response.image = messages.jpeg_message(view.jpeg, response.header)
        response.roi = messages.roi_message(view.box)
        response.success = True
        return response

    def forget(self, request: Any, response: Any) -> Any:
        """Delete objects from the scene."""
        track_ids = [int(track_id) for track_id in request.track_ids]
        if bool(track_ids) == request.everything:
            raise InputError("set either track_ids or everything")
        unknown = sorted(set(track_ids) - self._pipeline.memory.known)
        if unknown:
            listed = ", ".join(map(str, unknown[:_TRACKS_LISTED]))
            raise InputError(f"unknown track id {listed}, nothing was deleted; get_scene lists the known objects")
        gone = self._pipeline.memory.forget(None if request.everything else track_ids)
        self._on_change()
        response.success, response.message = True, f"{len(gone)} objects deleted"
        return response

    def describe_region(
        self,
        request: Any,
        response: Any,
        cancel: CancellationToken,
        on_text: Callable[[Header, str], None] = lambda header, text: None,
    ) -> Any:
        """Describe a part of an image, or answer a question about it; the service and the action share this method.

        ``on_text`` receives the header and the text so far, after each token.
        """
        settings = self._settings()
        style = request.style or settings.style
        if request.question and request.style:
            raise InputError("the request has both a question and a style; set one of them")
        if style not in QUESTIONS:
            raise InputError(f"unknown style {style!r}; use one of {', '.join(QUESTIONS)}")
        target = target_of(request, self._pipeline)
        if not request.question and len(target.regions) > 1:
            raise InputError(
                f"a description needs exactly one region, the request has {len(target.regions)}; ask a question instead"
            )
        self._pipeline.memory.prioritize(track_id for track_id in target.track_ids if track_id)
        self._pipeline.look_at(target.seen, cancel)
        response.header = messages.header_message(target.seen.stamp, target.seen.frame_id)
        response.track_ids = list(target.track_ids)
        confidence = 0.0
        words = self._pipeline.describer.stream(
            target.regions,
            request.question or QUESTIONS[style],
            settings.generation(int(request.max_new_tokens), self._pipeline.crops(settings)),
            together=True,
            cancel=cancel,
        )
        with closing(words):  # type: ignore[type-var]
            for update in words:
                confidence = update.confidence
                response.text, response.message = update.text, update.reason
                response.kinds = [kind.name for kind in update.chain]
                response.kind_probabilities = [kind.probability for kind in update.chain]
                on_text(response.header, update.text)
                cancel.check("the answer")
        response.success, response.confidence = True, confidence
        return response


def _header(snapshot: Snapshot) -> Header:
    return messages.header_message(snapshot.stamp, snapshot.frame_id)
