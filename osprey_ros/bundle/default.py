"""The bundle that is used where none is named."""

from __future__ import annotations

import os

VARIABLE = "OSPREY_BUNDLE"
_SHIPPED = "home"


def default_bundle() -> str:
    """Return the folder or name in the environment variable OSPREY_BUNDLE; "home" where it is unset or empty."""
    return os.environ.get(VARIABLE) or _SHIPPED
