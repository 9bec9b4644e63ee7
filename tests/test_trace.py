"""The rooms that a frame enters, in order.

A step enters a module when the pipeline calls it. What the module calls on its behalf belongs to this visit.
"""

from __future__ import annotations

import sys
from collections import Counter
from types import FrameType

from test_pipeline import NANO, patches

from osprey_ros import pipeline as pipeline_module
from osprey_ros.describer import Describer
from osprey_ros.pipeline import Pipeline
from osprey_ros.scene.settings import StepSettings


class Trace:
    """Notes the visits of one step: the module that the pipeline calls, and all modules that work during the call."""

    def __init__(self) -> None:
        self.visits: list[tuple[str, set[str]]] = []

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        module = str(frame.f_globals.get("__name__", ""))
        # Generated methods, such as constructors of dataclasses, have no file of their own.
        if event != "call" or not module.startswith("osprey_ros.") or not frame.f_code.co_filename.endswith(".py"):
            return
        if module == pipeline_module.__name__:
            return
        caller = frame.f_back
        if caller is not None and caller.f_globals.get("__name__") == pipeline_module.__name__:
            if not self.visits or self.visits[-1][0] != module:
                self.visits.append((module, set()))
        elif self.visits:
            self.visits[-1][1].add(module)

    def __str__(self) -> str:
        return "\n".join(f"{module}: {', '.join(sorted(inside))}" for module, inside in self.visits)


def test_no_module_is_entered_more_than_three_times() -> None:
    pipeline = Pipeline(Describer(NANO, threads=1))
    trace = Trace()
    sys.setprofile(trace)
    try:
        result = pipeline.step(patches(), StepSettings(max_new_tokens=1))
    finally:
        sys.setprofile(None)
    assert result.described == 3
    visits = Counter(module for module, _ in trace.visits)
    assert {"osprey_ros.frame", "osprey_ros.scene.tracker", "osprey_ros.scene.scheduler"} <= set(visits), str(trace)
    assert max(visits.values()) <= 3, str(trace)
