"""What the node answers to requests about the scene. Runs in the worker's thread, between frames."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any

import numpy as np
from std_msgs.msg import Header

from osprey_ros.bundle.calibration import CATEGORY, DESCRIPTION
from osprey_ros.decoding.prompt import QUESTIONS
from osprey_ros.errors import InputError, StoppedError
from osprey_ros.pipeline import Pipeline, StepSettings
from osprey_ros.query.finder import Finder
from osprey_ros.ros import messages
from osprey_ros.ros.services.region_targets import target_of
from osprey_ros.scene.scene import Snapshot

_TRACKS_LISTED = 12


class Requests:
    """Answers from what a pipeline has seen.

    Each method takes a request, fills the response (that of the action's goal is its result) and returns it. Raises
    OspreyError for a request that cannot be answered.

    Args:
        settings: those of the latest frame. on_change: called where objects were forgotten.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        finder: Finder,
        settings: Callable[[], StepSettings],
        on_change: Callable[[], None],
    ) -> None:
        self._pipeline, self._finder = pipeline, finder
        self._settings, self._on_change = settings, on_change
        self._calibration = pipeline.describer.bundle.calibration()

    def query_scene(self, request: Any, response: Any, why_stop: Callable[[], str]) -> Any:
        """Finds objects by words.

        ``why_stop`` is asked again and again: what it says, unless that is "", ends the search and is its message.
        """
        snapshot = self._pipeline.scene.snapshot()
        seen = self._pipeline.latest
        if seen is not None and seen.stamp != snapshot.stamp:
            seen = None  # the latest frame showed nothing
        if seen is not None:
            self._pipeline.look_at(seen)
        response.header = _header(snapshot)
        try:
            found = self._finder.find(
                request.text, snapshot.objects, seen, int(request.limit), lambda: bool(why_stop())
            )
        except StoppedError as error:
            response.message = why_stop() or str(error)
            return response
        things = {thing.track_id: thing for thing in snapshot.objects}
        response.matches = [
            messages.ObjectMatch(
                object=messages.object_message(things[match.track_id]), score=match.score, reason=match.reason
            )
            for match in found.matches
        ]
        self._pipeline.prioritize(match.track_id for match in found.matches)
        response.success, response.message = True, found.message
        return response

    def get_scene(self, request: Any, response: Any) -> Any:
        """All objects."""
        snapshot = self._pipeline.scene.snapshot()
        response.header, response.success = _header(snapshot), True
        response.objects = [
            messages.object_message(thing) for thing in snapshot.objects if thing.visible or not request.visible_only
        ]
        if not response.objects:
            response.message = "nothing is in view" if snapshot.objects else "no object is known yet"
        return response

    def forget(self, request: Any, response: Any) -> Any:
        """Takes objects out of the scene."""
        track_ids = [int(track_id) for track_id in request.track_ids]
        if bool(track_ids) == request.everything:
            raise InputError("the request must either name track_ids or say everything")
        unknown = sorted(set(track_ids) - self._pipeline.known)
        if unknown:
            listed = ", ".join(map(str, unknown[:_TRACKS_LISTED]))
            raise InputError(f"track {listed} is not known, so nothing is forgotten: get_scene says which there are")
        gone = self._pipeline.forget(None if request.everything else track_ids)
        self._on_change()
        response.success, response.message = True, f"{len(gone)} objects forgotten"
        return response

    def describe_region(
        self,
        request: Any,
        response: Any,
        why_stop: Callable[[], str],
        on_words: Callable[[Header, str], None],
    ) -> Any:
        """Words about a part of a picture; each time there is one more, ``on_words`` has the header and all of them.

        ``why_stop`` is asked after each token: what it says, unless that is "", ends the answer and is its message.
        """
        style = request.style or self._settings().style
        if request.question and request.style:
            raise InputError("the request has a question and a style: give one of them")
        if style not in QUESTIONS:
            raise InputError(f"the style {style!r} is not known: it is one of {', '.join(QUESTIONS)}")
        target = target_of(request, self._pipeline)
        if not request.question and len(target.regions) > 1:
            raise InputError(
                f"a description is of one region, the request names {len(target.regions)}: ask a question about them"
            )
        self._pipeline.prioritize(track_id for track_id in target.track_ids if track_id)
        self._pipeline.look_at(target.seen)
        response.header = messages.header_message(target.seen.stamp, target.seen.frame_id)
        response.track_ids = list(target.track_ids)
        logprobs = []
        words = self._pipeline.describer.stream(
            target.regions,
            request.question or QUESTIONS[style],
            int(request.max_new_tokens) or None,
            together=True,
        )
        with closing(words):  # type: ignore[type-var]
            for update in words:
                logprobs.append(update.logprob)
                response.text = update.text
                on_words(response.header, update.text)
                response.message = why_stop()
                if response.message:
                    return response
        confidence = float(np.exp(np.mean(logprobs, dtype=np.float64))) if logprobs else 0.0
        if not request.question:
            confidence = self._calibration.apply(CATEGORY if style == "category" else DESCRIPTION, confidence)
        response.success, response.confidence = True, confidence
        return response


def _header(snapshot: Snapshot) -> Header:
    return messages.header_message(snapshot.stamp, snapshot.frame_id)
