"""Sentences read back: what the simulator says is true of its scenes, and what was changed in them is found out."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from osprey_ros.query.word_forms import with_article
from osprey_sim import words
from osprey_sim.claims import FORM, PART, PLACE, RELATION, TABLE, THING, Witness
from osprey_sim.render import Frame, Renderer
from osprey_sim.scene import Scene, sample_scene


@pytest.fixture(scope="module")
def scenes() -> list[tuple[Scene, Frame]]:
    with Renderer(320, 240) as renderer:
        return [(scene, renderer.render(scene)) for scene in (sample_scene(seed, "test") for seed in range(12))]


def sentences(scenes: list[tuple[Scene, Frame]]) -> Iterator[tuple[Witness, Scene, Frame, object, str]]:
    for scene, frame in scenes:
        witness = Witness(scene, frame)
        for obj in words.visible_objects(scene, frame):
            yield witness, scene, frame, obj, words.detailed(scene, frame, obj)


def test_the_simulators_own_sentences_are_true(scenes) -> None:
    kinds = set()
    for witness, _, _, obj, text in sentences(scenes):
        claims = witness.sentence(text, obj)
        assert all(claim.true for claim in claims), (text, claims)
        kinds |= {claim.kind for claim in claims}
        _, told, neighbour = text.rpartition(", ")
        if told:
            assert witness.has_relation(obj)
            assert [claim.true for claim in witness.relation(neighbour, obj)] == [True, True]
    assert kinds == {FORM, THING, PART, PLACE, TABLE, RELATION}


def test_what_is_not_so_is_found_out(scenes) -> None:
    found = set()
    for witness, scene, frame, obj, text in sentences(scenes):

        def false(changed: str, witness=witness, obj=obj) -> list[str]:
            return [claim.kind for claim in witness.sentence(changed, obj) if not claim.true]

        colour = next(name for name in words.COLOURS if name != obj.colour)
        assert false(text.replace(f"{obj.colour} {obj.category}", f"{colour} {obj.category}", 1)) == [THING]
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
            # Another of the same look may stand on the other side.
            if false(wrong):
                assert false(wrong) == [RELATION]
                found.add(RELATION)
    assert found == {PART, PLACE, RELATION}


@pytest.mark.parametrize("text", ["", "a mug", "a red elephant on a wooden table", "behind a red mug and more"])
def test_other_texts_are_not_of_the_form(scenes, text: str) -> None:
    witness, _, _, obj, _ = next(sentences(scenes))
    for claims in (witness.sentence(text, obj), witness.relation(text, obj)):
        assert [(claim.kind, claim.true) for claim in claims] == [(FORM, False)]
