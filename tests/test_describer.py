"""The describer: all regions at once say what the plain PyTorch model says of each alone."""

from __future__ import annotations

import gc
import json
import shutil
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from threading import Event, Thread
from time import perf_counter, sleep
from typing import Any, TypeAlias

import numpy as np
import pytest
import torch
from conftest import SampleImage, TinyModel, up_to
from onnx import TensorProto, helper, numpy_helper, save
from PIL import Image

from osprey_ros import Describer, regions_from_id_image
from osprey_ros.bundle.bundle import Bundle, write_calibration, write_manifest
from osprey_ros.bundle.calibration import Calibration, Curve
from osprey_ros.cli.main import main
from osprey_ros.decoding import scoring
from osprey_ros.decoding.config import GenerationConfig, Sampling
from osprey_ros.decoding.constraints import OneOf
from osprey_ros.decoding.prompt import IMAGE, MASK, QUESTIONS, PromptBuilder, common_prefix
from osprey_ros.engines import base
from osprey_ros.engines.base import BoundRun, Buffer, Engine, load_engine
from osprey_ros.errors import (
    BundleError,
    EngineError,
    ImageError,
    InputError,
    OspreyError,
    PromptError,
    RegionError,
    StoppedError,
)
from osprey_ros.frame import Frame
from osprey_ros.pipeline import Pipeline, StepSettings
from osprey_ros.regions import encoder as region_encoder
from osprey_ros.regions.files import load_regions
from osprey_ros.regions.pooling import LabelImages, MaskPooler
from osprey_ros.results import Result
from osprey_ros.system.call import Call
from osprey_ros.system.cancellation import CancellationToken, PolledToken
from osprey_ros.timing import Timing
from osprey_ros.vision.encoder import ImageEncoder
from osprey_ros.vision.image_io import save_image
from osprey_ros.vision.preprocess import preprocess
from osprey_torch.checkpoint import load_checkpoint
from osprey_torch.reference import generate_region


@contextmanager
def _without_the_collector(describer: weakref.ref[Describer]) -> Iterator[None]:
    """What is done in it must free a describer."""
    gc.disable()
    try:
        yield
        assert describer() is None
    finally:
        gc.enable()


def test_engines_go_with_the_describer(tiny_model: TinyModel, sample: SampleImage) -> None:
    """At once, not when the garbage collector comes: a bundle may be loaded in the place of another."""
    describer = Describer(tiny_model.bundle, threads=1)
    describer.set_image(sample.rgb)
    describer.describe(sample.ids)
    with _without_the_collector(weakref.ref(describer)):
        del describer


def _assert_same(ours: Result, other: Result) -> None:
    for a, b in zip(ours, other, strict=True):
        assert (a.region_id, a.text, a.ended) == (b.region_id, b.text, b.ended)
        np.testing.assert_array_equal(a.tokens, b.tokens)
        np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-4)


@torch.inference_mode()
def test_answers_are_those_of_the_torch_model(ready: Describer, tiny_model: TinyModel, sample: SampleImage) -> None:
    model, tokenizer = load_checkpoint(tiny_model.checkpoint)
    builder = PromptBuilder(tokenizer, ready.spec)
    features, image_tokens = model.encode_image(torch.from_numpy(preprocess(sample.rgb, ready.spec)))
    regions = regions_from_id_image(sample.ids)
    mask_tokens, position_tokens = model.encode_regions(
        features,
        [torch.from_numpy(m) for m in regions.pooling_masks(ready.spec.feature_sizes)],
        torch.from_numpy(regions.position_grids(ready.spec.position_size)),
    )
    questions = [QUESTIONS["short"], "What color is it?"]
    for result in ready.answer(sample.ids, questions, config=up_to(10)):
        prompt = builder.prompt(result.question)
        for row, description in enumerate(result):
            tokens, logprobs = generate_region(
                model, prompt, image_tokens[0], mask_tokens[row], position_tokens[row], max_new_tokens=10
            )
            np.testing.assert_array_equal(description.tokens, tokens)
            np.testing.assert_allclose(description.logprobs, logprobs, atol=1e-3)


def test_regions_are_described_alike_together_and_alone(ready: Describer, sample: SampleImage) -> None:
    together = ready.describe(sample.ids, config=up_to(8))
    assert [d.region_id for d in together] == [3, 7, 9, 12, 300]
    assert len({d.text for d in together}) > 2
    regions = regions_from_id_image(sample.ids)
    for description in together:
        alone = ready.describe(regions.select([description.region_id]), config=up_to(8))
        assert alone[0].text == description.text
        np.testing.assert_array_equal(alone[0].tokens, description.tokens)
        np.testing.assert_allclose(alone[0].logprobs, description.logprobs, atol=1e-4)


def test_id_image_and_masks_give_the_same(ready: Describer, sample: SampleImage) -> None:
    masks = np.stack([sample.ids == region for region in (3, 7, 9, 12, 300)])
    from_masks = ready.describe(masks, "category", config=up_to(6))
    from_ids = ready.describe(sample.ids, "category", config=up_to(6))
    assert [d.region_id for d in from_masks] == [1, 2, 3, 4, 5]
    for a, b in zip(from_masks, from_ids, strict=True):
        np.testing.assert_array_equal(a.tokens, b.tokens)


