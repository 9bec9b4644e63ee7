"""The commands ``osprey bundle show`` and ``osprey bundle verify``: print what a bundle contains, and check its files.

`check_bundle` does the checks of `Bundle.open`, but collects all faults instead of stopping at the first one.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from osprey_ros.bundle import fingerprint
from osprey_ros.bundle.manifest import MANIFEST, EngineManifest, FileEntry, Manifest, kind_of
from osprey_ros.bundle.spec import REBUILD
from osprey_ros.cli._bundle_text import describe_bundle, size_text
from osprey_ros.cli._options import add_json_option, add_verbose_option
from osprey_ros.cli._output import warn_if_unverified
from osprey_ros.errors import BundleError, OspreyError
from osprey_ros.segmenter.bundle import SegmenterManifest
from osprey_ros.strict_json import to_json

ACTIONS = ("show", "verify")
FAULTY = 1


def add_command(commands: Any) -> None:
    """Add ``osprey bundle`` to the commands."""
    parser = commands.add_parser(
        "bundle",
        help="print what an engine bundle contains, or check its files",
        description="Print what an engine bundle contains, or check its files.",
    )
    bundle_commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
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
    from osprey_ros.bundle.engine_bundle import find_bundle

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
    kind = _kind(data)
    if isinstance(data, dict) and data.get("format_version") != kind.readable_version:
        raise BundleError(
            f"bundle {root}: {MANIFEST} has format_version {data.get('format_version')!r}, this osprey_ros reads "
            f"{kind.readable_version}; use the osprey_ros that it was built with, or {kind.rebuild}"
        )
    try:
        return kind.from_json(to_json(data)), []
    except BundleError as error:
        return None, [Fault(MANIFEST, str(error).removeprefix(f"{MANIFEST} ").removeprefix(f"{MANIFEST}: "))]


def _kind(data: Any) -> type[EngineManifest]:
    """Return the type of the manifest with this content, whatever its faults."""
    is_segmenter = isinstance(data, dict) and kind_of(data) == SegmenterManifest.kind_of_bundle
    return SegmenterManifest if is_segmenter else Manifest


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


def plan_notes(manifest: EngineManifest) -> list[str]:
    """Return one sentence for each TensorRT plan that does not fit this machine.

    That is not a fault, because the bundle can be for another machine. On a machine without a GPU or without TensorRT,
    one sentence says that the plans were not compared.
    """
    from osprey_ros.engines import machine

    plans = [entry for entry in manifest.engines.values() if entry.fingerprint]
    if not plans:
        return []
    try:
        here = machine.current()
    except OspreyError as error:
        return [f"the TensorRT plans were not compared with this machine ({error})"]
    notes = []
    for entry in plans:
        found = fingerprint.differences(entry.fingerprint, here)
        if found:
            notes.append(f"{entry.file} was built for another machine: {'; '.join(map(str, found))}")
    return notes


def run_verify(arguments: argparse.Namespace) -> int:
    """Run ``osprey bundle verify`` and return the exit status: 0, or FAULTY.

    Raises:
        BundleError: There is no bundle to check.
    """
    from osprey_ros.cli._progress import progress_bar

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
    from osprey_ros.bundle.engine_bundle import find_bundle
    from osprey_ros.segmenter.bundle import SegmenterBundle

    root = find_bundle(arguments.bundle)
    is_segmenter = isinstance(_read_manifest(root)[0], SegmenterManifest)
    bundle = (SegmenterBundle if is_segmenter else Bundle).open(root, verify=False)
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
