"""Annotate a recording: add topics with the objects of its frames, and keep all recorded messages.

Works without ROS.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from osprey_ros.describer import Describer
from osprey_ros.errors import OspreyError, StorageError
from osprey_ros.pipeline import Pipeline, StepSettings
from osprey_ros.recording.frames import IMAGE, SEGMENTATION, FrameReader, Pair, Plan, topics_text
from osprey_ros.recording.reader import RecordedMessage, Recording, Topic
from osprey_ros.recording.types import OBJECTS_TYPE, OVERLAY_TYPE, MessageTypes
from osprey_ros.recording.writer import RecordingWriter, new_topic
from osprey_ros.viz.overlay import overlay

_MAX_FAILURES = 100  # frames that fail before the first one is described


@dataclass(frozen=True)
class OutputSettings:
    """Topics to add: those of a node of this name, with or without overlay images."""

    node: str = "/osprey"
    overlay: bool = False

    @property
    def objects_topic(self) -> str:
        """Name of the topic with the objects."""
        return f"{self.node}/objects"

    @property
    def overlay_topic(self) -> str:
        """Name of the topic with the overlay images."""
        return f"{self.node}/overlay/compressed"


@dataclass
class Report:
    """Counts of one run.

    Attributes:
        described: Frames with an added message.
        objects: Objects in all added messages.
        descriptions: Objects with a new description; the others keep one of an earlier frame.
        empty: Frames without a region. Their message has no objects.
        kept: Recorded messages that were written.
        failed: Stamp and reason of each frame that could not be described.
        untyped: Topics without a known definition.
        stopped: Whether the run was stopped before the end of the recording.
    """

    described: int = 0
    objects: int = 0
    descriptions: int = 0
    empty: int = 0
    kept: int = 0
    failed: list[tuple[int, str]] = field(default_factory=list)
    untyped: list[str] = field(default_factory=list)
    stopped: bool = False


class Annotator:
    """Copy a recording and add messages about the objects of its frames.

    An added message has the stamp of the image in its header. Its recording time is that of the image or of the
    segmentation, whichever is later. Frames that cannot be described get no message.

    Args:
        recording: Is read once in each run.
        image: Full name of the topic with images.
        segmentation: Full name of the topic with their regions.
        types: Definitions of messages.
        step: Settings of the pipeline.
        output: Topics to add.

    Raises:
        StorageError: A topic does not exist or cannot be used, or a topic to add exists already.
    """

    def __init__(
        self,
        recording: Recording,
        image: str,
        segmentation: str,
        types: MessageTypes,
        step: StepSettings | None = None,
        output: OutputSettings | None = None,
    ) -> None:
        self._recording, self._types, self._step = recording, types, step or StepSettings()
        self._roles = {image: IMAGE, segmentation: SEGMENTATION}
        self._reader = FrameReader(recording, image, segmentation, types)
        output = output or OutputSettings()
        self._objects = new_topic(output.objects_topic, OBJECTS_TYPE, types)
        self._overlay = new_topic(output.overlay_topic, OVERLAY_TYPE, types) if output.overlay else None
        existing = {topic.name for topic in recording.topics}
        for topic in self._added:
            if topic.name in existing:
                raise StorageError(f"{recording.path} has a topic {topic.name} already; give another --node")

    @property
    def _added(self) -> list[Topic]:
        return [topic for topic in (self._objects, self._overlay) if topic is not None]

    def run(
        self,
        describer: Describer,
        plan: Plan,
        path: Path,
        progress: Callable[[Report], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> Report:
        """Write the annotated recording. It appears when it is complete.

        Args:
            describer: Describes the regions.
            plan: Frames to describe, of the same recording and topics.
            path: A new file NAME.mcap, or a new folder.
            progress: Called after each frame of the plan.
            should_stop: Called for each message and each decode step. If it returns True, the output ends there and is
                readable.

        Raises:
            StorageError: The recording is damaged, the output cannot be written, or no frame can be described (given
                up after 100). No output is left.
        """
        writer = RecordingWriter(path, self._types, self._recording.custom_data)
        try:
            report = self._run(
                describer, plan, writer, progress or (lambda report: None), should_stop or (lambda: False)
            )
            writer.close()
        except BaseException:
            writer.abort()
            raise
        return report

    def _run(
        self,
        describer: Describer,
        plan: Plan,
        writer: RecordingWriter,
        progress: Callable[[Report], None],
        should_stop: Callable[[], bool],
    ) -> Report:
        report, pipeline, frames = Report(), Pipeline(describer), _FrameCollector(plan, self._roles)
        for topic in (*self._recording.topics, *self._added):
            writer.add_topic(topic)
            if not topic.definition:
                report.untyped.append(f"{topic.name} ({topic.type or 'no type'})")
        for message in self._recording.read():
            report.stopped = report.stopped or should_stop()
            if report.stopped:
                break
            writer.write(message)
            report.kept += 1
            found = frames.add(message)
            if found is None:
                continue
            pair, image, segmentation = found
            try:
                added = self._describe(pipeline, image, segmentation, report, should_stop)
            except OspreyError as error:
                report.failed.append((pair.stamp, str(error)))
                if not report.described and len(report.failed) >= _MAX_FAILURES:
                    break
            else:
                for message in added:
                    writer.write(message)
            progress(report)
        if report.failed and not report.described:
            raise StorageError(
                f"none of the first {len(report.failed)} frames can be described: {report.failed[-1][1]}; "
                f"{topics_text(self._recording)}"
            )
        return report

    def _describe(
        self,
        pipeline: Pipeline,
        image: RecordedMessage,
        segmentation: RecordedMessage,
        report: Report,
        should_stop: Callable[[], bool],
    ) -> list[RecordedMessage]:
        """Return the messages to add for a frame; none after a stop, because descriptions may be missing."""
        frame = self._reader.frame(image.data, segmentation.data)
        result = pipeline.step(frame, self._step, should_stop)
        if should_stop():
            report.stopped = True
            return []
        time = max(image.time, segmentation.time)
        data = self._types.objects(result.objects, frame.stamp, frame.frame_id)
        added = [RecordedMessage(self._objects, time, data)]
        if self._overlay is not None:
            drawn = frame.rgb
            if result.regions is not None:
                labels = [thing.description for thing in result.objects]
                drawn = overlay(drawn, result.regions, labels, color_ids=[thing.track_id for thing in result.objects])
            added.append(RecordedMessage(self._overlay, time, self._types.overlay(drawn, frame.stamp, frame.frame_id)))
        report.described += 1
        report.objects += len(result.objects)
        report.descriptions += result.described
        report.empty += not result.objects
        return added


class _FrameCollector:
    """Collect the two messages of each frame of a plan while the recording is read."""

    def __init__(self, plan: Plan, roles: dict[str, str]) -> None:
        self._roles = roles
        self._pairs = {
            IMAGE: {pair.image: pair for pair in plan.frames},
            SEGMENTATION: {pair.segmentation: pair for pair in plan.frames},
        }
        self._counts = {IMAGE: 0, SEGMENTATION: 0}
        self._incomplete: dict[Pair, RecordedMessage] = {}

    def add(self, message: RecordedMessage) -> tuple[Pair, RecordedMessage, RecordedMessage] | None:
        """Return pair, image and segmentation if this message completes a frame."""
        role = self._roles.get(message.topic.name)
        if role is None:
            return None
        pair = self._pairs[role].get(self._counts[role])
        self._counts[role] += 1
        if pair is None:
            return None
        other = self._incomplete.pop(pair, None)
        if other is None:
            self._incomplete[pair] = message
            return None
        return (pair, message, other) if role == IMAGE else (pair, other, message)
