"""Describe one item after another: what each process of a run does."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from osprey_ros.annotation.answers import largest_regions, region_answers
from osprey_ros.annotation.items import RECORDING, VIDEO, Item
from osprey_ros.bundle.bundle import Bundle
from osprey_ros.decoding.config import GenerationConfig
from osprey_ros.decoding.prompt import QUESTIONS
from osprey_ros.describer import Describer
from osprey_ros.errors import ImageError, InputError, OspreyError, RegionError, StorageError, one_line
from osprey_ros.regions.coco import regions_of_data
from osprey_ros.regions.files import load_image_with_masks
from osprey_ros.regions.masks import rle_from_mask
from osprey_ros.regions.regions import Regions
from osprey_ros.regions.resize import fitted
from osprey_ros.scene.attributes import attributes_from
from osprey_ros.scene.settings import StepSettings
from osprey_ros.segmenter.bundle import SegmenterBundle
from osprey_ros.segmenter.segmenter import Segmenter
from osprey_ros.system.cancellation import PolledToken
from osprey_ros.vision.image_io import load_image

RECORDINGS = "recordings"  # the folder of annotated recordings in the output
_FRAME_REGIONS = 32  # of a frame of a recording, where no other number is given; as the node's


@dataclass(frozen=True)
class Settings:
    """What the description of an item depends on; plain data.

    Attributes:
        bundle: Folder or name of the engine bundle.
        segmenter: The same of the segmenter, for images without masks and for videos.
        device: "cpu", "cuda" or None for the bundle's own.
        threads: CPU threads of each process. Results can differ in the last digits between numbers of threads.
        preprocessing: "exact" or "fast".
        style: Kind of description.
        back_off: Whether a category is as specific as it is sure.
        max_new_tokens: Longest answer, None for that of the question.
        attributes: Attributes as texts, as on the command line.
        min_confidence: Answers with less are "unknown".
        crops: Regions that the model reads a second time in a crop.
        min_area: Fewest pixels of a region.
        max_regions: Most regions of an image, None for all.
        masks_anyway: Whether id images with many tiny ids are taken.
        every: Each N-th frame of videos and recordings is described.
        image_topic: Images of recordings.
        segmentation_topic: Their regions.
    """

    bundle: str
    segmenter: str
    device: str | None = None
    threads: int = 1
    preprocessing: str = "exact"
    style: str = "short"
    back_off: bool = True
    max_new_tokens: int | None = None
    attributes: tuple[str, ...] = ()
    min_confidence: float = 0.0
    crops: str = "none"
    min_area: int = 1
    max_regions: int | None = None
    masks_anyway: bool = False
    every: int = 1
    image_topic: str = ""
    segmentation_topic: str = ""


@dataclass(frozen=True)
class Outcome:
    """What became of an item.

    Attributes:
        record: The descriptions, plain data; None if there are none.
        reason: Why the item is set aside, "" if it is not.
        worker: Number of the process.
        seconds: Time that the item took.
    """

    record: dict[str, Any] | None
    reason: str = ""
    worker: int = 0
    seconds: float = 0.0


class Worker:
    """Describes items with engines of its own.

    Args:
        settings: See `Settings`.
        output: Folder of the run, for recordings.
        stopped: Returns whether the run should end.

    Raises:
        OspreyError: The bundle or a setting cannot be used.
    """

    def __init__(self, settings: Settings, output: Path, stopped: Callable[[], bool]) -> None:
        self._settings, self._output, self._cancel = settings, output, PolledToken(stopped)
        self._attributes = attributes_from(settings.attributes)
        bundle = Bundle.open(settings.bundle).on_device(settings.device)
        self._describer = Describer(bundle, threads=settings.threads, preprocessing=settings.preprocessing)
        self._describer.check(
            [one.constraint for one in self._attributes], [one.question for one in self._attributes], settings.crops
        )
        self._opened: Segmenter | None = None

    def outcome(self, item: Item) -> Outcome | None:
        """Describe an item; an error sets it aside. None after a stop: the item is unfinished."""
        start = time.monotonic()
        record, reason = None, ""
        try:
            record = self._record(item)
        except OspreyError as error:
            reason = one_line(str(error))
        except Exception as error:  # one bad file must not end a run of a million
            reason = one_line(f"{type(error).__name__}: {error}")
        if self._cancel.canceled:
            return None
        return Outcome(record, reason, os.getpid(), time.monotonic() - start)

    def _record(self, item: Item) -> dict[str, Any]:
        if item.kind == RECORDING:
            return self._annotate_recording(item)
        if item.kind == VIDEO:
            frames = video_frames(item.key, self._settings.every)
            return {"images": [self._describe(rgb, self._segment(rgb), index) for index, rgb in frames]}
        rgb, regions = self._image(item)
        return {"images": [self._describe(rgb, regions)]}

    def _image(self, item: Item) -> tuple[np.ndarray, Regions]:
        """Return the pixels and the regions of an image."""
        if item.masks:
            rgb, masks = load_image_with_masks(item.key, item.masks, self._settings.masks_anyway)
            return rgb, masks.regions
        rgb = load_image(item.key)
        if item.data is None:
            return rgb, self._segment(rgb)
        shape = (rgb.shape[0], rgb.shape[1])
        regions, _ = regions_of_data(item.data, Path(item.key).name, shape)
        return rgb, fitted(regions, shape, f"masks of {item.key}")

    def _segment(self, rgb: np.ndarray) -> Regions:
        if self._opened is None:
            bundle = SegmenterBundle.open(self._settings.segmenter).on_device(self._settings.device)
            self._opened = Segmenter(bundle, threads=self._settings.threads)
        self._opened.set_image(rgb)
        return self._opened.segment_everything()

    def _describe(self, rgb: np.ndarray, regions: Regions, frame: int | None = None) -> dict[str, Any]:
        """Return the descriptions of the regions of one image, uint8 [H, W, 3]. An image without regions has none."""
        settings = self._settings
        entry: dict[str, Any] = {"height": rgb.shape[0], "width": rgb.shape[1], "objects": []}
        if frame is not None:
            entry["frame"] = frame
        if not len(regions):
            return entry
        try:
            regions = largest_regions(regions, settings.min_area, settings.max_regions)
        except RegionError:
            if frame is None:
                raise
            return entry
        self._describer.set_image(rgb)
        config = GenerationConfig(
            max_new_tokens=settings.max_new_tokens, back_off=settings.back_off, crops=settings.crops
        )
        questions = [QUESTIONS[settings.style], *(one.question for one in self._attributes)]
        constraints = [None, *(one.constraint for one in self._attributes)]
        results = self._describer.answer(regions, questions, config, constraints)
        answers = region_answers(results, self._attributes, settings.min_confidence)
        entry["objects"] = [
            {
                "id": int(regions.ids[row]),
                "box": [int(value) for value in regions.boxes[row]],
                "area": int(regions.areas[row]),
                "counts": rle_from_mask(regions.mask(row)).tolist(),
                **answer,
            }
            for row, answer in enumerate(answers)
        ]
        return entry

    def _annotate_recording(self, item: Item) -> dict[str, Any]:
        """Write the annotated copy of a recording, and return its counts."""
        from osprey_ros.recording.annotate import Annotator
        from osprey_ros.recording.frames import plan_frames
        from osprey_ros.recording.reader import Recording
        from osprey_ros.recording.types import MessageTypes

        settings = self._settings
        if not settings.image_topic or not settings.segmentation_topic:
            raise InputError("a recording needs --image and --segmentation, the topics of its images and regions")
        step = StepSettings(
            style=settings.style,
            back_off=settings.back_off,
            attributes=self._attributes,
            min_area=settings.min_area,
            masks_anyway=settings.masks_anyway,
            max_regions=settings.max_regions or _FRAME_REGIONS,
            max_new_tokens=settings.max_new_tokens or 0,
            crops=settings.crops,
            min_confidence=settings.min_confidence,
        )
        path = self._output / RECORDINGS / f"{item.name}.mcap"
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)  # of a run that was ended before the journal had it
        types, topics = MessageTypes(), (settings.image_topic, settings.segmentation_topic)
        with Recording(Path(item.key), types) as recording:
            annotator = Annotator(recording, *topics, types, step)
            plan = plan_frames(recording, *topics, every=settings.every)
            report = annotator.run(self._describer, plan, path, lambda _: None, self._cancel)
        if report.stopped:
            path.unlink(missing_ok=True)
        failed = [{"stamp": stamp, "reason": reason} for stamp, reason in report.failed]
        counts = {"frames": report.described, "objects": report.objects, "failed": failed}
        return {"images": [], "recording": path.name, **counts}


def video_frames(path: str, every: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield each ``every``-th frame of a video file with its index, RGB uint8 [H, W, 3].

    Raises ImageError if it cannot be opened or has no frame, StorageError if it ends in the middle of a frame.
    """
    video = cv2.VideoCapture(path)
    try:
        index = 0
        while video.grab():
            if index % every == 0:
                good, bgr = video.retrieve()
                if not good:
                    raise StorageError(f"frame {index} of video {path} cannot be decoded")
                yield index, np.ascontiguousarray(bgr[:, :, ::-1])
            index += 1
        if not index:
            raise ImageError(f"video {path} cannot be opened or has no frame; check that it plays")
    finally:
        video.release()