class Watched:
    """A loaded engine; ``rows`` gets how many rows each run of a decoder is given."""

    def __init__(self, engine: Engine, rows: list[int]) -> None:
        self.engine, self.rows = engine, rows

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def bind(self, inputs: Mapping[str, Any], into: Mapping[str, Buffer]) -> BoundRun:
        bound = self.engine.bind(inputs, into)

        def run(cancel: CancellationToken | None = None) -> None:
            if "inputs_embeds" in inputs:
                self.rows.append(len(inputs["inputs_embeds"]))
            bound(cancel)

        return run


class HalfPixels:
    """A vision engine that takes float16."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.input_dtypes = {**engine.input_dtypes, "pixels": np.dtype(np.float16)}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def bind(self, inputs: Mapping[str, np.ndarray], into: Mapping[str, Buffer]) -> BoundRun:
        half = inputs["pixels"]
        assert half.dtype == np.float16
        wide = np.zeros(half.shape, np.float32)
        bound = self.engine.bind({"pixels": wide}, into)

        def run(cancel: CancellationToken | None = None) -> None:
            wide[...] = half
            bound(cancel)

        return run


@pytest.fixture
def with_vision(
    tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Callable[[Engine], Any]], Describer]:
    """Makes a describer whose vision engine is what a function makes of the bundle's."""

    def make(wrap: Callable[[Engine], Any]) -> Describer:
        def load(path: Path, *arguments: Any) -> Any:
            engine = load_engine(path, *arguments)
            return wrap(engine) if "pixels" in engine.input_names else engine

        monkeypatch.setattr(base, "load_engine", load)
        return Describer(tiny_model.bundle, threads=1)

    return make


def test_vision_engines_may_take_half_precision(
    ready: Describer, with_vision: Callable[[Callable[[Engine], Any]], Describer], sample: SampleImage
) -> None:
    half = with_vision(HalfPixels)
    for rgb in (sample.rgb[::-1].copy(), sample.rgb):
        for describer in (half, ready):
            describer.set_image(rgb)
        found, expected = (describer.encode(sample.ids).mask_tokens for describer in (half, ready))
        np.testing.assert_allclose(found, expected, atol=0.01 * np.abs(expected).max())
        assert not np.array_equal(found, expected)


class OnGpu:
    """A vision engine that passes for one of a GPU. ``before`` is called at the beginning of each run."""

    device = "cuda"

    def __init__(self, engine: Engine, before: Callable[[np.ndarray], None]) -> None:
        self.engine, self.before = engine, before

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def bind(self, inputs: Mapping[str, np.ndarray], into: Mapping[str, Buffer]) -> BoundRun:
        bound = self.engine.bind(inputs, into)

        def run(cancel: CancellationToken | None = None) -> None:
            self.before(inputs["pixels"])
            bound(cancel)

        return run


MakeOnGpu: TypeAlias = Callable[[Callable[[np.ndarray], None]], Describer]


@pytest.fixture
def on_gpu(with_vision: Callable[[Callable[[Engine], Any]], Describer]) -> MakeOnGpu:
    """Makes a describer whose vision engine is `OnGpu`."""
    return lambda before: with_vision(lambda engine: OnGpu(engine, before))


