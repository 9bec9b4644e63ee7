"""Crops of regions through the describer, the pipeline and the command line: a second view, where it is asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SampleImage, TinyModel
from PIL import Image

from osprey_ros.bundle.bundle import Bundle
from osprey_ros.cli.main import main
from osprey_ros.decoding.config import GenerationConfig
from osprey_ros.decoding.prompt import QUESTIONS, PromptBuilder
from osprey_ros.describer import Describer
from osprey_ros.errors import InputError, StoppedError
from osprey_ros.frame import Frame
from osprey_ros.pipeline import Pipeline
from osprey_ros.regions.crops import Cropper, crop_rows
from osprey_ros.regions.regions import regions_from_id_image
from osprey_ros.scene.scheduler import Scheduler
from osprey_ros.scene.settings import StepSettings
from osprey_ros.system.cancellation import CancellationToken
from osprey_torch.checkpoint import load_checkpoint
from osprey_torch.reference import generate_region

QUESTION = QUESTIONS["short"]
SMALL = 12  # the region of 15 x 6 pixels
STEP = StepSettings(max_new_tokens=6, categories=False, min_area=1)


def config(crops: str) -> GenerationConfig:
    return GenerationConfig(max_new_tokens=6, crops=crops)


@pytest.fixture(scope="module")
def describer(crop_model: TinyModel) -> Describer:
    return Describer(crop_model.bundle, threads=1)


def texts(describer: Describer, regions: object, crops: str = "none") -> list[list[int]]:
    (result,) = describer.answer(regions, [QUESTION], config(crops))
    return [description.tokens.tolist() for description in result]


@torch.inference_mode()
def test_crops_are_those_of_pytorch_from_pixels_to_words(
    ready: Describer, crop_model: TinyModel, sample: SampleImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("osprey_ros.regions.crop_encoder.MOST_CROPS", 2)  # of five regions in one run
    model, tokenizer = load_checkpoint(crop_model.checkpoint)
    encoded = ready.encode(sample.ids, crops="all")
    crops = Cropper(ready.spec).cut(sample.rgb, regions_from_id_image(sample.ids))
    added = model.encode_crops(torch.from_numpy(crops.pixels), [torch.from_numpy(mask) for mask in crops.masks])
    assert encoded.crop_tokens is not None
    assert np.abs(encoded.crop_tokens - added.numpy()).max() < 1e-5 * added.abs().max()

    prompt = PromptBuilder(tokenizer, ready.spec).prompt(QUESTION)
    image_tokens = torch.from_numpy(ready._image._images.image_tokens.copy())
    tokens = torch.from_numpy(encoded.mask_tokens) + added
    positions = torch.from_numpy(encoded.position_tokens)
    expected = [
        generate_region(model, prompt, image_tokens, t, p, 6)[0] for t, p in zip(tokens, positions, strict=True)
    ]
    found = texts(ready, encoded)
    assert found == [[token for token in one.tolist() if token != ready.spec.eos_id] for one in expected] or found == [
        one.tolist() for one in expected
    ]
    assert found != texts(ready, sample.ids)


def test_which_regions_get_a_crop(ready: Describer, sample: SampleImage) -> None:
    plain = ready.encode(sample.ids)
    assert plain.crop_tokens is None
    ids = plain.regions.ids.tolist()
    whole = ready.encode(sample.ids, crops="all")
    for crops, chosen in (("all", ids), ("small", [SMALL]), ([300, 7], [7, 300])):
        encoded = ready.encode(plain, crops=crops)
        # The mask tokens stay comparable to those of other images.
        np.testing.assert_array_equal(encoded.mask_tokens, plain.mask_tokens)
        assert encoded.crop_tokens is not None
        rows = [ids.index(region) for region in chosen]
        np.testing.assert_allclose(encoded.crop_tokens[rows], whole.crop_tokens[rows], atol=1e-4)
        assert [region for region, row in zip(ids, encoded.crop_tokens, strict=True) if row.any()] == chosen
        some = encoded.select([SMALL, 3])
        assert [bool(row.any()) for row in some.crop_tokens] == [SMALL in chosen, 3 in chosen]
    assert ready.encode(plain, crops=[]).crop_tokens is None


def test_answers_with_crops(ready: Describer, sample: SampleImage) -> None:
    none, small, whole = (texts(ready, sample.ids, crops) for crops in ("none", "small", "all"))
    plain, cropped = ready.encode(sample.ids), ready.encode(sample.ids, crops="all")
    row = plain.regions.ids.tolist().index(SMALL)
    assert whole != none
    assert small == [*none[:row], whole[row], *none[row + 1 :]]
    assert texts(ready, plain, "all") == texts(ready, cropped) == texts(ready, cropped, "small") == whole
    (streamed,) = [u.text for u in ready.stream(plain.select([SMALL]), QUESTION, config("all")) if u.ended]
    assert streamed == ready.ask(plain.select([SMALL]), QUESTION, config("all"))[0].text
    together = [
        ready.ask_together(plain, "What is <mask><pos>?" * 5, config(crops)).tokens for crops in ("none", "all")
    ]
    assert together[0].tolist() != together[1].tolist()
    scores = [ready.score(regions, ["a cup", "it"]).log_likelihoods for regions in (plain, cropped)]
    assert not np.allclose(*scores)


def test_time_of_crops_is_a_stage(ready: Describer, sample: SampleImage) -> None:
    plain = ready.encode(sample.ids)
    assert plain.timing.crops == 0
    timing = ready.encode(plain, crops="all").timing
    assert timing.total == pytest.approx(timing.regions + timing.crops)
    assert timing.crops > timing.engine > 0
    timing = ready.ask(sample.ids, QUESTION, config("all")).timing
    stages = (timing.regions, timing.crops, timing.prefix, timing.branches)
    assert min(stages) > 0
    assert timing.total == pytest.approx(sum(stages), rel=1e-6)


def test_the_image_of_crops_is_kept_when_the_camera_fills_its_buffer_again(
    describer: Describer, sample: SampleImage
) -> None:
    buffer = sample.rgb.copy()
    describer.set_image(buffer)
    expected = describer.encode(sample.ids, crops="all")
    buffer[:] = 0
    found = describer.encode(sample.ids, crops="all")
    np.testing.assert_array_equal(found.crop_tokens, expected.crop_tokens)


def test_crops_are_canceled(ready: Describer, sample: SampleImage) -> None:
    plain, token = ready.encode(sample.ids), CancellationToken()
    token.cancel()
    with pytest.raises(StoppedError):
        ready.encode(plain, crops="all", cancel=token)


def test_a_bundle_without_crops_says_so(tiny_model: TinyModel, sample: SampleImage) -> None:
    with Describer(tiny_model.bundle, threads=1) as describer:
        describer.set_image(sample.rgb)
        assert not describer.has_crops
        remedy = "the bundle tiny has no engine for crops.*leave crops out"
        calls: list[Callable[[], object]] = [
            lambda: describer.check((), crops="small"),
            lambda: describer.encode(sample.ids, crops=[3]),
            lambda: describer.answer(sample.ids, [QUESTION], config("all")),
            lambda: describer.stream(sample.ids, QUESTION, config("small")),
        ]
        for call in calls:
            with pytest.raises(InputError, match=remedy):
                call()
        describer.check((), crops="none")


def test_other_words_for_crops_are_refused(ready: Describer, sample: SampleImage) -> None:
    for call in (lambda: config("large"), lambda: ready.encode(sample.ids, crops="large")):
        with pytest.raises(InputError, match="crops is 'large': choose one of none, small, all"):
            call()


@pytest.mark.parametrize(
    ("side", "small"),
    [(95, True), (97, False)],
)
def test_small_is_a_side_of_less_than_96_pixels_at_the_input_of_448(
    crop_model: TinyModel, side: int, small: bool
) -> None:
    spec = replace(Bundle.open(crop_model.bundle).manifest.model, image_size=448, crop_size=224)
    ids = np.zeros((448, 896), np.uint8)
    ids[10 : 10 + side, 20:40] = 1
    assert crop_rows(regions_from_id_image(ids), "small", spec).tolist() == ([0] if small else [])


def frame(sample: SampleImage, stamp: int = 0) -> Frame:
    return Frame(stamp, "camera", sample.rgb, sample.ids)


def test_the_pipeline_describes_with_crops_and_tracks_without(describer: Describer, sample: SampleImage) -> None:
    plain, cropped = (Pipeline(describer).step(frame(sample), replace(STEP, crops=c)) for c in ("none", "all"))
    assert plain.timing is not None
    assert cropped.timing is not None
    assert plain.timing.crops == 0 < cropped.timing.crops
    for one, other in zip(plain.objects, cropped.objects, strict=True):
        np.testing.assert_array_equal(one.appearance, other.appearance)
    describer.set_image(sample.rgb)
    for crops, result in (("none", plain), ("all", cropped)):
        expected = describer.ask(sample.ids, QUESTION, config(crops))
        assert [obj.description for obj in result.objects] == [description.text for description in expected]


def test_with_a_budget_crops_are_made_where_they_fit(describer: Describer, sample: SampleImage) -> None:
    for seconds, fits in ((1e3, False), (1e-6, True)):
        scheduler = Scheduler()
        for _ in range(3):
            scheduler.costs.record(4, 0.0, 1e-3)
            scheduler.costs.record_crops(1, seconds)
        settings = replace(STEP, crops="all", time_budget=60.0)
        result = Pipeline(describer, scheduler=scheduler).step(frame(sample), settings)
        assert result.described == len(result.objects)
        assert result.timing is not None
        assert (result.timing.crops > 0) == fits


def test_a_pipeline_ignores_crops_that_its_bundle_lacks(
    tiny_model: TinyModel, sample: SampleImage, caplog: pytest.LogCaptureFixture
) -> None:
    with Describer(tiny_model.bundle, threads=1) as describer:
        pipeline = Pipeline(describer)
        for stamp in (1, 2):
            result = pipeline.step(frame(sample, stamp), replace(STEP, crops="small", remember=False))
            assert result.described == len(result.objects)
    assert [message for message in caplog.messages if "crops" in message] == [
        "crops small is ignored: the bundle tiny has no engine for crops"
    ]


def test_the_command_line(
    crop_model: TinyModel,
    tiny_model: TinyModel,
    sample: SampleImage,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Image.fromarray(sample.rgb).save(tmp_path / "rgb.png")
    Image.fromarray(sample.ids).save(tmp_path / "ids.png")
    files = ["--image", str(tmp_path / "rgb.png"), "--masks", str(tmp_path / "ids.png"), "--max-new-tokens", "6"]
    describe = ["describe", *files, "--json", "--bundle"]
    found = {}
    for crops in ("none", "small", "all"):
        assert main([*describe, str(crop_model.bundle), "--crops", crops]) == 0
        report = json.loads(capsys.readouterr().out)
        found[crops] = [region["text"] for region in report["regions"]]
        assert (report["timing"]["crops"] > 0) == (crops != "none")
    assert found["none"] != found["small"]
    assert found["small"] != found["all"]
    for command in (describe, ["ask", "a cup", *files, "--bundle"]):
        assert main([*command, str(tiny_model.bundle), "--crops", "all"]) == 2
        assert "the bundle tiny has no engine for crops" in capsys.readouterr().err
    assert main(["bundle", "show", str(crop_model.bundle)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["crop", "crop.onnx", "onnxruntime", "on", "cpu", "fp32"] in lines
    assert ["crops", "32", "x", "32", "pixels,", "of", "single", "regions"] in lines
