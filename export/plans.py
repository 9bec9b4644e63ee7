"""The TensorRT plans of a bundle: for which lengths each is built, its progress, where measured kernels are kept."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from export.progress import Progress, Step
from export.tensorrt_plan import Lengths, Profile, build_plan, mask_extractor_profiles
from osprey_ros.branches import MAX_ROWS
from osprey_ros.bundle import EngineEntry
from osprey_ros.scoring import LOGIT_BYTES
from osprey_torch.config import OspreyConfig

# Rows that a region adds to the branches: the end of its question and its answer.
_ROWS_OF_REGION = 64
# Rows of a prompt before the first region, beside those of the picture.
_WORDS_OF_PREFIX = 96


def make_plan(
    role: str, graph: Path, folder: Path, config: OspreyConfig, max_regions: int, progress: Progress
) -> EngineEntry:
    """Builds the plan of a graph in `folder`, for up to `max_regions` regions at once.

    role: "vision", "mask_extractor" or "decoder". Raises what `export.tensorrt_plan.build_plan` raises.
    """
    profiles: Sequence[Profile] = ()
    if role == "mask_extractor":
        profiles = mask_extractor_profiles(max_regions)
    elif role == "decoder":
        profiles = decoder_profiles(config, max_regions)
    try:
        cache = timing_cache()
    except OSError as error:
        progress.say(f"kernels that TensorRT measures are not kept for the next build: {error}")
        cache = None
    with _PlanSteps(progress, f"{role} plan") as steps:
        return build_plan(graph, folder, profiles, timing_cache=cache, progress=steps.update, report=progress.say)


def decoder_profiles(config: OspreyConfig, max_regions: int) -> list[Profile]:
    """Profiles of the decoder graph: one more token for each region, and long pieces of prompts.

    Its axes are S new rows, P rows of the prefix, B rows of the branches so far and R rows with logits.
    """
    prefix = config.image_tokens + _WORDS_OF_PREFIX
    behind = Lengths(0, min(prefix, config.max_positions), config.max_positions)
    # A single answer may be as long as the model has positions.
    most = max(max_regions * _ROWS_OF_REGION, config.max_positions)
    usual = min(16, max_regions)

    def profile(new: Lengths, branches: Lengths, logits: int) -> Profile:
        both = Lengths(*(getattr(new, n) + getattr(branches, n) for n in ("least", "usual", "greatest")))
        return {"S": new, "P": behind, "B": branches, "B_plus_S": both, "R": Lengths(1, usual, logits)}

    step = profile(Lengths(1, usual, max_regions), Lengths(0, usual * _ROWS_OF_REGION, most), max_regions)
    rows = max(MAX_ROWS, config.max_positions)
    scored = min(rows, LOGIT_BYTES // (4 * config.vocab_size))  # phrases have logits of every row, float32
    pieces = profile(Lengths(1, min(prefix, rows), rows), Lengths(0, 0, most), max(max_regions, scored))
    return [step, pieces]


def timing_cache() -> Path:
    """The file of kernels that TensorRT has measured on this machine; its folder is made, or OSError raised."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    path = Path(home) / "osprey_ros" / "tensorrt_timing.cache"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


class _PlanSteps:
    """Shows the phases of TensorRT's builder as steps, each from 0 to 100 %."""

    def __init__(self, progress: Progress, title: str) -> None:
        self._progress = progress
        self._title = title
        self._phase: str | None = None
        self._step: Step | None = None
        self._done = 0.0

    def update(self, phase: str, done: float) -> None:
        """The outermost phase that is under way and how much of it is done, 0 to 1."""
        if phase != self._phase:
            self._end(whole=True)
            self._phase, self._done = phase, 0.0
            self._step = self._progress.step(f"{self._title}, {phase}", 100, "%")
        if self._step is not None and done > self._done:
            self._step.advance(100 * (done - self._done))
            self._done = done

    def __enter__(self) -> _PlanSteps:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(whole=kind is None)

    def _end(self, whole: bool) -> None:
        if self._step is not None:
            self._step.close(whole)
            self._step = None
