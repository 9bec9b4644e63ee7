"""Regions that are unlike anything in the training data: lower confidences, and "unknown" from a high score on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import SampleImage, TinyModel
from kind_trees import ONE_TOKEN, SPELLED, bundle_with_kinds
from nano import NANO, without_score
from PIL import Image

from osprey_ros.bundle.bundle import Bundle, write_unlike_training
from osprey_ros.bundle.unlike_training import REASON, UNKNOWN_FROM, Gaussians, UnlikeTraining, trust
from osprey_ros.cli.main import main
from osprey_ros.decoding.constraints import OneOf
from osprey_ros.decoding.prompt import QUESTIONS
from osprey_ros.describer import Describer
from osprey_ros.frame import Frame
from osprey_ros.kinds.tree import KindTree
from osprey_ros.pipeline import Pipeline
from osprey_ros.query.finder import Finder
from osprey_ros.regions.regions import regions_from_id_image
from osprey_ros.scene.settings import StepSettings
from osprey_ros.scene.types import UNKNOWN, State
from osprey_ros.vision.image_io import load_image
from osprey_sim.render import MIN_AREA, render_scenes

COFFEE = Path(__file__).parent / "photographs" / "coffee.jpg"  # by Rachel Michetti, CC0
STYLES = [QUESTIONS["short"], QUESTIONS["category"]]


@pytest.fixture(scope="module")
def nano() -> Iterator[Describer]:
    with Describer(NANO, threads=1) as describer:
        yield describer


@pytest.fixture(scope="module")
def coffee() -> tuple[np.ndarray, np.ndarray]:
    """A photograph of a cup of coffee, uint8 [200, 300, 3], and ids with the cup as region 4."""
    rows, columns = np.mgrid[:200, :300]
    cup = ((columns - 150) / 70) ** 2 + ((rows - 103) / 65) ** 2 < 1
    return load_image(COFFEE), np.where(cup, 4, 0).astype(np.uint16)


def write_constant_score(folder: Path, score: float) -> None:
    """Write a score into a bundle that is the same for all regions."""
    width = Bundle.open(folder).manifest.model.hidden_size
    one = np.ones((width, 1), np.float32)
    regions = Gaussians(one[:, 0], one[:, 0], one, one[:, :0], one[:1], np.array([0, 1], np.float32))
    write_unlike_training(folder, UnlikeTraining(regions, None, (0.0,), (score,)))


def test_nano_knows_that_it_does_not_know_a_photograph(nano: Describer, coffee: tuple[np.ndarray, np.ndarray]) -> None:
    rgb, ids = coffee
    nano.set_image(rgb)
    colors = OneOf(("red", "white"))
    *styles, listed = nano.answer(ids, [*STYLES, "What color is <mask><pos>?"], constraints=[None, None, colors])
    for result in styles:
        (answer,) = result
        assert (answer.text, answer.reason) == (UNKNOWN, REASON)
        assert answer.unlike_training >= UNKNOWN_FROM
        assert answer.confidence < 0.2
        assert answer.raw_confidence == pytest.approx(np.exp(answer.logprobs.mean()), rel=1e-5)
        assert answer.raw_confidence > answer.confidence
        assert len(answer.tokens)
    assert listed[0].text in ("red", "white")  # an answer from a list stays one of the list
    assert (listed[0].reason, listed[0].unlike_training) == ("", styles[0][0].unlike_training)
    assert listed[0].confidence < 0.2
    update = list(nano.stream(ids, STYLES[0]))[-1]
    assert (update.text, update.reason, update.confidence) == (UNKNOWN, REASON, styles[0][0].confidence)
    together = nano.ask_together(ids, "What is <mask><pos>?")
    assert (together.text, together.region_id) == (UNKNOWN, 0)
    encoded = nano.encode(ids)
    assert encoded.select([4]).unlike_training == encoded.unlike_training
    assert nano.score(encoded, ["mug", "box"]).unlike_training == encoded.unlike_training
    assert nano.ask(encoded, STYLES[0])[0].text == UNKNOWN


def test_rendered_scenes_keep_their_words(nano: Describer) -> None:
    lost, count = 0.0, 0
    with Describer(without_score(), threads=1) as trusting:
        for _, frame in render_scenes("test", range(300, 304)):
            regions = regions_from_id_image(frame.instance_ids, only=frame.objects(MIN_AREA))
            for describer in (nano, trusting):
                describer.set_image(frame.rgb)
            for mine, theirs in zip(nano.answer(regions, STYLES), trusting.answer(regions, STYLES), strict=True):
                assert [one.text for one in mine] == [one.text for one in theirs]
                assert all(one.unlike_training < UNKNOWN_FROM for one in mine)
                assert all(one.unlike_training == 0 for one in theirs)
                lost += sum(b.confidence - a.confidence for a, b in zip(mine, theirs, strict=True))
                count += len(mine)
    assert 0 <= lost / count < 0.02


def test_the_scene_and_queries_know_it_too(nano: Describer, coffee: tuple[np.ndarray, np.ndarray]) -> None:
    rgb, ids = coffee
    pipeline = Pipeline(nano)
    (thing,) = pipeline.step(Frame(1, "camera", rgb, ids), StepSettings()).objects
    assert thing.caption is not None
    assert (thing.category, thing.description, thing.state, thing.reason) == (UNKNOWN, UNKNOWN, State.FRESH, REASON)
    assert thing.caption.unlike_training >= UNKNOWN_FROM
    assert thing.caption.confidence < 0.2
    found = Finder(nano).find("the orange chair", [thing], pipeline.memory.latest, 1)
    assert found.matches == ()


def test_the_command_line_says_it(
    coffee: tuple[np.ndarray, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(coffee[1].astype(np.uint8)).save(tmp_path / "ids.png")
    files = ["--image", str(COFFEE), "--masks", str(tmp_path / "ids.png"), "--threads", "1", "--bundle", str(NANO)]
    assert main(["describe", *files, "--json"]) == 0
    captured = capsys.readouterr()
    (region,) = json.loads(captured.out)["regions"]
    assert (region["text"], region["reason"]) == (UNKNOWN, REASON)
    assert region["unlike_training"] >= UNKNOWN_FROM
    assert "is unknown: it is unlike anything" in captured.err


@pytest.mark.parametrize("tree", [ONE_TOKEN, SPELLED], ids=["one token", "spelled"])
@pytest.mark.parametrize("score", [0.3, 0.7, 0.95])
def test_kinds_are_less_probable(
    tiny_model: TinyModel, sample: SampleImage, tmp_path: Path, tree: KindTree, score: float
) -> None:
    folder = bundle_with_kinds(tiny_model.bundle, tmp_path / "kinds", tree)
    with Describer(folder, threads=1) as describer:
        describer.set_image(sample.rgb)
        before = describer.describe(sample.ids, "category")
    factor = float(trust(np.array(score)))
    write_constant_score(folder, score)
    with Describer(folder, threads=1) as describer:
        describer.set_image(sample.rgb)
        after = describer.describe(sample.ids, "category")
        with_words = describer.describe(sample.ids, "short")
    for one, earlier in zip(after, before, strict=True):
        assert one.unlike_training == pytest.approx(score)
        assert one.chain[-1].probability == 1
        if score >= UNKNOWN_FROM:
            assert (one.text, one.reason, one.confidence) == (UNKNOWN, REASON, one.chain[0].probability)
        else:
            probable = [kind for kind in one.chain if kind.probability >= 0.6]
            assert one.text == probable[0].name
            assert one.confidence == probable[0].probability
            likeliest = {kind.name: kind.probability for kind in earlier.chain}
            shared = [kind for kind in one.chain[:-1] if kind.name in likeliest]
            expected = [factor * likeliest[kind.name] for kind in shared]
            assert [kind.probability for kind in shared] == pytest.approx(expected, abs=1e-4)
    for description in with_words:
        assert (description.text == UNKNOWN) == (score >= UNKNOWN_FROM)
        assert description.confidence == pytest.approx(description.raw_confidence * factor, abs=1e-6)
