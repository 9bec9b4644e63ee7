"""From answers about ground-truth masks to semantic, panoptic and instance predictions over a list of classes.

Source: osprey/eval/eval_open_vocab_seg_detectron2.py of CircleRadon/Osprey, commit deb0e57, which follows FC-CLIP.
Probabilities are float32 in PyTorch, as there, because average precision depends on the order of nearly equal scores.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from osprey_ros.errors import InputError
from osprey_ros.file_errors import read_text

QUERIES = 300  # masks of an image that are used
BEST_PAIRS = 100  # pairs of mask and class of an image that are instances
TEMPLATE = "There is a {} in the scene."
_INVALID = "invalid_class_id"
_COVERED = 0.8  # least visible share of a panoptic segment


@dataclass(frozen=True)
class ClassList:
    """Classes in the order of their contiguous ids, each with its synonyms.

    Attributes:
        names: The whole line of each class, such as "bicycle,bike".
    """

    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def synonyms(self) -> list[list[str]]:
        """Return the synonyms of each class, as they are written."""
        return [name.replace(", ", ",").split(",") for name in self.names]

    def texts(self) -> tuple[list[str], list[int]]:
        """Return the sentences of all synonyms, and how many each class has."""
        synonyms = self.synonyms()
        return [TEMPLATE.format(word) for own in synonyms for word in own], [len(own) for own in synonyms]


def read_classes(file: Path, count: int, first: int) -> ClassList:
    """Read lines "id:name,synonym,..." with the ids ``first``, ``first`` + 1 and so on.

    A line of `invalid_class_id` is not a class. Raises InputError for other ids or another number of classes.
    """
    names: list[str] = []
    for number, line in enumerate(read_text(file, InputError, "give the list of classes with --classes").splitlines()):
        parts = line.split(":")
        if len(parts) != 2 or not parts[0].strip().isdecimal():
            raise InputError(f"{file}, line {number + 1}: {line!r} is not `id:name,synonym,...`; correct it")
        if parts[1] == _INVALID:
            continue
        if int(parts[0]) != first + len(names):
            raise InputError(f"{file}, line {number + 1}: the id is {parts[0]}, it must be {first + len(names)}")
        names.append(parts[1])
    if len(names) != count:
        raise InputError(f"{file} has {len(names)} classes, the data set has {count}; give the list of this data set")
    return ClassList(tuple(names))


@dataclass(frozen=True)
class Predictions:
    """What the answers about an image predict.

    Attributes:
        labels: Class of each asked mask, integers [asked].
        semantic: Class of each pixel, int64 [H, W]; 0 where no mask is.
        panoptic: Segment of each pixel, int32 [H, W], 0 for none.
        segments: Id, class and whether it is a thing, of each panoptic segment.
        instances: Query, class and score of each instance, in the order of PyTorch's topk.
        masks: bool [queries with a mask, H, W].
    """

    labels: np.ndarray
    semantic: np.ndarray
    panoptic: np.ndarray
    segments: Sequence[dict[str, Any]]
    instances: Sequence[tuple[int, int, float]]
    masks: np.ndarray


def mask_ids(ids: np.ndarray) -> np.ndarray:
    """Return the segment ids whose masks are used, in rising order; 0, the void, is not one but counts in the limit."""
    unique: np.ndarray = np.unique(ids)[:QUERIES]
    used: np.ndarray = unique[unique != 0]
    return used


def best_of_synonyms(cosines: np.ndarray, counts: Sequence[int]) -> np.ndarray:
    """Return the highest of the synonyms of each class, float32 [n, classes], of float32 [n, texts]."""
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.intp)
    result: np.ndarray = np.maximum.reduceat(cosines, starts, axis=1)
    return result


def predict(ids: np.ndarray, scores: np.ndarray, things: Collection[int]) -> Predictions:
    """Return the predictions of one image.

    Args:
        ids: Segment ids, integers [H, W], 0 for void.
        scores: float32 [asked, classes], such as cosines, of the first masks in rising order of their ids. Masks that
            were not asked about get 0 for every class, so that the first class wins.
        things: Contiguous ids of the classes that have instances.
    """
    used = mask_ids(ids)
    classes = scores.shape[1]
    probabilities = _probabilities(scores, len(used))
    best, labels = probabilities.max(-1)
    row_of = np.full(ids.shape, -1, np.int64)
    order = np.searchsorted(used, ids)
    inside = np.isin(ids, used)
    row_of[inside] = order[inside]
    # Masks do not overlap, so each pixel has the probabilities of its own mask.
    of_query = probabilities[:, :-1].argmax(-1).numpy()
    semantic = np.where(row_of >= 0, of_query[np.maximum(row_of, 0)], 0)
    kept = [row for row in range(len(used)) if int(labels[row]) != classes and float(best[row]) > 0]
    panoptic, segments = _panoptic(row_of, kept, labels.numpy(), things)
    masks = ids[None] == used[:, None, None]
    pairs, found = probabilities[:, :-1].flatten().topk(BEST_PAIRS, sorted=False)
    queries, named = (found // classes).tolist(), (found % classes).tolist()
    quality = _mask_scores(masks, queries)
    instances = [
        (query, label, float(pair * quality[query]))
        for query, label, pair in zip(queries, named, pairs, strict=True)
        if label in things
    ]
    asked = labels[: len(scores)].numpy()
    return Predictions(asked, semantic, panoptic, segments, instances, masks)


def _probabilities(scores: np.ndarray, masks: int) -> Any:
    """Return the probabilities of each query, float32 tensor [QUERIES, classes + 1], void last."""
    import torch

    asked, classes = scores.shape
    rows = torch.zeros(QUERIES, classes)
    rows[:asked] = torch.from_numpy(np.ascontiguousarray(scores, np.float32))
    void = torch.ones(QUERIES, 1)
    void[:masks] = 0
    joined = torch.cat([rows.softmax(-1) * (1.0 - void), void], dim=-1)
    return torch.log(joined + 1e-8).softmax(-1)


def _panoptic(
    row_of: np.ndarray, kept: Sequence[int], labels: np.ndarray, things: Collection[int]
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Return the panoptic segments: things as they are, stuff of one class as one segment."""
    panoptic = np.zeros(row_of.shape, np.int32)
    segments: list[dict[str, Any]] = []
    stuff: dict[int, int] = {}
    for row in kept:
        mask = row_of == row
        # The argmax of the published code gives pixels without a mask to the first query, which changes nothing here.
        if not mask.any():
            continue
        label = int(labels[row])
        if label not in things and label in stuff:
            panoptic[mask] = stuff[label]
            continue
        number = len(segments) + 1
        if label not in things:
            stuff[label] = number
        panoptic[mask] = number
        segments.append({"id": number, "isthing": label in things, "category_id": label})
    return panoptic, segments


def _mask_scores(masks: np.ndarray, queries: Sequence[int]) -> dict[int, Any]:
    """Return the mean sigmoid of the pixels of each query's mask, float32; 0 for a query without a mask."""
    import torch

    result: dict[int, Any] = {}
    for query in set(queries):
        pixels = masks[query] if query < len(masks) else np.zeros(masks.shape[1:], bool)
        mask = torch.from_numpy(pixels.astype(np.float32)).flatten()[None]
        result[query] = ((mask.sigmoid() * (mask > 0).float()).sum(1) / ((mask > 0).float().sum(1) + 1e-6))[0]
    return result
