"""The README and the pages of `docs/`: their links, headings and blocks of commands."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"\[(?:[^\[\]]|\[[^\[\]]*\])*\]\(([^()\s]+)\)")
FENCE = re.compile(r"^ *```(\w*)")
MARK = re.compile(r"^<!-- (run|not run: .+) -->$")
COMMAND = re.compile(
    r"(?:[A-Z_]+=\S+ )*(?:osprey|osprey_node|sim_camera|make|python3?|pip|ros2|colcon|rosdep|docker|sudo|git|cd"
    r"|cp|mkdir|rsync|dpkg-query|cat|\./build\.sh|\.) "
)


@dataclass(frozen=True)
class Block:
    """A block of code.

    Attributes:
        page: Its page.
        line: Number of its first line, from 1 up.
        language: Of a fenced block; "" for an indented one.
        text: The code.
        mark: "run", or "not run: REASON", from the latest mark above it; "" if there is none.
    """

    page: Path
    line: int
    language: str
    text: str
    mark: str

    @property
    def commands(self) -> list[str]:
        """The commands of a shell in it, with continued lines joined and without comments; empty for other code."""
        if self.language not in ("", "bash", "sh") or not COMMAND.match(self.text.lstrip()):
            return []
        joined = self.text.replace("\\\n", " ")
        lines = (re.sub(r"\s+#.*", "", line).strip() for line in joined.splitlines())
        return [line for line in lines if line and not line.startswith("#")]


def tracked(*patterns: str) -> list[Path]:
    """Return the files that git tracks, or would track, and that match a pattern."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", *patterns]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    return sorted({ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()})


def pages() -> list[Path]:
    """Return the README and the pages of the documentation."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path) -> Iterator[Block]:
    """Yield the blocks of code of a page: fenced ones, and those indented by four spaces after an empty line."""
    lines = page.read_text(encoding="utf-8").splitlines()
    mark, number = "", 0
    while number < len(lines):
        line = lines[number]
        if match := MARK.match(line):
            mark = match[1]
        if match := FENCE.match(line):
            end = next(n for n in range(number + 1, len(lines)) if lines[n].strip() == "```")
            yield Block(page, number + 1, match[1], "\n".join(lines[number + 1 : end]), mark)
            number = end
        elif line.startswith("    ") and not lines[number - 1].strip():
            end = number
            while end < len(lines) and (lines[end].startswith("    ") or not lines[end].strip()):
                end += 1
            yield Block(page, number + 1, "", "\n".join(text[4:] for text in lines[number:end]).rstrip(), mark)
            number = end - 1
        number += 1


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page: its headings, in lower case, without punctuation, with dashes for spaces."""
    found: set[str] = set()
    fenced = False
    for line in page.read_text(encoding="utf-8").splitlines():
        fenced ^= bool(FENCE.match(line))
        if not fenced and (match := re.match(r"#+ +(.+)", line)):
            text = re.sub(r"\[([^\[\]]*)\]\([^()]*\)", r"\1", match[1])
            found.add(re.sub(r"[^\w\- ]", "", text.lower()).strip().replace(" ", "-"))
    return found


def links(page: Path) -> Iterator[str]:
    """Yield the targets of a page's links and images that are relative, without those in code."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    text = re.sub(r"`[^`\n]*`", "", text)
    for target in LINK.findall(text):
        if not re.match(r"[a-z]+:", target):
            yield target


def words(command: str) -> list[str]:
    """Return the words of the last command of a line, without assignments before it and redirections."""
    last = re.split(
        r"&&|\||;", re.sub(r'"[^"]*"|\'[^\']*\'', lambda m: m[0].replace("|", " ").replace(";", " "), command)
    )[-1]
    split = shlex.split(last)
    while split and re.fullmatch(r"[A-Z_]+=.*", split[0]):
        split = split[1:]
    return split
