"""Causes of failed reads and writes in plain words, and reading of text files with these words."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from osprey_ros.errors import OspreyError

LFS_POINTER = "is a Git LFS pointer instead of the file: run `git lfs pull` in its folder"

_LFS_MAGIC = b"version https://git-lfs"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_REASONS = {
    errno.EACCES: "permission denied; change the permissions (chmod or chown)",
    errno.EPERM: "the operation is not permitted; change the owner or the permissions (chown or chmod)",
    errno.ENOENT: "the file does not exist; check the path",
    errno.ENOTDIR: "a part of the path is not a folder; check the path",
    errno.EISDIR: "it is a folder and not a file; check the path",
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "the disk quota is used up; free some space",
    errno.EFBIG: "the file is larger than files may be; raise the limit (ulimit -f), or choose another disk",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.EIO: "the disk reports an input or output error; check the disk",
    errno.EMFILE: "too many files are open; raise the limit (ulimit -n)",
    errno.ENAMETOOLONG: "the name is too long; shorten it",
    errno.ELOOP: "its symbolic links form a loop; correct them",
}


def os_reason(error: OSError) -> str:
    """Return the cause of a failed file operation and its remedy: "the disk is full; free some space"."""
    known = _REASONS.get(error.errno or 0)
    return known or (error.strerror or str(error) or type(error).__name__).lower()


def is_lfs_pointer(path: Path) -> bool:
    """Return whether a file is the text that Git LFS leaves in place of a large file. Raises OSError."""
    with path.open("rb") as file:
        return file.read(len(_LFS_MAGIC)) == _LFS_MAGIC


def read_text(path: Path, kind: type[OspreyError], remedy: str) -> str:
    """Return the UTF-8 text of a file, without a byte order mark.

    Args:
        path: The file.
        kind: Class of the error.
        remedy: What helps if the file is missing or holds something else, such as "download it again".

    Raises ``kind`` with the cause: permission, Git LFS pointer, encoding.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise kind(f"{path} is missing; {remedy}") from error
    except OSError as error:
        raise kind(f"{path} cannot be read: {os_reason(error)}") from error
    if data.startswith(_LFS_MAGIC):
        raise kind(f"{path} {LFS_POINTER}")
    if data.startswith(_UTF16_MARKS):
        raise kind(f"{path} is UTF-16 text; save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise kind(f"{path} is not UTF-8 text (byte {data[error.start]:#04x} at {error.start}); {remedy}") from error


def native_path(path: str | os.PathLike[str]) -> str:
    """Return a path as text for libraries that encode paths as UTF-8, whatever the locale is.

    Without a UTF-8 locale, Python represents the bytes of other characters by surrogates, which libraries refuse.
    """
    return os.fsencode(path).decode("utf-8", "surrogateescape")


def folder_name(path: str | os.PathLike[str]) -> str:
    """Return the last part of a path, as UTF-8 text that can be stored whatever the locale is."""
    return os.fsencode(Path(path).absolute().name).decode("utf-8", "replace")


def wrong_value(error: Exception) -> str:
    """Return what a KeyError, TypeError or ValueError says about the values of a file, in words for users."""
    return f"it lacks {error}" if isinstance(error, KeyError) else str(error).replace("\n", " ")
