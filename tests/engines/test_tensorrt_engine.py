"""TensorRT plans loaded and run on stand-ins for TensorRT and a GPU, and built and run on a machine that has both."""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorrt_stand_in
from checkpoint_linears import Linears
from conftest import TinyModel
from onnx import TensorProto

from export.graph_decoder import DecoderShape, build_decoder
from export.linears import DecoderPrecision
from export.plans import decoder_profiles
from export.tensorrt_plan import (
    Lengths,
    Profile,
    build_plan,
    mask_extractor_profiles,
    profile_shapes,
)
from osprey_ros.bundle import fingerprint
from osprey_ros.bundle.bundle import Bundle
from osprey_ros.bundle.manifest import DECODER
from osprey_ros.decoding.decoder import Decoder
from osprey_ros.decoding.loop import DecodeRequest
from osprey_ros.decoding.prompt_batch import Branches
from osprey_ros.engines import cuda, machine
from osprey_ros.engines.base import Engine, load_engine
from osprey_ros.errors import BundleError, EngineError
from osprey_torch.checkpoint import Checkpoint
from osprey_torch.onnx_graph import MICROSOFT, GraphBuilder

# Narrow and wide, as a decoder has them for steps and for prompts.
PROFILES: list[Profile] = [
    {"S": Lengths(1, 2, 3), "P": Lengths(0, 4, 8)},
    {"S": Lengths(1, 9, 100), "P": Lengths(0, 4, 8)},
]
LiveAllocations = Callable[[], int]


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tensorrt_stand_in.compile_driver(tmp_path_factory.mktemp("driver"))


@pytest.fixture
def gpu(driver: Path, monkeypatch: pytest.MonkeyPatch) -> LiveAllocations:
    """Replace TensorRT and the driver; return the number of allocations on the GPU."""
    monkeypatch.setattr(cuda, "LIBRARY", str(driver))
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt_stand_in.make_module())

    def live() -> int:
        gc.collect()
        return int(ctypes.CDLL(str(driver)).live_allocations())

    return live


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """rows [S, 3] float32, past [P, 3] float16 and ids int64 [S]: doubled rows, ids + 1, past and rows."""
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


def _write_plan(graph: Path, profiles: list[Profile]) -> Path:
    plan = graph.with_suffix(".plan")
    plan.write_bytes(tensorrt_stand_in.plan_bytes(graph, [profile_shapes(graph, profile) for profile in profiles]))
    fingerprint.write_fingerprint(plan, machine.current())
    return plan


@pytest.fixture
def plan(gpu: LiveAllocations, graph: Path) -> Path:
    return _write_plan(graph, PROFILES)


@pytest.fixture
def engine(plan: Path) -> Engine:
    return load_engine(plan, "tensorrt", "cuda")


def _inputs(rows: int, past: int = 2) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(rows)
    return {
        "rows": rng.standard_normal((rows, 3)).astype(np.float32),
        "past": rng.standard_normal((past, 3)).astype(np.float16),
        "ids": np.arange(rows),
    }


def _assert_same(given: dict[str, np.ndarray], outputs: dict[str, np.ndarray]) -> None:
    np.testing.assert_array_equal(outputs["doubled"], given["rows"] * 2)
    np.testing.assert_array_equal(outputs["next_ids"], given["ids"] + 1)
    np.testing.assert_array_equal(outputs["past_again"], given["past"])


def test_arrays_of_all_sizes_pass_through_the_profiles(engine: Engine) -> None:
    assert engine.input_names == ("rows", "past", "ids")
    assert engine.output_names == ("doubled", "next_ids", "kept", "past_again")
    assert engine.input_shapes["rows"] == ("rows[0]", 3)
    assert engine.input_dtypes == {"rows": np.float32, "past": np.float16, "ids": np.int64}
    assert [engine.most_rows(name) for name in engine.input_names] == [100, 8, 100]
    # Up and down again: data staged for another size must not appear.
    for rows, past in ((1, 0), (100, 8), (3, 1), (4, 2), (100, 0), (1, 8)):
        given = _inputs(rows, past)
        outputs = engine.run(given)
        assert list(outputs) == list(engine.output_names)
        _assert_same(given, outputs)
    strided = _inputs(5) | {"rows": np.arange(40, dtype=np.float32).reshape(5, 8)[:, 1:7:2]}
    _assert_same(strided, engine.run(strided))
    assert list(engine.run(_inputs(2), ["kept"])) == ["kept"]


