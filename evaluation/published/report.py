"""An HTML report: the figures, and the worst cases as images."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from evaluation.published.items import Item
from osprey_ros.errors import OspreyError
from osprey_ros.files import write_file
from osprey_ros.regions.regions import regions_from_masks
from osprey_ros.regions.resize import resized
from osprey_ros.vision.image_io import load_image, save_image
from osprey_ros.viz.overlay import overlay

WORST = 24
_CELL = (360, 480)  # height, width of a case in pixels
_STYLE = (
    "body{font-family:sans-serif;margin:2em;max-width:80em}table{border-collapse:collapse}td,th{padding:.2em .8em;"
    "text-align:right;border-bottom:1px solid #ccc}td:first-child,th:first-child{text-align:left}"
    "figure{display:inline-block;width:30em;vertical-align:top;margin:1em}img{max-width:100%}pre{white-space:pre-wrap}"
)


def write_report(
    folder: Path,
    title: str,
    tables: Sequence[tuple[str, Sequence[Sequence[str]]]],
    notes: Sequence[str],
    cases: Mapping[str, Sequence[tuple[Item, str, float]]],
) -> Path:
    """Write `index.html` and its images, and return its path.

    Args:
        folder: Created if it is missing.
        title: Title of the page.
        tables: Heading and rows of each table; the first row names the columns.
        notes: Lines about what was left out.
        cases: For each set of answers the item, the answer and the score of its worst cases.

    Raises OSError.
    """
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    parts = [f"<h1>{html.escape(title)}</h1>"]
    for heading, rows in tables:
        parts.append(f"<h2>{html.escape(heading)}</h2>\n{_table(rows)}")
    parts += [f"<pre>{html.escape(note)}</pre>" for note in notes]
    for number, (name, own) in enumerate(cases.items()):
        parts.append(f"<h2>Worst cases of {html.escape(name)}</h2>")
        for place, (item, answer, score) in enumerate(own):
            file = f"{number}_{place}.jpg"
            drawn = _drawn(images / file, item)
            shown = f'<img src="images/{file}" alt="">' if drawn is None else f"<p>{html.escape(drawn)}</p>"
            words = f"{score:.3g}: {answer!r}, true: {item.truth!r} ({item.id})"
            parts.append(f"<figure>{shown}<figcaption>{html.escape(words)}</figcaption></figure>")
    page = folder / "index.html"
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
    write_file(page, f"{head}<style>{_STYLE}</style><body>\n" + "\n".join(parts) + "\n</body></html>\n")
    return page


def _table(rows: Sequence[Sequence[str]]) -> str:
    lines = []
    for number, row in enumerate(rows):
        tag = "td" if number else "th"
        lines.append("<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row) + "</tr>")
    return "<table>" + "\n".join(lines) + "</table>"


def _drawn(file: Path, item: Item) -> str | None:
    """Draw an item; return why it cannot be drawn, or None."""
    try:
        rgb = load_image(item.image)
        scale = min(_CELL[0] / rgb.shape[0], _CELL[1] / rgb.shape[1])
        shape = (max(1, int(rgb.shape[0] * scale)), max(1, int(rgb.shape[1] * scale)))
        small: np.ndarray = cv2.resize(rgb, shape[::-1], interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
        if item.mask is not None:
            small = overlay(small, regions_from_masks(resized(item.mask.decode()[None], shape)), [""])
        save_image(file, small)
    except OspreyError as error:
        return str(error)
    return None
