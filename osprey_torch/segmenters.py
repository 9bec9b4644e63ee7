"""Families of promptable segmenters, by the `model_type` of their checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from osprey_ros.errors import InputError
from osprey_torch.hub import fetch_checkpoint, is_hub_id
from osprey_torch.json_files import read_json
from osprey_torch.segmenter_model import SegmenterModel
from osprey_torch.weight_layout import CONFIG


def _segment_anything(folder: Path) -> SegmenterModel:
    from osprey_torch.segment_anything import open_segment_anything

    return open_segment_anything(folder)


def _small_segmenter(folder: Path) -> SegmenterModel:
    from osprey_torch.small_segmenter import open_small_segmenter

    return open_small_segmenter(folder)


# A family is a function that opens the folder of a checkpoint; it imports what it needs only then.
FAMILIES: dict[str, Callable[[Path], SegmenterModel]] = {
    "sam": _segment_anything,
    "sam2": _segment_anything,
    "sam2_video": _segment_anything,  # published checkpoints of SAM 2.1 and EdgeTAM hold the model for videos, too
    "edgetam": _segment_anything,
    "edgetam_video": _segment_anything,
    "osprey_segmenter": _small_segmenter,
}


def open_segmenter(source: Path | str) -> SegmenterModel:
    """Open the checkpoint of a segmenter, in float32 and in evaluation mode.

    source: folder in the layout of transformers, or the name of a repository on the Hugging Face hub.

    Raises InputError if there is no such checkpoint, or if its family is unknown or its weights are incomplete.
    """
    folder = checkpoint_folder(source)
    kind = read_json(folder / CONFIG).get("model_type")
    if kind not in FAMILIES:
        raise InputError(
            f"{folder}: {CONFIG} has the model_type {kind!r}; segmenters of these types can be built: "
            f"{', '.join(FAMILIES)}"
        )
    return FAMILIES[kind](folder).eval()


def checkpoint_folder(source: Path | str) -> Path:
    """Return the folder of a checkpoint; one on the hub is fetched. Raises InputError if there is none."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if isinstance(source, str) and is_hub_id(source):
        return fetch_checkpoint(source)
    raise InputError(f"{source} is not a folder, and not the name of a repository on the hub (ORG/NAME)")
