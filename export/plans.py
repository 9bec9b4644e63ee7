"""Builds the TensorRT plans of a bundle: the profiles of each, and where kernel measurements are kept."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from export.tensorrt_plan import Lengths, Profile, build_plan, crop_profiles, mask_extractor_profiles
from osprey_ros.bundle.manifest import EngineEntry
from osprey_ros.decoding.prompt_batch import MAX_ROWS
from osprey_ros.decoding.scoring import LOGIT_BYTES
from osprey_ros.segmenter.spec import DECODER
from osprey_torch.config import OspreyConfig

log = logging.getLogger(__name__)

_ROWS_OF_REGION = 64  # rows per region in the branches: the end of its question and its answer
_WORDS_OF_PREFIX = 96  # rows of a prompt before the first region, without the image


def make_plan(role: str, graph: Path, folder: Path, config: OspreyConfig, max_regions: int) -> EngineEntry:
    """Build the plan of a graph in `folder`, for up to `max_regions` regions at once.

    role: "vision", "mask_extractor", "crop" or "decoder". For errors see `export.tensorrt_plan.build_plan`.
    """
    profiles: Sequence[Profile] = ()
    if role == "mask_extractor":
        profiles = mask_extractor_profiles(max_regions)
    elif role == "crop":
        profiles = crop_profiles(max_regions)
    elif role == "decoder":
        profiles = decoder_profiles(config, max_regions)
    return _build(graph, folder, profiles)


def make_segmenter_plan(role: str, graph: Path, folder: Path, max_prompts: int, max_points: int) -> EngineEntry:
    """Build the plan of a segmenter's graph in `folder`, for up to `max_prompts` prompts of `max_points` points each.

    role: `ENCODER` or `DECODER` of `osprey_ros.segmenter.spec`. For errors see `export.tensorrt_plan.build_plan`.
    """
    return _build(graph, folder, segmenter_profiles(max_prompts, max_points) if role == DECODER else ())


def segmenter_profiles(max_prompts: int, max_points: int) -> list[Profile]:
    """Return the profiles of a segmenter's decoder: a single prompt, and a batch. The number of points is fixed."""
    points = Lengths(max_points, max_points, max_points)
    one = {"P": Lengths(1, 1, 1), "N": points}
    return [one] if max_prompts == 1 else [one, {"P": Lengths(2, max_prompts, max_prompts), "N": points}]


def _build(graph: Path, folder: Path, profiles: Sequence[Profile]) -> EngineEntry:
    try:
        cache = timing_cache()
    except OSError as error:
        log.warning("the timing cache of TensorRT is not kept for the next build: %s", error)
        cache = None
    return build_plan(graph, folder, profiles, timing_cache=cache)


def decoder_profiles(config: OspreyConfig, max_regions: int) -> list[Profile]:
    """Return the profiles of the decoder graph: one more token for each region, and long pieces of prompts.

    Its axes are S new rows, P rows of the prefix, B rows of the branches so far and R rows with logits.
    """
    prefix = config.image_tokens + _WORDS_OF_PREFIX
    behind = Lengths(0, min(prefix, config.max_positions), config.max_positions)
    # A single answer can fill all positions of the model.
    most = max(max_regions * _ROWS_OF_REGION, config.max_positions)
    usual = min(16, max_regions)

    def profile(new: Lengths, branches: Lengths, logits: int) -> Profile:
        both = Lengths(*(getattr(new, n) + getattr(branches, n) for n in ("least", "usual", "greatest")))
        return {"S": new, "P": behind, "B": branches, "B_plus_S": both, "R": Lengths(1, usual, logits)}

    step = profile(Lengths(1, usual, max_regions), Lengths(0, usual * _ROWS_OF_REGION, most), max_regions)
    rows = max(MAX_ROWS, config.max_positions)
    scored = min(rows, LOGIT_BYTES // (4 * config.vocab_size))  # scoring needs float32 logits of every row
    pieces = profile(Lengths(1, min(prefix, rows), rows), Lengths(0, 0, most), max(max_regions, scored))
    return [step, pieces]


def timing_cache() -> Path:
    """Return the file of TensorRT's kernel measurements. Raises OSError if its folder cannot be made."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    path = Path(home) / "osprey_ros" / "tensorrt_timing.cache"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
