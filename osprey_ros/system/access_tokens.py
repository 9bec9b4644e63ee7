"""Tokens of the servers of this package: none is needed on this machine, one is needed beyond it."""

from __future__ import annotations

import ipaddress
import secrets

from osprey_ros.errors import InputError

MIN_TOKEN = 16  # characters


def is_loopback(host: str) -> bool:
    """Return whether a host, as --host names it, is reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def token_for(host: str, given: str | None, name: str) -> str:
    """Return the token that requests need: ``given``, or a new one beyond the loopback interface; "" for none.

    Args:
        host: Address or name that the server listens on.
        given: A token, None or "" for none.
        name: Where ``given`` comes from, for the error.

    Raises InputError if ``given`` is too short or has characters that do not fit an address.
    """
    if given:
        if len(given) < MIN_TOKEN or not given.isascii() or not given.replace("-", "").replace("_", "").isalnum():
            raise InputError(f"{name} is not a token: give at least {MIN_TOKEN} letters, digits, '-' and '_'")
        return given
    return "" if is_loopback(host) else secrets.token_urlsafe(24)
