"""Annotate a recording: add topics with the objects of its frames, and keep all recorded messages.

Works without ROS.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from osprey_ros.describer import Describer
from osprey_ros.errors import OspreyError, StoppedError, StorageError
from osprey_ros.messages.frames import IMAGE, SEGMENTATION
from osprey_ros.messages.names import full_node_name
from osprey_ros.pipeline import Pipeline
from osprey_ros.recording.collector import FrameCollector
from osprey_ros.recording.frames import FrameReader, Plan, topics_text
from osprey_ros.recording.reader import Recording
from osprey_ros.recording.topics import RecordedMessage
from osprey_ros.recording.types import OBJECTS_TYPE, OVERLAY_TYPE, MessageTypes
from osprey_ros.recording.writer import RecordingWriter, new_topic
from osprey_ros.regions.label_values import INSTANCE_IDS, LabelValues
from osprey_ros.scene.settings import StepSettings
from osprey_ros.system.cancellation import CancellationToken
from osprey_ros.viz.overlay import overlay

_MAX_FAILURES = 100  # frames that fail before the first one is described


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
        node: Namespace of the topics to add: ``node``/objects and ``node``/overlay/compressed.
        with_overlay: Whether to add overlay images, as JPEG.
        values: What the values of a segmentation mean.

    Attributes:
        objects_topic: Name of the topic with the objects.

    Raises:
        InputError: ROS refuses the name of the node.
        StorageError: A topic does not exist or cannot be used, or a topic to add exists already.
    """

    def __init__(
        self,
        recording: Recording,
        image: str,
        segmentation: str,
        types: MessageTypes,
        step: StepSettings,
        node: str = "/osprey",
        with_overlay: bool = False,
        values: LabelValues = INSTANCE_IDS,
    ) -> None:
        self._recording, self._types, self._step, self._with_overlay = recording, types, step, with_overlay
        self._roles = {image: IMAGE, segmentation: SEGMENTATION}
        self._reader = FrameReader(recording, image, segmentation, types, values)
        node = full_node_name(node)
        self.objects_topic = f"{node}/objects"
        self._added = [new_topic(self.objects_topic, OBJECTS_TYPE, types)]
        if with_overlay:
            self._added.append(new_topic(f"{node}/overlay/compressed", OVERLAY_TYPE, types))
        for topic in self._added:
            if topic.name in {existing.name for existing in recording.topics}:
                raise StorageError(f"{recording.path} has a topic {topic.name} already; give another --node")

    def run(
        self,
        describer: Describer,
        plan: Plan,
        path: Path,
        progress: Callable[[Report], object],
        cancel: CancellationToken,
    ) -> Report:
        """Write the annotated recording. It appears when it is complete.

        Args:
            describer: Describes the regions.
            plan: Frames to describe, of the same recording and topics.
            path: A new file NAME.mcap, or a new folder.
            progress: Called after each frame of the plan.
            cancel: Ends the output at the next message or decode step. It is readable.

        Raises:
            StorageError: The recording is damaged, the output cannot be written, or no frame can be described (given
                up after 100). No output is left.
        """
        report, pipeline, frames = Report(), Pipeline(describer), FrameCollector(plan, self._roles)
        with RecordingWriter(path, self._types, self._recording.custom_data) as writer:
            for topic in (*self._recording.topics, *self._added):
                writer.add_topic(topic)
                if not topic.definition:
                    report.untyped.append(f"{topic.name} ({topic.type or 'no type'})")
            for message in self._recording.read():
                report.stopped = report.stopped or cancel.canceled
                if report.stopped:
                    break
                writer.write(message)
                report.kept += 1
                pair, messages = frames.add(message)
                if pair is None:
                    continue
                try:
                    added = self._describe(pipeline, messages[IMAGE], messages[SEGMENTATION], report, cancel)
                except OspreyError as error:
                    report.failed.append((pair.stamp, str(error)))
                    if not report.described and len(report.failed) >= _MAX_FAILURES:
                        break
                else:
                    for new in added:
                        writer.write(new)
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
        cancel: CancellationToken,
    ) -> list[RecordedMessage]:
        """Return the messages to add for a frame; none after a stop, because descriptions may be missing."""
        frame = self._reader.frame(image.data, segmentation.data)
        try:
            result = pipeline.step(frame, self._step, cancel)
            cancel.check("the recording")
        except StoppedError:
            report.stopped = True
            return []
        time = max(image.time, segmentation.time)
        data = [self._types.objects(result.objects, frame.stamp, frame.frame_id)]
        if self._with_overlay:
            drawn = frame.rgb
            if result.regions is not None:
                labels = [thing.description for thing in result.objects]
                drawn = overlay(drawn, result.regions, labels, color_ids=[thing.track_id for thing in result.objects])
            data.append(self._types.overlay(drawn, frame.stamp, frame.frame_id))
        report.described += 1
        report.objects += len(result.objects)
        report.descriptions += result.described
        report.empty += not result.objects
        return [RecordedMessage(topic, time, message) for topic, message in zip(self._added, data, strict=True)]
