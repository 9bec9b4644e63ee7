"""TensorRT plans built, fingerprinted, loaded and run, on what stands in for TensorRT and a GPU (tensorrt_stand_in)."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorrt_stand_in
import torch
from conftest import Picture, TinyModel
from onnx import TensorProto
from tiny import TINY

from export import tensorrt_plan
from export.graph_decoder import DecoderShape, build_decoder
from export.graph_mask_extractor import build_mask_extractor
from export.graph_vision import build_vision
from export.linears import DecoderPrecision, Linears
from export.plans import decoder_profiles, make_plan
from export.tensorrt_plan import (
    Lengths,
    PlanError,
    Profile,
    build_plan,
    mask_extractor_profiles,
)
from osprey_ros.bundle import fingerprint
from osprey_ros.bundle.bundle import Bundle
from osprey_ros.bundle.manifest import DECODER, MASK_EXTRACTOR, VISION, EngineEntry
from osprey_ros.decoding.decoder import Decoder
from osprey_ros.engines import cuda
from osprey_ros.engines.base import Engine, load_engine
from osprey_ros.errors import BundleError, EngineError
from osprey_ros.regions.encoder import RegionEncoder
from osprey_ros.regions.regions import regions_from_id_image
from osprey_ros.timing import Meter
from osprey_ros.vision.encoder import ImageEncoder
from osprey_ros.vision.preprocess import Preprocessor
from osprey_torch.checkpoint import Checkpoint
from osprey_torch.model import Osprey
from osprey_torch.onnx_graph import MICROSOFT, GraphBuilder

# Narrow and wide, as a decoder has them for steps and for prompts.
PROFILES: list[Profile] = [
    {"S": Lengths(1, 2, 3), "P": Lengths(0, 4, 8)},
    {"S": Lengths(1, 9, 100), "P": Lengths(0, 4, 8)},
]


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tensorrt_stand_in.compile_driver(tmp_path_factory.mktemp("driver"))


@pytest.fixture
def gpu(driver: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Puts the stand-ins in place; returns how many allocations live on the GPU."""
    monkeypatch.setattr(cuda, "LIBRARY", str(driver))
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt_stand_in.make_module())

    def live() -> int:
        gc.collect()
        return int(ctypes.CDLL(str(driver)).live_allocations())

    return live


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """rows [S, 3] float32, past [P, 3] float16 and ids int64 [S]: doubled rows, ids + 1, past and rows together."""
    builder = GraphBuilder("toy")
    builder.input("rows", ["S", 3])
    builder.input("past", ["P", 3], TensorProto.FLOAT16)
    builder.input("ids", ["S"], TensorProto.INT64)
    builder.node("Mul", ["rows", builder.constant(2.0)], "doubled")
    builder.node("Add", ["ids", builder.constant([1])], "next_ids")
    builder.node("MatMul", ["rows", builder.weight("matrix", np.eye(3, dtype=np.float32))], "kept")
    builder.node("Cast", ["past"], "past_again", to=TensorProto.FLOAT16)
    builder.output("doubled", ["S", 3])
    builder.output("next_ids", ["S"], TensorProto.INT64)
    builder.output("kept", ["S", 3])
    builder.output("past_again", ["P", 3], TensorProto.FLOAT16)
    builder.save(tmp_path / "toy.onnx")
    return tmp_path / "toy.onnx"


@pytest.fixture
def entry(gpu: Callable[[], int], graph: Path) -> EngineEntry:
    return build_plan(graph, graph.parent, PROFILES)


@pytest.fixture
def engine(entry: EngineEntry, graph: Path) -> Engine:
    return load_engine(graph.parent / entry.file, entry.runtime, entry.device)


def _inputs(rows: int, past: int = 2) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(rows)
    return {
        "rows": rng.standard_normal((rows, 3)).astype(np.float32),
        "past": rng.standard_normal((past, 3)).astype(np.float16),
        "ids": np.arange(rows),
    }


def _same(given: dict[str, np.ndarray], outputs: dict[str, np.ndarray]) -> None:
    np.testing.assert_array_equal(outputs["doubled"], given["rows"] * 2)
    np.testing.assert_array_equal(outputs["next_ids"], given["ids"] + 1)
    np.testing.assert_array_equal(outputs["past_again"], given["past"])


