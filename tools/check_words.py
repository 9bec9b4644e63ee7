"""Find phrases that this project does not use: `python tools/check_words.py [FILE ...]`.

`tools/words.txt` lists the phrases with their remedies, and the files in which they are accepted. Without files, all
text files that git tracks are checked. The exit status is 1 if a phrase was found.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Between two words of a phrase: white space, and a comment mark at the start of the next line.
GAP = r"\s+(?:(?:#|//)\s*)?"
USAGE = "a rule is `PATTERN => REMEDY`, `allow GLOB` or `allow GLOB: WORD, WORD`"


class WordListError(ValueError):
    """A line of the word list is not a rule."""


@dataclass(frozen=True)
class Phrase:
    """A forbidden phrase: its text in the list, the compiled pattern and what to write instead."""

    text: str
    pattern: re.Pattern[str]
    remedy: str


@dataclass(frozen=True)
class Allowance:
    """Words that are accepted in the files of a glob; none: these files are not checked. ``*`` matches "/", too."""

    glob: str
    words: frozenset[str]


@dataclass(frozen=True)
class Hit:
    """A forbidden phrase in a file."""

    path: str
    line: int
    found: str
    phrase: Phrase


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0])
    parser.add_argument("files", nargs="*", type=Path, help="files to check (all that git tracks)")
    parser.add_argument("--root", type=Path, default=ROOT, help="folder of the checkout (this repository)")
    parser.add_argument("--words", type=Path, help="word list (tools/words.txt in the checkout)")
    parser.add_argument("--summary", action="store_true", help="print counts by phrase and by file, not each place")
    options = parser.parse_args(arguments)
    root = options.root.resolve()
    try:
        phrases, allowances = read_words(options.words or root / "tools" / "words.txt")
        files = [path.resolve() for path in options.files] or tracked_files(root)
        hits = list(check(root, files, phrases, allowances))
    except (OSError, WordListError) as error:
        parser.error(str(error))
    lines = summary(hits) if options.summary else [describe(hit) for hit in hits]
    print("\n".join([*lines, f"{len(hits)} phrases to replace in {len({hit.path for hit in hits})} files"]))
    return 1 if hits else 0


def read_words(path: Path) -> tuple[list[Phrase], list[Allowance]]:
    """Return the phrases and the allowances of a word list. Raise WordListError for a line that is not a rule."""
    phrases, allowances = [], []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        text, arrow, remedy = (part.strip() for part in line.partition(" => "))
        if not text or text.startswith("#"):
            continue
        if arrow and remedy:
            try:
                pattern = re.compile(text.replace(" ", GAP), re.IGNORECASE)
            except re.error as error:
                raise WordListError(f"{path}:{number}: invalid regular expression {text!r}: {error}") from error
            phrases.append(Phrase(text, pattern, remedy))
        elif text.startswith("allow ") and not arrow:
            glob, _, words = text.removeprefix("allow ").partition(":")
            allowed = (word.strip().lower() for word in words.split(","))
            allowances.append(Allowance(glob.strip(), frozenset(filter(None, allowed))))
        else:
            raise WordListError(f"{path}:{number}: not a rule: {line!r}; {USAGE}")
    return phrases, allowances


def tracked_files(root: Path) -> list[Path]:
    """Return the files that git tracks in a checkout and that exist."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, check=True).stdout
    return [path for name in listed.decode().split("\0") if name and (path := root / name).is_file()]


def check(
    root: Path, files: Iterable[Path], phrases: Sequence[Phrase], allowances: Sequence[Allowance]
) -> Iterator[Hit]:
    """Yield the forbidden phrases of text files, file by file, in the order of their lines.

    Files that are not UTF-8 text are skipped. Globs of allowances match paths relative to ``root``.
    """
    for file in files:
        path = file.relative_to(root).as_posix() if file.is_relative_to(root) else file.as_posix()
        allowed = [allowance.words for allowance in allowances if fnmatchcase(path, allowance.glob)]
        if frozenset() in allowed:
            continue
        words = frozenset[str]().union(*allowed)
        try:
            text = file.read_bytes().decode()
        except UnicodeDecodeError:
            continue
        found = [
            (match.start(), match.group(), phrase)
            for phrase in phrases
            for match in phrase.pattern.finditer(text)
            if match.group().lower() not in words
        ]
        for start, group, phrase in sorted(found, key=lambda one: one[0]):
            yield Hit(path, text.count("\n", 0, start) + 1, " ".join(group.split()), phrase)


def describe(hit: Hit) -> str:
    """Return a line with the place of a hit and its remedy."""
    return f'{hit.path}:{hit.line}: "{hit.found}"; write {hit.phrase.remedy}'


def summary(hits: Sequence[Hit]) -> list[str]:
    """Return lines with the number of hits of each phrase, then of each file, the most frequent first."""
    counts = (Counter(hit.phrase.text for hit in hits), Counter(hit.path for hit in hits))
    return [f"{number:6} {name}" for counter in counts for name, number in counter.most_common()]


if __name__ == "__main__":
    sys.exit(main())