def test_regions_are_prepared_while_a_gpu_encodes_the_image(
    on_gpu: MakeOnGpu,
    ready: Describer,
    sample: SampleImage,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prepared = Event()

    class Pooler(MaskPooler):
        def pool(self, regions: LabelImages) -> list[np.ndarray]:
            pooled = super().pool(regions)
            prepared.set()
            return pooled

    monkeypatch.setattr(region_encoder, "MaskPooler", Pooler)
    in_time: list[bool] = []
    describer = on_gpu(lambda _: in_time.append(prepared.wait(timeout=10)))
    describer.set_image(sample.rgb)
    found = describer.describe(sample.ids, config=up_to(5))
    _assert_same(found, ready.describe(sample.ids, config=up_to(5)))
    assert in_time == [True]
    assert describer.describe(sample.ids, config=up_to(5)).timing.vision == 0


def test_waiting_for_a_gpu_counts_as_vision_of_the_call_that_waits(on_gpu: MakeOnGpu, sample: SampleImage) -> None:
    describer = on_gpu(lambda _: sleep(0.1))  # the time of the engine
    calls = [
        lambda: describer.describe(sample.ids, config=up_to(2)).timing,
        lambda: describer.encode(sample.ids).timing,
    ]
    for call in calls:
        start = perf_counter()
        describer.set_image(sample.rgb)
        timing = call()
        wall = perf_counter() - start
        assert describer.image_timing.preprocess > 0
        assert describer.image_timing.vision < 0.08 < timing.vision
        assert timing.preprocess == 0
        assert timing.vision <= timing.engine
        assert timing.regions < 0.08
        assert describer.image_timing.total + timing.total <= wall
        assert call().vision == 0


def test_all_calls_wait_for_a_gpu_that_encodes_the_image(
    on_gpu: MakeOnGpu,
    ready: Describer,
    sample: SampleImage,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whichever comes first; regions that are encoded already are no exception."""
    go = Event()
    describer = on_gpu(lambda _: go.wait(timeout=10) or pytest.fail("nobody waits for it"))
    synchronize = ImageEncoder.synchronize

    def wait_and_let_go(self: ImageEncoder, call: Call) -> None:
        go.set()
        synchronize(self, call)

    monkeypatch.setattr(ImageEncoder, "synchronize", wait_and_let_go)
    encoded = ready.encode(sample.ids)
    phrases = ["a", "short phrase"]
    calls: list[Callable[[Describer], Any]] = [
        lambda d: d.encode(sample.ids).mask_tokens.tolist(),
        lambda d: [answer.tokens.tolist() for answer in d.describe(encoded, config=up_to(4))],
        lambda d: [answer.tokens.tolist() for answer in d.describe(sample.ids, config=up_to(4))],
        lambda d: d.ask_together(encoded.select([3]), "What is it?", config=up_to(4)).tokens.tolist(),
        lambda d: d.score(encoded, phrases).log_likelihoods.tolist(),
        lambda d: [update.token for update in d.stream(encoded, "What is it?", config=up_to(4))],
    ]
    for number, call in enumerate(calls):
        go.clear()
        rgb = np.roll(sample.rgb, 7 * number, axis=1)  # what is left of the sample before would be wrong
        for one in (describer, ready):
            one.set_image(rgb, encoded.image_id)  # so that the encoded regions are accepted
        assert call(describer) == call(ready)
        assert go.is_set()


def test_an_image_is_not_changed_while_a_gpu_encodes_it(
    on_gpu: MakeOnGpu, ready: Describer, sample: SampleImage
) -> None:
    begun, go, same = Event(), Event(), []

    def encode(pixels: np.ndarray) -> None:
        before = pixels.copy()
        begun.set()
        go.wait(timeout=0.2)
        same.append(np.array_equal(pixels, before))

    describer = on_gpu(encode)
    describer.set_image(sample.rgb[::-1].copy())
    assert begun.wait(timeout=10)
    describer.set_image(sample.rgb)  # waits for the one before
    go.set()
    _assert_same(
        describer.describe(sample.ids, config=up_to(4)),
        ready.describe(sample.ids, config=up_to(4)),
    )
    assert same == [True, True]


def test_a_gpu_that_fails_is_named_by_the_call_that_follows_and_tried_again_by_the_next(
    on_gpu: MakeOnGpu, ready: Describer, sample: SampleImage
) -> None:
    runs: list[int] = []

    def encode(_: np.ndarray) -> None:
        runs.append(len(runs))
        if len(runs) in (1, 2, 4):
            raise EngineError("vision.plan failed: out of memory")

    describer = on_gpu(encode)
    describer.set_image(sample.rgb)
    for call in (describer.describe, describer.encode):
        with pytest.raises(EngineError, match=r"vision\.plan failed"):
            call(sample.ids)
    expected = ready.describe(sample.ids, config=up_to(4))
    _assert_same(describer.describe(sample.ids, config=up_to(4)), expected)
    describer.set_image(sample.rgb[::-1].copy())  # fails, and nobody hears of it
    describer.set_image(sample.rgb)
    _assert_same(describer.describe(sample.ids, config=up_to(4)), expected)


@pytest.mark.parametrize("fails", [False, True])
def test_engines_of_a_gpu_go_with_the_describer(on_gpu: MakeOnGpu, sample: SampleImage, fails: bool) -> None:
    def encode(_: np.ndarray) -> None:
        if fails:
            raise EngineError("out of memory")

    describer = on_gpu(encode)
    describer.set_image(sample.rgb)
    with pytest.raises(EngineError) if fails else nullcontext():
        describer.describe(sample.ids)
    with _without_the_collector(weakref.ref(describer)):
        del describer


def test_prefix_of_earlier_questions_is_used_again(
    tiny_model: TinyModel, sample: SampleImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    monkeypatch.setattr(base, "load_engine", lambda *arguments: Watched(load_engine(*arguments), rows))
    describer = Describer(tiny_model.bundle, threads=1)
    builder = PromptBuilder(describer.bundle.tokenizer(), describer.spec)
    prompts = {style: builder.prompt(question) for style, question in QUESTIONS.items()}
    fresh: dict[str, Result] = {}
    for style in QUESTIONS:
        describer.set_image(sample.rgb)
        fresh[style] = describer.describe(sample.ids, style, config=up_to(6))

    describer.set_image(sample.rgb)
    rows.clear()
    _assert_same(describer.describe(sample.ids, "short", config=up_to(6)), fresh["short"])
    opening = prompts["short"].index(IMAGE)  # the tokens before the image: once for all images
    assert rows[:2] == [fresh["short"].timing.prefix_tokens - opening, fresh["short"].timing.branch_tokens]
    for before, style in pairwise(("short", "detailed", "category", "short")):
        rows.clear()
        _assert_same(describer.describe(sample.ids, style, config=up_to(6)), fresh[style])
        # Only the tokens in which this question differs; the rows of the image are reused.
        shared = common_prefix([prompts[before], prompts[style]])
        assert IMAGE in prompts[style][:shared]
        assert rows[:2] == [prompts[style].index(MASK) - shared, fresh[style].timing.branch_tokens]
    rows.clear()
    _assert_same(describer.describe(sample.ids, "short", config=up_to(6)), fresh["short"])
    assert rows[0] == fresh["short"].timing.branch_tokens  # the very same question: no prefix run at all

    # Another image must not reuse the rows of this one.
    describer.set_image(sample.rgb[::-1].copy())
    flipped = describer.describe(sample.ids, "short", config=up_to(6))
    assert any(not np.array_equal(a.logprobs, b.logprobs) for a, b in zip(flipped, fresh["short"], strict=True))


def test_several_questions_in_one_decode(ready: Describer, sample: SampleImage) -> None:
    questions = [QUESTIONS["category"], "Is <mask><pos> red?"]
    results = ready.answer(sample.ids, questions, config=up_to(6))
    assert [r.question for r in results] == questions
    assert results[0].timing is results[1].timing
    _assert_same(results[0], ready.describe(sample.ids, "category", config=up_to(6)))
    _assert_same(results[1], ready.ask(sample.ids, "Is <mask><pos> red?", config=up_to(6)))


def test_words_before_the_region_are_read_once_for_all_regions(
    tiny_model: TinyModel, sample: SampleImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    monkeypatch.setattr(base, "load_engine", lambda *arguments: Watched(load_engine(*arguments), rows))
    describer = Describer(tiny_model.bundle, threads=1)
    builder = PromptBuilder(describer.bundle.tokenizer(), describer.spec)
    prompts = [builder.prompt(QUESTIONS[style]) for style in ("short", "category")]
    shared = common_prefix(prompts)
    describer.set_image(sample.rgb)
    rows.clear()
    result = describer.answer(sample.ids, [QUESTIONS[style] for style in ("short", "category")], config=up_to(3))
    before = sum(prompt.index(MASK) - shared for prompt in prompts)
    behind = sum(len(prompt) - prompt.index(MASK) for prompt in prompts)
    assert before > 0
    assert rows[1] == result[0].timing.branch_tokens == before + 5 * behind


def test_each_call_has_its_own_timing(describer: Describer, sample: SampleImage) -> None:
    start = perf_counter()
    describer.set_image(sample.rgb)
    wall = perf_counter() - start
    image = describer.image_timing
    assert 0 < image.preprocess + image.vision == pytest.approx(image.total)
    assert image.total <= wall
    assert 0 < image.engine < image.vision
    assert (image.regions, image.prefix, image.branches, image.steps) == (0, 0, 0, 0)
    start = perf_counter()
    first = describer.describe(sample.ids, config=up_to(5))
    wall = perf_counter() - start
    timing = first.timing
    assert (timing.preprocess, timing.vision) == (0, 0)
    assert min(timing.regions, timing.prefix, timing.branches) > 0
    assert timing.total == pytest.approx(timing.regions + timing.prefix + timing.branches, rel=1e-6)
    assert timing.engine < timing.total <= wall
    assert sum(timing.step_seconds) <= timing.branches
    assert timing.new_tokens == sum(len(d.tokens) for d in first)
    assert timing.steps == len(timing.step_seconds) == max(len(d.tokens) for d in first)
    assert timing.prefix_tokens > describer.spec.image_tokens
    assert timing.branch_tokens % len(first) == 0
    assert json.loads(json.dumps(asdict(timing)))["steps"] == timing.steps
    again = [describer.describe(sample.ids, config=up_to(5)).timing for _ in range(9)]
    # Little is spent outside of steps, and outside of engines; other programs can come between in single calls.
    assert np.median([sum(timing.step_seconds) / timing.branches for timing in again]) > 0.5
    assert np.median([timing.engine / sum(timing.step_seconds) for timing in again]) > 0.5


def test_timings_add_up() -> None:
    image = Timing(preprocess=1, vision=2, total=3, engine=2)
    call = Timing(regions=1, prefix=2, branches=4, total=7, engine=5, step_seconds=(1.0, 2.0), steps=2, prefix_tokens=9)
    both = image + call + call
    assert (both.preprocess, both.vision, both.regions, both.branches, both.total, both.engine) == (1, 2, 2, 8, 17, 12)
    assert (both.step_seconds, both.steps, both.prefix_tokens) == ((1.0, 2.0, 1.0, 2.0), 4, 9)


def test_stream_gives_the_answers_of_ask(ready: Describer, sample: SampleImage) -> None:
    expected = {d.region_id: d for d in ready.ask(sample.ids, "What color is it?", config=up_to(6))}
    tokens: dict[int, list[int]] = {region: [] for region in expected}
    ended = {}
    for update in ready.stream(sample.ids, "What color is it?", config=up_to(6)):
        tokens[update.region_id].append(update.token)
        if update.ended:
            ended[update.region_id] = update.text
    assert ended == {region: description.text for region, description in expected.items()}
    for region, description in expected.items():
        assert tokens[region] == description.tokens.tolist()


def test_a_canceled_stream_ends(ready: Describer, sample: SampleImage) -> None:
    token = CancellationToken()
    stream = ready.stream(sample.ids, "What color is it?", config=up_to(6), cancel=token)
    next(stream)
    token.cancel()
    with pytest.raises(StoppedError, match="canceled"):
        list(stream)


def test_a_stream_ends_with_its_image(ready: Describer, sample: SampleImage) -> None:
    begun = ready.stream(sample.ids, "What color is it?", config=up_to(6))
    next(begun)
    prepared = ready.stream(sample.ids, "What color is it?", config=up_to(6))
    ready.set_image(sample.rgb[::-1].copy())
    for stream in (begun, prepared):
        with pytest.raises(InputError, match="cannot be continued"):
            list(stream)
    ready.set_image(sample.rgb)
    with pytest.raises(PromptError):
        ready.stream(sample.ids, " ")  # at once, before anything is taken from it


def test_scores_are_the_log_likelihoods_of_answers(ready: Describer, sample: SampleImage) -> None:
    described = ready.describe(sample.ids, "category")
    phrases = ["a red mug", "mug", "the large green bowl on the left"]
    scores = ready.score(sample.ids, phrases)
    assert scores.question == QUESTIONS["category"]
    assert scores.phrases == tuple(phrases)
    np.testing.assert_array_equal(scores.region_ids, [d.region_id for d in described])
    assert (scores.log_likelihoods.shape, scores.log_likelihoods.dtype) == ((5, 3), np.float32)
    for row, parts in zip(scores.log_likelihoods, scores.token_logprobs, strict=True):
        np.testing.assert_allclose(row, [part.sum() for part in parts], rtol=1e-5)
    assert scores.timing.new_tokens == sum(len(part) for row in scores.token_logprobs for part in row)
    # Alone and in another order the same.
    regions = regions_from_id_image(sample.ids)
    alone = ready.score(regions.select([9]), phrases[::-1])
    np.testing.assert_allclose(alone.log_likelihoods[0, ::-1], scores.log_likelihoods[2], atol=1e-3)
    with pytest.raises(PromptError, match="no phrase"):
        ready.score(sample.ids, [])
    with pytest.raises(PromptError, match="the phrase ' ' is empty"):
        ready.score(sample.ids, ["mug", " "])
    with pytest.raises(PromptError, match="'the <mask>' names a region"):
        ready.score(sample.ids, ["mug", "the <mask>"])


def test_sampling_gives_a_region_its_own_answer(ready: Describer, sample: SampleImage) -> None:
    hot = Sampling(temperature=30.0, seed=5)
    together = ready.describe(sample.ids, config=up_to(6, hot))
    assert any(
        not np.array_equal(a.tokens, b.tokens)
        for a, b in zip(together, ready.describe(sample.ids, config=up_to(6)), strict=True)
    )
    two = regions_from_id_image(sample.ids).select([300, 7])
    _, short = ready.answer(
        two,
        ["What is it?", QUESTIONS["short"]],
        config=up_to(6, hot),
    )
    for description in short:
        expected = next(d for d in together if d.region_id == description.region_id)
        np.testing.assert_array_equal(description.tokens, expected.tokens)


def test_canceling_returns_the_answers_so_far(
    tiny_model: TinyModel, ready: Describer, sample: SampleImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    monkeypatch.setattr(base, "load_engine", lambda *arguments: Watched(load_engine(*arguments), rows))
    watched, full = Describer(tiny_model.bundle, threads=1), ready.describe(sample.ids, config=up_to(6))
    watched.set_image(sample.rgb)
    rows.clear()
    part = watched.describe(sample.ids, config=up_to(6), cancel=PolledToken(lambda: len(rows) == 3))
    assert len(rows) == 3  # the prefix and two steps
    for a, b in zip(part, full, strict=True):
        np.testing.assert_array_equal(a.tokens, b.tokens[:2])
        assert a.ended == (len(b.tokens) <= 2)
    _assert_same(watched.describe(sample.ids, config=up_to(6)), full)


def test_a_canceled_token_ends_every_call_before_it_computes(ready: Describer, sample: SampleImage) -> None:
    canceled, full = CancellationToken(), ready.describe(sample.ids, config=up_to(6))
    canceled.cancel()
    calls: list[Callable[[], object]] = [
        lambda: ready.describe(sample.ids, cancel=canceled),
        lambda: ready.score(sample.ids, ["a mug"], cancel=canceled),
        lambda: ready.stream(sample.ids, "What is it?", cancel=canceled),
        lambda: ready.encode(sample.ids, cancel=canceled),
        lambda: ready.set_image(sample.rgb, cancel=canceled),
    ]
    for call in calls:
        with pytest.raises(StoppedError, match="canceled"):
            call()
    with pytest.raises(InputError, match="set_image first"):
        ready.describe(sample.ids)
    ready.set_image(sample.rgb)
    _assert_same(ready.describe(sample.ids, config=up_to(6)), full)


class Slow:
    """An engine whose runs take minutes more, in a graph of matrix products, if they can be canceled."""

    def __init__(self, engine: Engine, slow: Engine, began: Event) -> None:
        self.engine, self.slow, self.began = engine, slow, began

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def bind(self, inputs: Mapping[str, Any], into: Mapping[str, Buffer]) -> BoundRun:
        bound = self.engine.bind(inputs, into)

        def run(cancel: CancellationToken | None = None) -> None:
            if cancel is not None:
                self.began.set()
                self.slow.run({"x": np.ones((SLOW_SIZE, SLOW_SIZE), np.float32)}, cancel=cancel)
            bound(cancel)

        return run


SLOW_SIZE, SLOW_PRODUCTS = 1024, 2000


@pytest.fixture(scope="module")
def slow_graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph that takes far more than a test may: 2000 products of 2 GFLOP."""
    weights = np.random.default_rng(0).normal(size=(SLOW_SIZE, SLOW_SIZE)).astype(np.float32) / 32
    nodes = [helper.make_node("MatMul", [f"x{n}" if n else "x", "w"], [f"x{n + 1}"]) for n in range(SLOW_PRODUCTS)]
    shape = [SLOW_SIZE, SLOW_SIZE]
    graph = helper.make_graph(
        nodes,
        "slow",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(f"x{SLOW_PRODUCTS}", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(weights, "w")],
    )
    path = tmp_path_factory.mktemp("slow") / "slow.onnx"
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.parametrize("role", ["pixels", "inputs_embeds"])
def test_canceling_from_another_thread_ends_a_run_of_an_engine(
    tiny_model: TinyModel,
    ready: Describer,
    sample: SampleImage,
    slow_graph: Path,
    monkeypatch: pytest.MonkeyPatch,
    role: str,
) -> None:
    """Vision and prefill; afterwards the describer answers as ever."""
    began, slow = Event(), load_engine(slow_graph, threads=1)

    def load(path: Path, *arguments: Any) -> Any:
        engine = load_engine(path, *arguments)
        return Slow(engine, slow, began) if role in engine.input_names else engine

    monkeypatch.setattr(base, "load_engine", load)
    describer, token, ended = Describer(tiny_model.bundle, threads=1), CancellationToken(), []
    if role != "pixels":
        describer.set_image(sample.rgb)

    def work() -> None:
        try:
            if role == "pixels":
                describer.set_image(sample.rgb, cancel=token)
            else:
                describer.describe(sample.ids, cancel=token)
        except StoppedError as error:
            ended.append(str(error))

    thread = Thread(target=work)
    thread.start()
    assert began.wait(timeout=60)
    start = perf_counter()
    token.cancel()
    thread.join(timeout=60)
    assert perf_counter() - start < 5
    assert len(ended) == 1
    assert "slow.onnx was canceled" in ended[0]
    describer.set_image(sample.rgb)
    _assert_same(describer.describe(sample.ids, config=up_to(6)), ready.describe(sample.ids, config=up_to(6)))


def test_a_call_during_a_call_of_another_thread_is_refused(
    tiny_model: TinyModel, sample: SampleImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, go = Event(), Event()
    describer = Describer(tiny_model.bundle, threads=1)
    describer.set_image(sample.rgb)
    expected = describer.describe(sample.ids, config=up_to(4))
    found: list[Result] = []

    def pause() -> bool:
        inside.set()
        go.wait(timeout=60)
        return False

    def work() -> None:
        found.append(describer.describe(sample.ids, config=up_to(4), cancel=PolledToken(pause)))

    thread = Thread(target=work, name="worker")
    thread.start()
    assert inside.wait(timeout=60)
    for call in (
        lambda: describer.describe(sample.ids),
        lambda: describer.set_image(sample.rgb),
        lambda: describer.encode(sample.ids),
        describer.close,
    ):
        with pytest.raises(InputError, match="in use in the thread 'worker'"):
            call()
    go.set()
    thread.join(timeout=60)
    _assert_same(found[0], expected)
    _assert_same(describer.describe(sample.ids, config=up_to(4)), expected)

    def call_again() -> bool:
        describer.describe(sample.ids)
        return False

    with pytest.raises(InputError, match="within one of its own calls"):
        describer.describe(sample.ids, cancel=PolledToken(call_again))


def test_a_closed_describer_says_so(tiny_model: TinyModel, sample: SampleImage) -> None:
    with Describer(tiny_model.bundle, threads=1) as describer:
        describer.set_image(sample.rgb)
        streams = [describer.stream(sample.ids, "What is it?", config=up_to(6))]
        next(streams[0])
        decoder = weakref.ref(describer._session)
    for call in (
        lambda: describer.set_image(sample.rgb),
        lambda: describer.describe(sample.ids),
        lambda: next(streams[0]),
    ):
        with pytest.raises(InputError, match="the describer is closed"):
            call()
    describer.close()
    streams.clear()
    gc.collect()
    assert decoder() is None


def test_regions_encoded_for_another_image_are_refused(ready: Describer, sample: SampleImage) -> None:
    encoded, first = ready.encode(sample.ids), ready.image_id
    expected = ready.describe(encoded, config=up_to(4))
    ready.set_image(sample.rgb[::-1].copy())
    for call in (
        lambda: ready.describe(encoded),
        lambda: ready.score(encoded, ["a mug"]),
        lambda: ready.stream(encoded, "What?"),
        lambda: ready.ask_together(encoded, "What?"),
    ):
        with pytest.raises(RegionError, match="encoded for another image"):
            call()
    ready.set_image(sample.rgb, first)
    _assert_same(ready.describe(encoded, config=up_to(4)), expected)


def test_arguments_of_the_last_version_work_with_a_warning(ready: Describer, sample: SampleImage) -> None:
    hot = Sampling(temperature=30.0, seed=5)
    expected = ready.ask(sample.ids, "What is it?", config=up_to(3, hot))
    with pytest.warns(DeprecationWarning, match="max_new_tokens, sampling will go: use config"):
        _assert_same(ready.ask(sample.ids, "What is it?", max_new_tokens=3, sampling=hot), expected)
    with pytest.warns(DeprecationWarning, match="max_new_tokens will go"):
        assert max(len(d.tokens) for d in ready.ask(sample.ids, "What is it?", 3)) == 3
    with pytest.warns(DeprecationWarning, match="CancellationToken"), pytest.raises(StoppedError):
        ready.score(sample.ids, ["a mug"], should_stop=lambda: True)
    with pytest.raises(InputError, match="max_new_tokens is 0"):
        GenerationConfig(max_new_tokens=0)
    with pytest.raises(InputError, match=r"max_new_tokens is 2\.5"):
        GenerationConfig(max_new_tokens=2.5)


def test_one_confidence_at_every_door(
    tiny_model: TinyModel, sample: SampleImage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "calibrated"
    shutil.copytree(tiny_model.bundle, folder)
    curves = {kind: Curve((0.0, 1.0), (low, 0.9)) for kind, low in (("description", 0.3), ("category", 0.2))}
    write_calibration(folder, Calibration({**curves, "attribute": Curve((0.0, 1.0), (0.1, 0.9))}, "by hand"))
    save_image(tmp_path / "image.png", sample.rgb)
    Image.fromarray(sample.ids).save(tmp_path / "masks.png")
    regions = load_regions(tmp_path / "masks.png")
    describer = Describer(folder, threads=1)
    describer.set_image(sample.rgb)
    questions = [QUESTIONS["short"], QUESTIONS["category"], "What color is it?"]
    answers = describer.answer(regions, questions, config=up_to(8), constraints=[None, None, OneOf(("red", "green"))])
    for result, low in zip(answers, (0.3, 0.2, 0.1), strict=True):
        for one in result:
            assert one.confidence == pytest.approx(low + (0.9 - low) * one.raw_confidence if one.text else 0.0)
    short = {one.region_id: one for one in answers[0]}
    streamed = {u.region_id: u.confidence for u in describer.stream(regions, questions[0], config=up_to(8))}
    assert streamed == pytest.approx({region: one.confidence for region, one in short.items()}, abs=1e-4)
    command = ["describe", "--image", tmp_path / "image.png", "--masks", tmp_path / "masks.png", "--bundle", folder]
    assert main([*map(str, command), "--max-new-tokens", "8", "--threads", "1", "--json"]) == 0
    printed = {entry["id"]: entry for entry in json.loads(capsys.readouterr().out)["regions"]}
    frame = Frame(stamp=1, frame_id="camera", rgb=sample.rgb, regions=regions)
    settings = StepSettings(max_new_tokens=8, min_area=1, categories=False)
    for thing in Pipeline(describer).step(frame, settings).objects:
        known = short[thing.instance_id]
        assert thing.caption is not None
        assert thing.caption.confidence == pytest.approx(known.confidence, abs=1e-4)
        assert thing.caption.raw_confidence == pytest.approx(known.raw_confidence, abs=1e-4)
        assert printed[thing.instance_id]["confidence"] == pytest.approx(known.confidence, abs=1e-4)
        assert printed[thing.instance_id]["raw_confidence"] == pytest.approx(known.raw_confidence, abs=1e-4)


def test_fast_preprocessing_says_nearly_the_same(tiny_model: TinyModel, ready: Describer, sample: SampleImage) -> None:
    fast = Describer(tiny_model.bundle, threads=1, preprocessing="fast")
    fast.set_image(sample.rgb)
    ours, exact = (one.describe(sample.ids, config=up_to(1)) for one in (fast, ready))
    assert not np.array_equal(ours[0].logprobs, exact[0].logprobs)
    with pytest.raises(ImageError, match="'rough'"):
        Describer(tiny_model.bundle, threads=1, preprocessing="rough")


def test_result_is_a_sequence_with_confidences(ready: Describer, sample: SampleImage) -> None:
    result = ready.describe(sample.ids, config=up_to(5))
    assert len(result) == len(list(result)) == 5
    assert result[1:3] == (result[1], result[2])
    for description in result:
        assert 0 < description.confidence <= 1
        assert description.confidence == pytest.approx(
            np.prod(np.exp(description.logprobs)) ** (1 / len(description.tokens))
        )


def test_answer_length_without_a_bound_fits_the_model(ready: Describer, sample: SampleImage) -> None:
    long = ready.describe(sample.ids, "detailed")  # its usual bound is beyond the 256 positions of this model
    timing = long.timing
    assert timing.prefix_tokens + timing.branch_tokens // len(long) + timing.steps - 1 <= ready.spec.max_positions
    with pytest.raises(InputError, match="but the model has 256"):
        ready.describe(sample.ids, "detailed", config=up_to(192))


def test_wrong_input_is_named(ready: Describer, sample: SampleImage) -> None:
    with pytest.raises(RegionError, match=r"regions are 40x60 pixels, the image is 80x60"):
        ready.describe(sample.ids[:, ::2])
    with pytest.raises(RegionError, match="no region"):
        ready.describe(np.zeros((60, 80), np.uint8))
    with pytest.raises(PromptError, match="unknown style 'loud'"):
        ready.describe(sample.ids, "loud")
    with pytest.raises(PromptError, match="once"):
        ready.ask(sample.ids, "Is <mask><pos> beside <mask><pos>?")
    with pytest.raises(PromptError, match="no question"):
        ready.answer(sample.ids, [])
    with pytest.raises(ImageError, match="uint8 array"):
        ready.set_image(sample.rgb.astype(np.float32))


def test_an_image_must_be_set_first(tiny_model: TinyModel, sample: SampleImage) -> None:
    describer = Describer(str(tiny_model.bundle), threads=1)
    with pytest.raises(InputError, match="set_image first"):
        describer.describe(sample.ids)


def test_engine_under_a_wrong_name_is_refused(tiny_model: TinyModel, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    shutil.copytree(tiny_model.bundle, folder)
    shutil.copy(folder / "vision.onnx", folder / "decoder.onnx")
    opened = Bundle.open(tiny_model.bundle).manifest
    write_manifest(folder, name="mixed", model=opened.model, template=opened.template, precisions={}, verification={})
    with pytest.raises(BundleError, match=r"decoder\.onnx has no output new_value\.1"):
        Describer(folder)


def test_engine_that_fails_is_named(tiny_model: TinyModel, sample: SampleImage, tmp_path: Path) -> None:
    folder = tmp_path / "other_size"
    shutil.copytree(tiny_model.bundle, folder)
    known = Bundle.open(folder).manifest
    model = replace(known.model, image_size=32, image_tokens=4)
    write_manifest(folder, name="x", model=model, template=known.template, precisions={}, verification={})
    describer = Describer(folder, threads=1)
    with pytest.raises(EngineError, match=r"^\S*vision\.onnx failed: .*pixels.*$") as failed:
        describer.set_image(sample.rgb)
    assert "\n" not in str(failed.value)


def test_errors_share_one_base_class() -> None:
    for error in (BundleError, InputError, InputError, EngineError, ImageError, PromptError, RegionError):
        assert issubclass(error, OspreyError)


def test_encoded_regions_answer_as_the_regions_do_without_the_extractor(
    tiny_model: TinyModel, sample: SampleImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    describer = Describer(tiny_model.bundle, threads=1)
    describer.set_image(sample.rgb)
    plain = describer.answer(sample.ids, [QUESTIONS["short"], "What is it?"], config=up_to(6))
    scores = describer.score(sample.ids, ["a", "short phrase"])
    encoded = describer.encode(regions_from_id_image(sample.ids))
    assert encoded.mask_tokens.shape == encoded.position_tokens.shape == (5, describer.spec.hidden_size)
    monkeypatch.setattr(region_encoder.RegionEncoder, "encode", None)  # would raise
    first = describer.answer(encoded, [QUESTIONS["short"], "What is it?"], config=up_to(6))
    for a, b in zip(first, plain, strict=True):
        _assert_same(a, b)
    again = describer.ask(encoded, "What is it?", config=up_to(6))
    _assert_same(again, plain[1])
    assert min(again.timing.regions, first[0].timing.regions) < encoded.timing.regions
    np.testing.assert_allclose(describer.score(encoded, ["a", "short phrase"]).log_likelihoods, scores.log_likelihoods)
    two = describer.ask(encoded.select([12, 3]), "What is it?", config=up_to(6))
    assert [d.region_id for d in two] == [12, 3]
    np.testing.assert_array_equal(two[0].tokens, plain[1][3].tokens)
    streamed = {u.region_id: u.text for u in describer.stream(encoded, "What is it?", config=up_to(6))}
    assert streamed == {d.region_id: d.text for d in plain[1]}
    describer.set_image(sample.rgb[:50], encoded.image_id)
    with pytest.raises(RegionError, match="80x60"):
        describer.ask(encoded, "What is it?")


def test_one_question_about_several_regions(ready: Describer, sample: SampleImage) -> None:
    regions = regions_from_id_image(sample.ids)
    two = ready.encode(regions.select([7, 3]))
    question = "What is between <mask><pos> and <mask><pos>?"
    answer = ready.ask_together(two, question, config=up_to(8))
    assert answer.region_id == 0
    assert 0 < len(answer.tokens) <= 8
    # Each region is where it is named: the other way round is another question.
    turned = ready.ask_together(two.select([3, 7]), question, config=up_to(8))
    assert not np.array_equal(answer.logprobs, turned.logprobs)
    # Without names they come in front; of one region it is what `ask` says.
    named = ready.ask_together(two, "Regarding <mask><pos> and <mask><pos>: What is between?", config=up_to(8))
    plain = ready.ask_together(two, "What is between?", config=up_to(8))
    np.testing.assert_array_equal(named.tokens, plain.tokens)
    alone = ready.ask_together(regions.select([7]), "What is it?", config=up_to(8))
    np.testing.assert_array_equal(alone.tokens, ready.ask(sample.ids, "What is it?", config=up_to(8))[1].tokens)
    streamed = list(ready.stream(two, question, config=up_to(8), together=True))
    assert [update.token for update in streamed] == answer.tokens.tolist()
    assert {update.region_id for update in streamed} == {0}
    with pytest.raises(PromptError, match="2 times, once per region"):
        ready.ask_together(two, "What is <mask><pos>?")


def test_scores_are_computed_in_parts_where_logits_would_be_large(
    ready: Describer, sample: SampleImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    phrases = ["a red mug", "mug", "the large green bowl on the left"]
    whole = ready.score(sample.ids, phrases)
    monkeypatch.setattr(scoring, "LOGIT_BYTES", 16 * ready.spec.vocab_size * 4)
    parts = ready.score(sample.ids, phrases)
    assert parts.timing.steps > whole.timing.steps == 2
    np.testing.assert_allclose(parts.log_likelihoods, whole.log_likelihoods, rtol=1e-5)


def test_scoring_can_be_canceled_between_runs(
    ready: Describer, sample: SampleImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    phrases = ["a red mug", "mug", "the large green bowl on the left"]
    monkeypatch.setattr(scoring, "LOGIT_BYTES", 16 * ready.spec.vocab_size * 4)
    encoded = ready.encode(sample.ids)
    whole = ready.score(encoded, phrases, cancel=CancellationToken())
    for runs in range(whole.timing.steps):
        left = iter(range(runs))
        with pytest.raises(StoppedError, match="canceled"):
            ready.score(encoded, phrases, cancel=PolledToken(lambda left=left: next(left, None) is None))
    again = ready.score(encoded, phrases)
    np.testing.assert_allclose(again.log_likelihoods, whole.log_likelihoods, rtol=1e-5)


def test_questions_are_checked_before_any_image(tiny_model: TinyModel) -> None:
    fresh = Describer(tiny_model.bundle, threads=1)
    fresh.check([None], ["What?", "Is <mask><pos> red?"])
    with pytest.raises(PromptError, match=r"'Is <mask><pos> near <mask><pos>\?' must contain <mask><pos> once"):
        fresh.check([], ["What?", "Is <mask><pos> near <mask><pos>?"])
    with pytest.raises(PromptError, match="'<image> what' contains <image>"):
        fresh.check([], ["<image> what"])
    with pytest.raises(PromptError, match="empty"):
        fresh.check([], [" "])
    with pytest.raises(PromptError, match=r"positions.*shorten"):
        fresh.check([], ["What " * fresh.spec.max_positions])
