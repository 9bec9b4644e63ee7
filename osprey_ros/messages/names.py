"""Names of nodes, by the rules of ROS 2, without ROS."""

from __future__ import annotations

import re

from osprey_ros.errors import InputError

_NAME = re.compile(r"/?[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*/?")


def full_node_name(name: str) -> str:
    """Return the full name of a node: with "/" at the beginning and not at the end.

    Args:
        name: Such as "/osprey", "robot/osprey" or "/osprey/".

    Raises:
        InputError: ROS refuses the name.
    """
    if not _NAME.fullmatch(name) or "__" in name:
        raise InputError(
            f"{name!r} is not the name of a node; give parts of letters (a to z), digits and single underscores that "
            "do not begin with a digit, separated by single slashes, such as /robot/osprey"
        )
    return "/" + name.strip("/")