def test_arrays_in_and_arrays_out(engine: Engine) -> None:
    assert engine.input_names == ("rows", "past", "ids")
    assert engine.output_names == ("doubled", "next_ids", "kept", "past_again")
    assert engine.input_shapes["rows"] == ("rows[0]", 3)
    assert engine.input_dtypes == {"rows": np.float32, "past": np.float16, "ids": np.int64}
    assert [engine.most_rows(name) for name in engine.input_names] == [100, 8, 100]
    assert engine.output_dtypes["past_again"] == np.float16
    # Up and down again through both profiles: what was staged for another size must not show.
    for rows, past in ((1, 0), (100, 8), (3, 1), (4, 2), (100, 0), (1, 8)):
        given = _inputs(rows, past)
        outputs = engine.run(given)
        assert list(outputs) == list(engine.output_names)
        _same(given, outputs)
    assert list(engine.run(_inputs(2), ["kept"])) == ["kept"]


def test_arrays_that_are_not_contiguous(engine: Engine) -> None:
    wide = np.arange(40, dtype=np.float32).reshape(5, 8)
    given = _inputs(5) | {"rows": wide[:, 1:7:2]}
    _same(given, engine.run(given))


def test_buffers_are_read_and_written_in_place(engine: Engine) -> None:
    given = _inputs(4)
    rows = engine.buffer((10, 3), np.float32)
    assert not rows.read().any()
    rows.write(given["rows"], row=3)
    doubled = engine.buffer((64, 3), np.float32)
    # Rows of 12 bytes: 3 and 5 rows on, neither is at an address that TensorRT takes.
    outputs = engine.run(given | {"rows": rows.rows(3, 7)}, into={"doubled": doubled.rows(5, 9)})
    assert "doubled" not in outputs
    _same(given, outputs | {"doubled": doubled.read()[5:9]})
    assert not doubled.read()[:5].any()
    assert not doubled.read()[9:].any()
    # 64 rows on it is.
    target = doubled.rows(0, 4)
    engine.run(given, [], into={"doubled": target})
    np.testing.assert_array_equal(target.read(), given["rows"] * 2)
    batch = doubled.rows(1, 4, batch=True)
    assert (batch.shape, batch.pointer) == ((1, 3, 3), doubled.rows(1, 4).pointer)
    np.testing.assert_array_equal(batch.read(), given["rows"][None, 1:4] * 2)


def test_a_bound_run_reads_what_is_there_then(engine: Engine) -> None:
    given, shapes = _inputs(4), {"doubled": (4, 3), "next_ids": (4,), "past_again": (2, 3)}
    into = {name: engine.buffer(shape, engine.output_dtypes[name]) for name, shape in shapes.items()}
    past = engine.buffer((2, 3), np.float16)
    run = engine.bind(given | {"past": past}, into)
    for seed in (1, 2):
        given["rows"][:] = np.random.default_rng(seed).standard_normal((4, 3))
        given["past"] = np.full((2, 3), seed, np.float16)
        past.write(given["past"])
        engine.run(_inputs(3))  # other runs in between change nothing
        run()
        _same(given, {name: buffer.read() for name, buffer in into.items()})


def test_an_output_may_be_read_and_returned(engine: Engine) -> None:
    given, target = _inputs(3), engine.buffer((3, 3), np.float32)
    outputs = engine.run(given, ["doubled"], into={"doubled": target})
    np.testing.assert_array_equal(outputs["doubled"], target.read())


def test_memory_goes_back(entry: EngineEntry, graph: Path, gpu: Callable[[], int]) -> None:
    before = gpu()
    engine = load_engine(graph.parent / entry.file, "tensorrt", "cuda")
    view = engine.buffer((100, 3), np.float32).rows(10, 20)
    engine.run(_inputs(100))
    kept = gpu()
    assert kept > before + 1
    engine.run(_inputs(2))
    engine.run(_inputs(100))
    assert gpu() == kept
    del engine
    assert gpu() == before + 1  # what the view lies in
    assert not view.read().any()
    del view
    assert gpu() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda given: given.pop("ids"), "not given its input ids"),
        (lambda given: given.update(more=given["ids"]), "has no more"),
        (lambda given: given.update(rows=given["rows"].astype(np.float64)), "input rows is float32, not float64"),
        (
            lambda given: given.update(_inputs(101)),
            r"rows has the shape \(101, 3\), the plan takes \(1, 3\) to \(100, 3\).*--max-tokens",
        ),
        (lambda given: given.update(rows=given["rows"][0]), r"rows has the shape \(3,\)"),
    ],
)
def test_inputs_that_it_refuses(engine: Engine, change: Callable[[dict], object], message: str) -> None:
    given = _inputs(2)
    change(given)
    with pytest.raises(EngineError, match=message):
        engine.run(given)


