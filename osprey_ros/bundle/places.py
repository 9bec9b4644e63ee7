"""Where bundles are: the places that are searched for the name of a bundle, and the bundles in them."""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from osprey_ros.bundle.default import VARIABLE, default_bundle
from osprey_ros.bundle.manifest import MANIFEST
from osprey_ros.bundle.spec import REBUILD
from osprey_ros.errors import BundleError
from osprey_ros.file_errors import os_reason

SHIPPED, DOWNLOADED, NAMED = "shipped", "downloaded", VARIABLE  # origins of bundles
# The name of a bundle in the cache: NAME, or ORG/NAME. No part begins with a dot, so that none leads out of the cache.
CACHE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)?")


@dataclass(frozen=True)
class Place:
    """A bundle that was found.

    Attributes:
        name: What ``--bundle`` takes.
        folder: Its folder.
        origin: SHIPPED, DOWNLOADED, or NAMED for a folder that only the environment variable names.
    """

    name: str
    folder: Path
    origin: str


def cache_folder() -> Path:
    """Return the cache of this package: ``osprey_ros`` in ``$XDG_CACHE_HOME`` or ``~/.cache``. It may not exist.

    Raises RuntimeError if there is no home directory.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "osprey_ros"


def downloads_folder() -> Path:
    """Return the folder of downloaded bundles in the cache. It may not exist. Raises BundleError without a home."""
    try:
        return cache_folder() / "bundles"
    except RuntimeError as error:
        raise BundleError("there is no home directory; set XDG_CACHE_HOME to a folder for downloads") from error


def find_bundle(name_or_path: str | os.PathLike[str], rebuild: str = REBUILD) -> Path:
    """Return the folder of a bundle.

    A path (with a separator in it) is that folder; if there is none and it has the form ORG/NAME, it is the downloaded
    bundle of that name. For a bare name, it is the first folder with a manifest among ``NAME`` in the working
    directory, ``engines/NAME`` in the source checkout, ``engines/NAME`` in an install space, and ``NAME`` among the
    downloaded bundles. Raises BundleError, with the places that were searched and the remedy ``rebuild``, if there is
    none.
    """
    # os.path, because pathlib raises OSError if a name is too long.
    given = os.path.expanduser(name_or_path)
    tried = [Path(given)]
    if os.path.dirname(given):
        if _is_folder(given):
            return tried[0]
        tried += _downloaded(given)
        found = [folder for folder in tried[1:] if os.path.isfile(folder / MANIFEST)]
    else:
        tried += [*(engines / given for engines in _engine_folders()), *_downloaded(given)]
        found = [folder for folder in tried if os.path.isfile(folder / MANIFEST)]
    if found:
        return found[0]
    places = ", ".join(str(p) for p in tried)
    origin = f" of the environment variable {VARIABLE}" if os.environ.get(VARIABLE) == str(name_or_path) else ""
    raise BundleError(
        f"no engine bundle {str(name_or_path)!r}{origin} (searched {places}): give its folder, a name from `osprey "
        f"bundle list`, or {rebuild}"
    )


def installed_bundles() -> list[Place]:
    """Return the bundles that can be given by name, and the one that the environment variable names.

    Every folder with a manifest counts, whatever is in it. The first of several bundles of one name is returned, which
    is the one that `find_bundle` finds.
    """
    places: dict[str, Place] = {}
    for engines in _engine_folders():
        for folder in _bundles_in(engines):
            places.setdefault(folder.name, Place(folder.name, folder, SHIPPED))
    with suppress(BundleError):
        downloads = downloads_folder()
        for group in (downloads, *_folders_in(downloads)):
            for folder in _bundles_in(group):
                name = folder.relative_to(downloads).as_posix()
                places.setdefault(name, Place(name, folder, DOWNLOADED))
    with suppress(BundleError):
        default = find_bundle(default_bundle())
        if not any(default.resolve() == place.folder.resolve() for place in places.values()):
            places[default_bundle()] = Place(default_bundle(), default, NAMED)
    return list(places.values())


def shipped_bundle(name: str) -> Path | None:
    """Return the folder of the shipped bundle of this name, None if there is none."""
    found = (engines / name for engines in _engine_folders())
    return next((folder for folder in found if os.path.isfile(folder / MANIFEST)), None)


def _downloaded(name: str) -> list[Path]:
    """Return where a downloaded bundle of this name would be; nothing for what cannot be such a name."""
    if not CACHE_NAME.fullmatch(name):
        return []
    with suppress(BundleError):
        return [downloads_folder() / name]
    return []


def _folders_in(folder: Path) -> Iterator[Path]:
    """Yield the folders in a folder by name, without hidden ones; none if it cannot be read."""
    try:
        found = sorted(folder.iterdir())
    except OSError:
        return
    yield from (path for path in found if path.name[0] != "." and path.is_dir())


def _bundles_in(folder: Path) -> Iterator[Path]:
    return (path for path in _folders_in(folder) if os.path.isfile(path / MANIFEST))


def _is_folder(path: str) -> bool:
    """Return whether a path is a folder. Raises BundleError if it is a file or may not be read."""
    try:
        is_folder = stat.S_ISDIR(os.stat(path).st_mode)
    except (FileNotFoundError, ValueError):
        return False
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return False
        raise BundleError(f"bundle {path} cannot be read: {os_reason(error)}") from error
    if not is_folder:
        raise BundleError(f"{path} is a file and not an engine bundle; give the folder of the bundle")
    return is_folder


def _engine_folders() -> list[Path]:
    here = Path(__file__).resolve()
    prefixes = [Path(p) for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    # An installed package is in <prefix>/lib/pythonX.Y/site-packages/osprey_ros (Debian: <prefix>/local/lib/...).
    prefixes += [*here.parents[4:7], Path(sys.prefix)]
    folders = [here.parents[2] / "engines"] + [p / "share" / "osprey_ros" / "engines" for p in prefixes]
    return list(dict.fromkeys(folders))
