"""Exceptions of osprey_ros: one base class, and eight classes by what the caller has to change.

Every message is one line: what is wrong, with the values, then the remedy.
"""

from __future__ import annotations


class OspreyError(Exception):
    """Base class of all errors that a user can remedy."""


class InputError(OspreyError):
    """A setting, a message, a request or a call that cannot be used."""


class ImageError(OspreyError):
    """An image that cannot be read, used or written."""


class RegionError(OspreyError):
    """Masks or regions that cannot be used."""


class PromptError(OspreyError):
    """A question, a phrase or a constraint on the answer that the model cannot take."""


class BundleError(OspreyError):
    """A bundle, or a file in it, that cannot be used."""


class EngineError(OspreyError):
    """An engine, its runtime or its device that failed or cannot be used."""


class StorageError(OspreyError):
    """A recording or a scene file that cannot be read or written."""


class StoppedError(OspreyError):
    """A call that was canceled before its answer was complete."""


def one_line(text: str) -> str:
    """Return a text with backslash escapes for characters, such as those of file names, that would break its line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
