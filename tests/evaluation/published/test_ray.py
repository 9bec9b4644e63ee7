"""Answers of Ray's workers equal those of one process."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from nano import NANO
from published_files import write_questions

from evaluation.published import gpt_description


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed (requirements/ray.txt)")
def test_two_workers_give_the_answers_of_one_process(tmp_path: Path) -> None:
    data = write_questions(tmp_path / "data", 5)
    (data / "images" / "3.png").write_bytes((data / "images" / "3.png").read_bytes()[:60])
    results = []
    for name, more in (("one", []), ("two", ["--ray", "--workers", "2"])):
        out = tmp_path / f"{name}.json"
        line = ["--data", str(data), "--bundle", str(NANO), "--work", str(tmp_path / name), "--json", str(out)]
        line += ["--opening", "overview", "--max-new-tokens", "8", "--threads", "1", "--resamples", "10", *more]
        assert gpt_description.main(line) == 0
        journal = tmp_path / name / "gpt_description" / "nano.jsonl"
        results.append((json.loads(out.read_text()), journal.read_text()))
    assert results[0] == results[1]
    assert sorted(map(int, results[0][0]["items"])) == [0, 1, 2, 3, 4, 5, 8, 9]
    assert "images/3.png" in results[0][0]["left_out"]["broken"][0]


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is installed")
def test_ray_that_is_missing_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_questions(tmp_path / "data", 1)
    assert gpt_description.main(["--data", str(data), "--bundle", str(NANO), "--ray"]) == 2
    assert "--ray needs Ray" in capsys.readouterr().err
