"""Baseline "batched": the whole prompts of all regions in one batch, with the prefix repeated for each."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from benchmarks.baselines.batched_graph import build_batched_decoder
from benchmarks.baselines.torch_loop import TorchLoop
from benchmarks.baselines.weights import LlamaWeights
from osprey_ros.decoding.prompt import IMAGE, MASK, POSITION
from osprey_ros.engines.onnxruntime import release, waiting_threads
from osprey_ros.errors import InputError
from osprey_ros.regions.regions import Regions

# Activations in memory at the same time in the widest part of a layer, relative to its width.
_LIVE_ROWS = 3


class BatchedDecoder:
    """The batched decoder in onnxruntime. Each call allocates its cache once and updates it in place."""

    def __init__(self, weights: LlamaWeights, folder: Path, threads: int, device: str = "cpu") -> None:
        if release(onnxruntime.__version__) < (1, 32):
            # With 1.23.2 the memory is corrupt after the first call.
            raise InputError(f"GroupQueryAttention of onnxruntime {onnxruntime.__version__} crashes; use 1.32")
        path = folder / "batched.onnx"
        build_batched_decoder(weights, path)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors only
        options.intra_op_num_threads = threads
        for key, value in waiting_threads(onnxruntime.__version__).items():  # as for the engines
            options.add_session_config_entry(key, value)
        providers = {"cpu": ["CPUExecutionProvider"], "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"]}
        try:
            self._session = onnxruntime.InferenceSession(os.fspath(path), options, providers=providers[device])
        except Exception as error:  # onnxruntime's exceptions share no base class below Exception
            raise InputError(f"onnxruntime has no kernels for it on {device}: {error}") from error
        self._device = device
        self._config = weights.config

    def memory_needed(self, prompts: int, rows: int, new_tokens: int) -> int:
        """Return about how many bytes a call needs for cache and activations."""
        config = self._config
        cache = 2 * config.num_layers * (rows + new_tokens) * config.hidden_size
        return 4 * prompts * (cache + rows * _LIVE_ROWS * 2 * config.intermediate_size)

    def generate(self, prompts: np.ndarray, embeddings: np.ndarray, new_tokens: int, eos_id: int) -> list[list[int]]:
        """Return greedy answers to prompts float32 [B, S, hidden], each up to its end-of-sequence token."""
        count, rows, _ = prompts.shape
        config = self._config
        shape = (count, config.num_heads, rows + new_tokens, config.head_dim)
        binding = self._session.io_binding()
        for layer in range(config.num_layers):
            for kind in ("key", "value"):
                cache = onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(shape, np.float32), self._device, 0)
                binding.bind_ortvalue_input(f"past_{kind}.{layer}", cache)
                binding.bind_ortvalue_output(f"present_{kind}.{layer}", cache)
        tokens = np.zeros((count, new_tokens), np.int64)
        embeds, length = prompts, rows
        for step in range(new_tokens):
            binding.bind_cpu_input("inputs_embeds", np.ascontiguousarray(embeds, np.float32))
            binding.bind_cpu_input("last_rows", np.full(count, embeds.shape[1] - 1, np.int64))
            binding.bind_cpu_input("seqlens_k", np.full(count, length - 1, np.int32))
            binding.bind_cpu_input("total_sequence_length", np.array(length, np.int32))
            binding.bind_output("logits", "cpu")
            self._session.run_with_iobinding(binding)
            tokens[:, step] = binding.get_outputs()[-1].numpy().argmax(axis=1)
            if (tokens[:, : step + 1] == eos_id).any(axis=1).all():
                break
            embeds = embeddings[tokens[:, step]].astype(np.float32)[:, None]
            length += 1
        return [_until(row[: step + 1].tolist(), eos_id) for row in tokens]


class BatchedSide:
    """Answer about regions with the batched decoder. The model of the loop encodes image and regions beforehand."""

    def __init__(self, weights: LlamaWeights, loop: TorchLoop, folder: Path, threads: int, device: str) -> None:
        self._decoder = BatchedDecoder(weights, folder, threads, device)
        self._loop = loop
        self._embeddings = weights.embeddings

    def prompts(self, rgb: np.ndarray, regions: Regions, question: str, new_tokens: int) -> np.ndarray:
        """Return the embeddings of each region's whole prompt, float32 [N, S, hidden].

        Raises:
            InputError: The answers need more memory than is available.
        """
        ids = np.array(self._loop.prompts.prompt(question), np.intp)
        spec = self._loop.spec
        check_memory(self._decoder.memory_needed(len(regions), len(ids) - 1 + spec.image_tokens, new_tokens))
        image_tokens, mask_tokens, position_tokens = self._loop.region_tokens(rgb, regions)
        rows = np.repeat(self._embeddings[np.maximum(ids, 0)].astype(np.float32)[None], len(regions), axis=0)
        rows[:, ids == MASK] = mask_tokens[:, None]
        rows[:, ids == POSITION] = position_tokens[:, None]
        at = int(np.flatnonzero(ids == IMAGE)[0])
        image = np.broadcast_to(image_tokens, (len(regions), *image_tokens.shape))
        return np.concatenate([rows[:, :at], image, rows[:, at + 1 :]], axis=1)

    def generate(self, prompts: np.ndarray, new_tokens: int) -> list[list[int]]:
        """Return the tokens of each answer."""
        return self._decoder.generate(prompts, self._embeddings, new_tokens, self._loop.spec.eos_id)


def check_memory(needed: int) -> None:
    """Raise InputError if fewer than `needed` bytes are available."""
    with open("/proc/meminfo", encoding="ascii") as lines:
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    if needed > 0.9 * free:
        raise InputError(f"it needs about {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free")


def _until(tokens: Sequence[int], eos_id: int) -> list[int]:
    return list(tokens[: tokens.index(eos_id) + 1]) if eos_id in tokens else list(tokens)
