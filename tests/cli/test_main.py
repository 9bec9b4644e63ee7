"""The command `osprey`: its help, version, errors and logs, and options that commands share."""

from __future__ import annotations

import argparse
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import osprey_ros
from osprey_ros.cli import ask, bag, bundle, describe, doctor, web
from osprey_ros.cli._options import Parser
from osprey_ros.cli._output import logs_on_stderr
from osprey_ros.cli.main import main
from osprey_ros.scene.settings import StepSettings

OWN = (
    *(["describe"], ["ask"], ["bag"], ["web"], ["doctor"], ["completion"]),
    *(["bundle"], ["bundle", "list"], ["bundle", "show"], ["bundle", "verify"], ["bundle", "get"]),
)
# Options with another meaning in recordings, where images have topics, and a node is where results go.
OF_RECORDINGS = {"--image", "--overlay", "--node"}


def _parsers() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Yield the names and the parsers of all commands of osprey_ros itself."""
    commands = Parser().add_subparsers()
    for command in (describe, ask, bag, bundle, web, doctor):
        command.add_command(commands)
    for name, parser in commands.choices.items():
        nested = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
        for found in nested:
            yield from ((f"{name} {inner}", below) for inner, below in found.choices.items())
        if not nested:
            yield name, parser


def test_options_with_one_name_are_the_same_in_all_commands() -> None:
    seen: dict[str, tuple[str, object, object]] = {}
    shared = 0
    for name, parser in _parsers():
        for action in parser._actions:
            for option in action.option_strings:
                if name == "bag" and option in OF_RECORDINGS:
                    continue
                text = (action.help or "").split("(default")[0]
                default = None if option in ("--min-area", "--max-regions") else action.default
                shared += option in seen
                assert seen.setdefault(option, (text, default, action.metavar)) == (text, default, action.metavar)
    assert shared > 20


def test_images_are_described_in_full_and_frames_of_recordings_as_by_the_node() -> None:
    parsers, node = dict(_parsers()), StepSettings()
    for name, defaults in (("describe", (1, None)), ("ask", (1, None)), ("bag", (node.min_area, node.max_regions))):
        assert (parsers[name].get_default("min_area"), parsers[name].get_default("max_regions")) == defaults


@pytest.mark.parametrize("command", OWN)
def test_help_needs_no_library(command: list[str]) -> None:
    libraries = ("numpy", "onnxruntime", "tokenizers", "cv2", "PIL", "torch", "rclpy", "rosbags", "mcap")
    blocked = f"import sys\nfor name in {libraries}: sys.modules[name] = None\n"
    run = f"from osprey_ros.cli.main import main\nmain({[*command, '--help']!r})"
    done = subprocess.run([sys.executable, "-c", blocked + run], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: osprey {' '.join(command)} ")


def test_without_a_command_it_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("    osprey ")] == ["describe", "web", "doctor"]
    assert lines[-1] == "`osprey --help` lists all commands."


def test_the_help_lists_all_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    out = capsys.readouterr().out
    for command in (
        "describe",
        "ask",
        "bag",
        "bundle",
        "doctor",
        "completion",
        "sim",
        "demo",
        "build",
        "train",
        "eval",
    ):
        assert f"\n    {command} " in out
    assert "osprey describe --image scene/image.png --masks scene/masks.png" in out


def test_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"osprey {osprey_ros.__version__}\n"


def test_module_is_the_same_command() -> None:
    done = subprocess.run([sys.executable, "-m", "osprey_ros", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"osprey {osprey_ros.__version__}\n"


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (["descibe"], "unknown command 'descibe'; did you mean 'describe'?"),
        (["-v", "agg"], "unknown command 'agg'; did you mean 'bag'?"),
        (["xyzzy"], "unknown command 'xyzzy'; choose from describe, segment, ask, annotate, bag,"),
        (["bundle", "verfy", "nano"], "unknown command 'verfy'; did you mean 'verify'?"),
        (["eval", "acuracy"], "unknown command 'acuracy'; did you mean 'accuracy'?"),
    ],
)
def test_unknown_commands_are_corrected(words: list[str], remedy: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(words)
    assert exit_.value.code == 2
    assert remedy in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["describe"],
        ["bundle"],
        ["eval"],
        ["describe", "--image", "x", "--masks", "y", "--style", "odd"],
        ["describe", "--image", "x", "--mask", "y"],  # abbreviated
        ["ask", "cup", "--json", "--preprocessing", "slow"],
    ],
)
def test_usage_errors_end_with_status_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2


@pytest.mark.parametrize("options", [["-v"], ["--verbose", "-v"]])
def test_logs_go_to_standard_error_if_asked_for(
    tmp_path: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before, after = options[:1], options[1:]
    assert main([*before, "bundle", "show", "nano", "--json", *after]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("{")
    assert "osprey: info: opened bundle nano" in captured.err
    assert main(["bundle", "show", "nano"]) == 0
    assert capsys.readouterr().err == ""


def test_verbosity_is_of_one_command_only(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("osprey_ros.cli")
    for verbosity, shown in ((0, ["warning"]), (1, ["warning", "info"]), (2, ["warning", "info", "debug"])):
        with logs_on_stderr(verbosity):
            for level in ("warning", "info", "debug"):
                getattr(logger, level)("text")
        assert capsys.readouterr().err == "".join(f"osprey: {level}: text\n" for level in shown)
    logger.info("text")
    assert capsys.readouterr().err == ""


def test_a_program_within_a_command_logs_each_line_once(capsys: pytest.CaptureFixture[str]) -> None:
    with logs_on_stderr(0), logs_on_stderr(0), logs_on_stderr(1, ["export"]):
        logging.getLogger("osprey_ros.cli").warning("one")
        logging.getLogger("export.build").info("two")
    assert capsys.readouterr().err == "osprey: warning: one\nosprey: info: two\n"
