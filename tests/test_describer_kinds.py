"""Answers from a tree of kinds: as specific as they are sure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import SampleImage, TinyModel
from kind_trees import ONE_TOKEN, SPELLED, bundle_with_kinds
from PIL import Image

from osprey_ros import regions_from_id_image
from osprey_ros.bundle.bundle import Bundle, write_calibration
from osprey_ros.bundle.calibration import Calibration, Curve
from osprey_ros.cli.main import main
from osprey_ros.decoding.config import GenerationConfig, Sampling
from osprey_ros.decoding.constraints import OneOf
from osprey_ros.decoding.prompt import QUESTIONS
from osprey_ros.describer import Describer
from osprey_ros.errors import BundleError, InputError, StoppedError
from osprey_ros.frame import Frame
from osprey_ros.kinds.back_off import NamedKind, back_off
from osprey_ros.kinds.tree import KindTree
from osprey_ros.messages.objects import object_message
from osprey_ros.pipeline import Pipeline
from osprey_ros.results import Description
from osprey_ros.scene.settings import StepSettings
from osprey_ros.system.cancellation import CancellationToken
from osprey_ros.vision.image_io import save_image

CATEGORY = QUESTIONS["category"]
WITHOUT = GenerationConfig(back_off=False)


@pytest.fixture(scope="module")
def describers(tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Describer]:
    folder = tmp_path_factory.mktemp("kinds")
    trees = {"one token": ONE_TOKEN, "spelled": SPELLED}
    return {
        name: Describer(bundle_with_kinds(tiny_model.bundle, folder / name, tree), threads=1)
        for name, tree in trees.items()
    }


@pytest.fixture(params=["one token", "spelled"])
def ready(request: pytest.FixtureRequest, describers: dict[str, Describer], sample: SampleImage) -> Describer:
    """A describer with a tree of kinds and the sample image."""
    describer = describers[request.param]
    describer.set_image(sample.rgb)
    return describer


def tree_of(describer: Describer) -> KindTree:
    tree = describer.bundle.kinds()
    assert tree is not None
    return tree


def expected(describer: Describer, sample: SampleImage, threshold: float) -> list[NamedKind]:
    """Return the names that follow from the likelihoods of all names as answers.

    Names of one token are compared by that token, others by all tokens and their end.
    """
    tree = tree_of(describer)
    scores = describer.score(sample.ids, tree.names[1:], CATEGORY)
    sums = scores.log_likelihoods
    if tree == ONE_TOKEN:
        sums = np.array([[part[0] for part in row] for row in scores.token_logprobs])
    own = np.zeros((len(sums), len(tree)))
    own[:, 1:] = np.exp(sums - sums.max(axis=1, keepdims=True))
    return back_off(tree, own / own.sum(axis=1, keepdims=True), np.array, threshold)


def assert_named(answers: Sequence[Description], names: Sequence[NamedKind]) -> None:
    for answer, named in zip(answers, names, strict=True):
        assert answer.text == named.name
        assert answer.confidence == pytest.approx(named.confidence, abs=1e-4)
        assert answer.raw_confidence == pytest.approx(named.raw_confidence, abs=1e-4)
        assert [kind.name for kind in answer.chain] == [kind.name for kind in named.chain]
        assert [kind.probability for kind in answer.chain] == pytest.approx(
            [kind.probability for kind in named.chain], abs=1e-4
        )
        assert answer.constrained
        assert answer.ended
        assert np.exp(answer.logprobs.sum()) == pytest.approx(answer.raw_confidence, rel=1e-4)


@pytest.mark.parametrize("threshold", [0.0, 0.3, None, 0.9, 1.0])
def test_the_category_is_the_most_specific_name_that_is_probable_enough(
    ready: Describer, sample: SampleImage, threshold: float | None
) -> None:
    answers = ready.describe(sample.ids, "category", GenerationConfig(kind_threshold=threshold))
    tree = tree_of(ready)
    assert_named(answers, expected(ready, sample, tree.threshold if threshold is None else threshold))
    if threshold == 0:
        assert all(answer.text == answer.chain[0].name for answer in answers)
    if threshold is None:
        assert len({answer.text for answer in answers}) > 1
    if threshold == 1:
        assert [(answer.text, answer.confidence) for answer in answers] == [("object", 1.0)] * len(answers)


def test_among_other_questions_and_in_a_stream(ready: Describer, sample: SampleImage) -> None:
    alone = ready.describe(sample.ids, "category")
    questions = [QUESTIONS["short"], CATEGORY, "What is it?", CATEGORY]
    listed = OneOf(("overview", "word"))
    together = ready.answer(sample.ids, questions, constraints=[None, None, None, listed])
    plain = ready.answer(sample.ids, questions, WITHOUT, constraints=[None, None, None, listed])
    assert [result.question for result in together] == questions
    assert_same(together[1], alone)
    for number in (0, 2, 3):
        assert [one.text for one in together[number]] == [one.text for one in plain[number]]
        assert all(one.chain == () for one in together[number])
    updates = list(ready.stream(sample.ids, CATEGORY))
    assert len(updates) == len(alone)
    for update, one in zip(updates, alone, strict=True):
        assert (update.region_id, update.text, update.ended) == (one.region_id, one.text, True)
        assert update.confidence == pytest.approx(one.confidence, abs=1e-4)
        assert [kind.name for kind in update.chain] == [kind.name for kind in one.chain]
        assert update.token == one.tokens[0]
    only = [sample.ids == 7]
    (joint,) = ready.stream(only, CATEGORY, together=True)
    assert joint.text == next(one.text for one in alone if one.region_id == 7)


def assert_same(answers: Sequence[Description], others: Sequence[Description]) -> None:
    for one, other in zip(answers, others, strict=True):
        assert (one.region_id, one.text) == (other.region_id, other.text)
        assert [kind.probability for kind in one.chain] == pytest.approx(
            [kind.probability for kind in other.chain], abs=1e-4
        )


def test_few_answers_at_a_time(ready: Describer, sample: SampleImage) -> None:
    alone = ready.describe(sample.ids, "category")
    few = Describer(ready.bundle, threads=1, max_parallel=2)
    few.set_image(sample.rgb)
    assert_same(few.answer(sample.ids, [QUESTIONS["short"], CATEGORY])[1], alone)


def test_without_back_off_the_model_answers_by_itself(
    ready: Describer, describer: Describer, sample: SampleImage
) -> None:
    describer.set_image(sample.rgb)
    answers, plain = ready.describe(sample.ids, "category", WITHOUT), describer.describe(sample.ids, "category")
    assert [(one.text, one.raw_confidence) for one in answers] == [(one.text, one.raw_confidence) for one in plain]
    assert all(one.chain == () for one in (*answers, *plain))


def test_names_are_neither_drawn_nor_cut(ready: Describer, sample: SampleImage) -> None:
    drawn = GenerationConfig(max_new_tokens=1, sampling=Sampling(temperature=50.0))
    assert_same(ready.describe(sample.ids, "category", drawn), ready.describe(sample.ids, "category"))


def test_one_token_takes_one_step(describers: dict[str, Describer], sample: SampleImage) -> None:
    describer = describers["one token"]
    describer.set_image(sample.rgb)
    result = describer.describe(sample.ids, "category")
    assert result.timing.steps == 1
    assert all(len(answer.tokens) == 1 for answer in result if answer.text != "object")


def test_the_curve_of_kinds_calibrates_them(tiny_model: TinyModel, sample: SampleImage, tmp_path: Path) -> None:
    folder = bundle_with_kinds(tiny_model.bundle, tmp_path / "calibrated", ONE_TOKEN)
    write_calibration(folder, Calibration({"kind": Curve((0.0, 1.0), (0.1, 0.8)), "category": Curve((0.0,), (0.0,))}))
    describer = Describer(folder, threads=1)
    describer.set_image(sample.rgb)
    answers = describer.describe(sample.ids, "category", GenerationConfig(kind_threshold=0.7))
    for answer in answers:
        raw = 1.0 if answer.text == "object" else 0.1 + 0.7 * answer.raw_confidence
        assert answer.confidence == pytest.approx(raw)
        assert {kind.name: kind.probability for kind in answer.chain}[answer.text] == answer.confidence
        assert answer.confidence >= 0.7


def test_a_region_without_pixels_has_no_kind(ready: Describer, sample: SampleImage) -> None:
    ids = sample.ids.copy()
    ids[0, 0] = 400
    answers = {one.region_id: one for one in ready.describe(ids, "category")}
    if answers[400].reason:
        assert (answers[400].text, answers[400].chain) == ("unknown", ())
    assert answers[7].chain


def test_a_canceled_call(ready: Describer, sample: SampleImage) -> None:
    stopped = CancellationToken()
    stopped.cancel()
    with pytest.raises(StoppedError):
        ready.describe(sample.ids, "category", cancel=stopped)


def test_the_chain_at_every_door(
    ready: Describer, sample: SampleImage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = {one.region_id: one for one in ready.describe(sample.ids, "category")}
    chains = {region: [(kind.name, kind.probability) for kind in one.chain] for region, one in known.items()}
    save_image(tmp_path / "image.png", sample.rgb)
    Image.fromarray(sample.ids).save(tmp_path / "masks.png")
    command = ["describe", "--image", tmp_path / "image.png", "--masks", tmp_path / "masks.png", "--style", "category"]
    options = [*map(str, command), "--bundle", str(ready.bundle.root), "--threads", "1"]
    assert main([*options, "--json"]) == 0
    for entry in json.loads(capsys.readouterr().out)["regions"]:
        assert entry["text"] == known[entry["id"]].text
        assert_chain([(kind["name"], kind["probability"]) for kind in entry["kinds"]], chains[entry["id"]])
    assert main(options) == 0
    for line in capsys.readouterr().out.splitlines()[1:]:
        name, probability = chains[int(line.split()[0])][0]
        text = known[int(line.split()[0])].text
        assert line.endswith(f" {text}" if text == name else f" {text} ({name} {probability:.2f})")
    assert main([*options, "--json", "--no-back-off"]) == 0
    assert all(entry["kinds"] == [] for entry in json.loads(capsys.readouterr().out)["regions"])

    frame = Frame(stamp=1, frame_id="camera", rgb=sample.rgb, regions=regions_from_id_image(sample.ids))
    for settings in (StepSettings(min_area=1), StepSettings(min_area=1, style="category")):
        for thing in Pipeline(ready).step(frame, settings).objects:
            assert thing.category == known[thing.instance_id].text
            message = object_message(thing, lambda name, /, **fields: SimpleNamespace(**fields))
            assert message.category == thing.category
            chain = list(zip(message.kinds, message.kind_probabilities, strict=True))
            assert_chain(chain, chains[thing.instance_id])
    own = Pipeline(ready).step(frame, StepSettings(min_area=1, back_off=False)).objects
    assert all(thing.caption is not None and thing.caption.kinds == () for thing in own)
    root = Pipeline(ready).step(frame, StepSettings(min_area=1, kind_threshold=1.0)).objects
    assert {thing.category for thing in root} == {"object"}


def assert_chain(found: Sequence[tuple[str, float]], known: Sequence[tuple[str, float]]) -> None:
    assert [name for name, _ in found] == [name for name, _ in known]
    assert [probability for _, probability in found] == pytest.approx([p for _, p in known], abs=1e-4)


def test_faults_of_settings_and_files(tiny_model: TinyModel, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"kind_threshold is 1\.5: it must be from 0 to 1"):
        GenerationConfig(kind_threshold=1.5)
    damaged = bundle_with_kinds(tiny_model.bundle, tmp_path / "damaged", '{"format_version": 1, "kinds": {"a": {}}}')
    with pytest.raises(BundleError, match=r"kinds\.json is not a tree of kinds: the kind 'a' has no parent"):
        Bundle.open(damaged).kinds()
    data = json.loads(SPELLED.to_json())
    data["kinds"]["tæt"] = {"parent": "object"}
    unspelled = bundle_with_kinds(tiny_model.bundle, tmp_path / "unspelled", json.dumps(data))
    with pytest.raises(BundleError, match=r"kinds\.json does not fit the bundle: the tokenizer of the bundle spells"):
        Describer(unspelled, threads=1)
    assert Bundle.open(tiny_model.bundle).kinds() is None
