"""`make docs`: the site builds without a warning, and its pages load nothing from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from doc_pages import ROOT

pytest.importorskip("mkdocs", reason="make test-docs installs what the site needs")

# What a browser loads by itself; links that a reader follows may lead anywhere.
LOADED = re.compile(r"<(?:script|link|img|iframe|source|video)\b[^>]*?\b(?:src|href)=[\"']?((?:https?:)?//[^\"'\s>]+)")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


def test_the_readme_is_the_start_page_and_has_no_badges(site: Path) -> None:
    start = (site / "index.html").read_text()
    assert "Words for what a robot sees" in start
    assert "shields.io" not in start


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    found = {address for page in site.rglob("*.html") for address in LOADED.findall(page.read_text())}
    sheets = [sheet.read_text() for sheet in site.rglob("*.css")]
    assert not found
    assert not any(re.search(r"url\(\s*[\"']?(?:https?:)?//", sheet) or "@import" in sheet for sheet in sheets)


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("messages", "never reused for another object"),
        ("segmenter_parameters", "rate_limit"),
        ("commands", "osprey bundle get"),
        ("python_names", "set_image"),
        ("repository/engines/home/index", "649 kinds"),
    ],
)
def test_generated_pages_have_texts_of_their_source(site: Path, page: str, text: str) -> None:
    assert text in (site / f"{page}.html").read_text()
