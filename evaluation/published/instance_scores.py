"""Average precision of instances in COCO's way, by pycocotools, named as detectron2's evaluator names it."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def instance_totals(
    truth: Mapping[str, Any], found: Sequence[dict[str, Any]], images: Sequence[Any], names: Sequence[str], kind: str
) -> dict[str, float]:
    """Return the figures in percent; NaN where the truth has no instance, or nothing was found.

    Args:
        truth: The annotations, in COCO's layout.
        found: `image_id`, `category_id`, `bbox`, `score` and `segmentation` (run lengths) of each instance.
        images: Ids of the images that count.
        names: Name of each category, in the order of their ids.
        kind: "segm" or "bbox".
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    if not found:
        return dict.fromkeys(_NAMES, float("nan"))
    # Areas are those of the masks for "segm", of the boxes otherwise, as detectron2 has it.
    results = [{k: v for k, v in one.items() if k != "bbox" or kind == "bbox"} for one in found]
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO()
        reference.dataset = dict(truth)
        reference.createIndex()
        evaluation = COCOeval(reference, _loaded(reference, results), kind)
        evaluation.params.imgIds = list(images)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    figures = [float(value) * 100 if value >= 0 else float("nan") for value in evaluation.stats[: len(_NAMES)]]
    precision = evaluation.eval["precision"]  # [overlaps, recalls, categories, sizes, limits]
    result = dict(zip(_NAMES, figures, strict=True))
    for number, name in enumerate(names):
        values = precision[:, :, number, 0, -1]
        values = values[values > -1]
        result[f"AP-{name}"] = 100 * float(np.mean(values)) if values.size else float("nan")
    return result


def _loaded(reference: Any, results: list[dict[str, Any]]) -> Any:
    reference.dataset.setdefault("info", {})  # pycocotools copies it
    return reference.loadRes(results)
