"""The linters of ament, where they are installed: what `colcon test` adds to `make lint`."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = [str(ROOT / folder) for folder in ("osprey_ros", "osprey_sim", "launch")]
# Rules of pep257 that contradict how docstrings are written here: one opens on the line of the quotes (D213), may be of
# more lines than one sentence (D205, D400, D415), says what a thing does, as in "Returns" (D401), begins with the name
# of a type or a program as it is written (D403), and explains those arguments that need it (D417).
NOT_OURS = ["D100", "D101", "D102", "D103", "D104", "D105", "D106", "D107"]
NOT_OURS += [
    "D203",
    "D205",
    "D209",
    "D212",
    "D213",
    "D400",
    "D401",
    "D403",
    "D404",
    "D406",
    "D407",
    "D413",
    "D415",
    "D417",
]


def test_flake8() -> None:
    ament_flake8 = pytest.importorskip("ament_flake8.main")
    status, errors = ament_flake8.main_with_errors(argv=["--config", str(ROOT / "setup.cfg"), *PACKAGES])
    assert status == 0, "\n".join(errors)


def test_pep257() -> None:
    ament_pep257 = pytest.importorskip("ament_pep257.main")
    assert ament_pep257.main(argv=[*PACKAGES, "--ignore", *NOT_OURS]) == 0
