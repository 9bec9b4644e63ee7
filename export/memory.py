"""Gives memory that was freed back to the system, so that one large step does not weigh on the next."""

from __future__ import annotations

import ctypes


def release() -> None:
    """Has the C library return what it keeps of freed memory for later, where it can be asked to (glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
