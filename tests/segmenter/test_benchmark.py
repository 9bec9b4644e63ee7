"""The benchmark of the segmenter."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from color_segmenter import write_bundle
from nano import NANO
from PIL import Image

from benchmarks import segmenter


def test_it_prints_all_calls_beside_the_vision_engine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rgb = np.zeros((96, 128, 3), np.uint8)
    rgb[8:40, 16:48] = (200, 30, 30)
    Image.fromarray(rgb).save(tmp_path / "image.png")
    bundle = write_bundle(tmp_path / "bundle", objectness=True)
    common = ["--bundle", str(NANO), "--segmenter", str(bundle), "--image", str(tmp_path / "image.png")]
    assert segmenter.main([*common, "--runs", "2", "--json", str(tmp_path / "figures.json")]) == 0
    shown = capsys.readouterr().out
    assert "1 regions in 1 images" in shown
    (figures,) = json.loads((tmp_path / "figures.json").read_text())["images"]
    for name in ("vision engine", "image", "image and everything", "click"):
        assert name in shown
        assert len(figures["milliseconds"][name]) == 2
