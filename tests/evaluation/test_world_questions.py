"""The evaluation of questions over time: one sequence of its sample."""

from __future__ import annotations

from evaluation.world_questions import APPEARED, COUNT, KINDS, LAST_SEEN, ask_world
from osprey_ros.describer import Describer


def test_questions_about_a_sequence_are_answered() -> None:
    asked = list(ask_world(Describer("nano", threads=1), len(KINDS), each=len(KINDS)))
    assert [one.kind for one in asked] == list(KINDS)
    assert all(0 <= one.score <= 1 and one.answer for one in asked)
    right = {one.kind: one.right for one in asked}  # of 200 questions, the rest is in the evaluation
    assert right[COUNT]
    assert right[LAST_SEEN]
    assert right[APPEARED]
