"""Trees of kinds in words that the tokenizer of the tiny model has, and bundles with them."""

from __future__ import annotations

import shutil
from pathlib import Path

from osprey_ros.bundle.bundle import Bundle, write_manifest
from osprey_ros.kinds.tree import Kind, KindTree

# Each name is one token of the tiny model, which answers about different regions with different ones.
ONE_TOKEN = KindTree(
    {
        "word": Kind("object"),
        "the": Kind("word", ("a", "an")),
        "and": Kind("word"),
        "overview": Kind("word"),
        "description": Kind("object"),
        "short": Kind("description"),
        "artificial": Kind("description"),
    },
    general=("word", "description"),
    threshold=0.6,
)
# Names of several tokens.
SPELLED = KindTree(
    {"an overview": Kind("object"), "short answers": Kind("object"), "artificial answers": Kind("short answers")},
    threshold=0.6,
)


def bundle_with_kinds(bundle: Path, folder: Path, tree: KindTree | str) -> Path:
    """Copy a bundle to a folder, with a tree of kinds or with the text of ``kinds.json``."""
    shutil.copytree(bundle, folder)
    text = tree if isinstance(tree, str) else tree.to_json()
    (folder / "kinds.json").write_text(text, encoding="utf-8")
    known = Bundle.open(bundle).manifest
    write_manifest(
        folder,
        name=known.name,
        model=known.model,
        template=known.template,
        precisions=known.precisions,
        verification=known.verification,
        engines=known.engines,
    )
    return folder
