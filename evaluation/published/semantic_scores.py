"""Semantic segmentation: mIoU and pixel accuracy as detectron2's SemSegEvaluator computes them (commit e70b922)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def image_counts(true: np.ndarray, found: np.ndarray, classes: int, ignored: int = 255) -> np.ndarray:
    """Return for each class the pixels that are right, true and found, int64 [classes, 3], of one image.

    Pixels whose true label is ``ignored`` count nowhere. Labels are integers [H, W].
    """
    valid = true != ignored
    true, found = true[valid], found[valid]
    right = np.bincount(true[true == found], minlength=classes)
    return np.stack([right, np.bincount(true, minlength=classes), np.bincount(found, minlength=classes)], axis=1)


def totals(counts: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    """Return the figures in percent of summed `image_counts`.

    Classes that are absent from the truth are left out of mIoU, also if they were found. Figures of such classes are
    NaN.
    """
    right, true, found = counts.astype(np.float64).T
    union = true + found - right
    occurs = true > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        iou = np.where(occurs & (union > 0), right / union, np.nan)
        accuracy = np.where(occurs, right / true, np.nan)
        weights = true / true.sum()
        pixel = right.sum() / true.sum()
    result = {
        "mIoU": 100 * _mean(iou),
        "fwIoU": 100 * float(np.nansum(iou * weights)),
        "mACC": 100 * _mean(accuracy),
        "pACC": 100 * float(pixel),
    }
    result |= {f"IoU-{name}": 100 * float(value) for name, value in zip(names, iou, strict=True)}
    return result | {f"ACC-{name}": 100 * float(value) for name, value in zip(names, accuracy, strict=True)}


def _mean(values: np.ndarray) -> float:
    valid = values[~np.isnan(values)]
    return float(np.sum(valid) / len(valid)) if len(valid) else float("nan")
