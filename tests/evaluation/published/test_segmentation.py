"""Open-vocabulary segmentation: scores by hand, and both layouts on small made-up folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from published_files import IDS, segment, write_ade, write_panoptic, write_png
from pycocotools import mask as coco_masks

from evaluation.published import cityscapes_scores, instance_scores, panoptic_quality, semantic_scores
from evaluation.published.cityscapes_scores import InstanceMatches, Label
from evaluation.published.open_vocabulary import best_of_synonyms, mask_ids, predict, read_classes
from evaluation.published.ovseg import score
from evaluation.published.segmentation_data import PanopticData, read_ade, read_cityscapes
from osprey_ros.errors import InputError
from osprey_torch.readers.records import Skipped


def test_panoptic_quality_by_hand() -> None:
    true = np.array([[1, 1, 1, 1], [2, 2, 3, 3], [0, 0, 3, 3]])
    found = np.array([[1, 1, 1, 2], [2, 2, 3, 3], [3, 3, 3, 3]])
    # Segment 1: 3 of 4 pixels. Segment 2: 2 of 3 found. Segment 3: the found one has 2 void pixels, which do not count.
    segments = [segment(1, 5, 4), segment(2, 6, 2), segment(3, 7, 4)]
    said = [{"id": 1, "category_id": 5}, {"id": 2, "category_id": 6}, {"id": 3, "category_id": 5}]
    rows = {5: 0, 6: 1, 7: 2}
    counts = panoptic_quality.image_counts(true, segments, found, said, rows)
    assert counts.tolist() == [[3 / 4, 1, 1, 0], [2 / 3, 1, 0, 0], [0, 0, 0, 1]]
    pq = panoptic_quality.averages(counts, np.ones(3, bool))
    assert pq["pq"] == pytest.approx((0.75 / 1.5 + 2 / 3 + 0) / 3, abs=1e-15)
    assert pq["sq"] == pytest.approx((0.75 + 2 / 3 + 0) / 3, abs=1e-15)  # a class without a match counts as 0
    assert pq["rq"] == pytest.approx((1 / 1.5 + 1 + 0) / 3, abs=1e-15)


def test_panoptic_quality_takes_the_area_of_the_file() -> None:
    true, found = np.array([[1, 1, 0, 0]]), np.array([[1, 1, 0, 0]])
    counts = panoptic_quality.image_counts(true, [segment(1, 0, 3)], found, [{"id": 1, "category_id": 0}], {0: 0})
    assert counts[0].tolist() == [2 / 3, 1, 0, 0]


def test_found_segments_on_a_crowd_are_ignored() -> None:
    true, found = np.array([[1, 1, 1, 2]]), np.array([[1, 1, 1, 1]])
    segments = [segment(1, 0, 3, crowd=1), segment(2, 1, 1)]
    counts = panoptic_quality.image_counts(true, segments, found, [{"id": 1, "category_id": 0}], {0: 0, 1: 1})
    assert counts.tolist() == [[0, 0, 0, 0], [0, 0, 0, 1]]


def test_semantic_scores_by_hand() -> None:
    true = np.array([[0, 0, 0, 1], [255, 255, 1, 1]])
    found = np.array([[0, 0, 2, 1], [0, 1, 0, 1]])
    totals = semantic_scores.totals(semantic_scores.image_counts(true, found, 3), ["a", "b", "c"])
    assert totals["IoU-a"] == pytest.approx(100 * 2 / 4)
    assert totals["IoU-b"] == pytest.approx(100 * 2 / 3)
    assert np.isnan(totals["IoU-c"])  # found, but absent from the truth
    assert totals["mIoU"] == pytest.approx(100 * (2 / 4 + 2 / 3) / 2)
    assert totals["pACC"] == pytest.approx(100 * 4 / 6)
    assert totals["mACC"] == pytest.approx(100 * 2 / 3)


_LABELS = (Label(7, "road", "flat", False), Label(8, "sidewalk", "flat", False), Label(26, "car", "vehicle", True))


def test_pixel_scores_of_cityscapes_by_hand() -> None:
    true = np.array([[7, 7, 26, 26], [0, 7, 26, 26]])
    found = np.array([[7, 8, 26, 26], [7, 7, 26, 7]])
    instances = np.array([[7, 7, 26001, 26001], [0, 7, 26001, 26001]])
    totals = cityscapes_scores.pixel_totals(cityscapes_scores.pixel_counts(true, found, instances, _LABELS), _LABELS)
    # road: 2 right, 1 missed, 1 wrong (on a car; the one on the void does not count); sidewalk is found but absent.
    assert totals["IoU-road"] == pytest.approx(100 * 2 / 4)
    assert totals["IoU-sidewalk"] == 0
    assert totals["IoU-car"] == pytest.approx(100 * 3 / 4)
    assert totals["IoU"] == pytest.approx(100 * (0.5 + 0 + 0.75) / 3)
    assert totals["IoU_sup"] == pytest.approx(100 * (3 / 4 + 3 / 4) / 2)
    assert totals["iIoU"] == pytest.approx(100 * 3 / 4)


def _matches(scores: list[float], shared: list[list[int]], ids: list[int], true_sizes: list[int]) -> InstanceMatches:
    table = np.array(shared).reshape(len(ids), len(scores))
    sizes = np.full(len(scores), 200)
    void = sizes - table.sum(axis=0)
    return InstanceMatches(np.array(ids), np.array(true_sizes), np.array(scores), sizes, void, table)


def test_average_precision_of_cityscapes_by_hand() -> None:
    # Two true instances: the first is found twice, the second is missed.
    one = _matches([0.9, 0.8], [[200, 190], [0, 0]], [26001, 26002], [200, 200])
    # Curve: score 0.9: precision 1, recall 1/2; score 0.8: 1/2 and 1/2. Steps are half the distance to both neighbors.
    assert cityscapes_scores.average_precision([one], 0.5) == pytest.approx(0.5 * 0 + 1 * 0.25 + 1 * 0.25)


def test_small_instances_and_groups_are_ignored() -> None:
    small = _matches([0.9], [[90]], [26001], [90])
    assert np.isnan(cityscapes_scores.average_precision([small], 0.5))
    group = _matches([0.9, 0.7], [[150, 0], [0, 200]], [26, 26001], [150, 200])
    assert cityscapes_scores.average_precision([group], 0.5) == 1.0
    absent = _matches([], [[]], [26001], [200])
    assert cityscapes_scores.average_precision([absent], 0.5) == 0.0


def test_masks_are_asked_in_rising_order_and_the_void_counts_in_the_limit() -> None:
    assert mask_ids(np.array([[9, 3], [0, 9]])).tolist() == [3, 9]
    many = np.arange(400).reshape(20, 20)
    assert mask_ids(many).tolist() == list(range(1, 300))
    assert mask_ids(many + 1).tolist() == list(range(1, 301))


def test_the_best_synonym_counts() -> None:
    cosines = np.array([[0.1, 0.9, 0.3, 0.2]], np.float32)
    assert best_of_synonyms(cosines, [2, 1, 1]).tolist() == np.array([[0.9, 0.3, 0.2]], np.float32).tolist()


def test_predictions_of_an_image() -> None:
    ids = np.array([[5, 5, 7, 7], [0, 9, 7, 7]])
    scores = np.array([[0.1, 0.8, 0.2], [0.0, 0.7, 0.1]], np.float32)  # the third mask is not asked about
    found = predict(ids, scores, things={2})
    assert found.labels.tolist() == [1, 1]
    assert found.semantic.tolist() == [[1, 1, 1, 1], [0, 0, 1, 1]]  # 0 where no mask is, and for the third mask
    assert found.panoptic.tolist() == [[1, 1, 1, 1], [0, 2, 1, 1]]  # stuff of one class is one segment
    assert [one["category_id"] for one in found.segments] == [1, 0]
    # 100 of 900 pairs, of which those of the one thing class stay; masks of 1 have a mean sigmoid of 0.731.
    best = np.exp(scores.astype(np.float64)) / np.exp(scores.astype(np.float64)).sum(axis=1, keepdims=True)
    by_query = {query: value for query, _, value in found.instances}
    assert by_query[0] == pytest.approx(best[0, 2] / (1 + 4e-8) * 0.7310586, abs=1e-6)
    assert {label for _, label, _ in found.instances} == {2}


def _scores(data: PanopticData, labels: dict[int, int]) -> dict[str, np.ndarray]:
    width = len(data.classes)
    return {item.id: np.eye(width, dtype=np.float32)[labels[item.mask.id]] for item in data.items}  # type: ignore[union-attr]


def test_the_layout_of_ade_is_read_and_right_answers_have_all_points(tmp_path: Path) -> None:
    skipped = Skipped()
    data = read_ade(write_ade(tmp_path), None, None, "val", skipped)
    assert [item.id for item in data.items] == ["ADE_1.jpg#5", "ADE_1.jpg#300", "ADE_1.jpg#70000"]
    assert [item.truth for item in data.items] == ["dog", "wall", "cup"]
    assert data.classes.texts()[0][1] == "There is a walls in the scene."
    assert "annotation 1" in skipped.messages[0]
    assert "ADE_2.png is missing" in skipped.messages[0]
    result = score(data, _scores(data, {5: 2, 300: 0, 70000: 1}), skipped.add)
    assert result.shown["PQ"] == result.shown["mIoU"] == result.shown["accuracy"] == 100.0
    assert result.totals["segm"]["AP"] == pytest.approx(100, abs=1e-6)
    assert result.totals["bbox"]["AP"] == 0  # boxes are empty, as published
    for measure in result.measures:
        assert measure.compute(np.array([0] * (3 if measure.rows else 1))) == pytest.approx(100, abs=1e-6)
    wrong = score(data, _scores(data, {5: 1, 300: 0, 70000: 1}), skipped.add)
    assert wrong.shown["accuracy"] == pytest.approx(100 * 2 / 3)
    assert wrong.items["ADE_1.jpg"]["label"].tolist() == [1, 0, 1]
    assert wrong.shown["PQ"] == pytest.approx(100 * (1 + 1 / 1.5 + 0) / 3)


@pytest.mark.parametrize("place", ["ade/ADEChallengeData2016", "."])
def test_ade_is_found_where_the_published_scripts_put_it(tmp_path: Path, place: str) -> None:
    folder = write_ade(tmp_path / "made")
    target = tmp_path / "data" / place
    shutil.copytree(folder / "ADEChallengeData2016", target)
    shutil.copy(folder / "ade20k_3_with_prompt_eng.txt", tmp_path / "data")
    assert len(read_ade(tmp_path / "data", None, None, "val", Skipped()).items) == 3


def test_resampled_precision_equals_that_of_pycocotools() -> None:
    rng = np.random.default_rng(3)
    truth: dict[str, list[dict[str, object]]] = {"images": [], "annotations": [], "categories": [{"id": 0}, {"id": 1}]}
    found: list[dict[str, object]] = []
    for image in range(6):
        truth["images"].append({"id": f"i{image}", "height": 40, "width": 60})
        for _ in range(4):
            mask = np.zeros((40, 60), np.uint8, order="F")
            x, y = (int(v) for v in rng.integers(0, 30, 2))
            mask[y : y + 9, x : x + 20] = 1
            moved = np.asfortranarray(np.roll(mask, int(rng.integers(0, 7)), axis=1))
            category = int(rng.integers(2))
            common = {"image_id": f"i{image}", "category_id": category}
            own = {"id": len(truth["annotations"]) + 1, "iscrowd": 0, "area": 180, "bbox": [x, y, 20, 9], **common}
            truth["annotations"].append({**own, "segmentation": coco_masks.encode(mask)})
            points = float(rng.random())
            found.append({**common, "score": points, "bbox": [0, 0, 0, 0], "segmentation": coco_masks.encode(moved)})
    images = [f"i{image}" for image in (4, 2, 0, 1, 3, 5)]
    whole = instance_scores.instance_totals(truth, found, images, ["a", "b"], "segm")
    ap = instance_scores.resampled_ap(truth, found, images)
    assert 20 < whole["AP"] < 95
    assert ap(np.arange(6)) == pytest.approx(whole["AP"], abs=1e-9)
    few = instance_scores.instance_totals(truth, found, images[:2], ["a", "b"], "segm")
    assert ap(np.array([1, 0])) == pytest.approx(few["AP"], abs=1e-9)


def test_an_image_with_a_missing_answer_is_left_out_and_named(tmp_path: Path) -> None:
    data, skipped = read_ade(write_ade(tmp_path), None, None, "val", Skipped()), Skipped()
    scores = _scores(data, {5: 2, 300: 0, 70000: 1})
    del scores["ADE_1.jpg#300"]
    result = score(data, scores, skipped.add)
    assert skipped.messages == ["ADE_1.jpg: an answer about the image is missing"]
    assert not result.items
    assert np.isnan(result.shown["PQ"])


def test_the_layout_of_cityscapes_is_read(tmp_path: Path) -> None:
    root, name = tmp_path / "cityscapes", "bonn_000001_000002"
    ids = np.where(IDS == 300, 7, np.where(IDS == 5, 26000, 26001))
    write_panoptic(root / "gtFine" / "cityscapes_panoptic_val" / f"{name}_gtFine_panoptic.png", ids)
    labels = np.where(ids == 7, 7, 26).astype(np.uint8)
    write_png(root / "gtFine" / "val" / "bonn" / f"{name}_gtFine_labelIds.png", labels)
    write_png(root / "gtFine" / "val" / "bonn" / f"{name}_gtFine_instanceIds.png", ids.astype(np.uint16))
    segments = [segment(7, 7, 576), segment(26000, 26, 144), segment(26001, 26, 144)]
    content = {
        "images": [{"id": name}],
        "annotations": [{"image_id": name, "file_name": f"{name}_gtFine_panoptic.png", "segments_info": segments}],
        "categories": [
            {"id": 7, "name": "road", "supercategory": "flat", "isthing": 0},
            {"id": 26, "name": "car", "supercategory": "vehicle", "isthing": 1},
        ],
    }
    (root / "gtFine" / "cityscapes_panoptic_val.json").write_text(json.dumps(content))
    (tmp_path / "cityscapes_with_prompt_eng.txt").write_text("0:road,railroad\n1:car,cars\n")
    data = read_cityscapes(tmp_path, None, None, "val", Skipped())
    assert [item.id for item in data.items] == [f"{name}_leftImg8bit.png#{n}" for n in (7, 26000, 26001)]
    result = score(data, _scores(data, {7: 0, 26000: 1, 26001: 1}), Skipped().add)
    assert result.shown["PQ"] == result.shown["mIoU"] == 100.0
    # Each mask is an instance of the class, the road, too, with the lowest score.
    assert result.totals["segm"]["AP"] == 100.0
    result = score(data, _scores(data, {7: 0, 26000: 0, 26001: 1}), Skipped().add)
    assert result.totals["sem_seg"]["IoU-car"] == 50.0
    (tmp_path / "cityscapes_with_prompt_eng.txt").write_text("0:railroad,road\n1:car,cars\n")
    with pytest.raises(InputError, match=r"the class 'road' is 'railroad,road' in the list"):
        read_cityscapes(tmp_path, None, None, "val", Skipped())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1:wall\n3:cup\n", "line 2: the id is 3, it must be 2"),
        ("1:wall\n", "has 1 classes, the data set has 2"),
        ("wall\n", "line 1: 'wall' is not"),
    ],
)
def test_a_wrong_list_of_classes_is_named(tmp_path: Path, text: str, expected: str) -> None:
    file = tmp_path / "classes.txt"
    file.write_text(text)
    with pytest.raises(InputError, match=expected):
        read_classes(file, 2, 1)
