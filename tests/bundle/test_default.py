"""The bundle that is used where none is named: home, or what OSPREY_BUNDLE names."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from osprey_ros import Describer
from osprey_ros.bundle.default import VARIABLE, default_bundle
from osprey_ros.cli.main import main
from osprey_ros.errors import BundleError

ROOT = Path(__file__).resolve().parents[2]


def test_it_is_home(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("", None):
        if value is None:
            monkeypatch.delenv(VARIABLE)
        else:
            monkeypatch.setenv(VARIABLE, value)
        assert default_bundle() == "home"
    with Describer(threads=1) as describer:
        assert describer.bundle.root == ROOT / "engines" / "home"
        assert describer.bundle.manifest.name == "home"


def test_the_environment_names_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(ROOT / "engines" / "nano"))
    with Describer(threads=1) as describer:
        assert describer.bundle.manifest.name == "nano"
    monkeypatch.setenv(VARIABLE, "nonesuch")
    with pytest.raises(BundleError, match=r"no engine bundle 'nonesuch' of the environment variable OSPREY_BUNDLE"):
        Describer(threads=1)
    with pytest.raises(BundleError, match=r"no engine bundle 'other' \(searched "):
        Describer("other", threads=1)


@pytest.mark.parametrize(("value", "name"), [("", "home"), ("nano", "nano")])
def test_commands_use_it_and_say_so(value: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, value)
    osprey = [sys.executable, "-m", "osprey_ros"]
    helped = subprocess.run([*osprey, "describe", "--help"], capture_output=True, text=True, check=True)
    assert f"(default: {name}; the environment" in " ".join(helped.stdout.split())
    scene = ["--width", "160", "--height", "120", "--count", "2", "--output", str(tmp_path)]
    assert main(["sim", *scene]) == 0
    files = ["--image", str(tmp_path / "image.png"), "--masks", str(tmp_path / "masks.png")]
    done = subprocess.run([*osprey, "describe", *files], capture_output=True, text=True, check=True)
    assert done.stderr.endswith(f" s with bundle {name}\n")


def test_the_node_leaves_the_choice_to_it() -> None:
    given = yaml.safe_load((ROOT / "config" / "osprey.yaml").read_text())
    assert given["/**"]["ros__parameters"]["bundle"] == ""
