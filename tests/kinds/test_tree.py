"""The tree of kinds: its file, the sums over it, and the most specific name that is probable enough."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from osprey_ros.errors import BundleError
from osprey_ros.kinds.back_off import NamedKind, back_off
from osprey_ros.kinds.tree import Kind, KindTree

PARENTS = {
    "container": "object",
    "cup": "container",
    "coffee mug": "cup",
    "paper cup": "cup",
    "bowl": "container",
    "animal": "object",
    "cat": "animal",
}
TREE = KindTree(
    {name: Kind(parent, ("Mug",) if name == "coffee mug" else ()) for name, parent in PARENTS.items()},
    general=("container", "animal"),
    threshold=0.7,
)


def shares(**own: float) -> np.ndarray:
    """Return the probabilities of one object, float64 [1, nodes]: 0 for nodes not given; _ stands for a space."""
    found = np.zeros((1, len(TREE)))
    for name, share in own.items():
        found[0, TREE.index[name.replace("_", " ")]] = share
    return found


def named(own: np.ndarray, threshold: float, power: float = 1.0) -> NamedKind:
    (one,) = back_off(TREE, own, lambda raw: raw**power, threshold)
    return one


def test_nodes_below_a_node_follow_it() -> None:
    assert TREE.names == ("object", "container", "cup", "coffee mug", "paper cup", "bowl", "animal", "cat")
    assert TREE.ends.tolist() == [8, 6, 5, 4, 5, 6, 8, 8]
    assert TREE.parents.tolist() == [0, 0, 1, 2, 2, 1, 0, 6]


def test_names_synonyms_and_ancestors() -> None:
    assert [TREE.node_of(word) for word in ("mug", " Coffee Mug", "object", "dog")] == ["coffee mug"] * 2 + [
        "object",
        None,
    ]
    assert TREE.ancestors("coffee mug") == ("cup", "container", "object")
    assert TREE.chain("object") == ("object",)
    assert TREE.covers("container", "paper cup")
    assert TREE.covers("cup", "cup")
    assert not TREE.covers("cup", "bowl")
    assert [name for name in TREE.names if TREE.above_general(name)] == ["object"]


def test_a_node_has_the_probability_of_all_nodes_below_it() -> None:
    own = np.random.default_rng(1).dirichlet(np.ones(len(TREE)), (3, 2))
    found = TREE.cumulative(own)
    for place, name in enumerate(TREE.names):
        below = [TREE.index[other] for other in TREE.names if TREE.covers(name, other)]
        np.testing.assert_allclose(found[..., place], own[..., below].sum(axis=-1), atol=1e-12)
    assert (found[..., 0] == 1).all()


def test_the_most_specific_name_that_is_probable_enough() -> None:
    own = shares(coffee_mug=0.45, paper_cup=0.3, bowl=0.15, cat=0.1)
    assert [named(own, least).name for least in (0.0, 0.4, 0.5, 0.8, 0.95, 1.0)] == [
        "coffee mug",
        "coffee mug",
        "cup",
        "container",
        "object",
        "object",
    ]
    cup = named(own, 0.7)
    assert (cup.name, cup.confidence, cup.raw_confidence) == ("cup", pytest.approx(0.75), pytest.approx(0.75))
    assert [kind.name for kind in cup.chain] == ["coffee mug", "cup", "container", "object"]
    assert [kind.probability for kind in cup.chain] == pytest.approx([0.45, 0.75, 0.9, 1.0])


def test_a_name_that_is_not_above_the_likeliest_kind() -> None:
    """Four of five kinds of container are less likely than the cat, and a container is likelier than all."""
    own = shares(cat=0.3, coffee_mug=0.25, paper_cup=0.25, bowl=0.2)
    found = named(own, 0.6)
    assert found.name == "container"
    assert [kind.name for kind in found.chain] == ["coffee mug", "cup", "container", "object"]
    # Of two names of which none is more specific, the likelier one, whatever their depth.
    assert named(own, 0.2).name == "cat"


def test_inner_nodes_have_a_probability_of_their_own() -> None:
    found = named(shares(cup=0.8, coffee_mug=0.1, cat=0.1), 0.85)
    assert found.name == "cup"
    assert [kind.name for kind in found.chain] == ["cup", "container", "object"]


def test_calibrated_probabilities_decide() -> None:
    own = shares(coffee_mug=0.8, bowl=0.1, cat=0.1)
    found = named(own, 0.7, power=2.0)
    assert (found.name, found.raw_confidence) == ("container", pytest.approx(0.9))
    assert [kind.probability for kind in found.chain] == pytest.approx([0.64, 0.64, 0.81, 1.0])


def test_the_file_comes_back_as_it_was_written() -> None:
    again = KindTree.from_json(TREE.to_json())
    assert again == TREE
    assert again.names == TREE.names
    assert KindTree.from_json('{"format_version": 1, "kinds": {"cup": {"parent": "object"}}}').threshold == 0.75


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format_version": 2}, "format_version is 2"),
        ({"kinds": {}}, "there are no kinds"),
        ({"kinds": ["cup"]}, r"kinds is \['cup'\]"),
        ({"kinds": {"cup": {"parent": "vessel"}}}, "'cup' is 'vessel', which is no kind"),
        ({"kinds": {"cup": {}}}, "the kind 'cup' has no parent"),
        ({"kinds": {"cup": {"parent": "object", "synonyms": "mug"}}}, "synonyms of 'cup' are 'mug'"),
        ({"kinds": {"a": {"parent": "b"}, "b": {"parent": "a"}}}, r"'a' is above itself in the tree \(a, b, a\)"),
        ({"kinds": {"a": {"parent": "a"}}}, "'a' is above itself"),
        ({"kinds": {"object": {"parent": "object"}}}, "'object' is the root"),
        ({"kinds": {"cup": {"parent": "object"}, "Cup": {"parent": "object"}}}, "'Cup' is a word for 'cup' and"),
        ({"kinds": {"a": {"parent": "object"}, "b": {"parent": "a", "synonyms": ["a"]}}}, "'a' is a word for 'a' and"),
        ({"kinds": {" cup": {"parent": "object"}}}, "empty or has outer spaces"),
        ({"general": ["tool"]}, "'tool' is no kind"),
        ({"general": [["cup"]]}, "give a list of names"),
        ({"threshold": 1.5}, "threshold is 1.5"),
        ({"threshold": "high"}, "threshold is 'high'"),
    ],
)
def test_faults_of_the_file_are_named(changes: dict[str, Any], said: str) -> None:
    data = {"format_version": 1, "kinds": {"cup": {"parent": "object"}}, **changes}
    with pytest.raises(BundleError, match=said):
        KindTree.from_json(json.dumps(data))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not JSON"),
        ("[]", "format_version is None"),
        ('{"format_version": 1, "kinds": {"a": {"parent": "b"}, "a": {"parent": "object"}}}', "'a' is there twice"),
    ],
)
def test_faults_of_the_text_are_named(text: str, said: str) -> None:
    with pytest.raises(BundleError, match=said):
        KindTree.from_json(text)