def test_buffers_are_read_and_written_in_place(engine: Engine) -> None:
    given = _inputs(4)
    rows = engine.buffer((10, 3), np.float32)
    assert not rows.read().any()
    rows.write(given["rows"], row=3)
    doubled = engine.buffer((64, 3), np.float32)
    # With rows of 12 bytes, neither row 3 nor row 5 is at an address that TensorRT accepts.
    outputs = engine.run(given | {"rows": rows.rows(3, 7)}, into={"doubled": doubled.rows(5, 9)})
    assert "doubled" not in outputs
    _assert_same(given, outputs | {"doubled": doubled.read()[5:9]})
    assert not doubled.read()[[*range(5), *range(9, 64)]].any()
    target = doubled.rows(0, 4)
    outputs = engine.run(given, ["doubled"], into={"doubled": target})
    np.testing.assert_array_equal(target.read(), given["rows"] * 2)
    np.testing.assert_array_equal(outputs["doubled"], target.read())


def test_a_bound_run_reads_the_current_values(engine: Engine) -> None:
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
        _assert_same(given, {name: buffer.read() for name, buffer in into.items()})


def test_device_memory_is_freed(plan: Path, gpu: LiveAllocations) -> None:
    before = gpu()
    engine = load_engine(plan, "tensorrt", "cuda")
    view = engine.buffer((100, 3), np.float32).rows(10, 20)
    engine.run(_inputs(100))
    kept = gpu()
    engine.run(_inputs(2))
    engine.run(_inputs(100))
    assert gpu() == kept
    del engine
    assert gpu() == before + 1  # the buffer of the view
    assert not view.read().any()
    del view
    assert gpu() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda given: given.pop("ids"), "lacks its input ids"),
        (lambda given: given.update(more=given["ids"]), "has no more"),
        (lambda given: given.update(rows=given["rows"].astype(np.float64)), "input rows is float32, not float64"),
        (lambda given: given.update(_inputs(101)), r"rows has the shape \(101, 3\), .* \(100, 3\).*--max-tokens"),
    ],
)
def test_unsuitable_inputs_are_rejected(engine: Engine, change: Callable[[dict], object], message: str) -> None:
    given = _inputs(2)
    change(given)
    with pytest.raises(EngineError, match=message):
        engine.run(given)


def test_unsuitable_buffers_are_rejected(engine: Engine) -> None:
    with pytest.raises(EngineError, match=r"output doubled is float32 \(2, 3\), the buffer for it float32 \(3, 3\)"):
        engine.run(_inputs(2), into={"doubled": engine.buffer((3, 3), np.float32)})
    with pytest.raises(EngineError, match=r"float32 \(2, 3\) cannot be written to row 3"):
        engine.buffer((4, 3), np.float32).write(np.zeros((2, 3), np.float32), row=3)
    with pytest.raises(EngineError, match="out of memory"):
        engine.buffer((1 << 31, 4), np.float32)


def test_rows_are_copied_and_gathered_on_the_device(gpu: LiveAllocations, monkeypatch: pytest.MonkeyPatch) -> None:
    device = cuda.Cuda()
    rows = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    buffer = device.buffer((40, 3), np.float32)
    buffer.write(rows)
    with monkeypatch.context() as patch:
        for transfer in ("upload", "download"):
            patch.setattr(cuda.Cuda, transfer, None)  # would raise
        chosen = np.array([3, 4, 5, 9, 20, 21, 39])
        kept = buffer.rows(1, 40).gather(chosen - 1)
        buffer.copy(kept, 2)
        larger = device.buffer((50, 3), np.float32)
        larger.copy(buffer.rows(0, 9))
        none = buffer.gather(np.zeros(0, np.intp))
    expected = np.concatenate([rows[:2], rows[chosen]])
    np.testing.assert_array_equal(larger.read()[:9], expected)
    np.testing.assert_array_equal(buffer.read()[9:], rows[9:])
    assert none.shape == (0, 3)
    with pytest.raises(EngineError, match=r"cannot be written to row 34"):
        buffer.copy(kept, 34)
    del device, buffer, kept, larger, none
    assert gpu() == 0


def test_errors_of_the_driver_have_text(gpu: LiveAllocations) -> None:
    device = cuda.Cuda()
    device.stream = 1
    with pytest.raises(EngineError, match=r"failed in cuMemsetD8Async: invalid resource handle"):
        device.buffer((5, 3), np.float32)
    with pytest.raises(EngineError, match=r"failed in cuStreamSynchronize: invalid resource handle \(400\)"):
        device.synchronize()


def test_a_machine_without_driver_or_tensorrt_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cuda, "LIBRARY", "libnothing.so.1")
    with pytest.raises(EngineError, match=r"no NVIDIA driver.*'cpu'"):
        cuda.Cuda()
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(EngineError, match=r"TensorRT cannot be imported.*JetPack"):
        load_engine(tmp_path / "a.plan", "tensorrt", "cuda")


