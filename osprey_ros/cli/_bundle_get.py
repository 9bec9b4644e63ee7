"""The command ``osprey bundle get``: download a bundle into the cache."""

from __future__ import annotations

import argparse
from typing import Any

from osprey_ros.cli._options import above_zero, add_json_option, add_verbose_option
from osprey_ros.strict_json import to_json


def add_command(commands: Any) -> None:
    """Add ``osprey bundle get`` to the commands of ``osprey bundle``."""
    command = commands.add_parser(
        "get",
        help="download a bundle, which then can be given by name",
        description="Download a bundle into the cache ($XDG_CACHE_HOME or ~/.cache, osprey_ros/bundles) and compare "
        "it with the hashes of its manifest. A download that was interrupted goes on. The bundle is then given by its "
        "name wherever a bundle is taken. Exit status: 0 if it is there, 2 if it is not.",
    )
    command.add_argument(
        "source",
        metavar="URL|ORG/NAME",
        help="address of a folder with manifest.json or of a zip or tar file with one, or a repository of the hub that "
        "HF_ENDPOINT names",
    )
    command.add_argument("--name", metavar="NAME", help="name of the bundle (default: that of the source)")
    command.add_argument(
        "--revision", default="main", metavar="REV", help="branch, tag or commit on the hub (default: %(default)s)"
    )
    command.add_argument(
        "--max-size",
        type=above_zero,
        metavar="MB",
        help="refuse a bundle with more megabytes (default: 64000)",
    )
    command.set_defaults(run=run_get)
    add_json_option(command)
    add_verbose_option(command)


def run_get(arguments: argparse.Namespace) -> int:
    """Run ``osprey bundle get`` and return the exit status, 0.

    Raises:
        OspreyError: The source is none, or the bundle cannot be downloaded.
    """
    from osprey_ros.cli._bundle_text import size_text
    from osprey_ros.cli._output import warn_if_unverified
    from osprey_ros.cli._progress import progress_bar
    from osprey_ros.engines.machine import plan_notes
    from osprey_ros.hub.get import MAX_BYTES, BundleDownload
    from osprey_ros.hub.source import parse_source

    source = parse_source(arguments.source, arguments.revision)
    limit = MAX_BYTES if arguments.max_size is None else int(arguments.max_size * 1e6)
    with progress_bar("downloading", "B", 0, unit_scale=True) as bar:

        def show(file: str, done: int, total: int) -> None:
            bar.total = total
            bar.set_postfix_str(file, refresh=False)
            bar.update(done - bar.n)

        found = BundleDownload(source, arguments.name, limit, show).run()
    size = sum(entry.bytes for entry in found.manifest.files.values())
    notes = plan_notes(found.manifest)
    if arguments.json:
        report = {"name": found.name, "folder": str(found.folder), "bytes": size, "new": found.new, "notes": notes}
        print(to_json(report, indent=2))
    else:
        state = "downloaded" if found.new else "is there already"
        print(f"{found.name}: {size_text(size)} {state} in {found.folder}\nuse it with --bundle {found.name}")
        for note in notes:
            print(f"note: {note}")
    warn_if_unverified(found.manifest)
    return 0
