"""The README and the documentation: links, generated pages, and commands that exist."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
from doc_pages import ROOT, Block, anchors, blocks, links, pages, tracked, words

from osprey_ros.cli.main import parser_of_commands

COMMANDS = [(block, command) for page in pages() for block in blocks(page) for command in block.commands]


def test_the_readme_is_short_and_its_moving_image_is_small() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200
    assert (ROOT / "docs" / "demo.gif").stat().st_size < 3_000_000


def test_links_inside_the_repository_lead_somewhere() -> None:
    broken = []
    for page in tracked("*.md"):
        for target in links(page):
            path, _, anchor = target.partition("#")
            there = (page.parent / path).resolve() if path else page
            if not there.exists() or (anchor and there.suffix == ".md" and anchor not in anchors(there)):
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert not broken


def test_every_block_of_commands_is_run_or_says_why_not() -> None:
    checked = [block for page in pages() for block in blocks(page) if block.commands or block.language == "python"]
    unmarked = [_place(block) for block in checked if not block.mark]
    assert not unmarked, "write <!-- run --> or <!-- not run: REASON --> above the block"
    # make test-docs runs these.
    assert sum(block.mark == "run" for block in checked) >= 8


def test_the_notebook_has_no_outputs() -> None:
    cells = json.loads((ROOT / "examples" / "tour.ipynb").read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)


def test_generated_pages_are_up_to_date() -> None:
    done = subprocess.run([sys.executable, "tools/generate_reference.py", "--check"], cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def test_the_table_of_speed_is_that_of_the_benchmarks() -> None:
    """The README repeats rows of docs/benchmark_results.md."""
    results = (ROOT / "docs" / "benchmark_results.md").read_text()
    speed = (ROOT / "README.md").read_text().partition("## Speed")[2].partition("##")[0]
    rows = re.findall(r"^\| (\d+) \| (\d+) ms \| (\d+) ms .*?\| (\d+) ms .*?\| (\d+) MB \|$", speed, re.MULTILINE)
    assert len(rows) == 3
    for objects, engines, batched, demo, memory in rows:
        (row,) = re.findall(rf"^\| {objects} \| .*ms.* MB \|$", results, re.MULTILINE)
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert round(float(cells[1].split()[0])) == int(engines)
        assert [cells[2], cells[6], cells[8]] == [f"{demo} ms", f"{batched} ms", f"{memory} MB"]


@pytest.mark.parametrize(
    ("block", "command"),
    [pytest.param(block, command, id=f"{block.page.stem}:{block.line}") for block, command in COMMANDS],
)
def test_what_a_command_names_exists(block: Block, command: str) -> None:
    split = words(command)
    for fault in _faults(split):
        pytest.fail(f"{_place(block)}: {command}: {fault}")


def _place(block: Block) -> str:
    return f"{block.page.relative_to(ROOT)}:{block.line}"


def _faults(split: list[str]) -> Iterator[str]:
    """Yield what a command names that does not exist: commands, options, files, targets, launch arguments."""
    match split:
        case ["osprey", *arguments]:
            yield from _osprey_faults(arguments)
        case ["python" | "python3", "-m", "osprey_ros", *arguments]:
            yield from _osprey_faults(arguments)
        case ["python" | "python3", "-m", module, *_] if module.split(".")[0] in _packages():
            path = ROOT / module.replace(".", "/")
            if not (path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()):
                yield f"no module {module}"
        case ["python" | "python3", script, *_] if script.endswith(".py") and not (ROOT / script).is_file():
            yield f"no file {script}"
        case ["make", *targets]:
            makefile = (ROOT / "Makefile").read_text()
            yield from (t for t in targets if "=" not in t and not re.search(rf"^{t}:", makefile, re.MULTILINE))
        case ["ros2", "launch", "osprey_ros", name, *arguments]:
            yield from _launch_faults(name, arguments)


def _packages() -> set[str]:
    return {path.parent.name for path in ROOT.glob("*/__init__.py")}


def _osprey_faults(arguments: list[str]) -> Iterator[str]:
    parser: argparse.ArgumentParser = parser_of_commands()[0]
    for word in arguments:
        below = [a.choices for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
        if not below:
            break
        if word.isupper():  # stands for any
            return
        if word not in below[0]:
            yield f"no command {word}"
            return
        parser = below[0][word]
    if any(action.nargs == argparse.REMAINDER for action in parser._actions):
        return
    known = {option for action in parser._actions for option in action.option_strings}
    yield from (f"no option {word}" for word in arguments if word.startswith("--") and word.split("=")[0] not in known)


def _launch_faults(name: str, arguments: list[str]) -> Iterator[str]:
    path = ROOT / "launch" / name
    if not path.is_file():
        yield f"no launch file {name}"
        return
    # The presets take all arguments of osprey.launch.py.
    declared = set(re.findall(r'"(\w+)"', path.read_text() + (ROOT / "launch" / "osprey.launch.py").read_text()))
    declared |= set(re.findall(r'(\w+)"? ?=', (ROOT / "osprey_ros" / "ros" / "launch_presets.py").read_text()))
    given = [word.partition(":=")[0] for word in arguments if ":=" in word]
    yield from (f"no launch argument {argument}" for argument in given if argument not in declared)
