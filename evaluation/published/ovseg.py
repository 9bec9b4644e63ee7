"""Open-vocabulary segmentation: score answers about ground-truth masks as panoptic, semantic and instance predictions.

The answer about each mask is compared with a sentence of every class, or the likelihood of each class is given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_masks

from evaluation.published import cityscapes_scores, instance_scores, panoptic_quality, semantic_scores
from evaluation.published.answers import Answers
from evaluation.published.cityscapes_scores import InstanceMatches, PixelCounts
from evaluation.published.items import Item, Measure, Scored
from evaluation.published.open_vocabulary import Predictions, best_of_synonyms, mask_ids, predict
from evaluation.published.segmentation_data import PanopticData, PanopticImage, PngMask, label_map, panoptic_ids
from evaluation.published.sentences import SentenceEncoder
from evaluation.published.texts import prompt_text, stripped
from osprey_ros.errors import ImageError

_PARTS = (("All", ""), ("Things", "_th"), ("Stuff", "_st"))


def sentence_scores(data: PanopticData, answers: Answers, encoder: SentenceEncoder) -> dict[str, np.ndarray]:
    """Return the similarity of each answer and each class, float32 [classes], by the id of the item.

    It is the highest of the class's synonyms. Answers are not cleaned but for white space and the end marker.
    """
    texts, counts = data.classes.texts()
    table = encoder.encode(texts).T
    result = {}
    for one, answer in answers.texts.items():
        text = answer if answers.stored else stripped(answer)
        result[one] = best_of_synonyms(encoder.encode([text]) @ table, counts)[0]
    return result


class SegmentationScorer:
    """Adds up the scores of images.

    Args:
        data: The data set.
    """

    def __init__(self, data: PanopticData) -> None:
        self._data = data
        self._rows = {category: row for row, category in enumerate(data.categories)}
        self.images: list[PanopticImage] = []
        self.items: dict[str, dict[str, Any]] = {}
        self.arrays: dict[str, np.ndarray] = {}
        self.right: dict[str, float] = {}
        self._panoptic: list[np.ndarray] = []
        self._semantic: list[np.ndarray] = []
        self._pixels: list[PixelCounts] = []
        self._matches: list[Mapping[str, InstanceMatches]] = []
        self._found: list[dict[str, Any]] = []

    def add(self, image: PanopticImage, items: Sequence[Item], scores: np.ndarray) -> None:
        """Add an image.

        Args:
            image: The image.
            items: Its items, in the order of asking.
            scores: float32 [items, classes].

        Raises ImageError for files that cannot be read or do not belong together.
        """
        data, ids = self._data, panoptic_ids(image.panoptic)
        predictions = predict(ids, scores, data.things)
        segments = [
            {"id": one["id"], "category_id": data.categories[one["category_id"]]} for one in predictions.segments
        ]
        counts = panoptic_quality.image_counts(ids, image.segments, predictions.panoptic, segments, self._rows)
        self._add_pixels(image, predictions)
        self._panoptic.append(counts)
        self.images.append(image)
        used = mask_ids(ids).tolist()
        truth = {int(one["id"]): self._rows[int(one["category_id"])] for one in image.segments}
        for item, label in zip(items, predictions.labels.tolist(), strict=True):
            assert isinstance(item.mask, PngMask)
            if item.mask.id in truth:
                self.right[item.id] = float(truth[item.mask.id] == label)
        self.items[image.name] = {
            "segment_ids": used,
            "asked": len(items),
            "mask_pixels": [int(mask.sum()) for mask in predictions.masks[: len(items)]],
            "label": predictions.labels,
            "best_cosine": scores.max(axis=1),
            "panoptic_segments_info": predictions.segments,
            "instances": sorted(
                (
                    [used[query] if query < len(used) else None, label, score]
                    for query, label, score in predictions.instances
                ),
                key=lambda one: -one[2],
            ),
            "n_instances": len(predictions.instances),
            "prompt": prompt_text(items[0].question, items[0].opening) if items else "",
        }
        stem = image.image.stem
        self.arrays |= {
            f"{stem}__sim": scores,
            f"{stem}__sem": predictions.semantic.astype(np.uint8),
            f"{stem}__pan": predictions.panoptic,
        }

    def _add_pixels(self, image: PanopticImage, predictions: Predictions) -> None:
        """Add the semantic and the instance scores of an image."""
        data, true = self._data, label_map(image.semantic)
        if true.shape != predictions.semantic.shape:
            raise ImageError(f"{image.semantic} has another size than {image.panoptic}; prepare the data set again")
        if data.labels:
            assert image.instances is not None
            instances = label_map(image.instances)
            categories = np.array(data.categories)
            self._pixels.append(
                cityscapes_scores.pixel_counts(true, categories[predictions.semantic], instances, data.labels)
            )
            found = [(query, data.categories[label], score) for query, label, score in predictions.instances]
            self._matches.append(cityscapes_scores.match_instances(instances, predictions.masks, found, data.labels))
            return
        classes = len(data.classes)
        wrong = true[(true >= classes) & (true != 255)]
        if wrong.size:
            raise ImageError(f"{image.semantic} has the label {wrong[0]}, there are {classes} classes and 255")
        self._semantic.append(semantic_scores.image_counts(true, predictions.semantic, classes))
        encoded = [_run_lengths(mask) for mask in predictions.masks]
        empty = _run_lengths(np.zeros(true.shape, bool))
        self._found += [
            {
                "image_id": image.id,
                "category_id": data.categories[label],
                "bbox": [0.0, 0.0, 0.0, 0.0],
                "score": score,
                "segmentation": encoded[query] if query < len(encoded) else empty,
            }
            for query, label, score in predictions.instances
        ]

    def scored(self) -> Scored:
        """Return the scores of all added images."""
        data = self._data
        counts = np.stack(self._panoptic) if self._panoptic else np.zeros((0, len(self._rows), 4))
        things = np.array([row in data.things for row in range(len(self._rows))])
        among = {"All": np.ones(len(things), bool), "Things": things, "Stuff": ~things}
        summed = counts.sum(axis=0)
        quality = {name: panoptic_quality.averages(summed, chosen) for name, chosen in among.items()}
        per_class = panoptic_quality.per_category(summed).tolist()
        totals: dict[str, Any] = {
            "panoptic_seg": {
                f"{key.upper()}{suffix}": 100 * quality[name][key]
                for name, suffix in _PARTS
                for key in ("pq", "sq", "rq")
            }
        }
        names = [str(image.image) for image in self.images]

        def quality_of(key: str) -> Callable[[np.ndarray], float]:
            return lambda rows: 100 * panoptic_quality.averages(counts[rows].sum(axis=0), among["All"])[key]

        measures = [Measure(key.upper(), names, quality_of(key)) for key in ("pq", "sq", "rq")]
        if data.labels:
            self._add_cityscapes(totals, measures, names)
        else:
            self._add_ade(totals, measures, names)
        ids = list(self.right)
        accuracy = np.array([self.right[one] for one in ids]) * 100
        image_of = {item.id: str(item.image) for item in data.items}
        measures.append(Measure("accuracy", [image_of[one] for one in ids], _mean_of(accuracy), ids, accuracy))
        totals["accuracy"] = float(accuracy.mean()) if len(accuracy) else float("nan")
        semantic = totals["sem_seg"]
        shown = {
            **{name: totals["panoptic_seg"][name] for name in ("PQ", "SQ", "RQ", "PQ_th", "PQ_st")},
            "mIoU": semantic["IoU" if data.labels else "mIoU"],
            "AP": totals["segm"]["AP"],
            "accuracy": totals["accuracy"],
        }
        extra = {
            "pq": quality,
            "pq_per_class": {
                str(category): dict(zip(("pq", "sq", "rq"), row, strict=True))
                for category, row in zip(data.categories, per_class, strict=True)
            },
            "class_texts": data.classes.texts()[0],
            "num_texts_a_class": data.classes.texts()[1],
            "thing_contiguous_ids": sorted(data.things),
            "contiguous_to_dataset": {str(row): category for row, category in enumerate(data.categories)},
        }
        return Scored(self.items, totals, shown, measures, self.right, extra, self.arrays)

    def _add_cityscapes(self, totals: dict[str, Any], measures: list[Measure], names: list[str]) -> None:
        labels, pixels = self._data.labels, self._pixels
        zero = PixelCounts(np.zeros((256, 256), np.int64), np.zeros((len(labels), 4)))
        totals["sem_seg"] = cityscapes_scores.pixel_totals(sum(pixels, zero), labels)
        totals["segm"] = cityscapes_scores.instance_totals(self._matches)

        def iou(rows: np.ndarray) -> float:
            return cityscapes_scores.pixel_totals(sum((pixels[row] for row in rows), zero), labels)["IoU"]

        def ap(rows: np.ndarray) -> float:
            return cityscapes_scores.mean_ap([self._matches[row] for row in rows])

        measures += [Measure("mIoU", names, iou), Measure("AP", names, ap)]

    def _add_ade(self, totals: dict[str, Any], measures: list[Measure], names: list[str]) -> None:
        classes, data = self._data.classes, self._data
        counts = np.stack(self._semantic) if self._semantic else np.zeros((0, len(classes), 3), np.int64)
        totals["sem_seg"] = semantic_scores.totals(counts.sum(axis=0), classes.names)
        assert data.instances is not None
        categories = sorted(int(one["id"]) for one in data.instances["categories"])
        ids, shown = [image.id for image in self.images], [classes.names[self._rows[one]] for one in categories]
        for kind in ("bbox", "segm"):
            totals[kind] = instance_scores.instance_totals(data.instances, self._found, ids, shown, kind)

        def iou(rows: np.ndarray) -> float:
            return semantic_scores.totals(counts[rows].sum(axis=0), classes.names)["mIoU"]

        ap = instance_scores.resampled_ap(data.instances, self._found, ids)
        measures += [Measure("mIoU", names, iou), Measure("AP", names, ap)]


def score(data: PanopticData, scores: Mapping[str, np.ndarray], left_out: Callable[[str, str], None]) -> Scored:
    """Return the scores of a data set.

    Args:
        data: The data set.
        scores: float32 [classes] of each item, by its id. Images with an item that has none are left out.
        left_out: Called with the image and the reason, for each image that is left out.
    """
    scorer = SegmentationScorer(data)
    own: dict[str, list[Item]] = {}
    for item in data.items:
        own.setdefault(item.id.rpartition("#")[0], []).append(item)
    for image in data.images:
        items = own.get(image.name, [])
        if any(item.id not in scores for item in items):
            left_out(image.name, "an answer about the image is missing")
            continue
        table = [scores[item.id] for item in items]
        stacked = np.stack(table) if table else np.zeros((0, len(data.classes)), np.float32)
        try:
            scorer.add(image, items, stacked)
        except ImageError as error:
            left_out(image.name, str(error))
    return scorer.scored()


def _run_lengths(mask: np.ndarray) -> dict[str, Any]:
    encoded: dict[str, Any] = coco_masks.encode(np.asfortranarray(mask, np.uint8))
    return encoded


def _mean_of(values: np.ndarray) -> Callable[[np.ndarray], float]:
    return lambda rows: float(values[rows].mean()) if len(rows) else np.nan
