"""Baseline "genai": onnxruntime-genai with a model that its own builder makes from the bundle's language model."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from safetensors.numpy import save_file

from benchmarks.baselines.weights import LlamaWeights, as_float
from osprey_ros.bundle.bundle import Bundle
from osprey_ros.errors import InputError
from osprey_ros.strict_json import to_json
from osprey_torch.config import LLAMA_KEYS
from osprey_torch.quantize import BLOCK, QuantizedLinear

NAME = "onnxruntime-genai"

try:
    import onnxruntime_genai as genai
except ImportError as error:
    raise InputError(f"{error} (see requirements/bench.txt)") from error


def write_llama_folder(weights: LlamaWeights, bundle: Bundle, folder: Path) -> None:
    """Write the language model as the Hugging Face folder of a LLaMA, weights dequantized to float16."""
    config = weights.config
    folder.mkdir(parents=True)
    tensors = {
        "model.embed_tokens.weight": np.asarray(weights.embeddings),
        "lm_head.weight": as_float(weights.linears["logits"]).astype(np.float16),
    }
    tensors |= {name: norm.astype(np.float16) for name, norm in weights.norms.items()}
    for layer in range(config.num_layers):
        for name, weight in weights.split(layer).items():
            tensors[f"model.layers.{layer}.{name}.weight"] = as_float(weight).astype(np.float16)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    settings = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        **{key: getattr(config, name) for key, name in LLAMA_KEYS.items()},
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
    }
    (folder / "config.json").write_text(to_json(settings, indent=1) + "\n")
    bundle.tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}\n')


def build_model(
    weights: LlamaWeights, bundle: Bundle, folder: Path, threads: int, device: str, float32: bool = False
) -> Path:
    """Run the model builder (int4, blocks of 32) and replace its levels with those of the bundle. Return the folder.

    With ``float32`` products are computed in float32, as in small bundles, else in int8, as the builder sets it.

    Raises:
        InputError: The builder fails, or stores a layer in another format.
    """
    write_llama_folder(weights, bundle, folder / "llama")
    options = [f"block_size={BLOCK}", "prune_lm_head=true"]
    output_layer = weights.linears["logits"]
    if not isinstance(output_layer, QuantizedLinear):
        options.append("nodes_to_exclude=/lm_head/MatMul")
    elif output_layer.bits == 8:
        options += ["algo_config=rtn", "matmul_mixed_precision=last_matmul:int8"]
    output = folder / "genai"
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(folder / "llama"), "-o", str(output)]
    command += ["-p", "int4", "-e", device, "-c", str(folder / "cache"), "--extra_options", *options]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise InputError(f"onnxruntime-genai's model builder failed: {last}")
    _take_levels(weights, output / "model.onnx", float32)
    path = output / "genai_config.json"
    settings = json.loads(path.read_text())
    settings["model"]["eos_token_id"] = settings["model"]["bos_token_id"]  # answers never end before the limit
    settings["model"]["decoder"]["session_options"]["intra_op_num_threads"] = threads
    path.write_text(to_json(settings, indent=1))
    return output


def _take_levels(weights: LlamaWeights, path: Path, float32: bool) -> None:
    """Replace the quantized weights of a built model with those of the bundle. Graph and sizes stay the same."""
    model = onnx.load(path)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    layers = [weights.split(layer) for layer in range(weights.config.num_layers)]
    for node in model.graph.node:
        if node.op_type != "MatMulNBits":
            continue
        place = re.search(r"layers\.(\d+)/(attn|mlp)/(\w+)/MatMul", node.name)
        if place is None:
            linear = weights.linears["logits"]
        elif place[3] == "qkv_proj":
            linear = weights.linears[f"layers.{place[1]}.qkv"]
        else:
            linear = layers[int(place[1])][f"{'self_attn' if place[2] == 'attn' else 'mlp'}.{place[3]}"]
        packed, scales = stored[node.input[1]], stored[node.input[2]]
        if not isinstance(linear, QuantizedLinear) or math.prod(packed.dims) != linear.packed().size:
            raise InputError(f"the model builder stores {node.name} in another format than the bundle")
        for attribute in node.attribute:
            if float32 and attribute.name == "accuracy_level":
                attribute.i = 0
        packed.raw_data = linear.packed().tobytes()
        scales.raw_data = linear.scales.tobytes()
    data = path.with_name(f"{path.name}.data")
    data.unlink(missing_ok=True)
    onnx.save(model, path, save_as_external_data=True, location=data.name, size_threshold=1024)


class Genai:
    """Decode a batch greedily. Each sequence has its own keys and values, because prefixes cannot be shared."""

    def __init__(
        self,
        weights: LlamaWeights,
        bundle: Bundle,
        folder: Path,
        threads: int,
        prefix: np.ndarray,
        steps: int,
        device: str = "cpu",
        float32: bool = False,
    ) -> None:
        self.name = f"{NAME}-float32" if float32 else NAME
        self._model = genai.Model(str(build_model(weights, bundle, folder, threads, device, float32)))
        self._prefix = prefix
        self._steps = steps
        self._generator: Any = None

    def prepare(self, first: np.ndarray) -> None:
        """Run the prefix and the first token of each sequence, and decode the next token."""
        rows = np.concatenate([np.repeat(self._prefix[None], len(first), axis=0), first[:, None]], axis=1)
        parameters = genai.GeneratorParams(self._model)
        longest = rows.shape[1] + self._steps + 2
        # With equal limits, no sequence ends before the limit.
        parameters.set_search_options(max_length=longest, min_length=longest, batch_size=len(first), do_sample=False)
        self._generator = None  # free its memory before creating the next one
        self._generator = genai.Generator(self._model, parameters)
        self._generator.append_tokens(rows.astype(np.int32))
        self._generator.generate_next_token()

    def run(self) -> float:
        """Return the seconds of `steps` steps after a first one; each step is one run of the model."""
        self._generator.generate_next_token()
        start = time.perf_counter()
        for _ in range(self._steps):
            self._generator.generate_next_token()
        return time.perf_counter() - start

    def tokens(self, branches: int) -> np.ndarray:
        """Return the tokens of the last run, [steps + 1, branches]."""
        start = len(self._prefix) + 1
        rows = [self._generator.get_sequence(n)[start : start + self._steps + 1] for n in range(branches)]
        return np.stack(rows, axis=1)

    def close(self) -> None:
        self._generator = None
