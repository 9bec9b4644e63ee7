"""Reads the tree of kinds of home: kinds.yaml, names.yaml and held_out.yaml beside this file."""

from __future__ import annotations

import random
from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from osprey_ros.errors import BundleError, InputError
from osprey_ros.file_errors import read_text
from osprey_ros.files import write_file
from osprey_ros.kinds.tree import ROOT, THRESHOLD, Kind, KindTree

FORMAT_VERSION = 1
KINDS = Path(__file__).with_name("kinds.yaml")
NAMES = "names.yaml"  # beside kinds.yaml, optional
HELD_OUT = "held_out.yaml"  # beside kinds.yaml, optional
EVERY_SET = "every_set"

_LISTS = ("synonyms", "materials", "parts")
_FLAGS = ("plural", "mass")


@dataclass(frozen=True)
class KindFacts:
    """What is known about one kind of object.

    Attributes:
        name: "coffee mug".
        parent: The next more general kind, or the root.
        synonyms: Other words for the same kind, plural or without article where the name is.
        materials: Typical materials, at most three.
        parts: Parts that are visible in an image, at most four; "legs" if there are several.
        plural: Whether the name is plural: "scissors".
        mass: Whether the name has no article: "bread".
    """

    name: str
    parent: str
    synonyms: tuple[str, ...] = ()
    materials: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    plural: bool = False
    mass: bool = False


@dataclass(frozen=True)
class Kinds:
    """The tree of kinds, the names of the data sets, and the kinds held out of training.

    Attributes:
        facts: All kinds but the root, by name, in the order of the file.
        tree: The tree as it goes into a bundle.
        renamed: For each set of data, and for EVERY_SET, the kind of each name that is another word.
        held_out: Kinds that no training example may have.
    """

    facts: Mapping[str, KindFacts]
    tree: KindTree
    renamed: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    held_out: frozenset[str] = frozenset()

    def __contains__(self, name: object) -> bool:
        return name in self.facts

    @cached_property
    def leaves(self) -> tuple[str, ...]:
        """Kinds without more specific kinds, in the order of the file."""
        parents = {kind.parent for kind in self.facts.values()}
        return tuple(name for name in self.facts if name not in parents)

    def ancestors(self, name: str) -> tuple[str, ...]:
        """Return the kinds above a kind, its parent first and the root last. Raises KeyError for another name."""
        return self.tree.ancestors(name)

    def kind_of(self, name: str, source: str = "") -> str | None:
        """Return the kind that a name means in a set of data, or None for an unknown name.

        Args:
            name: Name of a category or a model, such as "mug".
            source: Name of the set, such as "tabletops", where the same name can mean another kind.
        """
        word = name.strip().casefold()
        for section in (source, EVERY_SET):
            if word in (renamed := self.renamed.get(section, {})):
                return renamed[word]
        return self.tree.node_of(word)

    def write(self, path: Path, threshold: float = THRESHOLD) -> None:
        """Write the tree as ``kinds.json`` of a checkpoint folder or a bundle.

        Args:
            path: The file.
            threshold: Least probability of an answer, 0 to 1.

        Raises BundleError for a threshold out of range.
        """
        write_file(path, replace(self.tree, threshold=threshold).to_json())


def load_kinds(path: Path = KINDS) -> Kinds:
    """Read kinds.yaml, and names.yaml and held_out.yaml beside it where they exist.

    Raises InputError for a file that cannot be read, a parent that is not in the file, a cycle, a name that is there
    twice, a word of two kinds, and a name of a kind in the other files that is not in the tree.
    """
    data = _read(path)
    given = _mapping(path, "kinds", data.get("kinds"))
    facts = {name: _facts(path, name, entry) for name, entry in given.items()}
    materials = _words(path, "materials", data.get("materials", []))
    for kind in facts.values():
        if unknown := [word for word in kind.materials if word not in materials]:
            raise InputError(
                f"{path}: the material {unknown[0]!r} of {kind.name!r} is not in the list of materials; add it"
            )
    general = _words(path, "general", data.get("general", []))
    root = data.get("root", ROOT)
    if not isinstance(root, str):
        raise InputError(f"{path}: root is {root!r}; give a name")
    try:
        tree = KindTree({name: Kind(kind.parent, kind.synonyms) for name, kind in facts.items()}, root, general)
    except BundleError as error:
        raise InputError(f"{path}: {error}") from error
    return Kinds(facts, tree, _renamed(path.with_name(NAMES), tree), _held_out(path.with_name(HELD_OUT), tree))


