"""`osprey sim`, `demo`, `build`, `train` and `eval`: in a checkout, and where only the package is installed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from osprey_ros.cli._programs import EVALUATIONS, PROGRAMS
from osprey_ros.cli.main import main

ROOT = Path(__file__).resolve().parents[2]


def _osprey(*arguments: str, package: Path = ROOT, blocked: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run `osprey` with the package in a folder, from another folder, without the blocked modules."""
    block = f"import sys\nfor name in {blocked!r}: sys.modules[name] = None\n"
    # The checkout must not be found by other means than the place of the package.
    paths = f"sys.path = [{str(package)!r}, *(path for path in sys.path if path not in ('', {str(ROOT)!r}))]\n"
    finders = "sys.meta_path = [f for f in sys.meta_path if 'editable' not in repr(f)]\n"
    run = f"from osprey_ros.cli.main import main\nsys.exit(main({list(arguments)!r}))"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, "-c", block + paths + finders + run],
        capture_output=True,
        text=True,
        check=False,
        cwd=package.parent,
        env=environment,
    )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package osprey_ros and nothing else of the checkout, as an installation has it."""
    folder = tmp_path_factory.mktemp("installed") / "site-packages"
    shutil.copytree(ROOT / "osprey_ros", folder / "osprey_ros", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def test_every_program_of_the_checkout_exists() -> None:
    files = {p.module: ROOT / f"{p.module.replace('.', '/')}.py" for p in (*PROGRAMS.values(), *EVALUATIONS.values())}
    assert [module for module, file in files.items() if "\ndef main(" not in file.read_text()] == []
    evaluations = {path for path in (ROOT / "evaluation").glob("*.py") if "\ndef main(" in path.read_text()}
    assert evaluations <= set(files.values())


def test_every_program_has_the_edge_of_commands() -> None:
    folders = ("osprey_sim", "export", "training", "evaluation", "benchmarks")
    texts = {path: path.read_text(encoding="utf-8") for folder in folders for path in (ROOT / folder).rglob("*.py")}
    programs = {path for path, text in texts.items() if "\ndef main(" in text}
    nodes = {ROOT / "osprey_sim" / "camera_node.py"}  # run_node is their edge
    helpers = {ROOT / "benchmarks" / "memory.py"}  # a process of benchmarks/frame.py
    without = {path for path in programs if not re.search(r"\n@command\(.*\)\ndef main\(", texts[path])}
    assert without <= nodes | helpers


@pytest.mark.parametrize(
    "command", [["build"], ["train"], *(["eval", name] for name in EVALUATIONS), ["sim"], ["demo"]], ids=" ".join
)
def test_programs_of_a_checkout_print_their_own_help(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    # In this process: a new process for each would import torch every time.
    try:
        status = main([*command, "--help"])
    except SystemExit as done:
        status = int(done.code or 0)
    assert status == 0
    assert capsys.readouterr().out.startswith(f"usage: osprey {' '.join(command)} ")


def test_statuses_and_arguments_are_those_of_the_program(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = list(sys.argv)
    arguments = ["--seed", "3", "--objects", "2", "--width", "160", "--height", "120", "--output", str(tmp_path / "s")]
    assert main(["sim", *arguments]) == 0
    assert "image.png, masks.png and truth.json" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "s" / "truth.json").read_text())) == 2
    assert sys.argv == before
    assert main(["build", "--checkpoint", str(tmp_path / "none"), "--output", str(tmp_path / "bundle")]) == 2
    assert f"build_engines: {tmp_path / 'none'}" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["build"], ["train", "--config", "x"], ["eval", "accuracy", "--help"]])
def test_an_installed_package_says_where_to_get_them(installed: Path, command: list[str]) -> None:
    done = _osprey(*command, package=installed)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    name = " ".join(command[:2] if command[0] == "eval" else command[:1])
    assert line.startswith(f"osprey: error: osprey {name} is not part of the installed package; clone the repository")


def test_an_installed_package_describes_itself(installed: Path) -> None:
    done = _osprey("eval", "--help", package=installed)
    assert done.returncode == 0
    assert "accuracy" in done.stdout
    assert _osprey("bundle", "show", str(ROOT / "engines" / "nano"), package=installed).returncode == 0


@pytest.mark.parametrize(
    ("command", "module", "remedy"),
    [
        ("sim --output none", "mujoco", "pip install mujoco PyOpenGL"),
        ("build --help", "torch", "make venv"),
        ("train --help", "torch", "make venv"),
    ],
)
def test_a_library_that_is_not_installed_is_named(command: str, module: str, remedy: str) -> None:
    words = command.split()
    done = _osprey(*words, blocked=(module,))
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"osprey: error: osprey {words[0]} needs {module}, which is not installed; ")
    assert remedy in line
