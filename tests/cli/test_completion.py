"""`osprey completion`: what real shells complete with its scripts."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from osprey_ros.cli.main import main


def script(shell: str, capsys: pytest.CaptureFixture[str], folder: Path) -> Path:
    assert main(["completion", shell]) == 0
    path = folder / "osprey"
    path.write_text(capsys.readouterr().out)
    return path


def bash(path: Path, *words: str) -> list[str]:
    """What bash offers behind these words, the last of which is being written."""
    run = f"source {path}; COMP_WORDS=({' '.join(w or chr(39) * 2 for w in words)}); COMP_CWORD={len(words) - 1}"
    run += '; _osprey; printf "%s\\n" "${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "--norc", "-uc", run], capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = script("bash", capsys, tmp_path)
    assert bash(path, "osprey", "bu") == ["bundle", "build"]
    assert bash(path, "osprey", "bundle", "") == ["list", "show", "verify", "get"]
    assert bash(path, "osprey", "-v", "bundle", "get", "--m") == ["--max-size"]
    assert bash(path, "osprey", "describe", "--style", "") == ["short", "detailed", "category"]
    assert bash(path, "osprey", "describe", "--style", "short", "--pre") == ["--preprocessing"]
    assert bash(path, "osprey", "completion", "f") == ["fish"]
    # Values of other options, and what other programs parse, are files: bash completes them where nothing is offered.
    assert bash(path, "osprey", "describe", "--image", "--") == []
    assert bash(path, "osprey", "sim", "") == []
    assert {"accuracy", "scene"} <= set(bash(path, "osprey", "eval", ""))


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
def test_fish(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = script("fish", capsys, tmp_path)

    def offered(line: str) -> list[str]:
        command = ["fish", "--no-config", "-c", f"source {path}; complete -C '{line}'"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env={"HOME": str(tmp_path)})
        return [entry.split("\t")[0] for entry in done.stdout.splitlines()]

    assert offered("osprey bundle ") == ["get", "list", "show", "verify"]
    assert offered("osprey describe --style ") == ["category", "detailed", "short"]
    assert offered("osprey bundle get --max") == ["--max-size"]


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_zsh(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = script("zsh", capsys, tmp_path)
    # What the script hands to the completion system, whose own functions need a terminal.
    stubs = "compdef() { : }; compadd() { print -l -- ${@:#--}; }; _files() { print FILES; }; "
    stubs += '_describe() { print -l -- "${found[@]}"; }; '

    def offered(*words: str) -> list[str]:
        listed = " ".join(word or "''" for word in words)
        run = f"{stubs} source {path}; words=({listed}); CURRENT={len(words)}; _osprey"
        return subprocess.run(["zsh", "-fc", run], capture_output=True, text=True, check=True).stdout.splitlines()

    assert [line.split(":")[0] for line in offered("osprey", "bundle", "")] == ["list", "show", "verify", "get"]
    assert offered("osprey", "describe", "--style", "") == ["short", "detailed", "category"]
    assert "--max-size" in [line.split(":")[0] for line in offered("osprey", "bundle", "get", "--")]
    assert offered("osprey", "describe", "--image", "") == ["FILES"]
