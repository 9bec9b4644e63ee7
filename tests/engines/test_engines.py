"""Engines: inputs and outputs, buffers that are read and written in place, and error messages."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from checkpoint_linears import Linears

from export.linears import DecoderPrecision
from osprey_ros.engines.base import UNBOUNDED, Engine, load_engine
from osprey_ros.engines.onnxruntime import FEW_ROWS, cpu_flags, few_rows
from osprey_ros.errors import EngineError
from osprey_torch.onnx_graph import GraphBuilder


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """sum = a + b and product = a * b for [N, 3]."""
    graph = GraphBuilder("arithmetic")
    graph.input("a", ["N", 3])
    graph.input("b", ["N", 3])
    graph.node("Add", ["a", "b"], "sum")
    graph.node("Mul", ["a", "b"], "product")
    graph.output("sum", ["N", 3])
    graph.output("product", ["N", 3])
    file = tmp_path_factory.mktemp("engine") / "arithmetic.onnx"
    graph.save(file)
    return file


@pytest.fixture
def engine(path: Path) -> Engine:
    return load_engine(path, threads=1)


def _rows(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 3)).astype(np.float32)


def test_engine_says_what_it_takes_and_gives(engine: Engine) -> None:
    assert engine.device == "cpu"
    assert engine.input_names == ("a", "b")
    assert engine.output_names == ("sum", "product")
    assert engine.input_shapes == {"a": ("N", 3), "b": ("N", 3)}
    assert engine.input_dtypes == {"a": np.float32, "b": np.float32}
    assert engine.output_dtypes == {"sum": np.float32, "product": np.float32}
    assert engine.most_rows("a") == UNBOUNDED


def test_arrays_of_changing_length_give_arrays(engine: Engine) -> None:
    kept = []
    for count in (4, 1, 0, 7, 7):
        a, b = _rows(count, count), _rows(count + 1, count)
        result = engine.run({"a": a, "b": b})
        assert set(result) == {"sum", "product"}
        np.testing.assert_array_equal(result["sum"], a + b)
        np.testing.assert_array_equal(result["product"], a * b)
        kept.append((result["sum"], a + b))
    for found, expected in kept:  # results stay what they were when the engine runs again
        np.testing.assert_array_equal(found, expected)
    only = engine.run({"a": a, "b": b}, ["product"])
    assert list(only) == ["product"]
    strided = _rows(1, 8)[::2]
    np.testing.assert_array_equal(engine.run({"a": strided, "b": strided})["sum"], 2 * strided)


def test_buffers_are_read_and_written_in_place(engine: Engine) -> None:
    buffer = engine.buffer((6, 3), np.float32)
    assert (buffer.shape, buffer.dtype) == ((6, 3), np.float32)
    assert not buffer.read().any()
    a, b = _rows(1, 2), _rows(2, 2)
    buffer.write(a, row=1)
    view = buffer.rows(1, 3)
    assert view.pointer == buffer.pointer + 12
    np.testing.assert_array_equal(view.read(), a)
    # Reads rows 1 and 2, writes the sum behind them, returns the other output.
    result = engine.run({"a": view, "b": b}, None, {"sum": buffer.rows(3, 5)})
    assert list(result) == ["product"]
    np.testing.assert_array_equal(result["product"], a * b)
    np.testing.assert_array_equal(buffer.read(), np.concatenate([np.zeros((1, 3)), a, a + b, np.zeros((1, 3))]))
    # A view of a view, other rows of the same memory, and both outputs into buffers.
    other = engine.buffer((2, 3), np.float32)
    tail = buffer.rows(1, 5).rows(2, 4)
    assert engine.run({"a": tail, "b": tail}, None, {"product": other, "sum": buffer.rows(0, 2)}) == {}
    np.testing.assert_array_equal(other.read(), (a + b) ** 2)
    np.testing.assert_array_equal(buffer.rows(0, 2).read(), 2 * (a + b))
    assert engine.run({"a": buffer.rows(2, 2), "b": buffer.rows(5, 5)})["sum"].shape == (0, 3)


def test_rows_of_a_buffer_can_be_a_batch_of_one(engine: Engine) -> None:
    buffer = engine.buffer((6, 3), np.float32)
    buffer.write(_rows(1, 6))
    batch = buffer.rows(2, 5, batch=True)
    assert (batch.shape, batch.pointer) == ((1, 3, 3), buffer.pointer + 24)
    np.testing.assert_array_equal(batch.read(), buffer.read()[None, 2:5])


def test_buffers_outlive_the_view_they_were_made_from(engine: Engine) -> None:
    a = _rows(3, 4)

    def view():
        buffer = engine.buffer((4, 3), np.float32)
        buffer.write(a)
        return buffer.rows(1, 3)

    kept = view()
    np.testing.assert_array_equal(engine.run({"a": kept, "b": kept})["sum"], 2 * a[1:3])


def test_rows_are_copied_and_gathered(engine: Engine) -> None:
    a = _rows(1, 6)
    buffer, other = (engine.buffer((6, 3), np.float32) for _ in range(2))
    buffer.write(a)
    other.copy(buffer.rows(2, 5).gather(np.array([0, 2])), 3)
    np.testing.assert_array_equal(other.read()[3:5], a[[2, 4]])


def test_a_bound_run_reads_what_is_there_then(engine: Engine) -> None:
    a, buffer = _rows(1, 2), engine.buffer((6, 3), np.float32)

    views: list[weakref.ref[np.ndarray]] = []

    def bound() -> Callable[[], None]:
        into = {"sum": buffer.rows(2, 4), "product": buffer.rows(4, 6)}
        inputs = {"a": a[:], "b": buffer.rows(0, 2)}
        views.extend(weakref.ref(array) for array in (inputs["a"], *(b.read() for b in into.values())))
        return engine.bind(inputs, into)

    run = bound()
    gc.collect()
    assert all(view() is not None for view in views)  # onnxruntime 1.27 would let go of them
    for seed in (3, 4):
        a[:] = _rows(seed, 2)
        b = _rows(seed + 10, 2)
        buffer.write(b)
        engine.run({"a": b, "b": b})  # other runs in between change nothing
        run()
        np.testing.assert_array_equal(buffer.read(), np.concatenate([b, a + b, a * b]))


def test_runs_that_cannot_be_bound_are_explained(engine: Engine) -> None:
    a = _rows(1, 2)
    into = {name: engine.buffer((2, 3), np.float32) for name in ("sum", "product")}
    with pytest.raises(EngineError, match=r"arithmetic\.onnx failed: it lacks its input b"):
        engine.bind({"a": a}, into)
    with pytest.raises(EngineError, match=r"arithmetic\.onnx failed"):
        engine.bind({"a": a, "b": a.astype(np.float64)}, into)()
    with pytest.raises(EngineError, match=r"arithmetic\.onnx failed"):
        engine.bind({"a": a, "b": _rows(2, 3)}, into)()


@pytest.mark.parametrize(("version", "most"), [("1.23.2", 24), ("1.25.1", 24), ("1.26.0", 4), ("1.32.0", 4)])
def test_fewer_rows_stay_on_one_thread_where_threads_spin(version: str, most: int) -> None:
    assert few_rows(version) == most


@pytest.mark.parametrize(
    ("flags", "levels"),
    [({"fma", "avx2"}, False), ({"fma", "avx2", "avx512f"}, True), ({"asimd", "asimddp"}, True), (set(), True)],
)
def test_one_row_is_multiplied_with_int4_levels_where_that_is_faster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: set[str], levels: bool
) -> None:
    path = tmp_path / "linear.onnx"
    weights = np.random.default_rng(0).normal(size=(32, 64)).astype(np.float32)
    graph = GraphBuilder("linear")
    graph.note(FEW_ROWS, "a")
    graph.input("a", ["N", 64])
    Linears({"linear.weight": weights}.__getitem__, DecoderPrecision(unpacked=True)).add(graph, "a", ["linear"], "b")
    graph.output("b", ["N", 32])
    graph.save(path)
    unpacked: list[bool] = []

    class Watched(onnxruntime.InferenceSession):
        def run(self, *arguments: Any) -> Any:
            try:
                setting = self.get_session_options().get_session_config_entry("session.disable_quant_qdq")
            except RuntimeError:  # it was not made
                setting = "0"
            unpacked.append(setting == "1")
            return super().run(*arguments)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Watched)
    monkeypatch.setattr("osprey_ros.engines.onnxruntime.cpu_flags", lambda: frozenset(flags))
    engine = load_engine(path, threads=2)
    states = np.random.default_rng(1).normal(size=(2, 64)).astype(np.float32)
    one, two = engine.run({"a": states[:1]})["b"], engine.run({"a": states})["b"]
    assert unpacked == [not levels, True]
    np.testing.assert_allclose(one[0], two[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx2\nbugs\t\t: none\n\nprocessor\t: 1\nflags\t\t: fpu\n", {"fpu", "avx2"}),
        ("processor\t: 0\nFeatures\t: fp asimd\nCPU part\t: 0xd42\n", {"fp", "asimd"}),
        ("processor\t: 0\nhart\t\t: 0\n", set()),
    ],
)
def test_the_processor_says_what_it_can_do(tmp_path: Path, text: str, flags: set[str]) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    assert cpu_flags(tmp_path / "cpuinfo") == flags
    assert cpu_flags(tmp_path / "none") == set()
    assert cpu_flags() & {"fpu", "fp"}  # this one: x86 or ARM


def test_few_rows_run_on_one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = GraphBuilder("double")
    graph.note(FEW_ROWS, "a")
    graph.input("a", ["N", 3])
    graph.node("Add", ["a", "a"], "sum")
    graph.output("sum", ["N", 3])
    graph.save(tmp_path / "double.onnx")
    threads = []

    class Watched(onnxruntime.InferenceSession):
        def run(self, *arguments: Any) -> Any:
            threads.append(self.get_session_options().intra_op_num_threads)
            return super().run(*arguments)

        def run_with_iobinding(self, *arguments: Any) -> None:
            threads.append(self.get_session_options().intra_op_num_threads)
            super().run_with_iobinding(*arguments)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Watched)
    engine = load_engine(tmp_path / "double.onnx", threads=2)
    few = few_rows(onnxruntime.__version__)
    for count in (1, few, few + 1):
        np.testing.assert_array_equal(engine.run({"a": _rows(1, count)})["sum"], 2 * _rows(1, count))
        engine.bind({"a": _rows(1, count)}, {"sum": engine.buffer((count, 3), np.float32)})()
    assert threads == [1, 1, 1, 1, 2, 2]


def test_inputs_that_it_refuses_are_named(engine: Engine) -> None:
    a = _rows(1, 2)
    with pytest.raises(EngineError, match=r"arithmetic\.onnx failed: it lacks its input b"):
        engine.run({"a": a})
    with pytest.raises(EngineError, match="it has no c"):
        engine.run({"a": a, "b": a, "c": a})
    with pytest.raises(EngineError, match=r"arithmetic\.onnx failed"):
        engine.run({"a": a, "b": a.astype(np.float64)})
    with pytest.raises(EngineError, match=r"arithmetic\.onnx failed"):
        engine.run({"a": a, "b": a}, None, {"sum": engine.buffer((3, 3), np.float32)})
    np.testing.assert_array_equal(engine.run({"a": a, "b": a})["sum"], 2 * a)  # and goes on working


def test_engines_that_cannot_be_loaded_are_named(path: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no graph")
    with pytest.raises(EngineError, match=r"broken\.onnx"):
        load_engine(broken)
    with pytest.raises(EngineError, match="unknown engine runtime 'abacus'"):
        load_engine(path, runtime="abacus")
    with pytest.raises(EngineError, match="unknown device 'tpu'"):
        load_engine(path, device="tpu")
    with pytest.raises(EngineError, match="TensorRT runs on the device 'cuda' only"):
        load_engine(path, runtime="tensorrt", device="cpu")
    with pytest.raises(EngineError, match="threads is 0"):
        load_engine(path, threads=0)


@pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="this onnxruntime knows CUDA"
)
def test_missing_cuda_provider_is_explained(path: Path) -> None:
    with pytest.raises(EngineError, match="no CUDAExecutionProvider: `pip install onnxruntime-gpu`"):
        load_engine(path, device="cuda")
