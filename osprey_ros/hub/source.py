"""What ``osprey bundle get`` takes: the address of a folder or of an archive, or a repository of a hub."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from osprey_ros.bundle.manifest import MANIFEST
from osprey_ros.bundle.places import CACHE_NAME
from osprey_ros.errors import InputError

ENDPOINT_VARIABLE = "HF_ENDPOINT"
_ENDPOINT = "https://huggingface.co"
_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2")
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/-]*")


@dataclass(frozen=True)
class Source:
    """Where a bundle is.

    Attributes:
        name: Name of the bundle in the cache, if no other one is given.
        address: Of the folder with the manifest, ending in "/", or of the archive.
        query: What follows each address, such as "?token=1"; "" without one.
        archive: Whether it is an archive.
    """

    name: str
    address: str
    query: str = ""
    archive: bool = False

    def file(self, name: str) -> str:
        """Return the address of a file of the bundle; of the archive, whatever the name is."""
        return f"{self.address}{'' if self.archive else quote(name)}{self.query}"

    @property
    def key(self) -> str:
        """Name of the folder in which the download of this source goes on after it was interrupted."""
        return hashlib.sha256(f"{self.address}{self.query}".encode()).hexdigest()[:16]


def parse_source(text: str, revision: str = "main") -> Source:
    """Return the source that a text stands for.

    Args:
        text: ORG/NAME on the hub, or an http or https address of a folder, of its ``manifest.json`` or of an archive.
        revision: Branch, tag or commit of a repository of the hub. The hub is that of the environment variable
            HF_ENDPOINT.

    Raises:
        InputError: It is neither.
    """
    if "://" in text:
        return _address(text)
    if text.count("/") != 1 or not CACHE_NAME.fullmatch(text):
        raise InputError(
            f"{text!r} is neither an address nor ORG/NAME; give https://..., or the name of a repository of the hub"
        )
    if not _REVISION.fullmatch(revision) or ".." in revision:
        raise InputError(f"revision {revision!r} is not the name of a branch, a tag or a commit; the default is main")
    endpoint = (os.environ.get(ENDPOINT_VARIABLE) or _ENDPOINT).rstrip("/")
    if urlsplit(endpoint).scheme not in ("http", "https"):
        raise InputError(f"{ENDPOINT_VARIABLE} is {endpoint!r}, not an http or https address; correct or unset it")
    return Source(text, f"{endpoint}/{text}/resolve/{quote(revision, safe='')}/")


def _address(text: str) -> Source:
    try:
        parts = urlsplit(text)
        host = parts.hostname
        parts.port  # noqa: B018 - raises ValueError for a wrong one
    except ValueError as error:
        raise InputError(f"{text!r} is not an address ({error}); give https://HOST/FOLDER") from error
    if parts.scheme not in ("http", "https") or not host:
        raise InputError(f"{text!r} is not an http or https address; give https://HOST/FOLDER (folders: --bundle)")
    if parts.username is not None:
        raise InputError("the address contains a login, which would be kept in logs; give it without one")
    path, query = parts.path, f"?{parts.query}" if parts.query else ""
    last = unquote(path.rstrip("/").rpartition("/")[2])
    archive = next((end for end in _ARCHIVES if last.lower().endswith(end)), "")
    if archive:
        return Source(last[: -len(archive)], _joined(parts.scheme, parts.netloc, path), query, archive=True)
    path = path.rstrip("/").removesuffix(f"/{MANIFEST}")
    name = unquote(path.rpartition("/")[2]) or host
    return Source(name, _joined(parts.scheme, parts.netloc, f"{path}/"), query)


def _joined(scheme: str, place: str, path: str) -> str:
    return urlunsplit((scheme, place, quote(path, safe="/%:@!$&'()*+,;=~-._"), "", ""))
