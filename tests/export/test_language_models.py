"""Families of language models: the decoder's engine against transformers' own model, from the folder to the answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from checkpoint_linears import Linears
from safetensors.torch import load_file
from tiny import TINY

from benchmarks.make_checkpoint import make_tokenizer
from export.graph_decoder import DecoderShape, build_decoder
from export.linears import DecoderPrecision
from osprey_ros.decoding.decoder import Decoder
from osprey_ros.decoding.loop import DecodeRequest
from osprey_ros.decoding.prompt_batch import Branches
from osprey_ros.engines.base import load_engine
from osprey_ros.errors import InputError
from osprey_ros.system.call import Call
from osprey_torch.checkpoint import Checkpoint, save_checkpoint
from osprey_torch.config import OspreyConfig
from osprey_torch.model import Osprey
from osprey_torch.readback import decoder_weights
from training.recipe import TowerStart
from training.start import model_from_llm

VOCABULARY = 400
SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
# Name of the classes in transformers, and what each family has that LLaMA has not.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama 3": ("Llama", {"num_key_value_heads": 2, "rope_parameters": LLAMA3, "tie_word_embeddings": True}),
    "mistral": ("Mistral", {"num_key_value_heads": 1, "head_dim": 32, "sliding_window": 300}),
    "qwen2": ("Qwen2", {"num_key_value_heads": 2, "tie_word_embeddings": True}),
    "qwen3": ("Qwen3", {"num_key_value_heads": 2, "head_dim": 24}),
}


@dataclass
class Published:
    """A language model of transformers, its folder, and the Osprey that starts from it."""

    folder: Path
    model: Any
    osprey: Osprey

    @torch.inference_mode()
    def logits(self, rows: np.ndarray) -> np.ndarray:
        """Logits [S, V] of every row of one sequence [S, H]."""
        return self.model(inputs_embeds=torch.from_numpy(rows)[None], use_cache=False).logits[0].numpy()


@pytest.fixture(scope="module", params=FAMILIES)
def published(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Published:
    name, own = FAMILIES[request.param]
    folder = tmp_path_factory.mktemp("llm")
    sizes = {**SIZES, "vocab_size": VOCABULARY, "max_position_embeddings": 512, "bos_token_id": 1, "eos_token_id": 2}
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}ForCausalLM")(getattr(transformers, f"{name}Config")(**{**sizes, **own}))
    with torch.no_grad():
        for parameter in model.parameters():
            # Weights this large make attention sharp and every norm's scale different: mistakes show.
            parameter.copy_(torch.randn_like(parameter) * (0.15 if parameter.ndim == 2 else 0.3))
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink()
    make_tokenizer(TINY.with_vocabulary(VOCABULARY)).save(str(folder / "tokenizer.json"))
    osprey, _ = model_from_llm(folder, None, TowerStart("test_resnet"))
    return Published(folder, model.eval(), osprey.eval())


def decoder_of(osprey: Osprey, folder: Path, precision: DecoderPrecision) -> Decoder:
    state = osprey.state_dict()
    shape = DecoderShape.of(osprey.config)
    build_decoder(shape, Linears(lambda name: state[name].numpy(), precision), folder / "decoder.onnx")
    return Decoder(load_engine(folder / "decoder.onnx", threads=1), osprey.config.model_spec())


# In place for onnxruntime on the CPU, and in plain operators as for TensorRT.
@pytest.mark.parametrize("dialect", ["onnxruntime", "tensorrt"])
def test_logits_equal_transformers(published: Published, tmp_path: Path, dialect: str) -> None:
    decoder = decoder_of(published.osprey, tmp_path, DecoderPrecision("fp32", "fp32", dialect=dialect))
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((40, SIZES["hidden_size"])).astype(np.float32)
    prefix = decoder.prefill(rows[:25])
    owners = np.repeat([0, 1], [10, 5])
    mask = np.where(np.tril(owners[:, None] == owners), 0, -1e9).astype(np.float32)
    positions = 25 + np.concatenate([np.arange(10), np.arange(5)])
    found = decoder.run(rows[25:], positions, mask, np.arange(15), prefix)
    for own in (slice(25, 35), slice(35, 40)):
        expected = published.logits(np.concatenate([rows[:25], rows[own]]))[25:]
        np.testing.assert_allclose(found[own.start - 25 : own.stop - 25], expected, atol=1e-4, rtol=1e-4)


def test_words_equal_transformers_in_any_grouping(published: Published, tmp_path: Path) -> None:
    decoder = decoder_of(published.osprey, tmp_path, DecoderPrecision("fp32", "fp32"))
    table = published.model.get_input_embeddings().weight.detach().numpy()
    rng = np.random.default_rng(2)
    shared = rng.standard_normal((20, SIZES["hidden_size"])).astype(np.float32)
    lengths = rng.integers(1, 7, 24)
    branches = [rng.standard_normal((length, SIZES["hidden_size"])).astype(np.float32) for length in lengths]
    end, steps = VOCABULARY, 5  # nothing ends an answer
    answers = []
    for size in (1, 7, 24):
        found = []
        for start in range(0, len(branches), size):
            group = Branches(branches[start : start + size])
            request = DecodeRequest(decoder.prefill(shared), group, lambda ids: table[np.asarray(ids)], steps, end)
            found += [generation.tokens for generation in decoder.generate(request, Call())]
        answers.append(found)
    leads = 0
    for number, branch in enumerate(branches):
        answer = answers[0][number]
        logits = published.logits(np.concatenate([shared, branch, table[answer[:-1]]]))[-steps:]
        best = np.sort(logits, axis=1)[:, -2:]
        unsure = np.flatnonzero(best[:, 1] - best[:, 0] < 1e-3)
        sure = int(unsure[0]) if len(unsure) else steps
        for other in answers:
            np.testing.assert_array_equal(other[number][:sure], logits.argmax(1)[:sure])
        leads += sure
    assert leads > 0.9 * steps * len(branches)


def test_a_checkpoint_keeps_its_family(published: Published, tmp_path: Path) -> None:
    tokenizer = make_tokenizer(TINY.with_vocabulary(VOCABULARY))
    tokenizer.add_special_tokens(["<mask>", "<pos>"])
    save_checkpoint(published.osprey, tokenizer, tmp_path)
    checkpoint = Checkpoint.open(tmp_path)
    assert checkpoint.config == published.osprey.config
    tied = published.osprey.config.tied_embeddings
    assert ("lm_head.weight" in load_file(tmp_path / "model.safetensors")) is not tied
    for name, tensor in published.osprey.state_dict().items():
        assert torch.equal(checkpoint.read_tensor(name), tensor), name


@pytest.mark.parametrize("llm", ["fp32", "int8"])
def test_weights_are_read_back(published: Published, tmp_path: Path, llm: str) -> None:
    decoder_of(published.osprey, tmp_path, DecoderPrecision(llm, "fp32"))
    read = decoder_weights(tmp_path / "decoder.onnx", published.osprey.config)
    for name, tensor in published.osprey.state_dict().items():
        if name.startswith(("model.layers.", "model.norm", "lm_head")):
            bound = 0 if llm == "fp32" or tensor.ndim == 1 else float(tensor.abs().max()) / 100
            np.testing.assert_allclose(read(name), tensor.numpy(), atol=bound, err_msg=name)


def test_what_a_family_cannot_be(tmp_path: Path) -> None:
    def config(**values: Any) -> OspreyConfig:
        data = {**OspreyConfig().to_json(), "osprey": {"language_model": "qwen2"}, **values}
        return OspreyConfig.from_json(data)

    # A window would hide the image: the context ends before it.
    assert config(sliding_window=1000, use_sliding_window=True).max_positions == 1000
    assert config(sliding_window=1000, use_sliding_window=False).max_positions == 4096
    assert config(max_position_embeddings=131072).max_positions == 8192
    for values, words in (
        ({"osprey": {"language_model": "gpt2"}}, "language_model is 'gpt2'"),
        ({"head_dim": 33}, "head_size is 33"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "only 'llama3'"),
        ({"rope_scaling": LLAMA3 | {"high_freq_factor": 1.0}}, "high_freq_factor must be above"),
    ):
        with pytest.raises(ValueError, match=words):
            config(**values)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(InputError, match="model_type is 'gpt2', it must be one of llama, mistral, qwen2, qwen3"):
        model_from_llm(tmp_path, None, TowerStart("test_resnet"))
