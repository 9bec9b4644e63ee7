"""Where the ROS messages are built."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.build_interfaces import places


@pytest.fixture
def checkouts(tmp_path: Path) -> dict[str, Path]:
    """Return checkouts in an ASCII path and in another one, by the name of their folder."""
    found = {name: tmp_path / name / "osprey" for name in ("plain", "Jürgen")}
    for root in found.values():
        (root / "osprey_interfaces").mkdir(parents=True)
        (root / "osprey_interfaces" / "CMakeLists.txt").write_text("text")
    return found


def test_a_checkout_outside_of_ascii_is_built_from_a_copy(checkouts: dict[str, Path], tmp_path: Path) -> None:
    root = checkouts["plain"]
    assert places(root, tmp_path / "temporary") == (
        root / "osprey_interfaces",
        root / "build" / "osprey_interfaces" / "cmake",
    )
    source, folder = places(checkouts["Jürgen"], tmp_path / "temporary")
    assert (source / "CMakeLists.txt").read_text() == "text"
    assert str(source).isascii()
    assert str(folder).isascii()


def test_without_a_folder_in_ascii_the_path_is_named(checkouts: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="Jürgen"):
        places(checkouts["Jürgen"], tmp_path / "für")
