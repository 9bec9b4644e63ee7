"""Scores of Cityscapes: IoU of classes and groups of classes, and average precision of instances.

They follow cityscapesscripts 2.3.0 (evalPixelLevelSemanticLabeling, evalInstanceLevelSemanticLabeling), with distances
absent. Classes are named by the label ids of the data set, which the panoptic file lists.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

OVERLAPS = np.arange(0.5, 1.0, 0.05)
LEAST_PIXELS = 100  # smaller true instances are ignored
_FIRST_INSTANCE = 1000  # lower ids of the instance images are groups, or classes without instances
_LABELS = 256

# Mean size of an instance in pixels, by which iIoU weights instances. Constants of cityscapesscripts.
AVERAGE_SIZES = {
    "person": 3462.4756337644,
    "rider": 3930.4788056518,
    "car": 12794.0202738185,
    "truck": 27855.1264367816,
    "bus": 35732.1511111111,
    "train": 67583.7075812274,
    "motorcycle": 6298.7200839748,
    "bicycle": 4672.3249222261,
}


@dataclass(frozen=True)
class Label:
    """A class that is evaluated.

    Attributes:
        id: Its label id.
        name: Its name.
        group: The name of its group of classes, such as "vehicle"; "" for none.
        instances: Whether it has instances.
    """

    id: int
    name: str
    group: str
    instances: bool


@dataclass(frozen=True)
class PixelCounts:
    """Counts of one image or of several, from which all IoU figures follow.

    Attributes:
        confusion: int64 [256, 256], pixels by true and by predicted label id.
        weighted: float64 [labels, 4]: weighted right and missed pixels of the instances of each label, then the same
            with all labels of its group right.
    """

    confusion: np.ndarray
    weighted: np.ndarray

    def __add__(self, other: PixelCounts) -> PixelCounts:
        return PixelCounts(self.confusion + other.confusion, self.weighted + other.weighted)


def pixel_counts(true: np.ndarray, found: np.ndarray, instances: np.ndarray, labels: Sequence[Label]) -> PixelCounts:
    """Return the counts of one image, from label ids (true, found) and instance ids, integers [H, W]."""
    confusion = np.bincount(true.astype(np.int64).reshape(-1) * _LABELS + found.reshape(-1), minlength=_LABELS**2)
    weighted = np.zeros((len(labels), 4))
    row_of = {label.id: row for row, label in enumerate(labels)}
    for instance in np.unique(instances[instances > _FIRST_INSTANCE]).tolist():
        row = row_of.get(instance // _FIRST_INSTANCE)
        if row is None or not labels[row].instances:
            continue
        inside = found[instances == instance]
        weight = AVERAGE_SIZES[labels[row].name] / len(inside)
        group = [label.id for label in labels if label.group == labels[row].group]
        right, in_group = int((inside == labels[row].id).sum()), int(np.isin(inside, group).sum())
        parts = np.array([right, len(inside) - right, in_group, len(inside) - in_group], np.float64)
        weighted[row] += parts * weight
    return PixelCounts(confusion.reshape(_LABELS, _LABELS), weighted)


def pixel_totals(counts: PixelCounts, labels: Sequence[Label]) -> dict[str, float]:
    """Return IoU and iIoU of classes and of groups, means in percent, and the IoU of each class.

    A class that was found but is absent from the truth counts as 0.
    """
    matrix, evaluated = counts.confusion, [label.id for label in labels]
    classes, instance_classes, groups, instance_groups = {}, {}, {}, {}
    for row, label in enumerate(labels):
        others = [one for one in evaluated if one != label.id]
        wrong = int(matrix[others, label.id].sum())
        right = int(matrix[label.id, label.id])
        classes[label.name] = _ratio(right, int(matrix[label.id].sum()) + wrong)
        if label.instances:
            hit, missed = counts.weighted[row, :2]
            instance_classes[label.name] = _ratio(hit, hit + missed + wrong)
    for name in dict.fromkeys(label.group for label in labels if label.group):
        own = [label.id for label in labels if label.group == name]
        others = [one for one in evaluated if one not in own]
        wrong = int(matrix[np.ix_(others, own)].sum())
        groups[name] = _ratio(int(matrix[np.ix_(own, own)].sum()), int(matrix[own].sum()) + wrong)
        rows = [row for row, label in enumerate(labels) if label.group == name]
        if all(labels[row].instances for row in rows):
            hit, missed = (float(sum(column)) for column in counts.weighted[rows, 2:].T)
            instance_groups[name] = _ratio(hit, hit + missed + wrong)
    averages = {"IoU": classes, "iIoU": instance_classes, "IoU_sup": groups, "iIoU_sup": instance_groups}
    result = {name: 100 * _mean(list(own.values())) for name, own in averages.items()}
    return result | {f"IoU-{name}": 100 * value for name, value in classes.items()}


@dataclass(frozen=True)
class InstanceMatches:
    """Instances of one image and one class, true and predicted, with their overlaps.

    Attributes:
        true_ids, true_sizes: Integers [T], instance ids (below 1000: a group) and pixels.
        scores: float64 [P].
        sizes: Integers [P], pixels of each prediction.
        void: Integers [P], its pixels on ignored labels.
        shared: Integers [T, P], common pixels.
    """

    true_ids: np.ndarray
    true_sizes: np.ndarray
    scores: np.ndarray
    sizes: np.ndarray
    void: np.ndarray
    shared: np.ndarray


def match_instances(
    instances: np.ndarray, masks: np.ndarray, found: Sequence[tuple[int, int, float]], labels: Sequence[Label]
) -> dict[str, InstanceMatches]:
    """Return the matches of each class with instances, by its name.

    Args:
        instances: Instance ids, integers [H, W].
        masks: bool [M, H, W].
        found: Index of the mask, label id and score of each prediction. A prediction without pixels is left out.
        labels: The classes.
    """
    evaluated = {label.id for label in labels}
    ids, inverse, sizes = np.unique(instances, return_inverse=True, return_counts=True)
    of_label = np.where(ids < _FIRST_INSTANCE, ids, ids // _FIRST_INSTANCE)
    # As in cityscapesscripts, whose void is judged by the instance id itself: true instances are never void.
    void_ids = np.array([one < _FIRST_INSTANCE and one not in evaluated for one in ids.tolist()], bool)
    flat = inverse.reshape(-1)
    counts = [np.bincount(flat[mask.reshape(-1)], minlength=len(ids)) for mask in masks]
    shared = np.stack(counts, axis=1) if counts else np.zeros((len(ids), 0), np.int64)
    result = {}
    for label in labels:
        if not label.instances:
            continue
        rows = np.flatnonzero(of_label == label.id)
        own = [one for one in found if one[1] == label.id and one[0] < len(masks) and shared[:, one[0]].any()]
        columns = [query for query, _, _ in own]
        overlap = shared[:, columns]
        result[label.name] = InstanceMatches(
            ids[rows],
            sizes[rows],
            np.array([score for _, _, score in own], np.float64),
            overlap.sum(axis=0),
            overlap[void_ids].sum(axis=0),
            overlap[rows],
        )
    return result


def average_precision(images: Collection[InstanceMatches], overlap: float) -> float:
    """Return the average precision of one class at one least overlap, 0 to 1; NaN without a true instance.

    True instances below `LEAST_PIXELS` and groups are not searched, and predictions that lie on them or on the void by
    more than ``overlap`` are ignored.
    """
    right: list[float] = []
    scores: list[float] = []
    missed = 0
    any_true = any_found = False
    for one in images:
        counted = (one.true_ids >= _FIRST_INSTANCE) & (one.true_sizes >= LEAST_PIXELS)
        any_true |= bool(counted.any())
        any_found |= bool(len(one.scores))
        union = one.true_sizes[:, None] + one.sizes[None] - one.shared
        hit = (one.shared > 0) & (one.shared / np.maximum(union, 1) > overlap)
        for row in np.flatnonzero(counted):
            own = sorted(one.scores[hit[row]].tolist(), reverse=True)
            missed += not own
            # The best prediction is right, further ones of the same instance are wrong.
            right += [1.0, *[0.0] * (len(own) - 1)] if own else []
            scores += own
        unlisted = (one.true_ids < _FIRST_INSTANCE).astype(int) + (one.true_sizes < LEAST_PIXELS)
        ignored = one.void + (one.shared * unlisted[:, None]).sum(axis=0)
        wrong = ~hit.any(axis=0) & (ignored / np.maximum(one.sizes, 1) <= overlap)
        right += [0.0] * int(wrong.sum())
        scores += one.scores[wrong].tolist()
    if not any_true:
        return float("nan")
    if not any_found:
        return 0.0
    return _area(np.array(right), np.array(scores), missed)


def instance_totals(images: Sequence[Mapping[str, InstanceMatches]]) -> dict[str, float]:
    """Return AP (mean over overlaps of 0.5 to 0.95) and AP50 of all classes in percent, and the AP of each class.

    Classes without a true instance are left out.
    """
    names, table = _precisions(images)
    of_class = {f"AP-{name}": 100 * float(row.mean()) for name, row in zip(names, table, strict=True)}
    return {"AP": 100 * _mean(table.reshape(-1).tolist()), "AP50": 100 * _mean(table[:, 0].tolist()), **of_class}


def mean_ap(images: Sequence[Mapping[str, InstanceMatches]]) -> float:
    """Return the AP of `instance_totals` alone."""
    return 100 * _mean(_precisions(images)[1].reshape(-1).tolist())


def _precisions(images: Sequence[Mapping[str, InstanceMatches]]) -> tuple[list[str], np.ndarray]:
    """Return the names of the classes and their average precisions, float64 [classes, overlaps]."""
    names = list(images[0]) if images else []
    table = [[average_precision([one[name] for one in images], t) for t in OVERLAPS] for name in names]
    return names, np.array(table).reshape(-1, len(OVERLAPS))


def _area(right: np.ndarray, scores: np.ndarray, missed: int) -> float:
    """Return the area below the precision-recall curve, by steps of twice the distance between neighbors.

    Args:
        right: float64 [n], 1 for right and 0 for wrong predictions.
        scores: float64 [n].
        missed: Number of true instances without a prediction.
    """
    if not len(scores):
        return 0.0
    order = np.argsort(scores)
    # Right predictions below each position; at each distinct score one point of the curve.
    below = np.concatenate([[0.0], np.cumsum(right[order])])
    _, first = np.unique(scores[order], return_index=True)
    tp = below[-1] - below[first]
    fp = len(scores) - first - tp
    precision = np.append(tp / (tp + fp), 1.0)
    recall = np.append(tp / np.maximum(below[-1] + missed, 1e-300), 0.0)
    padded = np.concatenate([[recall[0]], recall, [0.0]])
    return float(np.dot(precision, np.convolve(padded, [-0.5, 0, 0.5], "valid")))


def _ratio(part: float, whole: float) -> float:
    return float(part) / whole if whole else float("nan")


def _mean(values: Sequence[float]) -> float:
    valid = [value for value in values if not np.isnan(value)]
    return float(np.mean(valid)) if valid else float("nan")
