"""The evaluation of questions: accuracy on a sample, and the figures of the command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evaluation import queries as measured
from evaluation.query_forms import FORMS, ORDINAL, SUPERLATIVE, FormQuestions
from osprey_ros.describer import Describer
from osprey_sim.scene import object_extents, sample_scene


@pytest.fixture(scope="module")
def describer() -> Describer:
    return Describer("nano", threads=1)


def test_a_sample_of_the_measured_questions_is_answered(describer: Describer) -> None:
    asked = measured.ask(describer, 32, "test")
    assert [one.kind for one in asked] == measured.kinds(32)
    shares = measured.summary(asked)
    assert shares[measured.NAMED] >= 0.85  # 300 questions are in the evaluation; these are a sample
    assert shares[measured.RELATED] >= 0.60
    assert shares[measured.ABSENT] <= 0.25
    again = measured.ask(describer, 4, "test")
    assert [one.text for one in again] == [one.text for one in asked[:4]]


def test_kinds_without_questions_have_no_share() -> None:
    one = measured.Asked(0, measured.NAMED, "the red mug", (1,), True, (0.9,), (True,))
    assert measured.summary([one]) == {measured.NAMED: 1.0}
    missed = replace(one, kind=measured.ABSENT)
    assert measured.summary([one, missed]) == {measured.NAMED: 1.0, measured.ABSENT: 0.0}
    assert measured.summary([]) == {}


def test_the_command_omits_kinds_without_questions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The object does not match the question, so no score is plausible.
    asked = [measured.Asked(0, measured.NAMED, "the red mug", (), False, (0.001,), (True,))]
    monkeypatch.setattr(measured, "ask", lambda *_: asked)
    monkeypatch.setattr(measured, "ask_forms", lambda *_: [])
    out = tmp_path / "out.json"
    assert measured.main(["--questions", "1", "--json", str(out)]) == 0
    printed = capsys.readouterr().out
    assert measured.NAMED in printed
    assert measured.RELATED not in printed
    assert measured.ABSENT not in printed
    assert "calibration error" not in printed
    assert set(json.loads(out.read_text())) == {"shares", "asked", "forms", "forms_right", "forms_surely_wrong"}


@pytest.mark.parametrize("option", ["--questions", "--forms", "--fit-questions"])
def test_no_question_is_a_usage_error(option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        measured.main(["--bundle", str(tmp_path / "none"), option, "0"])
    assert ended.value.code == 2
    assert f"argument {option}: '0' is not a whole number of at least 1" in capsys.readouterr().err


def test_the_command_prints_its_targets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    assert measured.main(["--questions", "4", "--forms", "4", "--no-depth", "--json", str(out)]) == 0
    assert "target 85%" in capsys.readouterr().out
    assert len(json.loads(out.read_text())["asked"]) == 4
    assert measured.main(["--bundle", str(tmp_path / "none")]) == 2
    assert "none" in capsys.readouterr().err


def test_a_sample_of_the_forms_is_answered(describer: Describer) -> None:
    asked = measured.ask_forms(describer, 24, "test")
    assert [one.kind for one in asked] == [FORMS[n % 4] for n in range(24)]
    right, wrong = measured.form_summary(asked)
    assert right >= 0.85  # 60 questions are in the evaluation; these are a sample
    assert wrong <= 1 / 24
    assert [one.text for one in measured.ask_forms(describer, 4, "test")] == [one.text for one in asked[:4]]


def test_forms_have_clear_right_answers() -> None:
    drawn = {kind: 0 for kind in FORMS}
    for seed in range(12):
        scene = sample_scene(seed, "test")
        ids = {obj.instance_id for obj in scene.objects}
        questions = FormQuestions(scene, ids, np.random.default_rng(seed))
        for kind in FORMS:
            for question in filter(None, (questions.draw(kind) for _ in range(20))):
                drawn[kind] += 1
                assert question.right <= ids
                if kind in (SUPERLATIVE, ORDINAL):
                    assert len(question.right) == 1
                if question.text.startswith(("the biggest", "the largest")):
                    (right,) = question.right
                    noun = question.text.split()[-1]
                    same = [obj for obj in scene.objects if noun in (obj.category, "thing")]
                    if noun != "thing":
                        assert max(same, key=lambda obj: object_extents(obj).prod()).instance_id == right
    assert min(drawn.values()) > 10
