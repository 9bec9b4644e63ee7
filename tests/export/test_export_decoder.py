"""The decoder graph against transformers' LLaMA: prefix, branches of unequal length, steps, quantization."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from checkpoint_linears import Linears
from onnx_session import open_session
from transformers import LlamaConfig, LlamaModel

from export.graph_decoder import DecoderShape, build_decoder
from export.linears import DecoderPrecision
from osprey_ros.bundle.spec import ModelSpec
from osprey_ros.decoding.decoder import Decoder
from osprey_ros.decoding.kv_cache import NO_PREFIX
from osprey_ros.engines.base import load_engine
from osprey_ros.engines.onnxruntime import FEW_ROWS
from osprey_torch.quantize import quantize_linear

SHAPE = DecoderShape(
    hidden_size=64,
    num_layers=2,
    num_heads=4,
    num_kv_heads=4,
    head_dim=16,
    vocab_size=50,
    max_positions=96,
    rms_norm_eps=1e-5,
    rope_theta=10000.0,
)
HIDDEN = -1e9


class Llama(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        config = LlamaConfig(
            hidden_size=SHAPE.hidden_size,
            intermediate_size=96,
            num_hidden_layers=SHAPE.num_layers,
            num_attention_heads=SHAPE.num_heads,
            vocab_size=SHAPE.vocab_size,
            max_position_embeddings=SHAPE.max_positions,
            rms_norm_eps=SHAPE.rms_norm_eps,
        )
        self.model = LlamaModel(config)
        self.lm_head = torch.nn.Linear(SHAPE.hidden_size, SHAPE.vocab_size, bias=False)

    @torch.inference_mode()
    def logits(self, rows: np.ndarray) -> np.ndarray:
        """Logits [S, V] of every row of one sequence [S, H]."""
        hidden = self.model(inputs_embeds=torch.from_numpy(rows)[None], use_cache=False).last_hidden_state[0]
        return self.lm_head(hidden).numpy()

    def read(self) -> Callable[[str], np.ndarray]:
        state = self.state_dict()
        return lambda name: state[name].numpy()


@pytest.fixture(scope="module")
def llama() -> Llama:
    torch.manual_seed(0)
    model = Llama().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # Weights this large make attention sharp and every norm's scale different: mistakes show.
            parameter.copy_(torch.randn_like(parameter) * (0.15 if parameter.ndim == 2 else 0.3))
    return model


# The same graph for onnxruntime on the CPU, where it writes keys and values in place, and in plain operators.
PLAIN = DecoderPrecision("fp32", "fp32", dialect="tensorrt")
FP32 = [DecoderPrecision("fp32", "fp32"), PLAIN]


@dataclass
class Engine:
    """The decoder engine with plain numpy inputs; caches are lists over layers of (keys, values).

    Masks are those of the plain spelling: of the rows in `branches` and of the new ones, which see all of the prefix.
    """

    session: onnxruntime.InferenceSession

    @classmethod
    def build(cls, read: Callable[[str], np.ndarray], path: Path, precision: DecoderPrecision) -> Engine:
        build_decoder(SHAPE, Linears(read, precision), path)
        return cls(open_session(path, {"session.disable_quant_qdq": "1"}))  # products in float32, not in int8

    def run(self, rows, positions, mask, wanted, prefix, branches):
        feed = {
            "inputs_embeds": rows,
            "position_ids": np.asarray(positions, np.int64),
            "mask": mask,
            "logit_rows": np.asarray(wanted, np.int64),
        }
        if "key.0" in {i.name for i in self.session.get_inputs()}:
            return self._run_in_place(feed, prefix, branches)
        for i in range(SHAPE.num_layers):
            feed[f"prefix_key.{i}"], feed[f"prefix_value.{i}"] = prefix[i]
            feed[f"branch_key.{i}"], feed[f"branch_value.{i}"] = branches[i]
        logits, token, logprob, *caches = self.session.run(None, feed)
        _assert_best(token, logprob, logits)
        return logits, list(zip(caches[0::2], caches[1::2], strict=True))

    def _run_in_place(self, feed, prefix, branches):
        count, stored = len(feed["inputs_embeds"]), len(prefix[0][0])
        feed["mask"] = np.concatenate([np.zeros((count, stored), np.float32), feed["mask"]], axis=1)
        binding, caches = self.session.io_binding(), []
        for i in range(SHAPE.num_layers):
            caches.append([])
            for kind, before, own in zip(("key", "value"), prefix[i], branches[i], strict=True):
                # What is not written before it is read shows.
                rows = np.concatenate([before, own, np.full((count, *own.shape[1:]), np.nan, np.float32)])
                flat = rows.reshape(1, len(rows), -1)
                binding.bind_cpu_input(f"{kind}.{i}", flat)
                caches[i].append(rows[-count:])
                new = onnxruntime.OrtValue.ortvalue_from_numpy(flat[:, -count:])
                binding.bind_ortvalue_output(f"new_{kind}.{i}", new)
        for name, value in feed.items():
            binding.bind_cpu_input(name, value)
        for name in ("logits", "best_token", "best_logprob"):
            binding.bind_output(name, "cpu")
        self.session.run_with_iobinding(binding)
        logits, token, logprob = (value.numpy() for value in binding.get_outputs()[-3:])
        _assert_best(token, logprob, logits)
        return logits, caches

    def prefill(self, rows):
        return self.run(rows, range(len(rows)), _causal(len(rows)), range(len(rows)), _cache(0), _cache(0))


def _assert_best(token: np.ndarray, logprob: np.ndarray, logits: np.ndarray) -> None:
    np.testing.assert_array_equal(token, logits.argmax(axis=-1))
    np.testing.assert_allclose(logprob, torch.from_numpy(logits).double().log_softmax(-1).max(-1).values, atol=1e-5)


def _cache(rows: int) -> list[tuple[np.ndarray, np.ndarray]]:
    shape = (rows, SHAPE.num_heads, SHAPE.head_dim)
    return [(np.zeros(shape, np.float32), np.zeros(shape, np.float32)) for _ in range(SHAPE.num_layers)]


def _causal(rows: int) -> np.ndarray:
    return np.where(np.tril(np.ones((rows, rows), bool)), 0.0, HIDDEN).astype(np.float32)


def _random_rows(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.standard_normal((count, SHAPE.hidden_size)).astype(np.float32)


@pytest.mark.parametrize("precision", FP32)
def test_prefix_equals_llama(llama: Llama, tmp_path: Path, precision: DecoderPrecision) -> None:
    engine = Engine.build(llama.read(), tmp_path / "decoder.onnx", precision)
    rows = _random_rows(np.random.default_rng(1), 21)
    logits, _ = engine.prefill(rows)
    np.testing.assert_allclose(logits, llama.logits(rows), atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("precision", FP32)
def test_branches_of_unequal_length_over_several_steps_equal_llama(
    llama: Llama, tmp_path: Path, precision: DecoderPrecision
) -> None:
    """Three branches behind one prefix: their first rows together, then one row each, then two of them only."""
    engine = Engine.build(llama.read(), tmp_path / "decoder.onnx", precision)
    rng = np.random.default_rng(2)
    shared = _random_rows(rng, 13)
    _, prefix = engine.prefill(shared)
    capacity = 24
    buffer = _cache(capacity)
    owners: list[int] = []
    lengths = [0, 0, 0]
    written = [np.empty((0, SHAPE.hidden_size), np.float32)] * 3
    for new_lengths in ([5, 1, 3], [1, 1, 1], [1, 0, 1]):
        new = [_random_rows(rng, n) for n in new_lengths]
        owner = np.repeat(np.arange(3), new_lengths)
        place = np.concatenate([lengths[b] + np.arange(n) for b, n in enumerate(new_lengths)])
        mask = np.full((len(owner), capacity + len(owner)), HIDDEN, np.float32)
        mask[:, : len(owners)][owner[:, None] == np.array(owners, int)[None]] = 0.0
        own = (owner[:, None] == owner[None]) & (place[:, None] >= place[None])
        mask[:, capacity:][own] = 0.0
        last = [np.flatnonzero(owner == b)[-1] for b in range(3) if new_lengths[b]]
        logits, caches = engine.run(np.concatenate(new), len(shared) + place, mask, last, prefix, buffer)
        for (keys, values), (new_keys, new_values) in zip(buffer, caches, strict=True):
            keys[len(owners) : len(owners) + len(owner)] = new_keys
            values[len(owners) : len(owners) + len(owner)] = new_values
        owners += owner.tolist()
        alive = [b for b in range(3) if new_lengths[b]]
        for b in alive:
            written[b] = np.concatenate([written[b], new[b]])
            lengths[b] += new_lengths[b]
        reference = [llama.logits(np.concatenate([shared, written[b]]))[-1] for b in alive]
        np.testing.assert_allclose(logits, np.stack(reference), atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "precision",
    [
        DecoderPrecision("int4", "int4"),
        DecoderPrecision("int4", "fp16", unpacked=True),
        DecoderPrecision("int8", "fp16"),
    ],
)
def test_quantized_graph_equals_llama_with_the_quantized_weights(
    llama: Llama, tmp_path: Path, precision: DecoderPrecision
) -> None:
    quantized = copy.deepcopy(llama)
    with torch.no_grad():
        for linear in [m for m in quantized.model.layers.modules() if isinstance(m, torch.nn.Linear)]:
            levels = quantize_linear(linear.weight.numpy(), int(precision.llm[3:]))
            linear.weight.copy_(torch.from_numpy(levels.dequantize()))
        head = quantized.lm_head.weight
        exact = (
            quantize_linear(head.numpy()).dequantize() if precision.lm_head == "int4" else head.half().float().numpy()
        )
        head.copy_(torch.from_numpy(np.array(exact)))
    engine = Engine.build(llama.read(), tmp_path / "decoder.onnx", precision)
    rows = _random_rows(np.random.default_rng(3), 9)
    logits, _ = engine.prefill(rows)
    expected = quantized.logits(rows)
    if precision.llm == "int4":
        np.testing.assert_allclose(logits, expected, atol=2e-4, rtol=1e-4)
        assert np.abs(expected - llama.logits(rows)).max() > 0.02, "quantization must be visible to be tested"
    else:
        # 8-bit layers also multiply in int8, which costs up to a percent; 4-bit ones of this width do not.
        np.testing.assert_allclose(logits, expected, atol=0.02 * np.abs(expected).max())


def test_graph_in_half_precision_is_near_llama(llama: Llama, tmp_path: Path) -> None:
    """Prefix, then two branches behind it, all in float16 but logits and mask."""
    precision = DecoderPrecision("fp16", "fp16", half=True)
    build_decoder(SHAPE, Linears(llama.read(), precision), tmp_path / "decoder.onnx")
    engine = Engine(open_session(tmp_path / "decoder.onnx"))
    types = {i.name: i.type for i in (*engine.session.get_inputs(), *engine.session.get_outputs())}
    assert {name for name, kind in types.items() if kind == "tensor(float)"} == {"mask", "logits", "best_logprob"}
    rng = np.random.default_rng(5)
    shared, own = _random_rows(rng, 13), _random_rows(rng, 8)
    empty = [tuple(part.astype(np.float16) for part in layer) for layer in _cache(0)]
    logits, prefix = engine.run(shared.astype(np.float16), range(13), _causal(13), range(13), empty, empty)
    expected = llama.logits(shared)
    np.testing.assert_allclose(logits, expected, atol=0.02 * np.abs(expected).max())
    owner = np.repeat([0, 1], 4)
    mask = np.where(np.tril(owner[:, None] == owner), 0.0, HIDDEN).astype(np.float32)
    logits, _ = engine.run(own.astype(np.float16), 13 + np.arange(8) % 4, mask, [3, 7], prefix, empty)
    expected = np.stack(
        [llama.logits(np.concatenate([shared, own[:4]]))[-1], llama.logits(np.concatenate([shared, own[4:]]))[-1]]
    )
    np.testing.assert_allclose(logits, expected, atol=0.02 * np.abs(expected).max())


@torch.inference_mode()
def test_graph_of_the_first_layers(llama: Llama, tmp_path: Path) -> None:
    shape = replace(SHAPE, num_layers=1)
    build_decoder(shape, Linears(llama.read(), PLAIN), tmp_path / "decoder.onnx")
    session = open_session(tmp_path / "decoder.onnx")
    rows = _random_rows(np.random.default_rng(6), 7)
    empty = np.zeros((0, SHAPE.num_heads, SHAPE.head_dim), np.float32)
    past = {f"{part}_{kind}.0": empty for part in ("prefix", "branch") for kind in ("key", "value")}
    inputs = {"inputs_embeds": rows, "position_ids": np.arange(7), "mask": _causal(7), "logit_rows": np.arange(7)}
    logits = session.run(["logits"], {**inputs, **past})[0]
    shallow = copy.deepcopy(llama)
    shallow.model.layers = shallow.model.layers[:1]
    np.testing.assert_allclose(logits, shallow.logits(rows), atol=2e-4, rtol=1e-4)


def test_graph_for_the_cpu_has_few_nodes_and_operators_of_its_runtime(llama: Llama, tmp_path: Path) -> None:
    build_decoder(SHAPE, Linears(llama.read(), DecoderPrecision("int4", "int4")), tmp_path / "decoder.onnx")
    model = onnx.load(tmp_path / "decoder.onnx")
    special = {"MatMulNBits", "SkipSimplifiedLayerNormalization"}
    assert {node.op_type for node in model.graph.node if node.domain} == special
    # A third of what plain operators take; the logits and what all layers share besides.
    assert len(model.graph.node) < 20 * SHAPE.num_layers + 20
    # What is written in place is read by one node, whose query is made of what both writers give.
    for layer in range(SHAPE.num_layers):
        kept = {f"key.{layer}", f"value.{layer}"}
        (reader,) = (node for node in model.graph.node if kept & set(node.input))
        assert reader.op_type == "Attention"
        # Scaled by nothing: otherwise onnxruntime does not take its kernel for a single row of queries.
        assert {a.name: a.f for a in reader.attribute}["scale"] == 1.0
        before = _ancestors(model.graph, reader.input[0])
        for written in (f"new_key.{layer}", f"new_value.{layer}"):
            assert any(written in node.output for node in before)
    assert {opset.domain: opset.version for opset in model.opset_import}[""] == 23


def _ancestors(graph: onnx.GraphProto, value: str) -> list[onnx.NodeProto]:
    """The nodes that `value` is made by."""
    makers = {output: node for node in graph.node for output in node.output}
    found: dict[str, onnx.NodeProto] = {}
    wanted = [value]
    while wanted:
        name = wanted.pop()
        if name in makers and makers[name].name not in found:
            found[makers[name].name] = makers[name]
            wanted += makers[name].input
    return list(found.values())


@pytest.mark.parametrize("flags", [{"avx2"}, {"avx2", "avx512f"}])
def test_unpacked_layers_are_equal_in_every_session_that_is_made_of_them(
    llama: Llama, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: set[str]
) -> None:
    """One row is multiplied with int4 weights where that is faster, few on one thread, more on all: all the same."""
    monkeypatch.setattr("osprey_ros.engines.onnxruntime.cpu_flags", lambda: frozenset(flags))
    path = tmp_path / "decoder.onnx"
    build_decoder(SHAPE, Linears(llama.read(), DecoderPrecision("int4", "fp16", unpacked=True)), path)
    model = onnx.load(path)
    assert {p.key: p.value for p in model.metadata_props} == {FEW_ROWS: "inputs_embeds"}
    assert {opset.domain: opset.version for opset in model.opset_import}[""] == 23
    engine = load_engine(path, threads=2)
    spec = ModelSpec(
        **{field.name: 0 for field in fields(ModelSpec)}
        | {"hidden_size": SHAPE.hidden_size, "num_layers": SHAPE.num_layers, "num_heads": SHAPE.num_heads}
        | {"head_dim": SHAPE.head_dim, "vocab_size": SHAPE.vocab_size, "max_positions": SHAPE.max_positions}
    )
    rows = _random_rows(np.random.default_rng(7), 40)
    decoder = Decoder(engine, spec)
    together = decoder.run(rows, np.arange(40), _causal(40), np.arange(40))
    for parts in ([1] * 40, [4, 36], [20, 20]):
        prefix, found = NO_PREFIX, []
        for part in np.split(rows, np.cumsum(parts)[:-1]):
            positions = prefix.length + np.arange(len(part))
            found.append(decoder.run(part, positions, _causal(len(part)), np.arange(len(part)), prefix))
            prefix = decoder.prefill(part, prefix)
        np.testing.assert_allclose(np.concatenate(found), together, atol=2e-4, rtol=1e-4)


def test_lengths_known_at_run_time_only_split_nothing(llama: Llama, tmp_path: Path) -> None:
    """TensorRT's Split takes sizes that are constants."""
    build_decoder(SHAPE, Linears(llama.read(), PLAIN), tmp_path / "decoder.onnx")
    graph = onnx.load(tmp_path / "decoder.onnx").graph
    constants = {initializer.name for initializer in graph.initializer}
    splits = [node for node in graph.node if node.op_type == "Split"]
    assert splits
    assert all(node.input[1] in constants for node in splits if len(node.input) > 1)
