"""Messages as drivers, segmenters and networks get them wrong: each is right but for up to three faults."""

from __future__ import annotations

import struct
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np

from osprey_ros.messages.frames import DEPTH, DETECTIONS, IMAGE, REGIONS, SEGMENTATION, YOLO

RAW_IMAGES = (
    "rgb8",
    "bgr8",
    "rgba8",
    "mono8",
    "mono16",
    "bgr16",
    "8UC3",
    "bayer_rggb8",
    "bayer_grbg16",
    "yuyv",
    "nv12",
)
ID_IMAGES = ("mono8", "8UC1", "mono16", "16UC1", "16SC1", "32SC1")
BYTES_OF_PIXEL = {"rgba8": 4, "bgr16": 6, "32SC1": 4, "32FC1": 4, "nv12": 1, "bayer_rggb8": 1, "8UC1": 1, "mono8": 1}
WORDS = ("cup", "", "</s>", "<mask><pos>", "a\nb", "ü" * 70_000, "\x00", "\udc80", "x" * 300)
NUMBERS = (0, 1, -1, 2**31 - 1, -(2**31), 2**32 - 1, 65_536, 7)
REALS = (0.0, -1.0, 1e-30, 1e30, float("nan"), float("inf"), float("-inf"), 3.5)
SECONDS = (0, 1, -1, 2**31 - 1, -(2**31), 4_000_000_000)


