"""Simulated scenes in the layout of ADE20K, and the table of precisions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from nano import NANO

from evaluation.precisions import Outcomes, markdown, rows_of
from evaluation.published import ovseg_sim
from osprey_ros.errors import InputError


def test_simulated_scenes_are_rendered_once_and_scored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    line = ["--data", str(tmp_path / "data"), "--scenes", "1", "--bundle", str(NANO), "--opening", "overview"]
    line += ["--by", "likelihood", "--work", str(tmp_path / "work"), "--json", str(out), "--resamples", "10"]
    assert ovseg_sim.main(line) == 0
    result = json.loads(out.read_text())
    (image,) = result["items"]
    assert image == "sim_00000000.png"
    assert result["totals"]["accuracy"] > 50
    segments = json.loads((tmp_path / "data/ADEChallengeData2016/ade20k_panoptic_val.json").read_text())
    (annotation,) = segments["annotations"]
    assert len(annotation["segments_info"]) == result["items"][image]["asked"]
    assert all(0 <= one["hidden"] < 1 for one in annotation["segments_info"])
    line[line.index("--scenes") + 1] = "2"
    assert ovseg_sim.main(line) == 2
    assert "has other scenes" in capsys.readouterr().err


def _outcomes(right: list[int], texts: str) -> dict[str, Outcomes]:
    return {"kind": Outcomes(["a", "a", "b", "b"], np.array(right, bool), list(texts))}


def test_precisions_are_compared_on_the_same_answers() -> None:
    measured = {"fp32": _outcomes([1, 1, 1, 0], "wxyz"), "int8": _outcomes([1, 1, 1, 0], "wxyz")}
    measured["int4"] = _outcomes([1, 0, 1, 0], "wvyz")
    (row,) = rows_of(measured, 50)
    assert row.shares == {"fp32": 0.75, "int8": 0.75, "int4": 0.5}
    assert (row.difference.value, row.same, row.within) == (-25.0, 0.75, False)
    text = markdown("nano", {"fp32": 4_000_000, "int8": 2_000_000, "int4": 1_500_000}, [row], ["two scenes"])
    assert "| kind (4) | 75.0% | 75.0% | 50.0% | -25.00 [-50.00, +0.00] | 75.0% | NO |" in text
    assert "| 4.0 | 2.0 | 1.5 |" in text
    other = {"kind": Outcomes(["a", "b", "b", "b"], np.ones(4, bool), list("wxyz"))}
    with pytest.raises(InputError, match="asked about other regions"):
        rows_of({"fp32": _outcomes([1, 1, 1, 0], "wxyz"), "int4": other}, 50)
