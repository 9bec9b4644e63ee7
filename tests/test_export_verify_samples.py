"""Pictures for verification and calibration from a folder: the layout, and what is said when it is not kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from export.samples import SampleError, folder_samples


def _write(folder: Path, name: str, size: tuple[int, int] = (20, 30)) -> np.ndarray:
    (folder / "images").mkdir(exist_ok=True)
    (folder / "masks").mkdir(exist_ok=True)
    rng = np.random.default_rng(len(name))
    Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(folder / "images" / f"{name}.jpg")
    ids = np.zeros(size, np.uint16)
    ids[3:9, 4:20] = 700
    ids[12:19, 10:28] = 2
    Image.fromarray(ids).save(folder / "masks" / f"{name}.png")
    return ids


def test_pictures_come_by_name_with_their_regions(tmp_path: Path) -> None:
    ids = _write(tmp_path, "table")
    _write(tmp_path, "shelf")
    (tmp_path / "images" / "notes.txt").write_text("not a picture")
    found = folder_samples(tmp_path)
    assert [sample.name for sample in found] == ["shelf.jpg", "table.jpg"]
    assert found[1].rgb.shape == (20, 30, 3)
    np.testing.assert_array_equal(found[1].ids, ids)


def test_a_folder_of_another_layout_is_refused_by_the_file_that_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(SampleError, match=r"no folder images.*masks/table.png"):
        folder_samples(tmp_path)
    (tmp_path / "images").mkdir()
    with pytest.raises(SampleError, match="no pictures"):
        folder_samples(tmp_path)
    _write(tmp_path, "table")
    mask = tmp_path / "masks" / "table.png"
    Image.fromarray(np.ones((20, 31), np.uint8)).save(mask)
    with pytest.raises(SampleError, match=r"31x20.*30x20"):
        folder_samples(tmp_path)
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(mask)
    with pytest.raises(SampleError, match=r"table.png.*no region"):
        folder_samples(tmp_path)
    mask.unlink()
    with pytest.raises(SampleError, match=r"table.jpg has no .*table.png"):
        folder_samples(tmp_path)
