"""Forbidden phrases are found in the text files of a checkout, with their place and remedy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "check_words.py"
WORDS = r"""
# A comment.
\banew\b => "again"
colour => color
\bis no (?:\w+ )?file\b => "is not a file"
allow frozen/*
allow old.py: colour
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "tools").mkdir()
    (tmp_path / "frozen" / "deep").mkdir(parents=True)
    (tmp_path / "tools" / "words.txt").write_text(WORDS)
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    return tmp_path


def add(checkout: Path, name: str, content: str | bytes) -> None:
    (checkout / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    subprocess.run(["git", "add", name], cwd=checkout, check=True)


def run(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TOOL), "--root", str(checkout), *arguments]
    return subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)


def test_a_phrase_is_named_with_file_line_and_remedy(checkout: Path) -> None:
    add(checkout, "a.py", "x = 1\n# Anew, with COLOURS.\n")
    done = run(checkout)
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        'a.py:2: "Anew"; write "again"',
        'a.py:2: "COLOUR"; write color',
        "2 phrases to replace in 1 files",
    ]


def test_a_clean_checkout_ends_with_status_0(checkout: Path) -> None:
    add(checkout, "a.py", "renewed = 1\n")
    done = run(checkout)
    assert (done.returncode, done.stdout) == (0, "0 phrases to replace in 0 files\n")


@pytest.mark.parametrize("text", ["it is no\nmcap file", "# it is no\n    # mcap file", "it is no mcap  file"])
def test_a_phrase_is_found_across_lines(checkout: Path, text: str) -> None:
    add(checkout, "a.md", f"first\n{text}\n")
    done = run(checkout)
    assert done.returncode == 1
    assert done.stdout.startswith('a.md:2: "is no ')


def test_allowed_files_and_words_are_accepted(checkout: Path) -> None:
    add(checkout, "frozen/deep/card.md", "anew in colour")
    add(checkout, "old.py", 'ACCEPTED = "Colour"\nanew = 1\n')
    done = run(checkout)
    assert done.stdout.splitlines()[:-1] == ['old.py:2: "anew"; write "again"']


def test_files_that_are_not_text_or_not_tracked_are_skipped(checkout: Path) -> None:
    add(checkout, "engine.onnx", b"\xff\x00 anew")
    (checkout / "note.txt").write_text("anew")
    assert run(checkout).returncode == 0
    assert run(checkout, "note.txt").returncode == 1


def test_a_file_that_was_removed_but_not_from_the_index_is_skipped(checkout: Path) -> None:
    add(checkout, "a.py", "anew")
    (checkout / "a.py").unlink()
    assert run(checkout).returncode == 0


def test_the_summary_counts_by_phrase_and_by_file(checkout: Path) -> None:
    add(checkout, "a.md", "anew and anew\n")
    add(checkout, "b.md", "colour\n")
    counts = [line.split() for line in run(checkout, "--summary").stdout.splitlines()[:-1]]
    assert counts == [["2", r"\banew\b"], ["1", "colour"], ["2", "a.md"], ["1", "b.md"]]


@pytest.mark.parametrize(
    ("line", "message"),
    [("anew", "not a rule: 'anew'"), ("(anew => again", r"invalid regular expression '(anew'")],
)
def test_a_line_that_is_not_a_rule_is_named(checkout: Path, line: str, message: str) -> None:
    words = checkout / "tools" / "words.txt"
    words.write_text(f"# first\n{line}\n")
    done = run(checkout)
    assert done.returncode == 2
    assert f"{words}:2: " in done.stderr
    assert message in done.stderr


def test_the_word_list_of_this_repository_can_be_read(tmp_path: Path) -> None:
    text = tmp_path / "text.md"
    text.write_text("those that were seen are shown anew in grey")
    command = [sys.executable, str(TOOL), str(text)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "3 phrases to replace in 1 files", done.stderr


def test_hooks_are_local_and_run_programs_of_this_repository() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert [repository["repo"] for repository in config["repos"]] == ["local"]
    hooks = config["repos"][0]["hooks"]
    assert {hook["language"] for hook in hooks} == {"system"}
    entries = [hook["entry"].split() for hook in hooks]
    assert all(entry[0].startswith(".venv/bin/") for entry in entries)
    assert all((ROOT / part).is_file() for entry in entries for part in entry if part.startswith("tools/"))
