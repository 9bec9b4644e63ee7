"""Claims: the simulator's own descriptions are true, and each changed word makes the right claim false."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from osprey_ros.query.word_forms import with_article
from osprey_sim import words
from osprey_sim.claims import FORM, OBJECT, PART, PLACE, RELATION, TABLE, ClaimChecker
from osprey_sim.render import Frame, Renderer
from osprey_sim.scene import Scene, sample_scene


@pytest.fixture(scope="module")
def scenes() -> list[tuple[Scene, Frame]]:
    with Renderer(320, 240) as renderer:
        return [(scene, renderer.render(scene)) for scene in (sample_scene(seed, "test") for seed in range(12))]


def sentences(scenes: list[tuple[Scene, Frame]]) -> Iterator[tuple[ClaimChecker, Scene, Frame, object, str]]:
    for scene, frame in scenes:
        witness = ClaimChecker(scene, frame)
        for obj in words.visible_objects(scene, frame):
            yield witness, scene, frame, obj, words.detailed(scene, frame, obj)


def test_the_simulators_own_sentences_are_true(scenes) -> None:
    kinds = set()
    for witness, _, _, obj, text in sentences(scenes):
        claims = witness.sentence(text, obj)
        assert all(claim.true for claim in claims), (text, claims)
        kinds |= {claim.kind for claim in claims}
        _, comma, neighbor = text.rpartition(", ")
        if comma:
            assert witness.has_relation(obj)
            assert [claim.true for claim in witness.relation(neighbor, obj)] == [True, True]
    assert kinds == {FORM, OBJECT, PART, PLACE, TABLE, RELATION}


def test_false_claims_are_detected(scenes) -> None:
    found = set()
    for witness, scene, frame, obj, text in sentences(scenes):

        def false(changed: str, witness=witness, obj=obj) -> list[str]:
            return [claim.kind for claim in witness.sentence(changed, obj) if not claim.true]

        color = next(name for name in words.COLORS if name != obj.color)
        assert false(text.replace(f"{obj.color} {obj.category}", f"{color} {obj.category}", 1)) == [OBJECT]
        table = next(name for name in words.TABLES if name != scene.table.kind)
        assert false(text.replace(f"{scene.table.kind} table", f"{table} table")) == [TABLE]
        seen = words.visible_parts(frame, obj)
        absent = with_article(next(name for name in words.PARTS if name not in seen))
        if seen:
            assert false(text.replace(f"with {with_article(seen[0])}", f"with {absent}", 1)) == [PART]
            found.add(PART)
        if words.place(scene, frame, obj) == "on the left side of a":
            assert false(text.replace("on the left side", "on the right side")) == [PLACE]
            found.add(PLACE)
        if ", " in text:
            said = next(relation for relation in words.RELATIONS if f", {relation} " in text)
            other = {"to the left of": "to the right of", "in front of": "behind"}
            other |= {there: here for here, there in other.items()}
            wrong = text.replace(f", {said} ", f", {other[said]} ")
            # Another object with the same phrase may be on the other side.
            if false(wrong):
                assert false(wrong) == [RELATION]
                found.add(RELATION)
    assert found == {PART, PLACE, RELATION}


@pytest.mark.parametrize("text", ["", "a mug", "a red elephant on a wooden table", "behind a red mug and more"])
def test_texts_outside_of_the_grammar_have_one_false_claim(scenes, text: str) -> None:
    witness, _, _, obj, _ = next(sentences(scenes))
    for claims in (witness.sentence(text, obj), witness.relation(text, obj)):
        assert [(claim.kind, claim.true) for claim in claims] == [(FORM, False)]
