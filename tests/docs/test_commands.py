"""Blocks of commands and of Python in the README and in `docs/`, run as a reader runs them, page by page."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from doc_pages import ROOT, Block, blocks, pages

from osprey_ros.bundle.default import VARIABLE

pytest.importorskip("mkdocs", reason="make test-docs runs these")


def _runnable(page: Path) -> list[Block]:
    """Return the blocks of a page that are marked to be run."""
    return [block for block in blocks(page) if block.mark == "run" and (block.commands or block.language == "python")]


TO_RUN = {page: found for page in pages() if (found := _runnable(page))}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the files of this checkout except `build`, and a photograph."""
    for path in ROOT.iterdir():
        if path.name not in ("build", ".git"):
            (tmp_path / path.name).symlink_to(path)
    shutil.copy(ROOT / "osprey_ros" / "web" / "samples" / "room.jpg", tmp_path / "photo.jpg")
    return tmp_path


@pytest.mark.parametrize("page", TO_RUN, ids=lambda page: page.stem)
def test_the_commands_of_a_page_run(page: Path, checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    programs = tmp_path_factory.mktemp("bin")
    for name, arguments in (("osprey", "-m osprey_ros "), ("python", "")):
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments}"$@"\n')
        (programs / name).chmod(0o755)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    environment.pop(VARIABLE, None)
    for block in TO_RUN[page]:
        interpreter = ["python", "-c"] if block.language == "python" else ["bash", "-e", "-c"]
        done = subprocess.run(
            [*interpreter, block.text], cwd=checkout, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, f"{page.name}:{block.line}: {done.stderr}"
        assert done.stdout


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient", reason="make test-docs installs it")
    import nbformat

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    notebook = nbformat.read(ROOT / "examples" / "tour.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    words = "".join(output.text for output in outputs if output.output_type == "stream")
    assert "jug" in words
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 3
