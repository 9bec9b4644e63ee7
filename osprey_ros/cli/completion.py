"""The command ``osprey completion``: print a script with which a shell completes commands and options."""

from __future__ import annotations

import argparse
from typing import Any

from osprey_ros.cli._completion import SHELLS, script

_DESCRIPTION = """\
Print a script with which a shell completes commands, options and their values.

    bash:  osprey completion bash > ~/.local/share/bash-completion/completions/osprey
    zsh:   osprey completion zsh > ~/.zfunc/_osprey    (with ~/.zfunc in fpath, before compinit)
    fish:  osprey completion fish > ~/.config/fish/completions/osprey.fish"""


def add_command(commands: Any, whole: argparse.ArgumentParser) -> None:
    """Add ``osprey completion`` to the commands. ``whole`` is the parser that is completed."""
    command = commands.add_parser(
        "completion",
        help="print a script with which a shell completes commands and options",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("shell", choices=tuple(SHELLS), help="shell that the script is for")
    command.set_defaults(run=lambda arguments: run(arguments, whole))


def run(arguments: argparse.Namespace, whole: argparse.ArgumentParser) -> int:
    """Run ``osprey completion`` and return the exit status, 0."""
    print(script(arguments.shell, whole), end="")
    return 0
