"""Verification: right engines pass, a wrong one is found at its stage, a shortened decoder is compared and said so."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from checkpoint_linears import Linears
from conftest import SampleImage, TinyModel

from export.figures import CROP_STAGE, STAGES, Limit, Limits, StageFigures, TokenFigures, VerificationError
from export.graph_decoder import DecoderShape, build_decoder
from export.linears import DecoderPrecision
from export.samples import VerificationSample
from export.verify import verify_bundle
from export.verify_encoders import EncoderInputs, encode_with_engines
from osprey_ros.bundle.manifest import EngineEntry
from osprey_ros.engines.base import Engine, load_engine
from osprey_torch.checkpoint import Checkpoint


@pytest.fixture(scope="module")
def checkpoint(tiny_model: TinyModel) -> Checkpoint:
    return Checkpoint.open(tiny_model.checkpoint)


@pytest.fixture(scope="module")
def samples(sample: SampleImage) -> list[VerificationSample]:
    other = np.where(np.isin(sample.ids, (3, 300)), sample.ids, 0)
    return [
        VerificationSample("all five", sample.rgb, sample.ids),
        VerificationSample("nothing", sample.rgb, np.zeros_like(sample.ids)),
        VerificationSample("two of them", sample.rgb[:, ::-1].copy(), other[:, ::-1].copy()),
    ]


class _Distorted:
    """An engine with something added to a third of the values of one output."""

    def __init__(self, engine: Engine, output: str, value: float) -> None:
        self._engine = engine
        self._output = output
        self._value = value

    def __getattr__(self, name: str) -> object:
        return getattr(self._engine, name)

    def run(self, *arguments: object, **options: object) -> dict[str, np.ndarray]:
        results = self._engine.run(*arguments, **options)
        return {**results, self._output: self._wrong(results[self._output])}

    def bind(self, inputs: Mapping, into: Mapping) -> Callable[[], None]:
        bound, buffer = self._engine.bind(inputs, into), into[self._output]

        def run(*arguments: object) -> None:
            bound(*arguments)
            buffer.write(self._wrong(buffer.read()))

        return run

    def _wrong(self, values: np.ndarray) -> np.ndarray:
        wrong = np.array(values)
        wrong.reshape(-1)[::3] += self._value
        return wrong


def _with_wrong(role: str, output: str, value: float) -> Callable[[Path, EngineEntry], Engine]:
    def load(path: Path, entry: EngineEntry) -> Engine:
        engine = load_engine(path, entry.runtime, entry.device)
        return _Distorted(engine, output, value) if path.stem == role else engine

    return load


def test_exact_engines_agree_at_every_stage(
    tiny_model: TinyModel,
    checkpoint: Checkpoint,
    samples: list[VerificationSample],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    figures = verify_bundle(tiny_model.bundle, checkpoint, checkpoint.read, samples)
    assert figures["verified"]
    assert figures["pictures"] == ["all five", "two of them"]
    assert tuple(figures["stages"]) == STAGES
    # Nothing is quantized here but the embedding table, to float16, which this checkpoint's fits.
    assert all(stage["relative"] < 2e-3 and stage["cosine"] > 0.99999 for stage in figures["stages"].values())
    assert all(stage["relative"] > 0 for stage in figures["stages"].values()), "both sides are the same array"
    tokens = figures["greedy_tokens"]
    assert (tokens["regions"], tokens["identical_answers"]) == (7, 7)
    assert tokens["steps"] == tokens["steps_equal"] > 14
    assert tokens["max_kl_divergence"] < 1e-3
    assert figures["decoder_layers"] == {"compared": 2, "all": 2}
    assert all(any(stage in line for line in caplog.messages) for stage in (*STAGES, "greedy_tokens"))


@pytest.mark.parametrize(
    ("role", "output", "value", "stage"),
    [
        ("vision", "res3", 1.0, "vision_features"),
        ("vision", "image_tokens", 1.0, "image_tokens"),
        ("mask_extractor", "mask_tokens", 1.0, "mask_tokens"),
        ("mask_extractor", "position_tokens", float("nan"), "position_tokens"),
        ("crop", "crop_tokens", 1.0, "crop_tokens"),
        ("decoder", "logits", 400.0, "decoder_graph"),
        ("decoder", "new_value.1", 1.0, "decoder_graph"),
    ],
)
def test_a_wrong_engine_is_found_at_its_stage(
    crop_model: TinyModel,
    samples: list[VerificationSample],
    role: str,
    output: str,
    value: float,
    stage: str,
) -> None:
    checkpoint = Checkpoint.open(crop_model.checkpoint)
    with pytest.raises(VerificationError, match=stage) as caught:
        verify_bundle(
            crop_model.bundle, checkpoint, checkpoint.read, samples[:1], load=_with_wrong(role, output, value)
        )
    figures = caught.value.figures
    assert figures is not None
    assert not figures["verified"]
    first = figures["failures"][0]
    assert first.startswith(stage), "the first stage that is named is where it went wrong"


def test_crops_are_a_stage_of_models_that_have_them(
    crop_model: TinyModel, samples: list[VerificationSample], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("osprey_ros.regions.crop_encoder.MOST_CROPS", 2)  # of the five regions in one run
    checkpoint = Checkpoint.open(crop_model.checkpoint)
    figures = verify_bundle(crop_model.bundle, checkpoint, checkpoint.read, samples, max_new_tokens=1)
    assert tuple(figures["stages"]) == (*STAGES, CROP_STAGE)
    assert 0 < figures["stages"][CROP_STAGE]["relative"] < 1e-5
    assert figures["stages"][CROP_STAGE]["cosine"] > 0.99999


class _OfTwoRegions:
    """An engine that accepts at most two regions in one run, as a plan for two regions does."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> object:
        return getattr(self._engine, name)

    def most_rows(self, name: str) -> int:
        return 2

    def run(self, inputs: Mapping[str, np.ndarray], *arguments: object, **options: object) -> dict[str, np.ndarray]:
        rows = {len(array) for name, array in inputs.items() if name == "position" or name.startswith("mask_")}
        assert max(rows) <= 2
        return self._engine.run(inputs, *arguments, **options)


