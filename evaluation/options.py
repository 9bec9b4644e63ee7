"""Options that several measurements share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from osprey_sim.render import MIN_AREA
from training.home.kinds import KINDS


def add_split_option(parser: Any) -> None:
    """Add --split."""
    parser.add_argument(
        "--split", choices=("test", "validation"), default="test", help="which scenes (default: %(default)s)"
    )


def add_min_area_option(parser: Any) -> None:
    """Add --min-area."""
    text = "ignore objects of at most N pixels at 320x240 (default: %(default)s)"
    parser.add_argument("--min-area", type=int, default=MIN_AREA, metavar="N", help=text)


def add_data_option(parser: Any) -> None:
    """Add --data."""
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of the packs of photographs")


def add_kinds_option(parser: Any) -> None:
    """Add --kinds."""
    text = "tree of kinds with names of packs and held-out kinds beside it (default: that of home)"
    parser.add_argument("--kinds", type=Path, default=KINDS, metavar="FILE", help=text)


def add_packs_option(parser: Any) -> None:
    """Add --packs."""
    text = "names of packs of photographs, separated by commas (default: all)"
    parser.add_argument("--packs", type=lambda value: value.split(","), metavar="NAMES", help=text)
