"""Hostile messages through matching, conversion, pipeline and output: ``make fuzz MESSAGES=100000``."""

from __future__ import annotations

import argparse
import faulthandler
import logging
import resource
import sys
import time
from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
from fuzz.commands import check_text
from fuzz.hostile_messages import HostileMessages
from nano import NANO

from osprey_ros.bundle.bundle import Bundle
from osprey_ros.errors import OspreyError
from osprey_ros.frame import Frame
from osprey_ros.messages.frames import DEPTH, IMAGE, RawFrame, frame_from_messages
from osprey_ros.messages.objects import object_message
from osprey_ros.messages.stamps import check_stamp, stamp_of
from osprey_ros.messages.synchronizer import FrameSync
from osprey_ros.pipeline import Pipeline
from osprey_ros.regions.regions import Regions
from osprey_ros.results import EncodedRegions
from osprey_ros.scene.settings import StepSettings
from osprey_ros.system.cancellation import CancellationToken
from osprey_ros.timing import Timing

SLOWEST = 60.0  # seconds that no message may take
MEMORY = 6 << 30  # bytes of address space
TOPICS = {name: f"/in/{name}" for name in ("image", "segmentation", "regions", "detections", "yolo", "depth")}
TOPICS["camera_info"] = "/in/camera_info"


class CheapDescriber:
    """Tokens from areas and boxes in place of engines. It gives no captions: its frames are canceled before them."""

    has_crops = False
    image_id = 0
    image_timing = Timing()

    def __init__(self) -> None:
        self.bundle = Bundle.open(NANO, verify=False)
        self.spec = self.bundle.manifest.model

    def set_image(self, rgb: np.ndarray, image_id: int | None = None, cancel: CancellationToken | None = None) -> None:
        """Take an image, uint8 [H, W, 3]."""
        assert rgb.dtype == np.uint8
        assert rgb.ndim == 3
        self.image_id += 1

    def encode(self, regions: Regions, cancel: CancellationToken | None = None) -> EncodedRegions:
        """Return tokens of 8 numbers."""
        tokens = np.ones((len(regions), 8), np.float32)
        tokens[:, :4] = regions.boxes
        tokens[:, 4] = regions.areas
        return EncodedRegions(regions, tokens, tokens.copy(), np.zeros(len(regions), np.float32), self.image_id)


class MessageRun:
    """Feeds messages and checks what must hold for each of them.

    Attributes:
        counts: Frames by what became of them.
    """

    def __init__(self, seed: int) -> None:
        self.counts: Counter[str] = Counter()
        self._messages = HostileMessages(seed)
        self._sync = FrameSync((IMAGE, "regions"), queue_size=5)
        self._pipeline = Pipeline(CheapDescriber())  # type: ignore[arg-type]
        self._cancel = CancellationToken()
        self._cancel.cancel()

    def feed(self) -> None:
        """Make the messages of one frame, and pass them on as the node does."""
        image, regions, source, depth, info = self._messages.frame()
        try:
            check_stamp(image)
        except OspreyError as error:
            check_text(str(error), "stamp")
            self.counts["refused: stamp"] += 1
            return
        stamp = stamp_of(image)
        roles = [(IMAGE, image), ("regions", (regions, source, depth, info))]
        for role, item in roles if self._messages.roll(2) else reversed(roles):
            if self._messages.roll(30) == 0:
                self.counts["lost on the way"] += 1
                continue
            for matched in self._sync.add(role, stamp, item):
                self._step(stamp, *matched)

    def _step(self, stamp: int, image: Any, others: tuple[Any, str, Any, Any]) -> None:
        regions, source, depth, info = others
        raw = RawFrame(image, regions, source, TOPICS, depth=depth, camera_info=info)
        try:
            frame = frame_from_messages(raw)
        except OspreyError as error:
            check_text(str(error), *TOPICS.values())
            topic = str(error).partition(":")[0].removeprefix("/in/")
            self.counts[f"refused: {DEPTH if topic == 'camera_info' else topic}"] += 1
            return
        assert frame.stamp == stamp
        try:
            self._describe(frame)
        except OspreyError as error:
            check_text(str(error), "image", "depth", "region")
            self.counts["refused: sizes"] += 1

    def _describe(self, frame: Frame) -> None:
        settings = StepSettings(min_area=1)
        result = self._pipeline.step(frame, settings, self._cancel)
        assert len(self._pipeline.memory.scene) <= self._pipeline.memory.scene.max_objects
        for obj in result.objects:
            assert obj.last_seen == frame.stamp
            object_message(obj, lambda name, **fields: SimpleNamespace(**fields))
        if result.regions is not None and not result.empty_reason:
            assert len(result.objects) == len(result.regions)
        self.counts["without regions" if result.empty_reason else "described"] += 1


def main(argv: list[str] | None = None) -> int:
    """Feed as many frames as asked for; return 0 if all promises held."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args(argv)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    logging.getLogger("osprey_ros").setLevel(logging.ERROR)  # each refusal is logged once, and is counted below
    run = MessageRun(options.seed)
    began = time.monotonic()
    slowest = 0.0
    for number in range(options.frames):
        faulthandler.dump_traceback_later(SLOWEST, exit=True)
        before = time.monotonic()
        try:
            run.feed()
        except Exception:
            print(f"frame {number} of seed {options.seed} broke a promise", file=sys.stderr)
            raise
        slowest = max(slowest, time.monotonic() - before)
    faulthandler.cancel_dump_traceback_later()
    print(f"seed {options.seed}: {options.frames} frames in {time.monotonic() - began:.0f} s, slowest {slowest:.2f} s")
    for name, count in sorted(run.counts.items()):
        print(f"  {count:7} {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
