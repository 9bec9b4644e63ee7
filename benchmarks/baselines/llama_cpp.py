"""Baseline "llama.cpp": the bundle's language model as a GGUF file; sequences share the cells of one prefix."""

from __future__ import annotations

import ctypes
import time
from pathlib import Path

import numpy as np

from benchmarks.baselines.weights import LlamaWeights, rows_of
from osprey_ros.errors import InputError
from osprey_torch.quantize import QuantizedLinear

try:
    import gguf
    import llama_cpp
except ImportError as error:
    raise InputError(f"{error} (see requirements/bench.txt)") from error


def write_gguf(weights: LlamaWeights, path: Path) -> None:
    """Write the model with the bundle's levels: int4 as Q4_0, int8 as Q8_0, with float16 scales, and no vocabulary.

    Raises:
        InputError: A layer does not fit the blocks of GGUF.
    """
    config = weights.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_positions)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("none")
    writer.add_tensor("token_embd.weight", np.asarray(weights.embeddings))
    writer.add_tensor("output_norm.weight", weights.norms["model.norm.weight"])
    _add(writer, "output.weight", weights.linears["logits"])
    for layer in range(config.num_layers):
        parts, block = weights.split(layer), f"blk.{layer}"
        order = _rotary_rows(config.num_heads, config.head_dim)
        for name, part in (("attn_q", "self_attn.q_proj"), ("attn_k", "self_attn.k_proj")):
            _add(writer, f"{block}.{name}.weight", rows_of(parts[part], order))
        for name, part in (
            ("attn_v", "self_attn.v_proj"),
            ("attn_output", "self_attn.o_proj"),
            ("ffn_gate", "mlp.gate_proj"),
            ("ffn_up", "mlp.up_proj"),
            ("ffn_down", "mlp.down_proj"),
        ):
            _add(writer, f"{block}.{name}.weight", parts[part])
        for name, norm in (("attn_norm", "input_layernorm"), ("ffn_norm", "post_attention_layernorm")):
            writer.add_tensor(f"{block}.{name}.weight", weights.norms[f"model.layers.{layer}.{norm}.weight"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _rotary_rows(heads: int, dim: int) -> np.ndarray:
    """Return the rows in llama.cpp's order: it rotates neighboring rows, the checkpoint the halves of a head."""
    rows: np.ndarray = np.arange(heads * dim).reshape(heads, 2, dim // 2).swapaxes(1, 2).reshape(-1)
    return rows


def _add(writer: gguf.GGUFWriter, name: str, weight: QuantizedLinear | np.ndarray) -> None:
    if not isinstance(weight, QuantizedLinear):
        writer.add_tensor(name, np.ascontiguousarray(weight))
        return
    if weight.in_features % weight.levels.shape[2]:
        raise InputError(f"{name} has {weight.in_features} inputs, GGUF's blocks need a multiple of 32")
    if weight.scales.max() > np.finfo(np.float16).max:
        raise InputError(f"{name} has scales beyond float16, which GGUF's blocks need")
    kind = {4: gguf.GGMLQuantizationType.Q4_0, 8: gguf.GGMLQuantizationType.Q8_0}[weight.bits]
    scales = weight.scales.astype(np.float16)[:, :, None].view(np.uint8)
    if weight.bits == 4:
        unsigned = (weight.levels + 8).astype(np.uint8)
        levels = unsigned[:, :, :16] | (unsigned[:, :, 16:] << 4)  # the second half of a block in the high bits
    else:
        levels = weight.levels.view(np.uint8)
    blocks = np.concatenate([scales, levels], axis=2)
    writer.add_tensor(name, blocks.reshape(len(blocks), -1), raw_dtype=kind)


class LlamaCpp:
    """Decode sequences greedily after a prefix of token ids."""

    name = "llama.cpp"

    def __init__(self, weights: LlamaWeights, folder: Path, threads: int, prefix: np.ndarray, steps: int) -> None:
        path = folder / "model.gguf"
        write_gguf(weights, path)
        self._quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self._quiet, ctypes.c_void_p(0))
        options = llama_cpp.llama_model_default_params()
        options.n_gpu_layers = 0
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), options)
        if not self._model:
            raise InputError(f"llama.cpp cannot load the GGUF file of {weights.config.num_layers} layers")
        self._threads = threads
        self._prefix = prefix
        self._steps = steps
        self._vocab = weights.config.vocab_size
        self._contexts: dict[int, ctypes.c_void_p] = {}
        self._first = np.zeros(0, np.int64)
        self._tokens = np.zeros((0, 0), np.int64)

    def prepare(self, first: np.ndarray) -> None:
        """Compute the prefix if it is missing, and let all sequences share its cells."""
        rows, branches = len(self._prefix), len(first)
        if branches not in self._contexts:
            self._contexts[branches] = self._context(branches)
            for start in range(0, rows, 512):
                part = self._prefix[start : start + 512]
                self._decode(branches, part, np.arange(start, start + len(part)), [0] * len(part), last_only=True)
        memory = llama_cpp.llama_get_memory(self._contexts[branches])
        llama_cpp.llama_memory_seq_rm(memory, 0, rows, -1)
        for branch in range(1, branches):
            llama_cpp.llama_memory_seq_rm(memory, branch, 0, -1)
            llama_cpp.llama_memory_seq_cp(memory, 0, branch, 0, rows)
        self._first = first

    def run(self) -> float:
        """Return the seconds of `steps` steps after a first one; each step is one run of the model."""
        branches = len(self._first)
        self._tokens = np.zeros((self._steps + 1, branches), np.int64)
        fed, owners = self._first, list(range(branches))
        start = 0.0
        for step in range(self._steps + 1):
            if step == 1:
                start = time.perf_counter()
            self._decode(branches, fed, np.full(branches, len(self._prefix) + step), owners, last_only=False)
            logits = llama_cpp.llama_get_logits(self._contexts[branches])
            rows = np.ctypeslib.as_array(logits, shape=(branches, self._vocab))
            fed = self._tokens[step] = rows.argmax(axis=1)
        return time.perf_counter() - start

    def tokens(self, branches: int) -> np.ndarray:
        """Return the tokens of the last run, [steps + 1, branches]."""
        return self._tokens[:, :branches]

    def close(self) -> None:
        for context in self._contexts.values():
            llama_cpp.llama_free(context)
        llama_cpp.llama_model_free(self._model)

    def _context(self, branches: int) -> ctypes.c_void_p:
        options = llama_cpp.llama_context_default_params()
        options.n_ctx = len(self._prefix) + branches * (self._steps + 1)
        options.n_batch = options.n_ubatch = 512
        options.n_seq_max = branches
        options.kv_unified = True  # otherwise each sequence has its own cells
        options.n_threads = options.n_threads_batch = self._threads
        options.no_perf = True
        context: ctypes.c_void_p | None = llama_cpp.llama_init_from_model(self._model, options)
        if not context:
            raise InputError(f"llama.cpp cannot create a context for {branches} sequences")
        return context

    def _decode(
        self, branches: int, tokens: np.ndarray, positions: np.ndarray, owners: list[int], last_only: bool
    ) -> None:
        batch = llama_cpp.llama_batch_init(len(tokens), 0, 1)
        batch.n_tokens = len(tokens)
        for n, (token, position, owner) in enumerate(zip(tokens, positions, owners, strict=True)):
            batch.token[n] = int(token)
            batch.pos[n] = int(position)
            batch.n_seq_id[n] = 1
            batch.seq_id[n][0] = owner
            batch.logits[n] = not last_only or n == len(tokens) - 1
        status = llama_cpp.llama_decode(self._contexts[branches], batch)
        llama_cpp.llama_batch_free(batch)
        if status != 0:
            raise InputError(f"llama_decode failed with status {status}")
