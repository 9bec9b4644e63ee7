"""Convert the models of Debian's package sweethome3d-furniture into a set that the simulator can place.

``python -m osprey_sim.meshes.furniture --output build/models`` fetches the package with apt-get; ``--package`` names a
file of the package, or a folder with its catalogs (.sh3f), where apt-get is missing. Each model keeps its true size,
name, author and license. Left out are models that hang on walls, and those whose own notice contradicts the license of
their catalog.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from osprey_ros.cli._edge import command
from osprey_ros.cli._options import Parser, above_zero, add_count_option
from osprey_ros.cli._output import logs_on_stderr
from osprey_ros.errors import InputError
from osprey_sim.meshes.attribution import write_attribution
from osprey_sim.meshes.convert import UPRIGHT, convert
from osprey_sim.meshes.package import unpack_catalogs
from osprey_sim.meshes.store import ModelInfo, save_index, save_model

PACKAGE = "sweethome3d-furniture"
ORIGIN = """Models from the package `sweethome3d-furniture` 1.8 of Debian, by the authors below, collected and converted
to OBJ by Emmanuel Puybaret / eTeks (<http://www.sweethome3d.com/importModels.jsp>)."""
KINDS = Path(__file__).with_name("kinds.json")
"""Kind and material by catalog identifier, where they differ from the catalog's name; which models ship."""

_LOG = logging.getLogger(__name__)
_TABLE = "PluginFurnitureCatalog.properties"


@dataclass(frozen=True)
class Catalog:
    """License and copyright of a catalog, as the package's Debian copyright file states them."""

    license: str
    copyright: str


CATALOGS: dict[str, Catalog] = {
    "BlendSwap-CC-0": Catalog("CC0-1.0", "2014, Emmanuel Puybaret / eTeks and other contributors"),
    "BlendSwap-CC-BY": Catalog("CC-BY-3.0", "The BlendSwap contributors"),
    "KatorLegaz": Catalog("CC-BY-3.0-US", "2003-2008, Andrew Kator & Jennifer Legaz"),
    "Reallusion": Catalog("CC-BY-3.0-US", "2008-2011, Reallusion <http://www.reallusion.com>"),
    "Scopia": Catalog(
        "CC-BY-3.0",
        "2010-2012, Scopia Visual Interfaces Systems, s.l. <http://www.scopia.es>, and Emmanuel Puybaret / eTeks",
    ),
}


@dataclass(frozen=True)
class Entry:
    """A model of a catalog.

    Attributes:
        size: Width, depth and height in meters.
        rotation: Rows of a rotation [3, 3], applied before the model is scaled to its size.
        hangs: Whether the catalog places it above the floor, such as on a wall.
    """

    catalog: str
    identifier: str
    title: str
    author: str
    file: Path
    size: tuple[float, float, float]
    rotation: tuple[float, ...]
    hangs: bool

    @property
    def source(self) -> str:
        """Catalog and identifier: "Scopia#teapot"."""
        return f"{self.catalog}#{self.identifier}"


@command("osprey: error")
def main(argv: Sequence[str] | None = None) -> int:
    """Convert models and return the exit status."""
    parser = Parser(
        prog="python -m osprey_sim.meshes.furniture",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder for the set")
    parser.add_argument(
        "--package",
        type=Path,
        metavar="PATH",
        help="the package (.deb) or a folder with .sh3f files (default: fetch the package with apt-get)",
    )
    parser.add_argument(
        "--largest",
        type=above_zero,
        default=0.6,
        metavar="METERS",
        help="leave out models with a longer side (default: %(default)s)",
    )
    add_count_option(parser, "--texture", 256, "reduce textures to this many pixels a side")
    parser.add_argument("--shipped", action="store_true", help="only the models that ship with the simulator")
    options = parser.parse_args(argv)
    with logs_on_stderr(0):
        infos = convert_package(options.package, options.output, options.largest, options.texture, options.shipped)
    size = sum(file.stat().st_size for file in options.output.iterdir()) / 1e6
    print(f"{options.output}: {len(infos)} models of {len({info.kind for info in infos})} kinds, {size:.1f} MB")
    return 0


def convert_package(
    package: Path | None, output: Path, largest: float = 0.6, texture: int = 256, shipped: bool = False
) -> list[ModelInfo]:
    """Convert the models of the package and write the set. Return its entries.

    Args:
        package: The .deb file, or a folder with .sh3f files; None fetches the package with apt-get.
        output: Folder of the set; it is created.
        largest: Longest side in meters; larger models are left out.
        texture: Longest side of a texture in pixels.
        shipped: Convert only the models that ship with the simulator.

    Raises:
        InputError: The package cannot be fetched or read, or no model is left.
        OSError: The output cannot be written.
    """
    kinds = json.loads(KINDS.read_text(encoding="utf-8"))
    infos: list[ModelInfo] = []
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="osprey-models-")))
        root = unpack_catalogs(package or fetch(work), work)
        entries = [entry for entry in read_catalogs(root) if max(entry.size) <= largest and not entry.hangs]
        if shipped:
            entries = [entry for entry in entries if kinds.get(entry.source, {}).get("ships")]
        output.mkdir(parents=True, exist_ok=True)
        for entry in entries:
            info = _convert_entry(entry, kinds.get(entry.source, {}), {i.name for i in infos}, output, texture)
            if info is not None:
                infos.append(info)
        if infos:
            save_index(output, infos)
            write_attribution(output, infos, ORIGIN)
    if not infos:
        raise InputError(f"{package or PACKAGE} has no model of at most {largest} m that can be used")
    return infos


