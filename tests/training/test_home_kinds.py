"""The tree of kinds of home, the names of data sets, and the kinds held out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from osprey_ros.errors import InputError
from osprey_ros.kinds.tree import KindTree
from osprey_sim import words
from osprey_sim.meshes.furniture import KINDS as MESH_KINDS
from osprey_sim.meshes.store import HOME, INDEX
from training.home.kinds import KINDS, Kinds, draw_held_out, held_out_candidates, load_kinds


@pytest.fixture(scope="module")
def kinds() -> Kinds:
    return load_kinds()


def write(folder: Path, kinds: str, **others: str) -> Path:
    """Write kinds.yaml with the lines of ``kinds``, and other files beside it."""
    path = folder / "kinds.yaml"
    path.write_text(f"format_version: 1\nroot: object\ngeneral: [container]\nmaterials: [ceramic]\nkinds:\n{kinds}\n")
    for name, text in others.items():
        (folder / f"{name}.yaml").write_text(f"format_version: 1\n{text}\n")
    return path


SMALL = "  container: {parent: object}\n  cup: {parent: container, synonyms: [mug]}"


def test_the_tree_of_home_has_its_sizes_and_levels(kinds: Kinds) -> None:
    assert 500 <= len(kinds.facts) <= 650
    assert len(kinds.leaves) >= 450
    assert 20 <= len(kinds.tree.general) <= 30
    assert kinds.ancestors("coffee mug") == ("cup", "drinking vessel", "container", "object")
    # Every kind has a general name: nothing but the root is above that level.
    assert [name for name in kinds.facts if not {name, *kinds.ancestors(name)} & set(kinds.tree.general)] == []


def test_facts_stay_within_their_limits(kinds: Kinds) -> None:
    assert [name for name, kind in kinds.facts.items() if len(kind.materials) > 3 or len(kind.parts) > 4] == []
    every = [word for name, kind in kinds.facts.items() for word in (name, *kind.synonyms, *kind.parts)]
    assert [word for word in every if word != word.lower()] == []
    assert kinds.facts["scissors"].plural
    assert kinds.facts["bread"].mass
    assert kinds.facts["coffee mug"].parts == ("handle", "rim")


def test_every_name_of_the_sets_in_the_repository_has_a_kind(kinds: Kinds) -> None:
    entries = json.loads(MESH_KINDS.read_text(encoding="utf-8")).values()
    models = {entry["kind"] for entry in entries if "kind" in entry}
    models |= {entry["kind"] for entry in json.loads((HOME / INDEX).read_text(encoding="utf-8"))}
    assert [name for name in sorted(models) if kinds.kind_of(name, "home_models") is None] == []
    assert [name for name in words.CLASSES if kinds.kind_of(name, "tabletops") is None] == []


def test_a_name_can_mean_another_kind_in_another_set(kinds: Kinds) -> None:
    assert kinds.kind_of("car") == "car"
    assert kinds.kind_of("car", "tabletops") == "toy car"
    assert kinds.kind_of("Mug") == kinds.kind_of("coffee mug") == "coffee mug"
    assert kinds.kind_of("can (general)", "another set") == "can"
    assert kinds.kind_of("unheard of") is None


def test_the_kinds_held_out_are_drawn_by_the_seed(kinds: Kinds) -> None:
    data = yaml.safe_load(KINDS.with_name("held_out.yaml").read_text(encoding="utf-8"))
    drawn = draw_held_out(data["candidates"][::-1], data["number"], data["seed"])
    assert list(drawn) == data["held_out"]
    assert kinds.held_out == set(drawn)
    assert kinds.held_out <= set(kinds.leaves)
    # None of them is made by the simulated tabletops, and the next more general kind stays known.
    assert not kinds.held_out & {kinds.kind_of(name, "tabletops") for name in words.CLASSES}
    assert not set(data["apart"]) & set(data["candidates"])


def test_candidates_are_leaves_with_enough_objects(tmp_path: Path) -> None:
    tree = load_kinds(write(tmp_path, SMALL + "\n  jar: {parent: container}\n  box: {parent: container}"))
    counts = {"container": 9, "cup": 5, "jar": 5, "box": 4}
    assert held_out_candidates(tree, counts, least=5, apart=["jar"]) == ("cup",)


def test_the_file_of_a_bundle_holds_the_tree(kinds: Kinds, tmp_path: Path) -> None:
    kinds.write(tmp_path / "kinds.json", threshold=0.6)
    tree = KindTree.from_json((tmp_path / "kinds.json").read_text(encoding="utf-8"))
    assert tree.threshold == 0.6
    assert tree.kinds == kinds.tree.kinds
    assert tree.general == kinds.tree.general
    assert tree.node_of("spanner") == "wrench"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("  a: {parent: b}\n  b: {parent: a}\n  container: {parent: object}", "'a' is above itself"),
        (SMALL + "\n  bowl: {parent: dishware}", "'dishware', which is no kind"),
        (SMALL + "\n  cup: {parent: container}", "'cup' is there twice, again in line 8"),
        (SMALL + "\n  pint: {parent: cup, synonyms: [mug]}", "'mug' is a word for 'cup' and for 'pint'"),
        (SMALL + "\n  object: {parent: cup}", "'object' is the root"),
        (SMALL + "\n  bowl: {synonyms: [dish]}", "'bowl' has no parent"),
        (SMALL + "\n  bowl: {parent: container, color: red}", "unknown field 'color'"),
        (SMALL + "\n  bowl: {parent: container, materials: [gold]}", "'gold' of 'bowl' is not in the list"),
        (SMALL + "\n  bowl: {parent: container, plural: 1}", "it must be true or false"),
        (SMALL + "\n  bowl: {parent: container, parts: rim}", "give a list of words"),
        (SMALL + "\n  yes: {parent: container}", "quoted if need be"),
        (SMALL + "\n  bowl: {parent: container", "is not YAML"),
        ("  cup: {parent: object}", "general name 'container' is no kind"),
    ],
)
def test_a_tree_with_a_mistake_is_refused_in_one_line(tmp_path: Path, lines: str, message: str) -> None:
    path = write(tmp_path, lines)
    with pytest.raises(InputError, match=message) as caught:
        load_kinds(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("names", "every_set: {beaker: goblet}", "'goblet', which is no kind"),
        ("names", "every_set: [beaker]", "give a mapping"),
        ("held_out", "held_out: [goblet]", "'goblet' is held out but is no kind"),
        ("held_out", "seed: 1", "held_out is None"),
    ],
)
def test_other_files_with_a_mistake_are_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = write(tmp_path, SMALL, **{name: text})
    with pytest.raises(InputError, match=message):
        load_kinds(path)


def test_a_file_of_another_version_or_place_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, SMALL)
    path.write_text(path.read_text().replace("format_version: 1", "format_version: 2"))
    with pytest.raises(InputError, match="format_version is 2"):
        load_kinds(path)
    with pytest.raises(InputError, match="is missing; give the path"):
        load_kinds(tmp_path / "other.yaml")
