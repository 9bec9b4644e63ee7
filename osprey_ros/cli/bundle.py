"""The commands ``osprey bundle show`` and ``osprey bundle verify``: print what a bundle contains, and check its files.

``list`` and ``get`` are in files of their own.

`check_bundle` does the checks of `Bundle.open`, but collects all faults instead of stopping at the first one.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from osprey_ros.bundle.manifest import MANIFEST, EngineManifest, FileEntry
from osprey_ros.bundle.spec import REBUILD
from osprey_ros.cli import _bundle_get, _bundle_list
from osprey_ros.cli._bundle_text import describe_bundle, size_text
from osprey_ros.cli._options import add_json_option, add_verbose_option
from osprey_ros.cli._output import warn_if_unverified
from osprey_ros.errors import BundleError
from osprey_ros.segmenter.bundle import manifest_type
from osprey_ros.strict_json import to_json

ACTIONS = ("list", "show", "verify", "get")
FAULTY = 1


def add_command(commands: Any) -> None:
    """Add ``osprey bundle`` to the commands."""
    parser = commands.add_parser(
        "bundle",
        help="list, show, check and download engine bundles",
        description="List, show, check and download engine bundles.",
    )
    bundle_commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _bundle_list.add_command(bundle_commands)
    show = bundle_commands.add_parser(
        "show",
        help="print engines, files, precisions and verification figures",
        description="Print the contents of a manifest. Only the presence and the sizes of the files are checked.",
    )
    show.set_defaults(run=run_show)
    verify = bundle_commands.add_parser(
        "verify",
        help="read every file and compare it with the manifest",
        description="Read every file of a bundle, compare it with the manifest, and print every fault. "
        "Exit status: 0 if the bundle is complete, 1 if it has faults, 2 if there is no bundle to check.",
    )
    verify.set_defaults(run=run_verify)
    for command in (show, verify):
        command.add_argument("bundle", metavar="DIR", help="folder or name of the engine bundle")
        add_json_option(command)
        add_verbose_option(command)
    _bundle_get.add_command(bundle_commands)


@dataclass(frozen=True)
class Fault:
    """A fault of one file of a bundle: the name of the file, and a predicate such as "is missing"."""

    file: str
    fault: str


@dataclass(frozen=True)
class Check:
    """The result of `check_bundle`.

    Attributes:
        folder: Folder of the bundle.
        manifest: Its manifest. None if it cannot be read; then no other file was checked.
        faults: All faults.
        unlisted: Files in the folder that the manifest does not list.
    """

    folder: Path
    manifest: EngineManifest | None
    faults: tuple[Fault, ...]
    unlisted: tuple[str, ...]


def check_bundle(path: str | Path, progress: Callable[[str, int, int], None] | None = None) -> Check:
    """Compare every file of a bundle with its manifest.

    Args:
        path: Folder or name of the bundle.
        progress: Called with (file, bytes read of all files, bytes of all files).

    Raises:
        BundleError: There is no bundle, or it has a format that this version does not read.
    """
    from osprey_ros.bundle.places import find_bundle

    root = find_bundle(path)
    manifest, faults = _read_manifest(root)
    if manifest is None:
        return Check(root, None, tuple(faults), ())
    for name in dict.fromkeys(manifest.needed_files()):
        if name not in manifest.files:
            faults.append(Fault(name, f"is needed, but {MANIFEST} does not list it"))
    total, done = sum(entry.bytes for entry in manifest.files.values()), 0
    for name, entry in sorted(manifest.files.items()):

        def read(size: int, name: str = name) -> None:
            nonlocal done
            done += size
            if progress is not None:
                progress(name, done, total)

        fault = _file_fault(root, name, entry, read)
        if fault:
            faults.append(Fault(name, fault))
    return Check(root, manifest, tuple(faults), _unlisted(root, manifest))


def _read_manifest(root: Path) -> tuple[EngineManifest | None, list[Fault]]:
    """Return the manifest, or None and what is wrong with it. Raises BundleError for another format version."""
    try:
        text = (root / MANIFEST).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise BundleError(f"{root} has no {MANIFEST}: it is not an engine bundle") from error
    except OSError as error:
        raise BundleError(f"bundle {root}: {MANIFEST} cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError:
        return None, [Fault(MANIFEST, "is not UTF-8 text")]
    try:
        data = json.loads(text)
    except ValueError as error:
        return None, [Fault(MANIFEST, f"is not valid JSON ({error})")]
    kind = manifest_type(data)
    if isinstance(data, dict) and data.get("format_version") != kind.readable_version:
        raise BundleError(
            f"bundle {root}: {MANIFEST} has format_version {data.get('format_version')!r}, this osprey_ros reads "
            f"{kind.readable_version}; use the osprey_ros that it was built with, or {kind.rebuild}"
        )
    try:
        return kind.from_json(to_json(data)), []
    except BundleError as error:
        return None, [Fault(MANIFEST, str(error).removeprefix(f"{MANIFEST} ").removeprefix(f"{MANIFEST}: "))]


def _file_fault(root: Path, name: str, entry: FileEntry, read: Callable[[int], None]) -> str:
    """Return the fault of a file, or an empty text. Call ``read`` with the size of each piece that was read."""
    from osprey_ros.bundle.hash_cache import sha256_of

    if Path(name).name != name:
        return "is not a plain file name"
    path = root / name
    try:
        if not path.is_file():
            return "is missing"
        size = path.stat().st_size
        if size != entry.bytes:
            return f"has {size} bytes instead of {entry.bytes}: it is cut off or was changed"
        digest = sha256_of(path, read)
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    return "" if digest == entry.sha256 else "was changed (its SHA-256 differs from the manifest's)"


def _unlisted(root: Path, manifest: EngineManifest) -> tuple[str, ...]:
    """Return the files that the manifest does not list, without hidden files and Markdown."""
    names = (path.name for path in root.iterdir() if path.suffix != ".md" and path.name[0] != ".")
    return tuple(sorted(name for name in names if name != MANIFEST and name not in manifest.files))


def run_verify(arguments: argparse.Namespace) -> int:
    """Run ``osprey bundle verify`` and return the exit status: 0, or FAULTY.

    Raises:
        BundleError: There is no bundle to check.
    """
    from osprey_ros.cli._progress import progress_bar
    from osprey_ros.engines.machine import plan_notes

    with progress_bar("verifying", "B", 0, unit_scale=True) as bar:

        def show(file: str, done: int, total: int) -> None:
            bar.total = total
            bar.set_postfix_str(file, refresh=False)
            bar.update(done - bar.n)

        check = check_bundle(arguments.bundle, show)
    manifest = check.manifest
    notes = [f"{name} is in the folder but not part of the bundle" for name in check.unlisted]
    if manifest is not None:
        notes += plan_notes(manifest)
    if arguments.json:
        report = {
            "folder": str(check.folder),
            "name": manifest.name if manifest else None,
            "ok": not check.faults,
            "verified": manifest.verified if manifest else None,
            "faults": [asdict(fault) for fault in check.faults],
            "notes": notes,
        }
        print(to_json(report, indent=2))
    else:
        _print_check(check, notes)
    if manifest is not None:
        warn_if_unverified(manifest)
    return FAULTY if check.faults else 0


def _print_check(check: Check, notes: Sequence[str]) -> None:
    for fault in check.faults:
        print(f"{fault.file} {fault.fault}")
    if check.faults:
        count = len(check.faults)
        rebuild = check.manifest.rebuild if check.manifest else REBUILD
        print(f"{count} fault{'s' if count > 1 else ''} in {check.folder}: copy the bundle again, or {rebuild}")
    elif check.manifest is not None:
        files = check.manifest.files.values()
        print(f"OK: {len(files)} files, {size_text(sum(e.bytes for e in files))}, all as listed in {MANIFEST}")
    for note in notes:
        print(f"note: {note}")


def run_show(arguments: argparse.Namespace) -> int:
    """Run ``osprey bundle show`` and return the exit status, 0.

    Raises:
        BundleError: The bundle cannot be opened.
    """
    from osprey_ros.bundle.bundle import Bundle
    from osprey_ros.segmenter.bundle import open_any_bundle

    bundle = open_any_bundle(arguments.bundle)
    manifest, kinds = bundle.manifest, bundle.kinds() if isinstance(bundle, Bundle) else None
    if arguments.json:
        report = {
            "folder": str(bundle.root),
            "verified": manifest.verified,
            "bytes": sum(entry.bytes for entry in manifest.files.values()),
            "kinds": None if kinds is None else {"count": len(kinds) - 1, "threshold": kinds.threshold},
            **asdict(manifest),
        }
        print(to_json(report, indent=2))
    else:
        print("\n".join(describe_bundle(bundle)))
    return 0
