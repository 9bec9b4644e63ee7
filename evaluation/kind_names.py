"""Which names are right for an object: its kind, synonyms, the name of a near-synonym group, and more general words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from osprey_ros.errors import InputError
from osprey_ros.file_errors import read_text
from osprey_ros.kinds.tree import KindTree
from training.home.kinds import Kinds

NEAR_SYNONYMS = Path(__file__).with_name("near_synonyms.yaml")

_LONGEST_NAME = 5  # words
SPECIFIC, GENERAL, ABOVE, ROOT = "specific", "general", "above", "root"


class KindNames:
    """Judge answers against true names.

    Args:
        kinds: The kinds of home, which say what names of packs mean. None to take names as they are.
        tree: The kinds of the bundle; by default those of home. Without a tree, words are compared as they are, and all
            words are specific.
        groups: Near-synonym groups: names by the name that is accepted for each of them.
    """

    def __init__(
        self,
        kinds: Kinds | None = None,
        tree: KindTree | None = None,
        groups: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self._kinds = kinds
        self.tree = kinds.tree if tree is None and kinds is not None else tree
        # A group's members by their names, and by their kinds where other words have the same kind.
        self._heads: dict[str, str] = {}
        for head, group in (groups or {}).items():
            self._heads |= {self.kind(name): self.kind(head) for name in group}
        self._heads |= {plain(name): self.kind(head) for head, group in (groups or {}).items() for name in group}

    def kind(self, name: str, source: str = "") -> str:
        """Return the kind of a name: the node of the tree, or the name itself if the tree has no such word.

        Args:
            name: A name in a pack.
            source: The pack, in which the name can have a meaning of its own.
        """
        name = plain(name)
        known = self._kinds.kind_of(name, source) if self._kinds is not None else None
        return self._node(known or name)

    def right(self, truth: str, answer: str) -> bool:
        """Return whether an answer is the true kind, a synonym of it, or the name of its near-synonym group."""
        return self._node(answer) in (kind := self._node(truth), self._heads.get(kind, kind))

    def right_or_general(self, truth: str, answer: str) -> bool:
        """Return whether an answer is right, or is above the true kind in the tree."""
        return self.right(truth, answer) or self.covers(answer, truth)

    def named_in(self, truth: str, sentence: str) -> bool:
        """Return whether a sentence has words in it that are a right answer."""
        words = [word.strip(".,;:!?") for word in sentence.split()]
        parts = (words[start:end] for start in range(len(words)) for end in range(start + 1, len(words) + 1))
        return any(self.right(truth, " ".join(part)) for part in parts if len(part) <= _LONGEST_NAME)

    def covers(self, answer: str, kind: str) -> bool:
        """Return whether an answer is a kind or is above it in the tree."""
        node, other = self._node(answer), self._node(kind)
        return node == other or (
            self.tree is not None and node in self.tree and other in self.tree and self.tree.covers(node, other)
        )

    def level(self, answer: str) -> str:
        """Return "specific", "general" (container, tool, food ...), "above" that level, or "root" (object).

        A word that is not in the tree is specific.
        """
        node = self._node(answer)
        if self.tree is None or node not in self.tree:
            return SPECIFIC
        if node == self.tree.root:
            return ROOT
        if node in self.tree.general:
            return GENERAL
        return ABOVE if self.tree.above_general(node) else SPECIFIC

    def trained(self, kind: str) -> bool:
        """Return whether a kind is in the tree and not held out of training."""
        return self.tree is not None and kind in self.tree and not self.held_out(kind)

    def held_out(self, kind: str) -> bool:
        """Return whether a kind is held out of training."""
        return self._kinds is not None and kind in self._kinds.held_out

    def _node(self, word: str) -> str:
        word = plain(word)
        return (self.tree.node_of(word) or word) if self.tree is not None else word


@lru_cache(maxsize=4096)
def plain(text: str) -> str:
    """Return a name in lower case, without a final period and an article in front."""
    text = " ".join(text.lower().replace("_", " ").strip().rstrip(".").split())
    for article in ("a ", "an ", "the "):
        if text.startswith(article):
            return text[len(article) :]
    return text


def near_synonyms(path: Path = NEAR_SYNONYMS) -> dict[str, list[str]]:
    """Return the near-synonym groups of a file: names by the name that is accepted for each of them."""
    try:
        groups: Any = yaml.safe_load(read_text(path, InputError, "correct the path"))
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not YAML; correct it") from error
    if not isinstance(groups, dict) or not all(isinstance(names, list) for names in groups.values()):
        raise InputError(f"{path} must map the name of each group to a list of names")
    return {str(head): [str(name) for name in names] for head, names in groups.items()}
