"""An image or a recording as a source: a pipeline in this process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from osprey_ros.decoding.prompt import QUESTIONS
from osprey_ros.errors import InputError
from osprey_ros.frame import Frame
from osprey_ros.mcp.source import EventRing, ImageFile
from osprey_ros.messages.json_objects import scene_event_json, scene_object_json
from osprey_ros.pipeline import Pipeline
from osprey_ros.query.finder import Finder
from osprey_ros.query.world import World
from osprey_ros.regions.masks import MaskCrop
from osprey_ros.regions.regions import Regions, regions_from_crops
from osprey_ros.scene.events import EventLog, EventSettings
from osprey_ros.scene.history import ObservedFrame
from osprey_ros.scene.recall import recent_frame, unknown_track
from osprey_ros.scene.settings import StepSettings
from osprey_ros.system.cancellation import CancellationToken
from osprey_ros.viz.look import view_of


class PipelineSource:
    """Answers about the frames that were given to it.

    Args:
        pipeline: Its scene is what agents ask about.
        settings: Of the steps.
        name: What the frames come from: "image room.jpg".
    """

    def __init__(self, pipeline: Pipeline, settings: StepSettings, name: str) -> None:
        self.name = name
        self._pipeline, self._settings = pipeline, settings
        self._world = World(Finder(pipeline.describer))
        self._log, self._events = EventLog(pipeline.memory.scene), EventRing()

    def step(self, frame: Frame) -> None:
        """Process one frame. Raises the errors of `Pipeline.step`."""
        self._pipeline.step(frame, self._settings)
        events = self._log.update(self._pipeline.memory.scene, EventSettings())
        self._events.add(scene_event_json(event, frame.frame_id) for event in events)

    def scene(self, cancel: CancellationToken) -> dict[str, Any]:
        """See `Source`."""
        snapshot = self._pipeline.memory.snapshot()
        objects = [scene_object_json(thing) for thing in snapshot.objects]
        return {"stamp": snapshot.stamp / 1e9, "frame_id": snapshot.frame_id, "objects": objects}

    def find(self, text: str, limit: int, cancel: CancellationToken) -> dict[str, Any]:
        """See `Source`."""
        memory = self._pipeline.memory
        snapshot, seen = memory.snapshot(), memory.latest
        if seen is not None and seen.stamp != snapshot.stamp:
            seen = None  # the latest frame has no region
        if seen is not None:
            self._pipeline.look_at(seen, cancel)
        answer = self._world.answer(text, snapshot, seen, self._log.latest, limit, cancel)
        things = {thing.track_id: thing for thing in snapshot.objects}
        matches = [
            {"score": round(match.score, 4), "evidence": match.reason, **scene_object_json(things[match.track_id])}
            for match in answer.found.matches
        ]
        return {
            "answer": answer.text,
            "score": round(answer.score, 4),
            "count": answer.count,
            "message": answer.found.message,
            "events": [scene_event_json(event, snapshot.frame_id) for event in answer.events],
            "matches": matches,
        }

    def describe(
        self, track_ids: Sequence[int], question: str, style: str, cancel: CancellationToken
    ) -> dict[str, Any]:
        """See `Source`."""
        if style not in QUESTIONS:
            raise InputError(f"unknown style {style!r}; use one of {', '.join(QUESTIONS)}")
        seen = recent_frame(self._pipeline.memory, track_ids)
        regions = _regions(seen, track_ids)
        self._pipeline.look_at(seen, cancel)
        describer = self._pipeline.describer
        if question:
            answer = describer.ask_together(regions, question, self._settings.generation(), cancel=cancel)
        else:
            (answer,) = describer.describe(regions, style, self._settings.generation(), cancel=cancel)
        cancel.check("the answer")
        return {
            "text": answer.text,
            "confidence": round(answer.confidence, 4),
            "message": answer.reason,
            "stamp": seen.stamp / 1e9,
        }

    def look(self, track_ids: Sequence[int], with_overlay: bool, side: int, cancel: CancellationToken) -> ImageFile:
        """See `Source`."""
        memory = self._pipeline.memory
        view = view_of(recent_frame(memory, track_ids), memory.snapshot(), track_ids, with_overlay, side)
        return ImageFile(view.jpeg, {"stamp": view.stamp / 1e9, "frame_id": view.frame_id, "box": list(view.box)})

    def events(self) -> EventRing:
        """See `Source`."""
        return self._events

    def forget(self, track_ids: Sequence[int], cancel: CancellationToken) -> str:
        """See `Source`."""
        unknown = sorted(set(track_ids) - self._pipeline.memory.known)
        if unknown:
            raise unknown_track(unknown[0])
        return f"{len(self._pipeline.memory.forget(track_ids))} objects deleted"

    def close(self) -> None:
        """Release the engines."""
        self._pipeline.describer.close()


def _regions(seen: ObservedFrame, track_ids: Sequence[int]) -> Regions:
    """Return the regions of objects in a frame, in their order; without objects the whole image as one region."""
    if not track_ids:
        height, width = seen.regions.shape
        return regions_from_crops([MaskCrop(0, 0, np.ones((height, width), np.bool_))], [1], height, width)
    rows = [int(np.flatnonzero(seen.track_ids == track_id)[0]) for track_id in track_ids]
    return seen.regions.take(np.array(rows, np.intp))
