"""The figure of the README about speed, drawn from the table of the benchmarks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tools.plot_speed import frame_times

ROOT = Path(__file__).resolve().parents[2]
TABLE = """
| script | measures |
|---|---|
| a | b |

| regions | engines | demo | ratio | loop | ratio | batched |
|---|---|---|---|---|---|---|
| 1 | 21.7 (21.3 to 22.9) ms | 68 ms | 3.1 | 62 ms | 2.8 | 22 ms |
| 16 | 30.1 ms | 983 ms | 32.3 | 868 ms | 29.4 | 136 ms |

| regions | other |
|---|---|
| 3 | 4 |
"""


def test_the_columns_of_the_first_table_of_regions_are_read() -> None:
    expected = {"regions": [1, 16], "engines": [21.7, 30.1], "batched": [22, 136], "loop": [62, 868], "demo": [68, 983]}
    assert frame_times(TABLE) == expected


def test_a_page_without_the_table_is_an_error() -> None:
    with pytest.raises(ValueError, match="no table begins with the column 'regions'"):
        frame_times("| a |\n|---|\n| 1 |\n")


def test_the_figure_is_drawn_from_the_results(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "tools" / "plot_speed.py"), "--output", str(tmp_path / "speed.png")]
    subprocess.run(command, check=True)
    with Image.open(tmp_path / "speed.png") as drawn, Image.open(ROOT / "docs" / "speed.png") as shipped:
        assert drawn.size == shipped.size
