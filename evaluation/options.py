"""Options that several measurements share."""

from __future__ import annotations

from typing import Any

from osprey_sim.render import MIN_AREA


def add_split_option(parser: Any) -> None:
    """Add --split."""
    parser.add_argument(
        "--split", choices=("test", "validation"), default="test", help="which scenes (default: %(default)s)"
    )


def add_min_area_option(parser: Any) -> None:
    """Add --min-area."""
    text = "ignore objects of at most N pixels at 320x240 (default: %(default)s)"
    parser.add_argument("--min-area", type=int, default=MIN_AREA, metavar="N", help=text)
