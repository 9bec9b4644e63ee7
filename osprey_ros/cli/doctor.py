"""The command ``osprey doctor``: look at this machine and say what is wrong, with the remedy."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from osprey_ros.cli._color import colored
from osprey_ros.cli._options import add_json_option, add_verbose_option, not_negative
from osprey_ros.doctor.finding import Finding, Level
from osprey_ros.errors import one_line
from osprey_ros.strict_json import to_json

PROBLEMS = 1  # exit status
_SECONDS = 2.0  # for which the topics of a running graph are counted
_COLORS = {Level.OK: "green", Level.WARNING: "yellow", Level.PROBLEM: "red"}


def add_command(commands: Any) -> None:
    """Add ``osprey doctor`` to the commands."""
    command = commands.add_parser(
        "doctor",
        help="look at this machine and say what is wrong, with the remedy",
        description="Look at Python, libraries, GPU, memory, bundles, folders, ROS 2 and the topics of a running "
        "robot, and say what is wrong, with the remedy. ROS 2 and a GPU are not needed. Exit status: 0 without a "
        "problem, also with warnings; 1 with one.",
    )
    command.add_argument(
        "--seconds",
        type=not_negative,
        default=_SECONDS,
        metavar="S",
        help="how long topics of a running robot are counted; 0: do not look at them (default: %(default)g)",
    )
    command.add_argument("--quick", action="store_true", help="compare no files of bundles with their hashes")
    command.add_argument(
        "--scene-file", default="", metavar="FILE", help="also look whether a node can write this scene file"
    )
    command.set_defaults(run=run)
    add_json_option(command)
    add_verbose_option(command)


def run(arguments: argparse.Namespace) -> int:
    """Run ``osprey doctor`` and return the exit status: 0, or PROBLEMS."""
    from osprey_ros.doctor.examination import examine

    examined = examine(arguments.seconds, not arguments.quick, arguments.scene_file)
    if arguments.json:
        findings = list(examined)
        print(to_json({"ok": not _count(findings, Level.PROBLEM), "findings": list(map(asdict, findings))}, indent=2))
    else:
        findings = _print(examined)
    return PROBLEMS if _count(findings, Level.PROBLEM) else 0


def _print(examined: Iterable[Finding]) -> list[Finding]:
    """Print findings as they are made, and the number of warnings and problems; return all."""
    findings: list[Finding] = []
    for found in examined:
        if not findings or findings[-1].area != found.area:
            print(colored(found.area, "bold", sys.stdout))
        findings.append(found)
        level = colored(found.level.value.ljust(7), _COLORS[found.level], sys.stdout)
        print(f"  {level}  {found.name}: {one_line(found.text)}", flush=True)
        if found.remedy:
            print(f"           remedy: {one_line(found.remedy)}")
    counts = [(_count(findings, level), level.value) for level in (Level.PROBLEM, Level.WARNING)]
    said = [f"{count} {name}{'s' if count > 1 else ''}" for count, name in counts if count]
    print(f"\n{' and '.join(said)}" if said else "\nnothing is wrong")
    return findings


def _count(findings: Iterable[Finding], level: Level) -> int:
    return sum(found.level is level for found in findings)
