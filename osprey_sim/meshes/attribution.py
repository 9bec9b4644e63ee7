"""Write ATTRIBUTION.md of a set of models: author, license and source of each."""

from __future__ import annotations

from pathlib import Path

from osprey_ros.files import completed_file
from osprey_sim.meshes.store import ATTRIBUTION, ModelInfo

LICENSES: dict[str, str] = {
    "CC0-1.0": "https://creativecommons.org/publicdomain/zero/1.0/",
    "CC-BY-3.0": "https://creativecommons.org/licenses/by/3.0/",
    "CC-BY-3.0-US": "https://creativecommons.org/licenses/by/3.0/us/",
}
"""Address of each license by its short name."""

_HEAD = """# Attribution

{origin}

Changes: converted to meshes in meters, one for each material; coordinates rounded to 16 bits and normals to 8 bits;
textures reduced in size and stored as JPEG. No author endorses this project.

Licenses:

"""


def write_attribution(folder: Path, infos: list[ModelInfo], origin: str) -> None:
    """Write ATTRIBUTION.md: where the models come from, the licenses with their addresses, a line for each model."""
    used = sorted({info.license for info in infos})
    notices = sorted({(info.source.split("#")[0], info.notice) for info in infos if info.notice})
    lines = [f"- {name}: <{LICENSES[name]}>" if name in LICENSES else f"- {name}" for name in used]
    if notices:
        lines += ["", "Copyright by catalog:", "", *(f"- {catalog}: {notice}" for catalog, notice in notices)]
    lines += ["", "| model | title | author | license | source |", "|---|---|---|---|---|"]
    for info in sorted(infos, key=lambda info: info.name):
        source = f"{info.source}, <{info.url}>" if info.url else info.source
        lines.append(f"| {info.name} | {info.title} | {info.author} | {info.license} | {source} |")
    with completed_file(folder / ATTRIBUTION) as partial:
        partial.write_text(_HEAD.format(origin=origin) + "\n".join(lines) + "\n", encoding="utf-8")