def held_out_candidates(kinds: Kinds, counts: Mapping[str, int], least: int, apart: Collection[str]) -> tuple[str, ...]:
    """Return the leaves that can be held out, sorted by name.

    Args:
        kinds: The tree.
        counts: Number of objects of each kind in the packs of photographs.
        least: A candidate has at least this number of objects.
        apart: Kinds that are always kept.
    """
    return tuple(sorted(name for name in kinds.leaves if counts.get(name, 0) >= least and name not in apart))


def draw_held_out(candidates: Collection[str], number: int, seed: int) -> tuple[str, ...]:
    """Return a random choice of the candidates, sorted by name. It depends on the seed, not on their order."""
    return tuple(sorted(random.Random(seed).sample(sorted(candidates), number)))


# Without libyaml, PyYAML has only its slower loader.
class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Refuse a key that is there twice; PyYAML would use the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]  # type: ignore[no-untyped-call]
        for place, key in enumerate(keys):
            if key in keys[:place]:
                line = node.value[place][0].start_mark.line + 1
                raise InputError(f"{key!r} is there twice, again in line {line}; leave out one of them")
        found: dict[Hashable, Any] = super().construct_mapping(node, deep)
        return found


def _read(path: Path) -> Mapping[str, Any]:
    text = read_text(path, InputError, "give the path of kinds.yaml, with its other files beside it")
    try:
        data = _mapping(path, "the file", yaml.load(text, Loader=_Loader))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not YAML ({' '.join(str(error).split())}); correct it") from error
    if data.get("format_version") != FORMAT_VERSION:
        raise InputError(f"{path}: format_version is {data.get('format_version')!r}; it must be {FORMAT_VERSION}")
    return data


def _mapping(path: Path, what: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise InputError(f"{path}: {what} is {value!r:.60}; give a mapping with names as keys, quoted if need be")
    return value


def _words(path: Path, what: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise InputError(f"{path}: {what} is {value!r:.60}; give a list of words, quoted if need be")
    return tuple(value)


def _facts(path: Path, name: str, entry: Any) -> KindFacts:
    """Read one kind. Raises InputError if a field is unknown or has another type than expected."""
    fields = _mapping(path, f"the kind {name!r}", entry)
    if unknown := [key for key in fields if key not in ("parent", *_LISTS, *_FLAGS)]:
        raise InputError(f"{path}: the kind {name!r} has the unknown field {unknown[0]!r}; correct or remove it")
    if not isinstance(fields.get("parent"), str):
        raise InputError(f"{path}: the kind {name!r} has no parent; add `parent: NAME`")
    for flag in _FLAGS:
        if not isinstance(fields.get(flag, False), bool):
            raise InputError(f"{path}: {flag} of {name!r} is {fields[flag]!r}; it must be true or false")
    lists = {key: _words(path, f"{key} of {name!r}", fields.get(key, [])) for key in _LISTS}
    plural, mass = (fields.get(flag, False) for flag in _FLAGS)
    return KindFacts(name, fields["parent"], **lists, plural=plural, mass=mass)


def _renamed(path: Path, tree: KindTree) -> dict[str, Mapping[str, str]]:
    if not path.exists():
        return {}
    sections = {key: _mapping(path, key, value) for key, value in _read(path).items() if key != "format_version"}
    for section, names in sections.items():
        for name, kind in names.items():
            if kind not in tree:
                raise InputError(f"{path}: {name!r} in {section} is {kind!r}, which is no kind; add it, or correct it")
    return {section: {name.casefold(): kind for name, kind in names.items()} for section, names in sections.items()}


def _held_out(path: Path, tree: KindTree) -> frozenset[str]:
    if not path.exists():
        return frozenset()
    names = _words(path, "held_out", _read(path).get("held_out"))
    if unknown := [name for name in names if name not in tree]:
        raise InputError(f"{path}: {unknown[0]!r} is held out but is no kind; correct it")
    return frozenset(names)
