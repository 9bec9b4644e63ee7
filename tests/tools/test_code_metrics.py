"""The numbers that tools/code_metrics.py reports about a checkout."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "code_metrics.py"
FILES = {
    "osprey_ros/__init__.py": '"""A package."""\n',
    "osprey_ros/__main__.py": "from osprey_ros.top import run\n\nrun()\n",
    "osprey_ros/top.py": """
        '''Top.

        Its text.
        '''

        from __future__ import annotations

        from typing import TYPE_CHECKING

        from osprey_ros import middle  # one arrow

        if TYPE_CHECKING:
            from osprey_ros.lower import base

        # A comment.
        def run() -> str:
            '''Run.'''
            from .lower.deep import Deep

            return '''two
        lines''' + str(Deep) + str(middle)
    """,
    "osprey_ros/middle.py": "import osprey_ros.lower.deep\nimport json\n",
    "osprey_ros/lower/__init__.py": "",
    "osprey_ros/lower/deep.py": "from ..errors import OspreyError\n\n\nclass Deep(OspreyError):\n    pass\n",
    "osprey_ros/lower/base.py": "from osprey_ros.lower import other\n",
    "osprey_ros/lower/other.py": "from . import base\n",
    "osprey_ros/errors.py": "class OspreyError(Exception):\n    pass\n",
    "export/build.py": """
        from osprey_ros import errors


        class BuildError(errors.OspreyError):
            '''A text.'''

            def remedy(self):
                return 1


        class Plan:
            x = 1


        class Reader(Generic[T]):
            x = 1
    """,
    "tests/test_it.py": "def test_it():\n    # why\n    assert True\n",
}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text if not text.startswith("\n") else "\n".join(line[8:] for line in text.split("\n")))
    return tmp_path


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TOOL), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def report(*arguments: str | Path) -> dict[str, Any]:
    done = run(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_modules_directly_in_the_package_are_counted_without_init_and_main(checkout: Path) -> None:
    found = report(checkout)
    assert (found["top_modules"], found["modules"]) == (3, 9)


def test_floors_are_the_longest_chain_of_imports(checkout: Path) -> None:
    layers = report(checkout)["layers"]
    names = ["__main__", "top", "middle", "lower.deep", "errors"]
    assert layers["module_level"]["chain"] == [f"osprey_ros.{name}" for name in names]
    assert layers["module_level"]["floors"] == 5
    assert layers["module_level"]["arrows"] == 6


def test_a_cycle_is_one_floor(checkout: Path) -> None:
    layers = report(checkout)["layers"]["module_level"]
    assert layers["cycles"] == [["osprey_ros.lower.base", "osprey_ros.lower.other"]]


def test_imports_for_type_checkers_and_in_functions_are_added_in_turn(checkout: Path) -> None:
    arrows = [layers["arrows"] for layers in report(checkout)["layers"].values()]
    assert arrows == [6, 7, 8]


def test_lines_of_code_leave_out_docstrings_comments_and_blank_lines(checkout: Path) -> None:
    folders = report(checkout)["folders"]
    assert folders["export"]["code_lines"] == 8
    assert folders["tests"]["code_lines"] == 2
    # top.py: five imports, the condition, def, return and the second line of its string.
    assert folders["osprey_ros"]["code_lines"] == 9 + 2 + 2 + 3 + 1 + 1 + 2
    assert folders["product"]["code_lines"] == folders["osprey_ros"]["code_lines"] + 8


def test_exception_classes_are_found_through_classes_of_other_folders(checkout: Path) -> None:
    folders = report(checkout)["folders"]
    assert [folders[name]["exception_classes"] for name in ("osprey_ros", "export", "product")] == [2, 1, 3]


def test_the_longest_definitions_are_named_with_their_place(checkout: Path) -> None:
    folders = report(checkout)["folders"]
    assert folders["product"]["longest_class"] == {"lines": 5, "name": "BuildError", "where": "export/build.py:5"}
    assert folders["product"]["longest_function"] == {"lines": 6, "name": "run", "where": "osprey_ros/top.py:17"}
    assert folders["product"]["longest_file"]["where"] == "osprey_ros/top.py"


def test_the_import_is_timed_in_the_checkout(checkout: Path) -> None:
    assert report(checkout)["import_ms"] is None
    assert 0 < report(checkout, "--import-time", "2")["import_ms"] < 10_000


def test_tables_name_each_folder(checkout: Path) -> None:
    done = run(checkout)
    assert done.returncode == 0
    assert "modules directly in osprey_ros: 3 (of 9)" in done.stdout
    assert all(name in done.stdout for name in ("export", "product", "tests", "5 BuildError, 6 run"))


def test_the_checkout_of_the_tool_is_the_default(checkout: Path) -> None:
    copy = checkout / "tools" / "code_metrics.py"
    copy.parent.mkdir()
    copy.write_text(TOOL.read_text())
    done = subprocess.run([sys.executable, str(copy)], capture_output=True, text=True, check=True)
    assert done.stdout == run(checkout).stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("nowhere",), "nowhere has no folder osprey_ros"), (("--import-time", "-1"), "must be 0 or more, not -1")],
)
def test_wrong_arguments_end_with_status_2(arguments: tuple[str, ...], message: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