def test_outputs_and_buffers_that_it_refuses(engine: Engine) -> None:
    with pytest.raises(EngineError, match="has no logits"):
        engine.run(_inputs(2), ["logits"])
    with pytest.raises(EngineError, match=r"output doubled is float32 \(2, 3\), the buffer for it float32 \(3, 3\)"):
        engine.run(_inputs(2), into={"doubled": engine.buffer((3, 3), np.float32)})
    buffer = engine.buffer((4, 3), np.float32)
    with pytest.raises(EngineError, match=r"float32 \(2, 3\) cannot be written to row 3"):
        buffer.write(np.zeros((2, 3), np.float32), row=3)
    with pytest.raises(EngineError, match=r"float64 \(1, 3\) cannot be written"):
        buffer.write(np.zeros((1, 3)))
    with pytest.raises(EngineError, match="rows 2 to 5 are not in a buffer of 4 rows"):
        buffer.rows(2, 5)
    with pytest.raises(EngineError, match="out of memory"):
        engine.buffer((1 << 31, 4), np.float32)


def test_new_memory_is_filled_in_the_stream_and_before_it_is_given_out(gpu: Callable[[], int]) -> None:
    device = cuda.Cuda()
    buffer = device.buffer((5, 3), np.float32)
    assert ctypes.string_at(buffer.pointer, buffer.nbytes) == bytes(60)  # another stream may read it at once
    device.stream = 1
    with pytest.raises(EngineError, match=r"failed in cuMemsetD8Async: invalid resource handle"):
        device.buffer((5, 3), np.float32)


def test_errors_of_the_driver_are_words(gpu: Callable[[], int]) -> None:
    device = cuda.Cuda()
    device.stream = 1
    with pytest.raises(EngineError, match=r"failed in cuStreamSynchronize: invalid resource handle \(400\)"):
        device.synchronize()


def test_without_driver_or_tensorrt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cuda, "LIBRARY", "libnothing.so.1")
    with pytest.raises(EngineError, match=r"no NVIDIA driver.*'cpu'"):
        cuda.Cuda()
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(EngineError, match=r"TensorRT cannot be imported.*JetPack"):
        load_engine(tmp_path / "a.plan", "tensorrt", "cuda")
    with pytest.raises(EngineError, match="TensorRT cannot be imported"):
        build_plan(tmp_path / "a.onnx", tmp_path)


def test_plan_of_another_machine_is_refused(entry: EngineEntry, graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = graph.parent / entry.file
    assert entry.fingerprint["gpu"] == "Stand-in"
    assert entry.fingerprint["compute_capability"] == "8.7"
    assert entry.fingerprint["driver"] == "12.6"
    assert fingerprint.short_hash(entry.fingerprint) in plan.name
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt_stand_in.make_module("10.13.3.9"))
    message = r"TensorRT version is 10\.13\.3\.9 here and was 10\.3\.0 there; build it on this machine: .*build_engines"
    with pytest.raises(BundleError, match=message):
        load_engine(plan, "tensorrt", "cuda")
    stored = fingerprint.read_fingerprint(plan)
    fingerprint.write_fingerprint(plan, stored | {"gpu": "Orin", "multiprocessors": "16"})
    with pytest.raises(BundleError, match=r"GPU is Stand-in here and was Orin there; number of multiprocessors"):
        load_engine(plan, "tensorrt", "cuda")


def test_plan_without_a_fingerprint_is_refused(entry: EngineEntry, graph: Path) -> None:
    plan = graph.parent / entry.file
    beside = fingerprint.sidecar(plan)
    for text, message in (("{", "cannot be read"), ("[1]", "not a fingerprint"), ('{"gpu": 1}', "not a fingerprint")):
        beside.write_text(text)
        with pytest.raises(BundleError, match=message):
            load_engine(plan, "tensorrt", "cuda")
    beside.unlink()
    with pytest.raises(BundleError, match=rf"has no {beside.name}.*build_engines"):
        load_engine(plan, "tensorrt", "cuda")


