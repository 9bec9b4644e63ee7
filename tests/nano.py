"""The bundle that ships, and the same without its score "unlike training"."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

from osprey_ros.bundle.bundle import Bundle
from osprey_ros.bundle.manifest import MANIFEST, UNLIKE_TRAINING

NANO = Path(__file__).resolve().parents[1] / "engines" / "nano"


def folder_without_score(folder: Path) -> Path:
    """Copy nano to a folder, without its score, for programs that open it."""
    shutil.copytree(NANO, folder)
    (folder / UNLIKE_TRAINING).unlink()
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest["files"][UNLIKE_TRAINING]
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder


def without_score() -> Bundle:
    """Return nano without its score: it finds words for patches of color, too."""
    bundle = Bundle.open(NANO)
    files = {name: entry for name, entry in bundle.manifest.files.items() if name != UNLIKE_TRAINING}
    return Bundle(bundle.root, replace(bundle.manifest, files=files))
