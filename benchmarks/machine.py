"""Measure the limits of this machine: rate of large matrix products and memory bandwidth, with all threads."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from onnx import TensorProto

from benchmarks.interleaved_timing import seconds_of
from osprey_torch.onnx_graph import GraphBuilder

_SIDE = 2048  # of the matrices
_BYTES = 1 << 30  # of each array: larger than any cache
_RUNS = 5


@dataclass(frozen=True)
class MachineLimits:
    """Best of several runs, in operations and bytes per second; a multiplication and an addition are two operations."""

    fp32_gemm: float  # torch, 2048^3
    fp32_gemm_onnxruntime: float
    int8_gemm_onnxruntime: float  # MatMulInteger, unsigned by signed
    read: float  # sum of an array
    copy: float  # bytes read and written
    triad: float  # a = b + s * c: bytes read and written


def measure_limits(threads: int) -> MachineLimits:
    """Measure the limits of this machine; this takes some seconds and 3 GiB."""
    torch.set_num_threads(threads)
    operations = 2.0 * _SIDE**3
    left, right = torch.randn(_SIDE, _SIDE), torch.randn(_SIDE, _SIDE)
    product = torch.empty(_SIDE, _SIDE)
    fp32 = _best(lambda: torch.mm(left, right, out=product))
    floats = _onnx_product("MatMul", TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.FLOAT, threads)
    integers = _onnx_product("MatMulInteger", TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32, threads)
    a, b, c = (torch.ones(_BYTES // 4) for _ in range(3))
    return MachineLimits(
        fp32_gemm=operations / fp32,
        fp32_gemm_onnxruntime=operations / floats,
        int8_gemm_onnxruntime=operations / integers,
        read=_BYTES / _best(lambda: torch.sum(a)),
        copy=2 * _BYTES / _best(lambda: a.copy_(b)),
        triad=3 * _BYTES / _best(lambda: torch.add(b, c, alpha=3.0, out=a)),
    )


def _onnx_product(operator: str, left: int, right: int, out: int, threads: int) -> float:
    """Return the seconds of one product in onnxruntime; the right matrix is a weight, as in a linear layer."""
    numpy_types: dict[int, type[np.generic]] = {
        TensorProto.FLOAT: np.float32,
        TensorProto.UINT8: np.uint8,
        TensorProto.INT8: np.int8,
    }
    rng = np.random.default_rng(0)
    graph = GraphBuilder("product")
    graph.input("left", [_SIDE, _SIDE], left)
    weight = graph.weight("right", rng.integers(-100, 100, (_SIDE, _SIDE)).astype(numpy_types[right]))
    graph.node(operator, ["left", weight], "product")
    graph.output("product", [_SIDE, _SIDE], out)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "product.onnx"
        graph.save(path)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feeds = {"left": rng.integers(0, 200, (_SIDE, _SIDE)).astype(numpy_types[left])}
    return _best(lambda: session.run(None, feeds))


def _best(call: Callable[[], object]) -> float:
    seconds_of(call)
    return min(seconds_of(call) for _ in range(_RUNS))
