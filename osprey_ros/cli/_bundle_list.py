"""The command ``osprey bundle list``: the bundles that can be given by name, and what each one is for."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from osprey_ros.bundle.default import default_bundle
from osprey_ros.bundle.places import Place, find_bundle, installed_bundles
from osprey_ros.cli._bundle_text import size_text, table
from osprey_ros.cli._options import add_json_option, add_verbose_option
from osprey_ros.errors import BundleError, one_line
from osprey_ros.strict_json import to_json

_SEGMENTER = "masks of everything, of clicks and of boxes"


def add_command(commands: Any) -> None:
    """Add ``osprey bundle list`` to the commands of ``osprey bundle``."""
    command = commands.add_parser(
        "list",
        help="list the bundles that can be given by name",
        description="List the bundles that ship, downloaded ones, and the one that OSPREY_BUNDLE names. "
        "A star marks the bundle that is used where none is given.",
    )
    command.set_defaults(run=run_list)
    add_json_option(command)
    add_verbose_option(command)


@dataclass(frozen=True)
class Row:
    """One bundle of the list.

    Attributes:
        place: Where it is.
        kind: "describer" or "segmenter"; "" if that cannot be read.
        bytes: Size of all its files.
        precision: Format of the weights of its largest engine.
        knows: What it can do besides what every bundle of its kind does.
        default: Whether it is used where none is given.
        problem: Why it cannot be used; "" if it can, as far as its manifest and the sizes of its files tell.
    """

    place: Place
    kind: str = ""
    bytes: int = 0
    precision: str = ""
    knows: str = ""
    default: bool = False
    problem: str = ""


def rows() -> list[Row]:
    """Return a row for each bundle that can be given by name, the default first."""
    found = [_row(place, _is_default(place.folder)) for place in installed_bundles()]
    return sorted(found, key=lambda row: (not row.default, row.kind == "segmenter", row.place.name))


def _is_default(folder: Path) -> bool:
    try:
        return find_bundle(default_bundle()).resolve() == folder.resolve()
    except BundleError:
        return False


def _row(place: Place, default: bool) -> Row:
    from osprey_ros.bundle.bundle import Bundle
    from osprey_ros.segmenter.bundle import open_any_bundle

    try:
        bundle = open_any_bundle(place.folder)
        knows = _knows(bundle) if isinstance(bundle, Bundle) else _SEGMENTER
    except BundleError as error:
        return Row(place, default=default, problem=str(error))
    manifest = bundle.manifest
    largest = max(manifest.engines, key=lambda role: manifest.files[manifest.engines[role].file].bytes)
    if isinstance(bundle, Bundle):
        largest = "decoder"  # the language model, whose precision is what one chooses a bundle for
    precision = manifest.precisions.get(largest, "unknown").split(",")[0]
    size = sum(entry.bytes for entry in manifest.files.values())
    return Row(place, manifest.kind_of_bundle, size, precision, knows, default)


def _knows(bundle: Any) -> str:
    manifest, kinds = bundle.manifest, bundle.kinds()
    said = [f"{manifest.model.vocab_size} word pieces"]
    if kinds is not None:
        said.append(f"{len(kinds) - 1} kinds")
    if "crop" in manifest.engines:
        said.append("crops")
    if bundle.unlike_training() is not None:
        said.append("what is unlike its training")
    return ", ".join(said)


def run_list(arguments: argparse.Namespace) -> int:
    """Run ``osprey bundle list`` and return the exit status, 0."""
    found = rows()
    if arguments.json:
        report = [
            {
                "name": row.place.name,
                "folder": str(row.place.folder),
                "origin": row.place.origin,
                "default": row.default,
                "kind": row.kind or None,
                "bytes": row.bytes,
                "precision": row.precision or None,
                "knows": row.knows or None,
                "problem": row.problem or None,
            }
            for row in found
        ]
        print(to_json(report, indent=2))
        return 0
    usable = [row for row in found if not row.problem]
    stars = ["*" if row.default else " " for row in usable]
    cells = [
        (star, row.place.name, row.kind, size_text(row.bytes), row.precision, row.place.origin, row.knows)
        for star, row in zip(stars, usable, strict=True)
    ]
    print("\n".join(table([(" ", "NAME", "KIND", "SIZE", "WEIGHTS", "FROM", "KNOWS"), *cells], indent="")))
    for row in found:
        if row.problem:
            print(f"cannot be used: {row.place.name}: {one_line(row.problem)}")
    return 0
