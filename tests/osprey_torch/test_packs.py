"""Packs of photographs with masks, and the split of their images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pack_files import HEIGHT, WIDTH, write_pack

from osprey_ros.errors import InputError
from osprey_torch.readers.packs import pack_folders, pack_objects, split_of
from osprey_torch.readers.records import Skipped

_NAMES = [f"images/{number:04d}.jpg" for number in range(2000)]


def test_a_seeded_tenth_of_the_train_images_is_for_validation() -> None:
    splits = [split_of("tools", name, "train") for name in _NAMES]
    assert set(splits) == {"train", "validation"}
    assert 160 <= splits.count("validation") <= 240
    assert splits == [split_of("tools", name.removeprefix("images/"), None) for name in _NAMES]
    # Training and calibration of shipped weights used these: they must never change.
    assert [number for number in range(60) if splits[number] == "validation"] == [3, 15, 21, 41, 42, 59]


@pytest.mark.parametrize("other", [{"pack": "food"}, {"seed": 25}])
def test_another_pack_or_seed_has_another_validation_split(other: dict) -> None:
    splits = [split_of("tools", name, "train") for name in _NAMES]
    assert [split_of(**{"pack": "tools", **other}, image_file_name=n, split_in_file="train") for n in _NAMES] != splits


def test_test_images_are_for_the_test_only() -> None:
    assert {split_of("tools", name, "test") for name in _NAMES} == {"test"}
    with pytest.raises(InputError, match="split 'holdout'"):
        split_of("tools", "a.jpg", "holdout")


def test_the_objects_of_a_pack_have_names_masks_and_areas(tmp_path: Path) -> None:
    write_pack(tmp_path / "tools", [("a.png", "test", ["hammer", "saw"]), ("b.png", "train", ["saw"])])
    skipped = Skipped(strict=True)
    hammer, saw, other = pack_objects(tmp_path / "tools", skipped)
    assert [(o.pack, o.name, o.id, o.split) for o in (hammer, saw)] == [
        ("tools", "hammer", 1, "test"),
        ("tools", "saw", 2, "test"),
    ]
    assert other.split == split_of("tools", "b.png", "train")
    assert hammer.image.is_file()
    assert hammer.image.name == "a.png"
    for obj, left in ((hammer, 4), (saw, 24)):
        mask = obj.decode()
        assert mask.shape == (HEIGHT, WIDTH)
        assert mask[8:40, left : left + 14].all()
        assert mask.sum() == 32 * 14
        assert obj.area_share == pytest.approx(32 * 14 / (HEIGHT * WIDTH))


def test_faulty_entries_of_a_pack_are_counted(tmp_path: Path) -> None:
    folder = write_pack(tmp_path / "tools", [("a.png", "test", ["hammer", "saw"]), ("b.png", "holdout", ["saw"])])
    file = folder / "annotations.json"
    data = json.loads(file.read_text())
    data["annotations"][0]["category_id"] = 9
    file.write_text(json.dumps(data))
    skipped = Skipped()
    (left,) = pack_objects(folder, skipped)
    assert left.name == "saw"
    assert skipped.count == 2
    assert "category_id 9" in skipped.summary()
    assert "'holdout'" in skipped.summary()


def test_absent_packs_are_named(tmp_path: Path) -> None:
    tools = write_pack(tmp_path / "tools", [("a.png", "test", ["saw"])])
    food = write_pack(tmp_path / "food", [("a.png", "test", ["apple"])])
    assert pack_folders(tmp_path) == ([food, tools], [])
    assert pack_folders(tmp_path, ["tools", "rooms"]) == ([tools], ["rooms"])
    with pytest.raises(InputError, match="not a folder"):
        pack_folders(tmp_path / "nowhere")
