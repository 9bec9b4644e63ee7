"""Average precision of instances in COCO's way, by pycocotools, named as detectron2's evaluator names it."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Mapping, Sequence
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
    if not found:
        return dict.fromkeys(_NAMES, float("nan"))
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = _evaluation(truth, found, images, kind)
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


def resampled_ap(
    truth: Mapping[str, Any], found: Sequence[dict[str, Any]], images: Sequence[Any]
) -> Callable[[np.ndarray], float]:
    """Return a function from rows of ``images``, which may repeat, to their mask AP in percent; NaN without instances.

    Arguments are those of `instance_totals`. Images are matched once; a row only changes how often one counts.
    """
    if not found:
        return lambda rows: float("nan")
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = _evaluation(truth, found, images, "segm")
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.params.maxDets = [100]
        evaluation.evaluate()
    # COCO evaluates images in the order of their sorted ids, category by category.
    matched = evaluation.evalImgs
    place = {image: number for number, image in enumerate(evaluation.params.imgIds)}
    count, order = len(place), [place[image] for image in images]

    def compute(rows: np.ndarray) -> float:
        chosen = [order[row] for row in rows]
        evaluation.evalImgs = [matched[start + one] for start in range(0, len(matched), count) for one in chosen]
        for params in (evaluation.params, evaluation._paramsEval):
            params.imgIds = list(range(len(chosen)))
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation.accumulate()
        precision = evaluation.eval["precision"]
        values = precision[precision > -1]
        return 100 * float(np.mean(values)) if values.size else float("nan")

    return compute


def _evaluation(truth: Mapping[str, Any], found: Sequence[dict[str, Any]], images: Sequence[Any], kind: str) -> Any:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    # Areas are those of the masks for "segm", of the boxes otherwise, as detectron2 has it.
    results = [{k: v for k, v in one.items() if k != "bbox" or kind == "bbox"} for one in found]
    reference = COCO()
    reference.dataset = {"info": {}, **truth}  # pycocotools copies the info
    reference.createIndex()
    evaluation = COCOeval(reference, reference.loadRes(results), kind)
    evaluation.params.imgIds = list(images)
    return evaluation