def test_more_regions_than_an_engine_takes_are_encoded_in_parts(
    tiny_model: TinyModel, checkpoint: Checkpoint, samples: list[VerificationSample]
) -> None:
    def load(role: str) -> Engine:
        return load_engine(tiny_model.bundle / f"{role}.onnx", "onnxruntime", "cpu")

    def load_bounded(role: str) -> Engine:
        return _OfTwoRegions(load(role)) if role == "mask_extractor" else load(role)

    inputs = [EncoderInputs.of(sample, checkpoint.config) for sample in samples if sample.ids.any()]
    assert [len(one.ids) for one in inputs] == [5, 2]
    at_once, in_parts = (encode_with_engines(inputs, load) for load in (load, load_bounded))
    for whole, parts in zip(at_once, in_parts, strict=True):
        for tokens, same in zip(whole.regions, parts.regions, strict=True):
            np.testing.assert_allclose(same, tokens, rtol=1e-5, atol=1e-6)
            assert same.dtype == np.float32


def test_wrong_weights_in_an_otherwise_right_engine_are_found(
    tiny_model: TinyModel, checkpoint: Checkpoint, samples: list[VerificationSample]
) -> None:
    """The engine has the checkpoint's weights; what is read back says otherwise, and the other way round."""

    def other(name: str) -> np.ndarray:
        weight = checkpoint.read(name)
        return weight[::-1].copy() if name == "model.layers.1.mlp.up_proj.weight" else weight

    with pytest.raises(VerificationError) as caught:
        verify_bundle(tiny_model.bundle, checkpoint, other, samples[:1])
    assert [line.split(":")[0] for line in caught.value.figures["failures"]] == ["decoder_graph"]