def fetch(folder: Path) -> Path:
    """Fetch the package with apt-get and return the file. Raises InputError if that fails."""
    remedy = f"get the package {PACKAGE} on another machine and name it with --package"
    try:
        done = subprocess.run(
            ["apt-get", "download", PACKAGE], cwd=folder, capture_output=True, text=True, timeout=600, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InputError(f"cannot fetch {PACKAGE} with apt-get ({error}); {remedy}") from error
    files = list(folder.glob(f"{PACKAGE}_*.deb"))
    if not files:
        raise InputError(f"apt-get download {PACKAGE} failed: {done.stderr.strip()[-200:]}; {remedy}")
    return files[0]


def read_catalogs(root: Path) -> Iterator[Entry]:
    """Yield the models of the known catalogs below a folder, each catalog in a folder of its name."""
    for name in CATALOGS:
        file = root / name / _TABLE
        if not file.is_file():
            continue
        table: dict[int, dict[str, str]] = {}
        for key, number, value in re.findall(r"^(\w+)#(\d+)=(.*)$", file.read_text(encoding="latin-1"), re.M):
            text = re.sub(r"\\u([0-9a-fA-F]{4})", lambda code: chr(int(code[1], 16)), value)
            table.setdefault(int(number), {})[key] = text.strip()
        for number, row in table.items():
            entry = _entry(root / name, name, row)
            if entry is None:
                _LOG.warning("%s: model %d is incomplete and left out", file, number)
            else:
                yield entry


def _entry(folder: Path, catalog: str, row: dict[str, str]) -> Entry | None:
    """Return the entry of a row of a catalog, or None if it is incomplete."""
    try:
        file = folder / row["model"].lstrip("/")
        width, depth, height = (float(row[key]) / 100 for key in ("width", "depth", "height"))
        rotation = tuple(float(value) for value in row["modelRotation"].split()) if "modelRotation" in row else UPRIGHT
        identifier = row["id"].split("#")[-1]
        size, hangs = (width, depth, height), float(row.get("elevation", 0)) > 0
        return Entry(catalog, identifier, row["name"], row["creator"], file, size, rotation, hangs)
    except (KeyError, ValueError):
        return None


def license_of(entry: Entry) -> str | None:
    """Return the license of a model: that of its catalog, or None if a notice in the model's folder contradicts it."""
    expected = CATALOGS[entry.catalog].license
    for notice in _notices(entry):
        restricted = re.search(r"licenses/by-|NonCommercial|ShareAlike|NoDeriv", notice)
        by = re.search(r"Creative Commons Attribution|licenses/by/", notice)
        zero = re.search(r"Creative Commons Zero|CC-?0|CC-Zero|publicdomain/", notice)
        if restricted or (by and expected == "CC0-1.0") or (zero and not by and expected != "CC0-1.0"):
            return None
    return expected


def _notices(entry: Entry) -> list[str]:
    files = sorted(file for file in entry.file.parent.iterdir() if "license" in file.name.lower())
    return [file.read_text(encoding="latin-1") for file in files]


def _page(entry: Entry) -> str:
    """Return the address of the model's page from the notice in its folder, or ""."""
    for notice in _notices(entry):
        found = re.search(r"https?://www\.blendswap\.com/blends?s?/view/\d+", notice)
        if found:
            return found[0]
    return ""


def _convert_entry(
    entry: Entry, known: dict[str, Any], taken: set[str], output: Path, texture: int
) -> ModelInfo | None:
    """Convert one model. Return None, and log why, if it is left out."""
    if not entry.file.is_file():
        _LOG.warning("%s: %s is missing; left out", entry.source, entry.file.name)
        return None
    granted = license_of(entry)
    if granted is None:
        _LOG.warning("%s: its notice contradicts the license of the catalog; left out", entry.source)
        return None
    kind = known.get("kind", entry.title.lower())
    stem = re.sub(r"[^a-z0-9]+", "_", kind.lower()).strip("_")
    name = next(n for n in (stem, *(f"{stem}_{i}" for i in range(2, 1000))) if n not in taken)
    try:
        meshes = convert(entry.file, entry.size, entry.rotation, name, texture)
    except InputError as error:
        _LOG.warning("%s: %s; left out", entry.source, error)
        return None
    info = ModelInfo(
        name=name,
        kind=kind,
        material=known.get("material", ""),
        size=entry.size,
        title=entry.title,
        author=entry.author,
        license=granted,
        source=entry.source,
        url=_page(entry),
        notice=CATALOGS[entry.catalog].copyright,
        lies_down=bool(known.get("lies_down")),
    )
    save_model(output, info, meshes)
    return info


if __name__ == "__main__":
    raise SystemExit(main())
