"""The command that fits "unlike training" of a bundle, measures it and writes it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from nano import NANO
from pack_files import write_pack

from evaluation.unlike_training import main
from osprey_ros.bundle.bundle import Bundle
from osprey_ros.bundle.manifest import UNLIKE_TRAINING


def test_the_command_fits_measures_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = Path(shutil.copytree(NANO, tmp_path / "bundle"))
    before = (bundle / UNLIKE_TRAINING).read_bytes()
    write_pack(tmp_path / "known" / "mugs", [("a.png", "train", ["cup"]), ("b.png", "test", ["cup", "spoon"])])
    write_pack(tmp_path / "unknown" / "other", [("c.png", "test", ["cup"])], seed=1)
    scenes = ["--fit-scenes", "4", "--validation-scenes", "2", "--scenes", "2"]
    sets = ["--objects", "tabletop", "--regions-only"]
    packs = ["--data", str(tmp_path / "known"), "--unknown", str(tmp_path / "unknown")]
    out = tmp_path / "figures.json"
    assert main(["--bundle", str(bundle), *scenes, *sets, *packs, "--json", str(out), "--write"]) == 0
    figures = json.loads(out.read_text())
    assert figures["unknown_regions"] == 1
    assert figures["known_regions"] > 4
    assert 0 <= figures["auroc"] <= 1
    fitted = Bundle.open(bundle).unlike_training()
    assert fitted is not None
    assert fitted.fitted == figures["fitted"]
    assert fitted.images is None
    assert (bundle / UNLIKE_TRAINING).read_bytes() != before
    assert np.isfinite(fitted.distances).all()
    assert "fitted on" in capsys.readouterr().out
    assert main(["--bundle", str(bundle), "--data", str(tmp_path / "absent")]) == 2
    assert "is not a folder" in capsys.readouterr().err
