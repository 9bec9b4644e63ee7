"""The bundle that ships, and the same without its score "unlike training"."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from osprey_ros.bundle.bundle import Bundle
from osprey_ros.bundle.manifest import UNLIKE_TRAINING

NANO = Path(__file__).resolve().parents[1] / "engines" / "nano"


def without_score() -> Bundle:
    """Return nano without its score: it finds words for patches of color, too."""
    bundle = Bundle.open(NANO)
    files = {name: entry for name, entry in bundle.manifest.files.items() if name != UNLIKE_TRAINING}
    return Bundle(bundle.root, replace(bundle.manifest, files=files))