def test_damaged_plan_is_refused_in_tensorrts_words(entry: EngineEntry, graph: Path) -> None:
    plan = graph.parent / entry.file
    plan.write_bytes(b"x" + plan.read_bytes())
    with pytest.raises(EngineError, match=r"TensorRT refuses .*: the magic tag does not match"):
        load_engine(plan, "tensorrt", "cuda")
    plan.write_bytes(b"")
    with pytest.raises(EngineError, match="cannot be read"):
        load_engine(plan, "tensorrt", "cuda")


def test_differences_name_what_one_side_lacks() -> None:
    found = fingerprint.differences({"gpu": "A", "options": "x"}, {"gpu": "A", "tensorrt": "10.3.0"})
    assert [str(d) for d in found] == ["TensorRT version is 10.3.0 here and was not recorded there"]


def test_plan_is_kept_until_something_differs(gpu: Callable[[], int], graph: Path) -> None:
    first = build_plan(graph, graph.parent, PROFILES)
    builds = tensorrt_stand_in.Builder.builds
    assert build_plan(graph, graph.parent, PROFILES) == first
    assert tensorrt_stand_in.Builder.builds == builds
    other = build_plan(graph, graph.parent, PROFILES[1:])
    assert tensorrt_stand_in.Builder.builds == builds + 1
    assert other.file != first.file
    assert sorted(p.name for p in graph.parent.iterdir()) == [other.file, f"{other.file}.json", "toy.onnx"]


def test_weights_beside_a_graph_are_part_of_its_fingerprint(gpu: Callable[[], int], tmp_path: Path) -> None:
    plans = set()
    for value in (1.0, 2.0):
        builder = GraphBuilder("toy", external=tmp_path / "toy.onnx.data")
        builder.input("rows", ["S", 300])
        builder.node("Mul", ["rows", builder.weight("w", np.full(300, value, np.float32))], "out")
        builder.output("out", ["S", 300])
        builder.save(tmp_path / "toy.onnx")
        entry = build_plan(tmp_path / "toy.onnx", tmp_path, [{"S": Lengths(1, 1, 2)}])
        engine = load_engine(tmp_path / entry.file, "tensorrt", "cuda")
        assert engine.run({"rows": np.ones((2, 300), np.float32)})["out"].mean() == value
        plans.add(entry.file)
    assert len(plans) == 2


def test_parser_errors_name_every_node(gpu: Callable[[], int], tmp_path: Path) -> None:
    builder = GraphBuilder("odd")
    builder.input("x", [2])
    builder.node("Abs", ["x"], "fine")
    builder.node("BiasGelu", ["fine", "x"], "first", domain=MICROSOFT)
    builder.node("FastGelu", ["first"], "second", domain=MICROSOFT)
    builder.output("second", [2])
    builder.save(tmp_path / "odd.onnx")
    with pytest.raises(PlanError) as caught:
        build_plan(tmp_path / "odd.onnx", tmp_path)
    lines = str(caught.value).splitlines()
    assert lines[0] == "TensorRT 10.3.0 refuses odd.onnx:"
    assert lines[1] == "  node 1 'first' (BiasGelu): no importer for the domain com.microsoft"
    assert lines[2].startswith("  node 2 'second' (FastGelu)")


def test_profiles_that_do_not_fit_the_graph(gpu: Callable[[], int], graph: Path) -> None:
    with pytest.raises(ValueError, match=r"no lengths for the axis P of its input past"):
        build_plan(graph, graph.parent, [{"S": Lengths(1, 1, 1)}])
    with pytest.raises(ValueError, match=r"has no free axis Q; it has P, S"):
        build_plan(graph, graph.parent, [PROFILES[0] | {"Q": Lengths(1, 1, 1)}])
    with pytest.raises(ValueError, match="lengths must rise"):
        Lengths(1, 3, 2)
    assert mask_extractor_profiles(4) == [{"N": Lengths(1, 4, 4)}]
    assert mask_extractor_profiles(64) == [{"N": Lengths(1, 16, 64)}]


