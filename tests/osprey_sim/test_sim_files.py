"""`python -m osprey_sim`: the files of a scene match each other."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from osprey_ros.regions.files import load_regions
from osprey_ros.vision.image_io import load_image
from osprey_sim.__main__ import main


def test_describe_reads_the_files_of_a_scene(tmp_path: Path) -> None:
    assert main(["--seed", "7", "--objects", "5", "--width", "160", "--height", "120", "--output", str(tmp_path)]) == 0
    regions = load_regions(tmp_path / "masks.png")
    assert load_image(tmp_path / "image.png").shape == (120, 160, 3)
    assert regions.shape == (120, 160)
    truth = json.loads((tmp_path / "truth.json").read_text())
    assert 1 <= len(truth) <= 5
    assert {obj["instance_id"] for obj in truth} <= set(regions.ids.tolist())
    assert all(obj["category"] in obj["short"] and obj["short"] in obj["detailed"] for obj in truth)
    main(["--seed", "7", "--objects", "5", "--width", "160", "--height", "120", "--output", str(tmp_path / "again")])
    again = np.asarray(Image.open(tmp_path / "again" / "masks.png"))
    np.testing.assert_array_equal(again, np.asarray(Image.open(tmp_path / "masks.png")))


def test_more_objects_than_a_scene_holds_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--objects", "17", "--output", str(tmp_path)])
    assert caught.value.code == 2
    assert "17" in capsys.readouterr().err
