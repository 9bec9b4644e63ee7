"""The modules that a frame enters, in order.

A module is entered when a function in its file is called from another module of the package, directly or through a
library. Properties, generators and special methods count; consecutive entries into one module are one. Methods that
`dataclasses` generates, such as constructors of plain data, are in no file and do not count.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from types import FrameType

from nano import NANO
from test_pipeline import patches

import osprey_ros
from osprey_ros.describer import Describer
from osprey_ros.frame import Frame
from osprey_ros.pipeline import Pipeline
from osprey_ros.scene.settings import StepSettings

ROOT = Path(osprey_ros.__file__).parent


class Trace:
    """The modules that were entered while this is the profile function."""

    def __init__(self) -> None:
        self.entered: list[str] = []

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        module = _module(frame)
        if event != "call" or module is None:
            return
        caller = frame.f_back
        while caller is not None and _module(caller) is None:
            caller = caller.f_back
        if (caller is None or _module(caller) != module) and self.entered[-1:] != [module]:
            self.entered.append(module)


def _module(frame: FrameType) -> str | None:
    """Return the module of a frame of the package, such as "scene.tracker"."""
    path = Path(frame.f_code.co_filename)
    return ".".join(path.relative_to(ROOT).with_suffix("").parts) if path.is_relative_to(ROOT) else None


def with_patch(frame: Frame, left: int, color: tuple[int, int, int]) -> Frame:
    """Add a patch of this color to a frame, as region 9."""
    place = (slice(88, 112), slice(left, left + 12))
    frame.rgb[place], frame.regions[place] = color, 9
    return frame


def test_no_module_is_entered_more_than_three_times() -> None:
    """Trace a frame with three known objects and a new one, which is described.

    Earlier frames have the same shapes, so that memory is allocated and the runs of the engines are bound.
    """
    pipeline, settings, trace = Pipeline(Describer(NANO, threads=1)), StepSettings(max_new_tokens=1), Trace()
    pipeline.step(patches(5), settings)
    pipeline.step(with_patch(patches(6), 50, (10, 200, 200)), settings)
    frame = with_patch(patches(8), 148, (200, 10, 200))
    sys.setprofile(trace)
    try:
        result = pipeline.step(frame, settings)
    finally:
        sys.setprofile(None)
    assert (result.described, result.reused) == (1, 3)
    order = list(dict.fromkeys(trace.entered))
    assert order[:3] == ["pipeline", "frame", "regions.regions"]
    assert set(order) > {"describer", "scene.tracker", "scene.scheduler", "decoding.loop", "engines.onnxruntime"}
    visits = Counter(trace.entered)
    assert max(visits.values()) <= 3, f"{visits.most_common(9)}: {' '.join(trace.entered)}"