@pytest.mark.parametrize("stage", STAGES)
def test_a_limit_that_is_passed_fails_by_the_stage_s_name(
    tiny_model: TinyModel, checkpoint: Checkpoint, samples: list[VerificationSample], stage: str
) -> None:
    limits = replace(Limits(), **{stage: Limit(cosine=1.01, relative=1.0)})
    with pytest.raises(VerificationError, match=stage):
        verify_bundle(tiny_model.bundle, checkpoint, checkpoint.read, samples[2:], limits=limits, max_new_tokens=1)


def test_the_first_layers_alone_are_compared_with_an_engine_that_has_no_more(
    tiny_model: TinyModel, checkpoint: Checkpoint, samples: list[VerificationSample], tmp_path: Path
) -> None:
    shape = replace(DecoderShape.of(checkpoint.config), num_layers=1)
    build_decoder(shape, Linears(checkpoint.read, DecoderPrecision("fp32", "fp32")), tmp_path / "first.onnx")
    read: list[str] = []

    def noted(name: str) -> np.ndarray:
        read.append(name)
        return checkpoint.read(name)

    figures = verify_bundle(
        tiny_model.bundle, checkpoint, noted, samples, layers=1, decoder=tmp_path / "first.onnx", max_new_tokens=4
    )
    assert figures["decoder_layers"] == {"compared": 1, "all": 2}
    assert figures["greedy_tokens"]["identical_answers"] == 7
    assert not any(name.startswith("model.layers.1.") for name in read)


def test_images_without_regions_verify_nothing(
    tiny_model: TinyModel, checkpoint: Checkpoint, samples: list[VerificationSample]
) -> None:
    with pytest.raises(VerificationError, match="no region"):
        verify_bundle(tiny_model.bundle, checkpoint, checkpoint.read, samples[1:2])


def test_rows_are_compared_one_by_one_and_nan_is_never_within_a_limit() -> None:
    figures = StageFigures()
    reference = np.array([[1.0, 0.0], [0.0, 4.0]])
    figures.add(np.array([[1.0, 0.0], [0.1, 4.0]]), reference)
    figures.add(np.zeros((1, 2)), np.zeros((1, 2)))
    assert figures.cosine == pytest.approx(4 / np.hypot(0.1, 4))
    assert (figures.max_difference, figures.relative) == pytest.approx((0.1, 0.025))
    assert figures.within(Limit(0.999, 0.03))
    assert not figures.within(Limit(0.9999, 0.03))
    assert not figures.within(Limit(0.999, 0.02))
    figures.add(np.array([[np.nan, 1.0]]), np.ones((1, 2)))
    assert not figures.within(Limit(-1.0, 1e9))
    with pytest.raises(VerificationError, match="shape"):
        figures.add(np.ones((1, 2)), np.ones((2, 2)))


def test_steps_are_equal_where_pytorch_would_say_the_same_next() -> None:
    figures = TokenFigures()
    sure, torn = [9.0, 0.0, 0.0], [0.0, 5.0, 4.99]
    logits = np.array([sure, torn, sure])
    figures.add(np.array([0, 1, 0]), logits, logits, margin=0.1)
    figures.add(np.array([0, 2, 1]), logits[:, [0, 2, 1]], logits, margin=0.1)  # a near tie, then a clear miss
    assert (figures.regions, figures.identical_answers) == (2, 1)
    assert (figures.steps, figures.steps_equal) == (6, 4)
    assert (figures.decided_steps, figures.decided_steps_equal) == (4, 3)
    assert figures.agreement == 0.75
    # Only the near tie differs: p log(p / q) of two values that change places.
    p, q = np.exp([5.0, 4.99]) / np.exp([0.0, 5.0, 4.99]).sum()
    expected = p * np.log(p / q) + q * np.log(q / p)
    assert figures.kl_largest == pytest.approx(expected, rel=1e-6)
    assert figures.to_json()["mean_kl_divergence"] == pytest.approx(expected / 6, rel=1e-2)
