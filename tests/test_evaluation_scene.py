"""The table about the scene memory: small runs of its parts, and what its lines say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from evaluation.scene import Budget, Static, budget_rows, crowd, main, static_rows, table


def test_the_command_prints_and_writes_what_it_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "rows.json"
    small = ["--threads", "1", "--sequences", "1", "--frames", "12", "--rounds", "2"]
    status = main([*small, "--without", "budget,queries,calibration", "--json", str(output)])
    rows = {row["what"].strip(): row for row in json.loads(output.read_text())}
    # Time is measured among them: on a busy machine one may not be kept.
    assert status == any(row["kept"] is False for row in rows.values())
    assert rows["sequences, 12 frames: IDF1"]["kept"] is True
    visible, _, all_visible = rows["visible for a second and described"]["found"].partition(" of ")
    assert visible == all_visible != "0"
    assert rows["described again in 2 frames"]["found"] == "0"
    printed = capsys.readouterr().out
    assert all(what in printed for what in rows)
    with pytest.raises(SystemExit):
        main(["--without", "nothing"])
    assert "--without nothing: choose among static,budget" in capsys.readouterr().err


def test_nothing_seen_is_nothing_kept(capsys: pytest.CaptureFixture[str]) -> None:
    parts = ["--without", "static,budget,queries,calibration"]
    assert main(["--threads", "1", "--sequences", "1", "--frames", "2", *parts]) == 1
    assert "0 of 0" in capsys.readouterr().out


def test_lines_say_whether_what_is_wanted_was_kept() -> None:
    kept = budget_rows(Budget([0.1] * 99 + [0.5], [1.0, 4.9]), 0.15, 30)
    assert [row.kept for row in kept] == [True, True]
    broken = budget_rows(Budget([0.1] * 90 + [0.17] * 10, [1.0, 5.1]), 0.15, 30)
    assert [row.kept for row in broken] == [False, False]
    assert [row.kept for row in static_rows(Static([0.02, 0.03, 0.9], [0.2, 0.2, 0.2], 1), "phrase")] == [True, False]
    lines = table([*kept, *broken]).splitlines()
    assert [line.endswith("NOT KEPT") for line in lines] == [False, False, True, True]


def test_a_crowd_has_as_many_objects_as_are_asked_for() -> None:
    rgb, ids = crowd(30)
    assert rgb.shape == (480, 640, 3)
    numbers, areas = np.unique(ids[ids > 0], return_counts=True)
    assert numbers.tolist() == list(range(1, 31))
    assert areas.min() >= 50
