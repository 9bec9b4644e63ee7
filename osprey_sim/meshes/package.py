"""Unpack the catalogs of the Debian package: an ar archive with a tar file, with zip files in it."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

from osprey_ros.errors import InputError

_MAGIC = b"!<arch>\n"
_HEADER = 60  # bytes before each member of an ar archive
SUFFIX = ".sh3f"


def unpack_catalogs(package: Path, folder: Path) -> Path:
    """Unpack each catalog into a folder of its name. Return the folder of those folders.

    Args:
        package: A .deb file, or a folder with .sh3f files.
        folder: Where to unpack.

    Raises:
        InputError: The package cannot be read or has no catalogs.
    """
    output = folder / "catalogs"
    try:
        if package.is_dir():
            files = {file.stem: file.read_bytes() for file in sorted(package.rglob(f"*{SUFFIX}"))}
        else:
            files = _catalogs_of_deb(package.read_bytes())
        for name, data in files.items():
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                archive.extractall(output / name)
    except OSError as error:
        raise InputError(f"cannot read {package}: {error.strerror or error}") from error
    except (zipfile.BadZipFile, tarfile.TarError, ValueError) as error:
        raise InputError(f"{package} is not a .deb file of models or is damaged: {error}") from error
    if not files:
        raise InputError(f"{package} has no {SUFFIX} files; name the package sweethome3d-furniture or its folder")
    return output


def _catalogs_of_deb(data: bytes) -> dict[str, bytes]:
    """Return the catalogs of a .deb file by name."""
    if not data.startswith(_MAGIC):
        raise ValueError("it does not start with the signature of a .deb file")
    at = len(_MAGIC)
    while at + _HEADER <= len(data):
        name = data[at : at + 16].decode("latin-1").strip().rstrip("/")
        size = int(data[at + 48 : at + 58])
        start = at + _HEADER
        if name.startswith("data.tar"):
            with tarfile.open(fileobj=io.BytesIO(data[start : start + size])) as archive:
                members = [member for member in archive if member.isfile() and member.name.endswith(SUFFIX)]
                return {Path(m.name).stem: file.read() for m in members if (file := archive.extractfile(m))}
        at = start + size + size % 2
    return {}
