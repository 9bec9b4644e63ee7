"""Panoptic quality (arXiv 1801.00868) as panopticapi computes it, commit 7bb4655."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_IOU, _TP, _FP, _FN = range(4)
_VOID = 0


def image_counts(
    true: np.ndarray,
    true_segments: Sequence[Mapping[str, Any]],
    found: np.ndarray,
    found_segments: Sequence[Mapping[str, Any]],
    rows: Mapping[int, int],
) -> np.ndarray:
    """Return the counts of one image, float64 [categories, 4]: sum of IoU, true and false positives, false negatives.

    The area of a true segment is that of the file, as in panopticapi, and not the number of its pixels: they differ
    where instances were pasted over it.

    Args:
        true: Segment ids, integers [H, W], 0 for void.
        true_segments: `id`, `category_id`, `area` and `iscrowd` of each.
        found: Predicted segment ids, integers [H, W].
        found_segments: `id` and `category_id` of each.
        rows: Row of each category.
    """
    counts = np.zeros((len(rows), 4))
    truth = {int(one["id"]): one for one in true_segments}
    categories = {int(one["id"]): int(one["category_id"]) for one in found_segments}
    ids, sizes = np.unique(found, return_counts=True)
    areas = dict(zip(ids.tolist(), sizes.tolist(), strict=True))
    pairs, overlaps = np.unique(np.stack([true.reshape(-1), found.reshape(-1)]), axis=1, return_counts=True)
    overlap = {(int(t), int(f)): int(n) for t, f, n in zip(*pairs.tolist(), overlaps.tolist(), strict=True)}
    matched_true, matched_found = set(), set()
    for (of_true, of_found), shared in overlap.items():
        if of_true not in truth or of_found not in categories:
            continue
        segment = truth[of_true]
        category = int(segment["category_id"])
        if segment["iscrowd"] == 1 or category != categories[of_found]:
            continue
        union = areas[of_found] + segment["area"] - shared - overlap.get((_VOID, of_found), 0)
        iou = shared / union
        if iou > 0.5:
            counts[rows[category], [_IOU, _TP]] += (iou, 1)
            matched_true.add(of_true)
            matched_found.add(of_found)
    crowds: dict[int, int] = {}
    for one, segment in truth.items():
        if one in matched_true:
            continue
        if segment["iscrowd"] == 1:
            crowds[int(segment["category_id"])] = one
        else:
            counts[rows[int(segment["category_id"])], _FN] += 1
    for one, category in categories.items():
        if one in matched_found:
            continue
        ignored = overlap.get((_VOID, one), 0)
        if category in crowds:
            ignored += overlap.get((crowds[category], one), 0)
        if ignored / areas[one] <= 0.5:
            counts[rows[category], _FP] += 1
    return counts


def per_category(counts: np.ndarray) -> np.ndarray:
    """Return PQ, SQ and RQ of each category, float64 [categories, 3]; 0 for categories that do not occur.

    ``counts``: the sum of `image_counts`. SQ is 0 without a true positive.
    """
    iou, tp, fp, fn = counts.T
    whole = tp + 0.5 * fp + 0.5 * fn
    with np.errstate(invalid="ignore", divide="ignore"):
        parts = [np.where(whole > 0, iou / whole, 0), np.where(tp > 0, iou / tp, 0), np.where(whole > 0, tp / whole, 0)]
    return np.stack(parts, axis=1)


def averages(counts: np.ndarray, among: np.ndarray) -> dict[str, float]:
    """Return pq, sq and rq, means over the categories that occur in truth or prediction, and their number n.

    ``among``: which categories count, bool [categories]. NaN if none occurs.
    """
    occurs = among & (counts[:, 1:].sum(axis=1) > 0)
    values = per_category(counts)[occurs]
    # Python's sum in the order of the categories, as in panopticapi.
    means = [sum(column) / len(values) if len(values) else float("nan") for column in values.T.tolist()]
    return {**dict(zip(("pq", "sq", "rq"), means, strict=True)), "n": int(occurs.sum())}
