"""Hooks of MkDocs: bring what `docs/` links to elsewhere in the repository into the site, and make generated pages.

README.md is the start page. Other files are copied below `repository/`, Markdown as pages. Links to folders become
plain text, because the site has no page for them. Badges, images of another server, are left out: a page loads nothing
from elsewhere.
"""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
START, COPIES = "index.md", "repository"
# [text](target#anchor), images included; not in code.
BADGE = re.compile(r"\[?!\[[^\[\]]*\]\(https?://[^()\s]*\)(?:\]\([^()\s]*\))?\n?")
LINK = re.compile(r"(?P<text>!?\[(?:[^\[\]]|\[[^\[\]]*\])*\])\((?P<target>[^()\s#]*)(?P<anchor>#[^()\s]*)?\)")


def on_files(files: Files, *, config: Any) -> Files:
    """Add the start page, the page about all Python names, and what the pages link to."""
    files.append(File.generated(config, START, abs_src_path=str(ROOT / "README.md")))
    files.append(File.generated(config, "python_names.md", content=python_names()))
    waiting = [file for file in files if file.is_documentation_page() and file.abs_src_path]
    while waiting:
        source = Path(waiting.pop().abs_src_path or "")
        for match in LINK.finditer(source.read_text(encoding="utf-8")):
            path = target_of(source, match["target"])
            if path is None or not path.is_file() or files.get_file_from_path(page_of(path)):
                continue
            files.append(copy := File.generated(config, page_of(path), abs_src_path=str(path)))
            if copy.is_documentation_page():
                waiting.append(copy)
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Files) -> str:
    """Point links at the pages and copies of the site."""
    source = page.file.abs_src_path
    return markdown if source is None else rewritten(markdown, Path(source), page.file.src_uri)


def rewritten(markdown: str, source: Path, page: str) -> str:
    """Return the text of a page with links that hold in the site.

    Args:
        markdown: The text.
        source: Its file in the repository.
        page: Its path in the site.
    """

    def replace(match: re.Match[str]) -> str:
        path = target_of(source, match["target"])
        if path is None or not path.exists():
            return match.group()
        if path.is_dir():
            return match["text"].strip("![]")
        relative = os.path.relpath(page_of(path), PurePosixPath(page).parent)
        return f"{match['text']}({relative}{match['anchor'] or ''})"

    return LINK.sub(replace, BADGE.sub("", markdown))


def target_of(source: Path, target: str) -> Path | None:
    """Return the file or folder of the repository to which a relative link leads, None for other links."""
    if not target or ":" in target:
        return None
    path = (source.parent / target).resolve()
    return path if path.is_relative_to(ROOT) else None


def page_of(path: Path) -> str:
    """Return the path in the site of a file of the repository."""
    if path == ROOT / "README.md":
        return START
    if path.is_relative_to(ROOT / "docs"):
        return path.relative_to(ROOT / "docs").as_posix()
    return f"{COPIES}/{path.relative_to(ROOT).as_posix()}"


def python_names() -> str:
    """Return the page about all public names of osprey_ros, from the imports in its `__init__.py`."""
    tree = ast.parse((ROOT / "osprey_ros" / "__init__.py").read_text(encoding="utf-8"))
    homes = {
        name.asname: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level == 0
        for name in node.names
        if name.asname
    }
    names = (f"::: {module}.{name}\n" for name, module in sorted(homes.items()))
    return "\n".join(["# Python, all public names\n", "Each can be imported from `osprey_ros`.\n", *names])