class HostileMessages:
    """Generates messages from one seed, as plain objects with the fields of their types.

    Args:
        seed: Of the generator.
    """

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._clock = 1_700_000_000_000_000_000

    def roll(self, sides: int) -> int:
        """Return a number from 0 to below ``sides``."""
        return int(self._random.integers(sides))

    def one_of(self, choices: Any) -> Any:
        """Return one of some choices."""
        return choices[self.roll(len(choices))]

    def stamp(self) -> Any:
        """Return a stamp: mostly the next one, sometimes one that jumps, repeats, or is no time."""
        fault = self.roll(40)
        self._clock += {0: -(10**10), 1: 0, 2: 10**15}.get(fault, 33_333_333)
        seconds, rest = divmod(self._clock, 10**9)
        if fault == 3:
            seconds, rest = self.one_of(SECONDS), self.one_of((0, 1, 10**9, 2**32 - 1))
        return SimpleNamespace(sec=seconds, nanosec=rest)

    def frame(self) -> tuple[Any, Any, str, Any, Any]:
        """Return the messages of a frame: image, regions, the name of their input, depth and calibration, or None."""
        height, width = 2 + 2 * self.roll(30), 2 + 2 * self.roll(40)
        source = self.one_of((SEGMENTATION, REGIONS, DETECTIONS, YOLO))
        header = SimpleNamespace(stamp=self.stamp(), frame_id=self.one_of(("camera", "", "x" * 300)))
        make = {SEGMENTATION: self._ids, REGIONS: self._region_array, DETECTIONS: self._detections, YOLO: self._yolo}
        image, regions = self._image(header, height, width), make[source](header, height, width)
        depth = self._depth(header, height, width) if self.roll(3) == 0 else None
        info = self._camera_info(header, height, width) if depth is not None else None
        faults: dict[str, Callable[[Any], None]] = {IMAGE: self._spoil_image}
        faults[source] = self._spoil_image if source == SEGMENTATION else self._spoil_regions
        if depth is not None:
            faults[DEPTH] = self._spoil_image
        messages = {IMAGE: image, source: regions, DEPTH: depth}
        for _ in range(self.roll(4)):
            role = self.one_of(list(faults))
            faults[role](messages[role])
        return image, regions, source, depth, info

    def _noise(self, count: int, top: int = 256) -> bytes:
        return self._random.integers(0, top, count, dtype=np.uint8).tobytes()

    def _raw(self, header: Any, height: int, width: int, encoding: str, data: bytes, size: int) -> Any:
        layout = {"height": height, "width": width, "encoding": encoding, "step": width * size}
        return SimpleNamespace(header=header, is_bigendian=self.roll(2), data=data, **layout)

    def _compressed(self, header: Any, pixels: np.ndarray, suffix: str, format: str) -> Any:
        return SimpleNamespace(header=header, format=format, data=cv2.imencode(suffix, pixels)[1].tobytes())

    def _image(self, header: Any, height: int, width: int) -> Any:
        if self.roll(4) == 0:
            suffix, format = self.one_of(((".jpg", "jpeg"), (".png", "rgb8; png compressed bgr8"), (".png", "")))
            pixels = np.frombuffer(self._noise(height * width * 3), np.uint8).reshape(height, width, 3)
            return self._compressed(header, pixels, suffix, format)
        encoding = self.one_of(RAW_IMAGES)
        size = BYTES_OF_PIXEL.get(encoding, 2 if encoding in ("mono16", "bayer_grbg16", "yuyv") else 3)
        return self._raw(header, height, width, encoding, self._noise(height * width * size * 3 // 2), size)

    def _ids(self, header: Any, height: int, width: int) -> Any:
        patches = np.zeros((height, width), np.int64)
        for _ in range(self.roll(6)):
            top, left = self.roll(height), self.roll(width)
            patches[top : top + 1 + self.roll(height), left : left + 1 + self.roll(width)] = self.one_of(NUMBERS)
        if self.roll(5) == 0:
            return self._compressed(header, patches.astype(np.uint16), ".png", "16UC1; png compressed")
        encoding = self.one_of(ID_IMAGES)
        kind = {"mono8": "u1", "8UC1": "u1", "16SC1": "i2", "32SC1": "i4"}.get(encoding, "u2")
        order = ">" if (message := self._raw(header, height, width, encoding, b"", 1)).is_bigendian else "<"
        message.step, message.data = (
            width * np.dtype(kind).itemsize,
            patches.astype(kind).astype(order + kind).tobytes(),
        )
        return message

    def _depth(self, header: Any, height: int, width: int) -> Any:
        if self.roll(3) == 0:
            message = self._compressed(header, np.full((height, width), 900, np.uint16), ".png", "")
            message.format = self.one_of(("16UC1; compressedDepth png", "32FC1; compressedDepth png", "32FC1"))
            message.data = struct.pack("<iff", 0, self.one_of(REALS), self.one_of(REALS)) + message.data
            return message
        values = np.full((height, width), 1.5, np.float32)
        for _ in range(self.roll(4)):
            values[self.roll(height) :, self.roll(width) :] = self.one_of(REALS)
        message = self._raw(header, height, width, "32FC1", b"", 4)
        message.data = values.astype(">f4" if message.is_bigendian else "<f4").tobytes()
        return message

    def _camera_info(self, header: Any, height: int, width: int) -> Any:
        focal = 50.0 if self.roll(4) else self.one_of(REALS)
        matrix = [focal, 0.0, width / 2, 0.0, focal, height / 2, 0.0, 0.0, 1.0]
        roi = SimpleNamespace(x_offset=self.one_of((0, 0, 2**32 - 1)), y_offset=0, width=0, height=0)
        layout = {"height": height, "width": width, "binning_x": self.one_of((0, 1, 2**32 - 1)), "binning_y": 0}
        return SimpleNamespace(header=header, k=matrix, p=[0.0] * 12, roi=roi, **layout)

    def _count(self) -> int:
        return 5000 if self.roll(2000) == 0 else self.roll(12)

    def _region_array(self, header: Any, height: int, width: int) -> Any:
        regions = [self._region(number + 1, height, width) for number in range(self._count())]
        return SimpleNamespace(header=header, height=height, width=width, regions=regions)

    def _region(self, number: int, height: int, width: int) -> Any:
        left, top = self.roll(width), self.roll(height)
        wide, tall = 1 + self.roll(width - left), 1 + self.roll(height - top)
        inside = self.roll(wide * tall + 1)
        corners = [left, top, left + wide, top, left + wide, top + tall]
        roi = SimpleNamespace(x_offset=left, y_offset=top, width=wide, height=tall)
        shape = {"roi": roi, "encoding": self.roll(3), "rle": [0, inside, wide * tall - inside]}
        label, score = self.one_of(("cup", "")), 0.5
        return SimpleNamespace(id=number, **shape, polygon=corners, outlines=[], label=label, score=score)

    def _detections(self, header: Any, height: int, width: int) -> Any:
        return SimpleNamespace(header=header, detections=[self._detection(height, width) for _ in range(self._count())])

    def _detection(self, height: int, width: int) -> Any:
        place = SimpleNamespace(x=float(self.roll(width)), y=float(self.roll(height)))
        center = SimpleNamespace(position=place, theta=float(self.roll(4)))
        box = SimpleNamespace(center=center, size_x=float(self.roll(width)), size_y=float(self.roll(height)))
        result = SimpleNamespace(hypothesis=SimpleNamespace(class_id="cup", score=0.5))
        return SimpleNamespace(id=self.one_of(("1", "2", "", "x", "²", str(2**31))), bbox=box, results=[result])

    def _yolo(self, header: Any, height: int, width: int) -> Any:
        return SimpleNamespace(header=header, detections=[self._outline(height, width) for _ in range(self._count())])

    def _outline(self, height: int, width: int) -> Any:
        box = self._detection(height, width).bbox
        box.size = SimpleNamespace(x=box.size_x, y=box.size_y)
        points = [SimpleNamespace(x=float(self.roll(width)), y=float(self.roll(height))) for _ in range(self.roll(5))]
        mask = SimpleNamespace(height=height, width=width, data=points)
        return SimpleNamespace(id=str(self.roll(9)), bbox=box, mask=mask, class_name="cup", score=0.5)

    def _spoil_image(self, message: Any) -> None:
        fault = self.roll(6)
        if fault == 0:
            message.data = message.data[: self.roll(len(message.data) + 1)]
        elif fault == 1:
            message.data = message.data + self._noise(1 + self.roll(9))
        elif fault == 2 and message.data:
            place = self.roll(len(message.data))
            message.data = message.data[:place] + self._noise(1) + message.data[place + 1 :]
        elif hasattr(message, "format"):
            message.format = self.one_of(("", "jpeg", "32FC1; compressedDepth rvl", "\n", "x" * 300))
        elif fault == 3:
            message.encoding = self.one_of((*RAW_IMAGES, *ID_IMAGES, "32FC1", "64FC1", "", "a\nb", "x" * 300))
        else:
            name = self.one_of(("height", "width", "step"))
            setattr(message, name, self.one_of((0, 1, getattr(message, name) + 1, 2**31, 2**32 - 1)))

    def _spoil_regions(self, message: Any) -> None:
        items = getattr(message, "regions", None) or getattr(message, "detections", None)
        if hasattr(message, "regions") and (not items or self.roll(5) == 0):
            setattr(message, self.one_of(("height", "width")), self.one_of((0, 1, 2**31, 2**32 - 1, 100_000)))
        elif items:
            self._spoil_region(self.one_of(items))

    def _spoil_region(self, item: Any) -> None:
        """Give one field of a region, at any depth, another value of its kind."""
        names = [name for name in vars(item) if name != "results"]
        name = self.one_of(names)
        value = getattr(item, name)
        if isinstance(value, SimpleNamespace):
            self._spoil_region(value)
        elif isinstance(value, str):
            setattr(item, name, self.one_of(WORDS))
        elif isinstance(value, float):
            setattr(item, name, self.one_of(REALS))
        elif isinstance(value, int):
            signed = name == "id"
            setattr(
                item, name, self.one_of([n for n in NUMBERS if -(2**31) * signed <= n < 2 ** (31 if signed else 32)])
            )
        elif name == "polygon":
            setattr(item, name, [self.one_of((*REALS, 2.0, 9.0)) for _ in range(self.roll(9))])
        elif name in ("rle", "outlines"):
            setattr(item, name, [self.one_of([n for n in NUMBERS if n >= 0]) for _ in range(self.roll(5))])
        elif value:
            del value[self.roll(len(value)) :]
