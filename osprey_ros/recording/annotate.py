"""Annotates a recording: what is said of the objects of its frames becomes a topic beside those that are there.

Works without ROS. Everything that was recorded is kept byte for byte, with its times.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from osprey_ros.describer import Describer
from osprey_ros.errors import OspreyError, StorageError
from osprey_ros.pipeline import Pipeline, StepSettings
from osprey_ros.recording.frames import IMAGE, SEGMENTATION, FrameReader, Pair, Plan, topics_text
from osprey_ros.recording.reader import Entry, Recording
from osprey_ros.recording.types import OBJECTS_TYPE, OVERLAY_TYPE, MessageTypes
from osprey_ros.recording.writer import BagWriter, new_topic
from osprey_ros.viz.overlay import overlay

OBJECTS, OVERLAY = "objects", "overlay"
_GIVE_UP_AFTER = 100  # frames without one that could be described


@dataclass(frozen=True)
class OutputSettings:
    """What is written: the topics of a node of this name, with or without overlay pictures (JPEG)."""

    node: str = "/osprey"
    overlay: bool = False

    @property
    def objects_topic(self) -> str:
        """Name of the topic with the words."""
        return f"{self.node}/objects"

    @property
    def overlay_topic(self) -> str:
        """Name of the topic with the overlay pictures."""
        return f"{self.node}/overlay/compressed"


@dataclass
class Report:
    """What became of a recording.

    ``described`` frames hold ``objects`` in all, with ``descriptions`` that were made for them: the others keep words
    of an earlier frame. ``failed`` holds the stamp of each frame that could not be described, and why. ``empty`` frames
    have no region; an array without objects is written for them. ``untyped`` names the topics whose type nothing is
    known of.
    """

    described: int = 0
    objects: int = 0
    descriptions: int = 0
    empty: int = 0
    kept: int = 0
    failed: list[tuple[int, str]] = field(default_factory=list)
    untyped: list[str] = field(default_factory=list)
    stopped: bool = False
    cut_off: bool = False


class Annotator:
    """Writes a recording again, with the objects of the frames of a plan.

    The objects have the stamp of the image in their header, and the time at which the later one of image and
    segmentation was recorded. A frame that cannot be described is left out and noted.

    Args:
        recording: read once in each run, from beginning to end.
        plan: made of the same recording.

    Raises StorageError if the recording has one of the topics that are to be written.
    """

    def __init__(
        self,
        recording: Recording,
        plan: Plan,
        types: MessageTypes,
        step: StepSettings | None = None,
        settings: OutputSettings | None = None,
    ) -> None:
        self._recording, self._plan, self._types = recording, plan, types
        self._step, self._settings = step or StepSettings(), settings or OutputSettings()
        self._reader = FrameReader(recording, plan.topics, types)
        self._new = {OBJECTS: new_topic(self._settings.objects_topic, OBJECTS_TYPE, types, recording.about.version)}
        if self._settings.overlay:
            self._new[OVERLAY] = new_topic(self._settings.overlay_topic, OVERLAY_TYPE, types, recording.about.version)
        for topic in self._new.values():
            if any(topic.name == there.name for there in recording.topics):
                raise StorageError(
                    f"{recording.path} has a topic {topic.name} already: give another --node than {self._settings.node}"
                )

    def run(
        self,
        describer: Describer,
        output: Path,
        progress: Callable[[Report], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> Report:
        """Writes ``output``, which appears when it is whole: see `BagWriter`.

        Args:
            progress: called after each frame, with what has been done so far.
            should_stop: asked at each message and each decode step: when it says yes, the output ends there, readable.

        Raises StorageError, and leaves no output, if the recording, the output or all of the first 100 frames fail.
        """
        writer = BagWriter(output, self._recording.about)
        try:
            report = self._run(describer, writer, progress or (lambda report: None), should_stop or (lambda: False))
            writer.close()
        except BaseException:
            writer.abort()
            raise
        return report

    def _run(
        self,
        describer: Describer,
        writer: BagWriter,
        progress: Callable[[Report], None],
        should_stop: Callable[[], bool],
    ) -> Report:
        report, pipeline = Report(), Pipeline(describer)
        for topic in (*self._recording.topics, *self._new.values()):
            writer.add_topic(topic)
            if not topic.definition:
                report.untyped.append(f"{topic.name} ({topic.type or 'no type'})")
        frames = _Frames(self._plan)
        for item in self._recording.read():
            if report.stopped or should_stop():
                report.stopped = True
                break
            writer.write(item)
            if not isinstance(item, Entry):
                continue
            report.kept += 1
            if (found := frames.add(item)) is None:
                continue
            pair, image, segmentation = found
            try:
                entries = self._described(pipeline, image, segmentation, report, should_stop)
            except OspreyError as error:
                report.failed.append((pair.stamp, str(error)))
                if not report.described and len(report.failed) >= _GIVE_UP_AFTER:
                    raise self._nothing_described(report) from error
            else:
                for entry in entries:
                    writer.write(entry)
            progress(report)
        report.cut_off = self._recording.cut_off
        if report.failed and not report.described:
            raise self._nothing_described(report)
        return report

    def _described(
        self,
        pipeline: Pipeline,
        image: Entry,
        segmentation: Entry,
        report: Report,
        should_stop: Callable[[], bool],
    ) -> list[Entry]:
        """The new messages of a frame; none if it was stopped, as words may be missing then."""
        frame = self._reader.frame(image.data, segmentation.data)
        result = pipeline.step(frame, self._step, should_stop)
        if should_stop():
            report.stopped = True
            return []
        data = {OBJECTS: self._types.objects(result.objects, frame.stamp, frame.frame_id)}
        if OVERLAY in self._new:
            drawn = frame.rgb
            if result.regions is not None:
                drawn = overlay(frame.rgb, result.regions, [thing.description for thing in result.objects])
            data[OVERLAY] = self._types.overlay(drawn, frame.stamp, frame.frame_id)
        report.described += 1
        report.objects += len(result.objects)
        report.descriptions += result.described
        report.empty += not result.objects
        time = max(image.log_time, segmentation.log_time)
        return [Entry(self._new[kind], time, time, 0, message) for kind, message in data.items()]

    def _nothing_described(self, report: Report) -> StorageError:
        _, reason = report.failed[-1]
        return StorageError(
            f"none of the first {len(report.failed)} frames can be described: {reason}; {topics_text(self._recording)}"
        )


class _Frames:
    """Brings the messages of each frame of a plan together, as they are read again."""

    def __init__(self, plan: Plan) -> None:
        self._roles = {name: role for role, name in plan.topics.items()}
        self._pairs = {
            IMAGE: {pair.image: pair for pair in plan.frames},
            SEGMENTATION: {pair.segmentation: pair for pair in plan.frames},
        }
        self._read = {IMAGE: 0, SEGMENTATION: 0}
        self._waiting: dict[Pair, Entry] = {}

    def add(self, entry: Entry) -> tuple[Pair, Entry, Entry] | None:
        """The frame that this message completes, if it does: image and segmentation."""
        role = self._roles.get(entry.topic.name)
        if role is None:
            return None
        pair = self._pairs[role].get(self._read[role])
        self._read[role] += 1
        if pair is None:
            return None
        other = self._waiting.pop(pair, None)
        if other is None:
            self._waiting[pair] = entry
            return None
        return (pair, entry, other) if role == IMAGE else (pair, other, entry)
