"""The benchmark of packed training: equal words on all sides, fewer rows when packed, and figures in a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from training import packing_benchmark as packing


def test_all_sides_learn_the_same_and_packed_has_fewer_rows(tmp_path: Path, capsys) -> None:
    out = tmp_path / "packing.json"
    assert packing.main(["--regions", "1,3", "--runs", "2", "--threads", "1", "--json", str(out)]) == 0
    results = json.loads(out.read_text())
    assert [(r["regions"], r["side"]) for r in results] == [
        (n, side) for n in (1, 3) for side in (packing.PACKED, packing.ONE_BY_ONE)
    ]
    alone, together = results[:2], results[2:]
    assert len({r["rows"] for r in alone}) == 1, "with one region nothing can be packed"
    for side in together:
        assert side["loss"] == pytest.approx(together[0]["loss"], rel=2e-3)
        assert side["regions_a_second"] == pytest.approx(3 / side["seconds"])
    # Three samples of one image: its 144 image tokens once, and not three times.
    assert together[1]["rows"] - together[0]["rows"] > 2 * 144
    assert packing.PACKED in capsys.readouterr().out


def test_more_regions_than_the_image_has_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert packing.main(["--regions", "99"]) == 2
    assert "--regions 99: the image has 1 to" in capsys.readouterr().err
