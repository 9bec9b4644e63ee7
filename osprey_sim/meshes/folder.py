"""Convert a folder of OBJ models, described by an index, into a set that the simulator can place.

``python -m osprey_sim.meshes.folder models --output build/models`` reads ``models/index.json``: a list of objects with
"id", "name" (the kind), "obj" (a file in meters), and "license", "source", "author" and "material" where they are
known.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from osprey_ros.cli._edge import command
from osprey_ros.cli._options import Parser, add_count_option
from osprey_ros.cli._output import logs_on_stderr
from osprey_ros.errors import InputError
from osprey_sim.meshes.attribution import write_attribution
from osprey_sim.meshes.convert import UPRIGHT, Z_UP, convert
from osprey_sim.meshes.store import ModelInfo, save_index, save_model

INDEX = "index.json"
_LOG = logging.getLogger(__name__)


@command("osprey: error")
def main(argv: Sequence[str] | None = None) -> int:
    """Convert models and return the exit status."""
    parser = Parser(
        prog="python -m osprey_sim.meshes.folder",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help=f"folder with {INDEX}")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder for the set")
    parser.add_argument(
        "--up", choices=("y", "z"), default="z", help="vertical axis of the files (default: %(default)s)"
    )
    add_count_option(parser, "--texture", 256, "reduce textures to this many pixels a side")
    options = parser.parse_args(argv)
    with logs_on_stderr(0):
        infos = convert_folder(options.folder, options.output, options.up == "z", options.texture)
    print(f"{options.output}: {len(infos)} models of {len({info.kind for info in infos})} kinds")
    return 0


def convert_folder(folder: Path, output: Path, z_up: bool = True, texture: int = 256) -> list[ModelInfo]:
    """Convert the models of a folder and write the set. Return its entries.

    Args:
        z_up: Whether z is the vertical axis of the files; otherwise it is y.
        texture: Longest side of a texture in pixels.

    Raises:
        InputError: The index is invalid, or no model can be used.
        OSError: The output cannot be written.
    """
    try:
        entries = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        described = [(_info(entry), folder / entry["obj"]) for entry in entries]
    except OSError as error:
        raise InputError(f"{folder} has no readable {INDEX}; write one with id, name and obj of each model") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{folder / INDEX} is not a list of models with id, name and obj: {error!r}") from error
    names = [info.name for info, _ in described]
    if len(set(names)) < len(names):
        raise InputError(f"{folder / INDEX} has the same id twice; give each model an id of its own")
    output.mkdir(parents=True, exist_ok=True)
    infos = []
    for info, file in described:
        try:
            meshes = convert(file, None, Z_UP if z_up else UPRIGHT, info.name, texture)
        except InputError as error:
            _LOG.warning("%s; left out", error)
            continue
        low = np.min([mesh.bounds[0] for mesh in meshes], axis=0)
        high = np.max([mesh.bounds[1] for mesh in meshes], axis=0)
        x, y, z = (round(float(side), 4) for side in high - low)
        infos.append(replace(info, size=(x, y, z)))
        save_model(output, info, meshes)
    if not infos:
        raise InputError(f"{folder} has no model that can be used")
    save_index(output, infos)
    write_attribution(output, infos, f"Models of the folder {folder.name}.")
    return infos


def _info(entry: dict[str, Any]) -> ModelInfo:
    """Return the entry of a model, without its size. Raise KeyError if id or name is missing."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", str(entry["id"]))
    return ModelInfo(
        name=name,
        kind=str(entry["name"]).lower(),
        material=str(entry.get("material", "")),
        size=(0.0, 0.0, 0.0),
        title=str(entry["name"]),
        author=str(entry.get("author", "")),
        license=next((str(value) for key, value in entry.items() if key.startswith("licen")), "not stated"),
        source=str(entry.get("source", "")),
    )


if __name__ == "__main__":
    raise SystemExit(main())