def test_plans_of_other_machines_and_damaged_plans_are_rejected(plan: Path) -> None:
    stored = fingerprint.read_fingerprint(plan)
    fingerprint.write_fingerprint(plan, stored | {"gpu": "Orin", "multiprocessors": "16"})
    with pytest.raises(BundleError, match=r"GPU is Stand-in here and was Orin at the build; number of multiprocessors"):
        load_engine(plan, "tensorrt", "cuda")
    fingerprint.sidecar(plan).unlink()
    with pytest.raises(BundleError, match=rf"has no fingerprint: {plan.name}\.json is missing.*osprey build"):
        load_engine(plan, "tensorrt", "cuda")
    fingerprint.write_fingerprint(plan, stored)
    plan.write_bytes(b"x" + plan.read_bytes())
    with pytest.raises(EngineError, match=r"TensorRT refuses .*: the magic tag does not match"):
        load_engine(plan, "tensorrt", "cuda")


@pytest.mark.parametrize("most_logits", [None, 6])
def test_the_decoder_keeps_within_the_profiles_of_its_plan(
    gpu: LiveAllocations, tiny_model: TinyModel, tmp_path: Path, most_logits: int | None
) -> None:
    """Many more branches, longer answers and more phrases than a plan for two regions accepts in one run."""
    checkpoint, bundle = Checkpoint.open(tiny_model.checkpoint), Bundle.open(tiny_model.bundle)
    config, graph = checkpoint.config, tmp_path / DECODER
    precision = DecoderPrecision("fp32", "fp32", dialect="tensorrt")
    build_decoder(DecoderShape.of(config), Linears(checkpoint.read, precision), graph)
    profiles: list[Profile] = decoder_profiles(config, max_regions=2)
    if most_logits is not None:
        profiles = [{**profile, "R": Lengths(1, 2, most_logits)} for profile in profiles]
    plan = _write_plan(graph, profiles)
    embeddings = bundle.embeddings().astype(np.float32)
    rows = embeddings[np.random.default_rng(1).integers(0, len(embeddings), 90)]
    branches = [rows[30 + 4 * n : 40 + 4 * n] for n in range(12)]
    # Four branches fill the 256 rows of the plan. Rows of the first that ends are reused before all of them end.
    limits = np.array([50, 56, 56, 56] * 3)
    phrases = [[9, 21, 4, 2], [17], [33, 2, 5], [8, 9]]
    answers, scores = [], []
    for engine in (load_engine(graph, threads=1), load_engine(plan, "tensorrt", "cuda")):
        decoder = Decoder(engine, bundle.manifest.model)
        prefix = decoder.prefill(rows[:30])
        request = DecodeRequest(prefix, Branches(branches), lambda ids: embeddings[ids], limits, eos_id=-1)
        answers.append(decoder.generate(request))
        scores.append(decoder.score(prefix, Branches(branches), phrases, lambda ids: embeddings[ids]))
    for ours, expected in zip(answers[1], answers[0], strict=True):
        np.testing.assert_array_equal(ours.tokens, expected.tokens)
    for ours, expected in zip(scores[1], scores[0], strict=True):
        np.testing.assert_allclose(np.concatenate(ours), np.concatenate(expected), atol=1e-4)


def test_profiles_must_fit_the_graph(graph: Path) -> None:
    with pytest.raises(ValueError, match=r"no lengths for the axis P of its input past"):
        profile_shapes(graph, {"S": Lengths(1, 1, 1)})
    with pytest.raises(ValueError, match=r"has no free axis Q; it has P, S"):
        profile_shapes(graph, PROFILES[0] | {"Q": Lengths(1, 1, 1)})
    with pytest.raises(ValueError, match="lengths must rise"):
        Lengths(1, 3, 2)
    assert mask_extractor_profiles(64) == [{"N": Lengths(1, 16, 64)}]


@pytest.mark.gpu
@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is None, reason="TensorRT and its GPU are not installed here")
def test_a_plan_is_built_run_and_kept_on_a_real_gpu(graph: Path) -> None:
    cache = graph.parent / "timing_cache"
    entry = build_plan(graph, graph.parent, PROFILES, timing_cache=cache)
    assert cache.stat().st_size
    given = _inputs(3)
    _assert_same(given, load_engine(graph.parent / entry.file, entry.runtime, entry.device).run(given))
    written = (graph.parent / entry.file).stat().st_mtime_ns
    assert build_plan(graph, graph.parent, PROFILES) == entry
    assert (graph.parent / entry.file).stat().st_mtime_ns == written
    other = build_plan(graph, graph.parent, PROFILES[1:])
    assert [path.name for path in graph.parent.glob("*.plan")] == [other.file]
    builder = GraphBuilder("odd")
    builder.input("x", [2])
    builder.node("BiasGelu", ["x", "x"], "y", domain=MICROSOFT)
    builder.output("y", [2])
    builder.save(graph.parent / "odd.onnx")
    with pytest.raises(EngineError, match=r"refuses odd.onnx:\n  node 0 'y' \(BiasGelu\)"):
        build_plan(graph.parent / "odd.onnx", graph.parent)
