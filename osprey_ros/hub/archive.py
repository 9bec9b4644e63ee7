"""Take a bundle out of an archive: only the files of its manifest, never more bytes than it says, no other paths."""

from __future__ import annotations

import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Protocol

from osprey_ros.bundle.manifest import MANIFEST
from osprey_ros.errors import BundleError
from osprey_ros.file_errors import os_reason

_PIECE = 1 << 20  # bytes; a larger read at once is that of a hostile header
_DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    OSError,
    RuntimeError,  # an encrypted zip file; NotImplementedError: a compression that Python does not know
    ValueError,
    KeyError,
)


class _Members(Protocol):
    """The files of an archive."""

    def names(self) -> list[str]:
        """Return the paths of all regular files."""

    def open(self, name: str) -> IO[bytes]:
        """Open a file."""


class Archive:
    """An open archive with one bundle, at its top or in one folder. Use it within `open_archive`.

    Args:
        members: Its files.
        label: What errors call it.

    Raises BundleError for an archive without a manifest or with several.
    """

    def __init__(self, members: _Members, label: str) -> None:
        self._members, self._label = members, label
        found = [PurePosixPath(name) for name in members.names() if PurePosixPath(name).name == MANIFEST]
        found = [path for path in found if len(path.parts) <= 2 and ".." not in path.parts and not path.is_absolute()]
        if len(found) != 1:
            count = f"{len(found)} files" if found else "no file"
            raise BundleError(
                f"{label} has {count} {MANIFEST} at its top or in one folder; give an archive with one engine bundle"
            )
        self._folder = found[0].parent

    def manifest(self, limit: int) -> bytes:
        """Return the manifest. Raises BundleError if it has more than ``limit`` bytes."""
        with self._members.open(str(self._folder / MANIFEST)) as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise BundleError(f"{self._label}: {MANIFEST} has more than {limit} bytes, which is too large")
        return data

    def extract(self, folder: Path, sizes: Mapping[str, int]) -> Iterator[str]:
        """Write files of the bundle to a folder, and yield the name of each one when it is written.

        Args:
            folder: Where they are written.
            sizes: Size in bytes of each file. Another size is an error.

        Raises:
            BundleError: A file is missing or has another size, or cannot be written.
        """
        there = set(self._members.names())
        for name, size in sizes.items():
            path = str(self._folder / name)
            if path not in there:
                raise BundleError(f"{self._label} has no {name}, which its manifest lists; report it to its publisher")
            with self._members.open(path) as source:
                _copy(source, folder / name, size, self._label)
            yield name


@contextmanager
def open_archive(path: Path, label: str, limit: int) -> Iterator[Archive]:
    """Yield an archive, a zip file or a tar file in any of Python's compressions.

    Args:
        path: The file.
        label: What errors call it.
        limit: Bytes to unpack at most.

    Raises:
        BundleError: It is no archive, damaged, encrypted, or has no bundle. Also for such errors in the block.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as opened:
                yield Archive(_Zip(opened), label)
        else:
            with tarfile.open(path, "r:*") as unpacked:
                _limit(unpacked, limit)
                yield Archive(_Tar(unpacked), label)
    except _DAMAGED as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BundleError(f"{label} is not an archive, or damaged ({reason}); download it again") from error


class _Zip:
    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive

    def names(self) -> list[str]:
        return [info.filename for info in self._archive.infolist() if not info.is_dir()]

    def open(self, name: str) -> IO[bytes]:
        return self._archive.open(name)


class _Tar:
    def __init__(self, archive: tarfile.TarFile) -> None:
        self._archive = archive
        self._members = {str(PurePosixPath(info.name)): info for info in archive if info.isreg()}

    def names(self) -> list[str]:
        return list(self._members)

    def open(self, name: str) -> IO[bytes]:
        file = self._archive.extractfile(self._members[name])
        if file is None:
            raise KeyError(name)
        return file


class _Limited:
    """The unpacked bytes of a tar file, with a bound on them and on a single read."""

    def __init__(self, file: IO[bytes], limit: int) -> None:
        self._file, self._limit = file, limit

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _PIECE or self._file.tell() + size > self._limit:
            raise tarfile.ReadError("it unpacks to more than is allowed")
        return self._file.read(size)

    def seek(self, position: int, whence: int = 0) -> int:
        if position > self._limit:
            raise tarfile.ReadError("it unpacks to more than is allowed")
        return self._file.seek(position, whence)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self._file.close()


def _limit(archive: tarfile.TarFile, limit: int) -> None:
    archive.fileobj = _Limited(archive.fileobj, limit)  # type: ignore[assignment,arg-type]


def _copy(source: IO[bytes], path: Path, size: int, label: str) -> None:
    left = size
    try:
        file = path.open("wb")
    except OSError as error:
        raise BundleError(f"{path} cannot be written: {os_reason(error)}") from error
    with file:
        while piece := source.read(min(_PIECE, left + 1)):
            left -= len(piece)
            if left < 0:
                break
            try:
                file.write(piece)
                file.flush()
            except OSError as error:
                raise BundleError(f"{path} cannot be written: {os_reason(error)}") from error
    if left:
        raise BundleError(f"{label}: {path.name} has not the {size} bytes of the manifest; report it to its publisher")
