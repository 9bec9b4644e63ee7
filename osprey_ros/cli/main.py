"""The command ``osprey``: parse the command line, run one command, and turn errors into one line and a status."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from osprey_ros.cli._edge import USAGE_ERROR, command

if TYPE_CHECKING:
    from osprey_ros.cli._programs import Program

_FIRST_STEPS = """\
osprey describes the objects of an image. Three ways to begin:

    osprey describe --image photo.jpg    describe everything in a photograph
    osprey web                           the same in a browser
    osprey doctor                        look whether this machine is ready, with ROS 2 too

`osprey --help` lists all commands."""
_EPILOG = """\
Try it on a simulated scene:

    osprey sim --seed 7 --output scene
    osprey describe --image scene/image.png --masks scene/masks.png

`osprey COMMAND --help` explains the options of a command."""


@command("osprey: error")
def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The arguments, by default those of the process.

    Returns:
        The exit status: that of the command, or one of `osprey_ros.cli._edge.command`.
    """
    # Imported here, where Ctrl-C is handled.
    from osprey_ros.cli._output import logs_on_stderr

    parser, commands = parser_of_commands()
    argv = sys.argv[1:] if argv is None else list(argv)
    _check_command(parser, commands, argv)
    arguments = parser.parse_args(argv)
    with logs_on_stderr(arguments.verbose + getattr(arguments, "more_verbose", 0)):
        status: int = arguments.run(arguments)
    return status


def parser_of_commands() -> tuple[argparse.ArgumentParser, dict[str, Sequence[str]]]:
    """Return the parser, and the names below each command: those of its own commands, if it has any."""
    from osprey_ros.cli import annotate, ask, bag, bundle, completion, describe, doctor, mcp, segment, web
    from osprey_ros.cli._options import Parser, add_verbose_option
    from osprey_ros.cli._programs import EVALUATIONS, PROGRAMS

    parser = Parser(
        prog="osprey",
        description="Describe the objects of images, of recordings and of a running robot.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    add_verbose_option(parser, "verbose")
    parser.set_defaults(run=_run_without_command)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    describe.add_command(commands)
    segment.add_command(commands)
    ask.add_command(commands)
    annotate.add_command(commands)
    bag.add_command(commands)
    bundle.add_command(commands)
    web.add_command(commands)
    mcp.add_command(commands)
    doctor.add_command(commands)
    completion.add_command(commands, parser)
    for name, program in PROGRAMS.items():
        _add_program(commands, f"osprey {name}", name, program)
    evaluate = commands.add_parser(
        "eval",
        help="measure how good a bundle is (from a checkout)",
        description="Measure how good a bundle is. `osprey eval NAME --help` explains the options of one measurement.",
    )
    names = evaluate.add_subparsers(title="measurements", required=True, metavar="NAME")
    for name, program in EVALUATIONS.items():
        _add_program(names, f"osprey eval {name}", name, program)
    return parser, {**dict.fromkeys(commands.choices, ()), "bundle": bundle.ACTIONS, "eval": tuple(EVALUATIONS)}


def _add_program(commands: Any, title: str, name: str, program: Program) -> None:
    """Add a command whose arguments, --help included, are parsed by the program itself."""
    from osprey_ros.cli._programs import run_program

    # Nothing begins with the only prefix character, so argparse finds no options.
    parser = commands.add_parser(name, help=program.help, add_help=False, prefix_chars="\0")
    parser.add_argument("argv", nargs=argparse.REMAINDER)
    parser.set_defaults(run=lambda arguments: run_program(title, program, arguments.argv))


def _run_without_command(arguments: argparse.Namespace) -> int:
    if not arguments.version:
        print(_FIRST_STEPS)
        return USAGE_ERROR
    import osprey_ros

    print(f"osprey {osprey_ros.__version__}")
    return 0


def _check_command(parser: argparse.ArgumentParser, commands: Mapping[str, Sequence[str]], argv: Sequence[str]) -> None:
    """Exit with a suggestion if a command is unknown. argparse has suggestions from Python 3.14 on only."""
    known: Sequence[str] = tuple(commands)
    for word in [word for word in argv if not word.startswith("-")][:2]:
        if not known:
            return
        if word not in known:
            close = difflib.get_close_matches(word, known, 1)
            remedy = f"did you mean {close[0]!r}?" if close else f"choose from {', '.join(known)}"
            parser.error(f"unknown command {word!r}; {remedy}")
        known = commands.get(word, ())
