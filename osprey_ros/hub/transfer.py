"""Read files over HTTP: with a bound on their size, and from where an interrupted download stopped.

A connection that breaks is opened again for the rest of the file (RFC 9110, range requests). A server that does not
know ranges sends the file from its beginning.
"""

from __future__ import annotations

import http.client
import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from osprey_ros.errors import BundleError
from osprey_ros.file_errors import os_reason

ATTEMPTS = 5  # in a row without a new byte
_PAUSE = 0.5  # seconds before the second attempt; doubled for each further one
_TIMEOUT = 30.0  # seconds without a byte
_PIECE = 1 << 18  # bytes
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_AGAIN = (408, 425, 429, 500, 502, 503, 504)  # statuses after which another attempt helps
_REMEDIES = {
    401: "the server asks for a login: download the folder with the server's own program, and give it with --bundle",
    403: "the server refuses access: check the name, or download the folder with the server's own program",
    404: "the file is not there: check the address or the name",
    410: "the file was removed: check the address or the name",
}


class NotThere(BundleError):
    """The server has no file at an address."""


class _Redirects(HTTPRedirectHandler):
    """Follow redirections to http and https only, and never from https to http."""

    def redirect_request(self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Request | None:
        secure = req.full_url.startswith("https:")
        if not newurl.startswith("https:" if secure else ("http:", "https:")):
            raise BundleError(f"{req.full_url} leads to {newurl}, which is less safe; give the other address yourself")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class Transfer:
    """Reads files over HTTP. Proxies are those of the environment (``https_proxy``).

    Args:
        pause: Seconds before the second attempt.
    """

    def __init__(self, pause: float = _PAUSE) -> None:
        self._opener = build_opener(_Redirects)
        self._pause = pause

    def read(self, url: str, limit: int) -> bytes:
        """Return the content of a small file. Raises BundleError, also for a file of more than ``limit`` bytes."""

        def attempt() -> bytes:
            with self._open(url) as response:
                data: bytes = response.read(limit + 1)
                announced = _length(response)
            if len(data) > limit:
                raise BundleError(f"{url} has more than {limit} bytes, which is too large for what it should be")
            if announced is not None and len(data) < announced:
                raise http.client.IncompleteRead(data, announced - len(data))
            return data

        found: bytes = self._until_done(url, attempt, lambda: 0)
        return found

    def save(
        self, url: str, path: Path, limit: int, size: int | None = None, read: Callable[[int], None] | None = None
    ) -> None:
        """Download a file. What ``path`` has already is kept, and only the rest is asked for.

        Args:
            url: Address of the file.
            path: Where it is written. The file ``path`` + ".etag" beside it says which version of the file it is.
            limit: Largest size in bytes.
            size: Size in bytes if it is known; another size is an error.
            read: Called with the new number of bytes in ``path``.

        Raises:
            BundleError: The server does not have or send the file, or it cannot be written. What came stays.
        """
        report = read or (lambda count: None)
        mark = path.with_name(f"{path.name}.etag")

        def attempt() -> None:
            start = _size(path)
            version = mark.read_text(encoding="utf-8") if start and mark.is_file() else ""
            if size is not None and start == size:
                return
            # Without a hash to check, only a named version can be continued.
            if (size is None and not version) or (size is not None and start > size):
                start = 0
            with self._open(url, start, version) as response:
                start, total = _extent(url, response, start)
                expected = total if size is None else size
                if total is not None and total != expected:
                    raise BundleError(f"{url} has {total} bytes, the manifest says {size}; report it to its publisher")
                if expected is not None and expected > limit:
                    raise BundleError(f"{url} has {expected} bytes, {limit} are allowed; raise --max-size")
                _write_text(mark, _version(response))
                ended = _append(path, response, start, limit if expected is None else expected, report)
            if expected is not None and ended < expected:
                raise http.client.IncompleteRead(b"", expected - ended)

        self._until_done(url, attempt, lambda: _size(path))
        mark.unlink(missing_ok=True)

    def _until_done(self, url: str, attempt: Callable[[], Any], progress: Callable[[], int]) -> Any:
        """Return what ``attempt`` returns; try again while it helps. ``progress`` returns a number that grows."""
        failures, reached = 0, progress()
        while True:
            try:
                return attempt()
            except HTTPError as error:
                reason = f"the server answers {error.code} {error.reason}"
                if error.code == 416:
                    reason += ": it has less than what was downloaded before"
                if error.code not in _AGAIN:
                    kind = NotThere if error.code in (404, 410) else BundleError
                    remedy = _REMEDIES.get(error.code, "try again later, or give another address")
                    raise kind(f"{url}: {reason}; {remedy}") from error
            except (OSError, http.client.HTTPException) as error:  # of the network; those of files are BundleError
                reason = _reason(error)
            failures = 0 if progress() > reached else failures + 1
            reached = max(reached, progress())
            if failures >= ATTEMPTS:
                raise BundleError(f"{url}: {reason}; check the network, and run the command again to continue")
            time.sleep(self._pause * 2 ** max(0, failures - 1))

    def _open(self, url: str, start: int = 0, version: str = "") -> Any:
        headers = {"User-Agent": "osprey_ros", "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
            if version:
                headers["If-Range"] = version
        try:
            return self._opener.open(Request(url, headers=headers), timeout=_TIMEOUT)
        except HTTPError as error:
            if error.code == 416 and start:  # what is there is longer than the file, or belongs to another one
                return self._open(url)
            raise


def _extent(url: str, response: Any, asked: int) -> tuple[int, int | None]:
    """Return the position of the first byte of a response, and the size of the whole file if it is known."""
    length = _length(response)
    if response.status != 206:
        return 0, length
    found = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if found is None or int(found[1]) != asked:
        raise BundleError(f"{url}: the server sends another part of the file than asked for; try again later")
    return asked, None if found[2] == "*" else int(found[2])


def _length(response: Any) -> int | None:
    text = response.headers.get("Content-Length", "")
    return int(text) if text.isdecimal() else None


def _version(response: Any) -> str:
    """Return what identifies this version of the file for If-Range; "" if nothing does reliably."""
    etag: str = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else ""


def _append(path: Path, response: IO[bytes], start: int, end: int, report: Callable[[int], None]) -> int:
    """Write a response from position ``start`` on; return where it ended. Raises BundleError beyond ``end``."""
    try:
        file = path.open("r+b" if path.exists() else "w+b")
    except OSError as error:
        raise BundleError(f"{path} cannot be written: {os_reason(error)}") from error
    with file:
        position = start
        report(_storing(path, lambda: _cut(file, start)))
        while piece := response.read(_PIECE):
            position += len(piece)
            if position > end:
                raise BundleError(f"the server sends more than {end} bytes for {path.name}; report it to its publisher")
            report(_storing(path, lambda piece=piece, position=position: _put(file, piece, position)))  # type: ignore[misc]
    return position


def _cut(file: IO[bytes], start: int) -> int:
    file.truncate(start)
    return file.seek(start)


def _put(file: IO[bytes], piece: bytes, position: int) -> int:
    file.write(piece)
    file.flush()
    return position


def _storing(path: Path, write: Callable[[], int]) -> int:
    """Return what ``write`` returns. Raises BundleError if the disk is full; errors of the network are others."""
    try:
        return write()
    except OSError as error:
        raise BundleError(f"{path} cannot be written: {os_reason(error)}; run the command again to continue") from error


def _write_text(path: Path, text: str) -> None:
    with suppress(OSError):  # then the download cannot be continued, and begins again
        if text:
            path.write_text(text, encoding="utf-8")
        else:
            path.unlink(missing_ok=True)


def _size(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


def _reason(error: Exception) -> str:
    if isinstance(error, http.client.IncompleteRead):
        return "the connection broke before the end of the file"
    cause = error.reason if isinstance(error, URLError) else error
    return f"no answer ({cause})" if str(cause) else f"no answer ({type(cause).__name__})"