def test_timing_cache_is_kept_and_replaced(gpu: Callable[[], int], graph: Path) -> None:
    cache = graph.parent / ".timing_cache"
    build_plan(graph, graph.parent, PROFILES, timing_cache=cache)
    assert cache.read_bytes() == b"measured"
    cache.write_bytes(b"of another GPU")
    build_plan(graph, graph.parent, PROFILES[1:], timing_cache=cache)
    assert cache.read_bytes() == b"measured"


@pytest.mark.parametrize("there", [False, True])
def test_a_timing_cache_that_cannot_be_kept_costs_no_plan(
    gpu: Callable[[], int],
    graph: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    there: bool,
) -> None:
    (graph.parent / "in_the_way").write_bytes(b"")
    cache = graph.parent / "in_the_way" / "cache"
    if there:
        cache = graph.parent / "folder"
        cache.mkdir()
    entry = build_plan(graph, graph.parent, PROFILES, timing_cache=cache)
    _same(_inputs(3), load_engine(graph.parent / entry.file, "tensorrt", "cuda").run(_inputs(3)))
    assert [line for line in caplog.messages if "not kept for the next build" in line and str(cache) in line]

    # Nor does a home in which nothing can be written.
    monkeypatch.setenv("XDG_CACHE_HOME", str(graph.parent / "in_the_way"))
    builder = GraphBuilder("vision")
    builder.input("x", [2])
    builder.node("Abs", ["x"], "y")
    builder.output("y", [2])
    builder.save(graph.parent / "vision.onnx")
    entry = make_plan("vision", graph.parent / "vision.onnx", graph.parent, TINY, 4)
    assert (graph.parent / entry.file).is_file()
    assert [line for line in caplog.messages if "not kept for the next build" in line and "osprey_ros" in line]


