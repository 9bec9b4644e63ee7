"""Tree of kinds: what each kind of object is a kind of, from a coffee mug to an object."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from osprey_ros.errors import BundleError
from osprey_ros.strict_json import to_json

FORMAT_VERSION = 1
ROOT = "object"
THRESHOLD = 0.75


@dataclass(frozen=True)
class Kind:
    """One kind: the name of its parent in the tree, and other words for it."""

    parent: str
    synonyms: tuple[str, ...] = ()


@dataclass(frozen=True)
class KindTree:
    """A tree of kinds. Each node is a name, such as "coffee mug"; below it are the kinds that are more specific.

    Attributes:
        kinds: All nodes but the root, by name.
        root: The name that is true of everything.
        general: Names of the level "container, tool, food, clothing, animal". Each is a node.
        threshold: Least probability of an answer, 0 to 1.

    Raises BundleError for a parent that is no node, a cycle, a word that means two nodes, a general name that is no
    node, and a threshold out of range.
    """

    kinds: Mapping[str, Kind]
    root: str = ROOT
    general: tuple[str, ...] = ()
    threshold: float = THRESHOLD
    _node_of: dict[str, str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.root in self.kinds:
            raise BundleError(f"{self.root!r} is the root, which has no parent; leave it out of the kinds")
        object.__setattr__(self, "_node_of", self._words())
        for name, kind in self.kinds.items():
            if kind.parent != self.root and kind.parent not in self.kinds:
                raise BundleError(
                    f"the parent of {name!r} is {kind.parent!r}, which is no kind; add it, or name another"
                )
        for name in self.kinds:
            self._check_cycle(name)
        for name in self.general:
            if name not in self:
                raise BundleError(f"the general name {name!r} is no kind; add it to the kinds, or leave it out")
        if not 0 <= self.threshold <= 1:
            raise BundleError(f"the threshold is {self.threshold}; it must be from 0 to 1")

    def __contains__(self, name: object) -> bool:
        return name == self.root or name in self.kinds

    def __len__(self) -> int:
        return len(self.kinds) + 1

    @cached_property
    def names(self) -> tuple[str, ...]:
        """All nodes, the root first. The nodes below a node follow it directly."""
        ordered: list[str] = []
        waiting = [self.root]
        while waiting:
            ordered.append(waiting.pop())
            waiting += reversed(self._children.get(ordered[-1], []))
        return tuple(ordered)

    @cached_property
    def index(self) -> Mapping[str, int]:
        """The place of each node in `names`."""
        return {name: place for place, name in enumerate(self.names)}

    @cached_property
    def parents(self) -> np.ndarray:
        """Integers [nodes], the place in `names` of the parent of each node; 0 for the root."""
        return np.array([0, *(self.index[self.kinds[name].parent] for name in self.names[1:])], dtype=np.intp)

    @cached_property
    def ends(self) -> np.ndarray:
        """Integers [nodes], the place in `names` behind the last node below each node."""
        ends = np.arange(1, len(self) + 1)
        for place in range(len(self) - 1, 0, -1):
            ends[self.parents[place]] = max(ends[self.parents[place]], ends[place])
        return ends

    def node_of(self, word: str) -> str | None:
        """Return the node that a name or a synonym means, in any case of its letters; None for another word."""
        return self._node_of.get(word.strip().casefold())

    def ancestors(self, name: str) -> tuple[str, ...]:
        """Return the nodes above a node, its parent first and the root last. Raises KeyError for another name."""
        return self.chain(name)[1:]

    def chain(self, name: str) -> tuple[str, ...]:
        """Return a node and those above it, the root last. Raises KeyError for another name."""
        found = [name]
        while found[-1] != self.root:
            found.append(self.kinds[found[-1]].parent)
        return tuple(found)

    def covers(self, name: str, other: str) -> bool:
        """Return whether a node is another one or above it: whether ``other`` is a kind of ``name``.

        Raises KeyError for a name that is no node.
        """
        return name in self.chain(other)

    def above_general(self, name: str) -> bool:
        """Return whether a node is above the level of the general names, as the root is.

        Raises KeyError for another name.
        """
        if any(one in self.general for one in self.chain(name)):
            return False
        return any(self.covers(name, one) for one in self.general)

    def cumulative(self, own: np.ndarray) -> np.ndarray:
        """Return the probability that each node is true, from the probability that each is the most specific name.

        Args:
            own: float [..., nodes] in the order of `names`; they add up to 1.

        Returns float64 [..., nodes]: the sum over each node and those below it. The root has 1.
        """
        sums = np.concatenate([np.zeros((*own.shape[:-1], 1)), np.cumsum(own, axis=-1, dtype=np.float64)], axis=-1)
        below = (sums[..., self.ends] - sums[..., :-1]) / sums[..., -1:]
        result: np.ndarray = np.clip(below, 0.0, 1.0)
        result[..., 0] = 1.0
        return result

    def to_json(self) -> str:
        """Return the text of ``kinds.json``."""
        kinds: dict[str, Any] = {}
        for name, kind in self.kinds.items():
            kinds[name] = {"parent": kind.parent} | ({"synonyms": list(kind.synonyms)} if kind.synonyms else {})
        data = {
            "format_version": FORMAT_VERSION,
            "root": self.root,
            "general": list(self.general),
            "threshold": self.threshold,
            "kinds": kinds,
        }
        return to_json(data, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> KindTree:
        """Read the text of a ``kinds.json``. Unknown fields are ignored. Raises BundleError if it is invalid."""
        try:
            data = json.loads(text, object_pairs_hook=_without_repetition)
        except ValueError as error:
            raise BundleError(f"not JSON ({error}); correct it") from error
        version = data.get("format_version") if isinstance(data, dict) else None
        if version != FORMAT_VERSION:
            raise BundleError(f"format_version is {version!r}, but this osprey_ros reads {FORMAT_VERSION}")
        for name, expected in (("kinds", dict), ("root", str), ("general", list), ("threshold", float | int)):
            if name in data and not isinstance(data[name], expected):
                raise BundleError(f"{name} is {data[name]!r}, of another type than expected; correct it")
        general = data.get("general", [])
        if not all(isinstance(name, str) for name in general):
            raise BundleError(f"general is {general!r}; give a list of names")
        if not data.get("kinds"):
            raise BundleError("there are no kinds; add at least one")
        return cls(
            {name: _kind(name, entry) for name, entry in data["kinds"].items()},
            data.get("root", ROOT),
            tuple(general),
            data.get("threshold", THRESHOLD),
        )

    @cached_property
    def _children(self) -> dict[str, list[str]]:
        children: dict[str, list[str]] = {}
        for name, kind in self.kinds.items():
            children.setdefault(kind.parent, []).append(name)
        return children

    def _words(self) -> dict[str, str]:
        """Return the node of each name and synonym. Raises BundleError for an empty word and for one of two nodes."""
        words = {self.root.casefold(): self.root}
        named = [(name, name) for name in self.kinds]
        named += [(synonym, name) for name, kind in self.kinds.items() for synonym in kind.synonyms]
        for word, name in named:
            key = word.strip().casefold()
            if not key or word != word.strip():
                raise BundleError(f"the word {word!r} of {name!r} is empty or has outer spaces; correct it")
            known = words.setdefault(key, name)
            if known != name:
                raise BundleError(f"{word!r} is a word for {known!r} and for {name!r}; leave out one of them")
        return words

    def _check_cycle(self, name: str) -> None:
        passed = [name]
        while (parent := self.kinds[passed[-1]].parent) != self.root:
            if parent in passed:
                circle = ", ".join([*passed[passed.index(parent) :], parent])
                raise BundleError(f"{parent!r} is above itself in the tree ({circle}); correct one of these parents")
            passed.append(parent)


def _kind(name: str, entry: Any) -> Kind:
    """Read one kind of ``kinds.json``. Raises BundleError if it is invalid."""
    parent, synonyms = (entry.get("parent"), entry.get("synonyms", [])) if isinstance(entry, dict) else (None, [])
    if not isinstance(parent, str):
        raise BundleError(f'the kind {name!r} has no parent; write {{"parent": "NAME"}}')
    if not isinstance(synonyms, list) or not all(isinstance(word, str) for word in synonyms):
        raise BundleError(f"the synonyms of {name!r} are {synonyms!r}; give a list of words")
    return Kind(parent, tuple(synonyms))


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise BundleError(f"{name!r} is there twice; leave out one of them")
        found[name] = value
    return found