def test_interrupt_ends_the_build_and_keeps_the_timing_cache(
    gpu: Callable[[], int], graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C arrives while the builder works in its thread; the builder stops at its next step."""
    steps: list[bool] = []
    step = tensorrt_plan._Phases.step

    def interrupt(self: tensorrt_plan._Phases, phase: str) -> bool:
        if not steps:
            os.kill(os.getpid(), signal.SIGINT)
            deadline = time.monotonic() + 10
            while not self.cancelled and time.monotonic() < deadline:
                os.sched_yield()  # the main thread handles the signal
        steps.append(step(self, phase))
        return steps[-1]

    monkeypatch.setattr(tensorrt_plan._Phases, "step", interrupt)
    cache = graph.parent / ".timing_cache"
    # A ROS node in this process may have left the signal ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            build_plan(graph, graph.parent, PROFILES, timing_cache=cache)
    finally:
        signal.signal(signal.SIGINT, before)
    assert steps == [False]
    assert cache.read_bytes() == b"measured"
    assert not list(graph.parent.glob("*.plan*"))


@pytest.mark.parametrize(
    ("role", "runs"),
    [
        ("vision", [{}]),
        ("mask_extractor", [{"N": 1}, {"N": 8}]),
        # A prefix, questions behind it, and tokens behind those.
        (
            "decoder",
            [{"S": 9, "P": 0, "B": 0, "R": 1}, {"S": 12, "P": 9, "B": 0, "R": 3}, {"S": 3, "P": 9, "B": 16, "R": 3}],
        ),
    ],
)
def test_our_graphs_on_the_whole_path(
    gpu: Callable[[], int], tmp_path: Path, role: str, runs: list[dict[str, int]]
) -> None:
    """In float16, as plans and as graphs: what lies on our side of TensorRT adds nothing."""
    config = TINY.with_vocabulary(40)
    torch.manual_seed(0)
    state = Osprey(config).eval().state_dict()
    path = tmp_path / f"{role}.onnx"

    def read(name: str) -> np.ndarray:
        return state[name].numpy()

    profiles: list[Profile] = []
    if role == "vision":
        build_vision(config, read, path, half_compute=True)
    elif role == "mask_extractor":
        build_mask_extractor(config, read, path, half_compute=True)
        profiles = mask_extractor_profiles(8)
    else:
        precision = DecoderPrecision("fp16", "fp16", dialect="tensorrt", half=True)
        build_decoder(DecoderShape.of(config), Linears(read, precision), path)
        profiles = decoder_profiles(config, max_regions=4)
    graph = load_engine(path)
    entry = build_plan(path, tmp_path, profiles)
    plan = load_engine(tmp_path / entry.file, entry.runtime, entry.device)
    assert plan.input_names == graph.input_names
    assert plan.input_dtypes == graph.input_dtypes
    rng = np.random.default_rng(0)
    for lengths in runs:
        lengths = lengths | {"B_plus_S": lengths.get("B", 0) + lengths.get("S", 0)}
        given = {}
        for name, shape in graph.input_shapes.items():
            sizes, dtype = [lengths[n] if isinstance(n, str) else n for n in shape], graph.input_dtypes[name]
            given[name] = (
                rng.integers(lengths["R"], size=sizes) if dtype == np.int64 else rng.random(sizes).astype(dtype)
            )
        expected, outputs = graph.run(given), plan.run(given)
        assert outputs.keys() == expected.keys()
        for name, array in expected.items():
            np.testing.assert_array_equal(outputs[name], array, err_msg=name)


def test_more_regions_than_a_plan_takes_are_encoded_in_parts(
    gpu: Callable[[], int], tiny_model: TinyModel, picture: Picture, tmp_path: Path
) -> None:
    bundle = Bundle.open(tiny_model.bundle)
    spec, extractor = bundle.manifest.model, bundle.path(MASK_EXTRACTOR)
    entry = build_plan(extractor, tmp_path, mask_extractor_profiles(2))
    vision = load_engine(bundle.path(VISION), threads=1)
    plan = load_engine(tmp_path / entry.file, entry.runtime, entry.device)
    regions = regions_from_id_image(picture.ids)
    found = []
    for engine in (load_engine(extractor, threads=1), plan):
        images, extractor = ImageEncoder(vision, Preprocessor(spec), spec), RegionEncoder(engine, spec)
        images.encode(picture.rgb)
        images.synchronize()
        found.append(extractor.encode(images.features, extractor.pool(regions), Meter()))
    for ours, expected in zip(found[1], found[0], strict=True):
        assert ours.shape == (5, spec.hidden_size)
        np.testing.assert_allclose(ours, expected, atol=1e-5)


@pytest.mark.parametrize("most_logits", [None, 6])
def test_the_decoder_keeps_to_what_its_plan_takes(
    gpu: Callable[[], int], tiny_model: TinyModel, tmp_path: Path, most_logits: int | None
) -> None:
    """Many more branches, longer answers and more phrases than a plan for two regions takes at once."""
    checkpoint, bundle = Checkpoint.open(tiny_model.checkpoint), Bundle.open(tiny_model.bundle)
    config, spec = checkpoint.config, bundle.manifest.model
    build_decoder(
        DecoderShape.of(config),
        Linears(checkpoint.read, DecoderPrecision("fp32", "fp32", dialect="tensorrt")),
        tmp_path / DECODER,
    )
    profiles: list[Profile] = decoder_profiles(config, max_regions=2)
    if most_logits is not None:  # as of a plan that was built for few
        profiles = [{**profile, "R": Lengths(1, 2, most_logits)} for profile in profiles]
    entry = build_plan(tmp_path / DECODER, tmp_path, profiles)
    embeddings = bundle.embeddings().astype(np.float32)
    rows = embeddings[np.random.default_rng(1).integers(0, len(embeddings), 90)]
    branches = [rows[30 + 4 * n : 40 + 4 * n] for n in range(12)]
    # Four fill the 256 rows that the plan takes of branches. Those of the first that ends are moved away sooner than
    # they would be for their own sake.
    limits = np.array([50, 56, 56, 56] * 3)
    phrases = [[9, 21, 4, 2], [17], [33, 2, 5], [8, 9]]
    answers, scores = [], []
    for engine in (
        load_engine(tmp_path / DECODER, threads=1),
        load_engine(tmp_path / entry.file, entry.runtime, entry.device),
    ):
        decoder = Decoder(engine, spec)
        prefix = decoder.prefill(rows[:30])
        answers.append(decoder.generate(prefix, branches, lambda ids: embeddings[ids], limits, eos_id=-1))
        scores.append(decoder.score(prefix, branches, phrases, lambda ids: embeddings[ids]))
    for ours, expected in zip(answers[1], answers[0], strict=True):
        np.testing.assert_array_equal(ours.tokens, expected.tokens)
    for ours, expected in zip(scores[1], scores[0], strict=True):
        np.testing.assert_allclose(np.concatenate(ours), np.concatenate(expected), atol=1e-4)
