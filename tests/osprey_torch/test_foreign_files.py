"""Checkpoints as other programs leave them: what is meant well is read, anything else is named with its remedy."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import TINY
from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers

from benchmarks.make_checkpoint import make_tokenizer, write_checkpoint
from osprey_ros.decoding.prompt import QUESTIONS, PromptBuilder
from osprey_ros.errors import InputError
from osprey_torch.checkpoint import Checkpoint, load_checkpoint

CONFIG = TINY.with_vocabulary(400)
TOKENIZER = make_tokenizer(CONFIG)
ROWS = ("model.embed_tokens.weight", "lm_head.weight")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_checkpoint(CONFIG, tmp_path, tokenizer=TOKENIZER, format="safetensors", shards=1)
    return tmp_path


def edit(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors")


def prompts(checkpoint: Checkpoint) -> list[tuple[int, ...]]:
    builder = PromptBuilder(checkpoint.tokenizer, checkpoint.config.model_spec())
    return [builder.prompt(question) for question in QUESTIONS.values()]


def test_several_end_tokens_are_read_and_the_published_one_comes_first(folder: Path) -> None:
    edit(folder / "config.json", eos_token_id=[3, 2, 5])
    config = Checkpoint.open(folder).config
    assert (config.eos_id, config.extra_eos_ids) == (2, (3, 5))
    assert config.model_spec().extra_eos_ids == (3, 5)
    edit(folder / "config.json", **config.to_json())
    assert Checkpoint.open(folder).config == config


def test_null_counts_as_a_missing_key(folder: Path) -> None:
    edit(folder / "config.json", bos_token_id=None, eos_token_id=None, rope_theta=None, rope_scaling=None)
    assert Checkpoint.open(folder).config == CONFIG


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("bos_token_id", "<s>", "bos_token_id is '<s>': it must be a whole number"),
        ("bos_token_id", 400, "bos_token_id is 400, but the vocabulary ends at 399"),
        ("bos_token_id", 7, "bos_token_id is 7, but tokenizer.json gives <s> the id 1: write 1"),
        ("eos_token_id", [], "eos_token_id is .*: it must be a token id, or a list"),
        ("eos_token_id", [2, None], "eos_token_id is .*None"),
        ("eos_token_id", [3, 5], "eos_token_id is 3, 5, but tokenizer.json gives </s> the id 2: write 2"),
        ("hidden_size", "64", "hidden_size is '64': it must be a whole number"),
        ("num_hidden_layers", 0, "num_hidden_layers is 0"),
        ("num_attention_heads", True, "num_attention_heads is True"),
        ("vocab_size", 400.5, "vocab_size is 400.5"),
        ("rms_norm_eps", float("nan"), "rms_norm_eps is nan: it must be a number above 0"),
        ("rope_theta", "10000", "rope_theta is '10000'"),
        ("rope_scaling", "linear", "rope_scaling is 'linear': it must be an object"),
        ("hidden_act", "gelu", "hidden_act 'gelu': expected 'silu'"),
        ("quantization_config", {"quant_method": "fp8"}, r"quantization_config says .*quant_method 'fp8'"),
        ("osprey", [], "osprey is .*: it must be an object"),
        ("osprey", {"image_mean": [0.5, 0.5]}, "image_mean is .*: it must be a list of 3 numbers"),
        ("osprey", {"image_std": [0.5, 0.5, 0]}, "image_std is .*above 0"),
        ("osprey", {"image_size": "512"}, "image_size is '512'"),
        ("osprey", {"vision_depths": [1, 1, 0.5, 1]}, "vision_depths is 0.5"),
    ],
)
def test_values_of_config_json_are_checked_at_once(folder: Path, key: str, value: object, words: str) -> None:
    edit(folder / "config.json", **{key: value})
    with pytest.raises(InputError, match=f"config.json: {words}"):
        Checkpoint.open(folder)


def test_truncation_and_padding_of_another_program_are_switched_off(folder: Path) -> None:
    expected = prompts(Checkpoint.open(folder))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=500)
    tokenizer.save(str(folder / "tokenizer.json"))
    opened = Checkpoint.open(folder)
    assert prompts(opened) == expected
    assert opened.tokenizer.truncation is None
    assert opened.tokenizer.padding is None


def test_end_tokens_of_generation_config_count_too(folder: Path) -> None:
    (folder / "generation_config.json").write_text('{"eos_token_id": [2, 3], "bos_token_id": null}')
    assert Checkpoint.open(folder).config.extra_eos_ids == (3,)


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("generation_config.json", {"eos_token_id": "</s>"}, "eos_token_id is '</s>': it must be a token id"),
        ("generation_config.json", {"eos_token_id": 3}, "eos_token_id is 3, without 2 of config.json"),
        ("generation_config.json", {"eos_token_id": [2, 400]}, "eos_token_id is .*, but the vocabulary ends at 399"),
        ("generation_config.json", {"bos_token_id": 2}, "bos_token_id is 2, but config.json says 1"),
        ("tokenizer_config.json", {"bos_token": "</s>"}, "bos_token is '</s>' with the id 2, config.json says 1"),
        ("tokenizer_config.json", {"eos_token": {"content": "<s>"}}, "eos_token is '<s>' with the id 1"),
        ("tokenizer_config.json", {"eos_token": 2}, "eos_token is 2: it must be the text"),
        ("preprocessor_config.json", {"image_mean": [0.5, 0.5, 0.5]}, "image_mean is .* but the model has"),
        ("preprocessor_config.json", {"image_std": 0.5}, "image_std is 0.5: it must be a list of 3 numbers"),
        ("preprocessor_config.json", {"rescale_factor": 1}, "rescale_factor is 1 and not 1/255"),
        ("kinds.json", {"kinds": {}}, "format_version is None"),
    ],
)
def test_values_of_companion_files_must_agree_with_the_model(
    folder: Path, name: str, data: dict[str, object], words: str
) -> None:
    (folder / name).write_text(json.dumps(data))
    with pytest.raises(InputError, match=f"{name}(:| is not a tree of kinds:) {words}"):
        Checkpoint.open(folder)


def test_companion_files_of_the_same_model_are_accepted(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    mean, std = list(CONFIG.image_mean), list(CONFIG.image_std)
    values = {
        "image_mean": mean,
        "image_std": std,
        "rescale_factor": 0.00392156862745098,
        "size": {"shortest_edge": 336},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(values))
    (folder / "added_tokens.json").unlink()
    tokens = {"400": {"content": "<mask>"}, "401": {"content": "<pos>"}, "402": {"content": "<more>"}}
    values = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "pad_token": None, "added_tokens_decoder": tokens}
    (folder / "tokenizer_config.json").write_text(json.dumps(values))
    assert Checkpoint.open(folder).tokenizer.token_to_id("<more>") == 402
    assert "size is {'shortest_edge': 336} and not used: the model takes 64 pixels" in caplog.text


def _of_transformers_5(tokenizer: Tokenizer) -> None:
    tokenizer.normalizer = None  # type: ignore[assignment]
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)


def _without_prefix(tokenizer: Tokenizer) -> None:
    tokenizer.normalizer = normalizers.Replace(" ", "▁")


def _stripping(tokenizer: Tokenizer) -> None:
    tokenizer.add_special_tokens([AddedToken(text, lstrip=True, rstrip=True) for text in ("<mask>", "<pos>")])


@pytest.mark.parametrize(
    ("change", "warnings"),
    [(_of_transformers_5, 1), (_without_prefix, 1), (_stripping, 0)],  # flags of <mask> and <pos> are always replaced
)
def test_llamas_tokenizer_of_another_version_gives_the_published_prompts(
    folder: Path, change: Callable[[Tokenizer], None], warnings: int, caplog: pytest.LogCaptureFixture
) -> None:
    expected = prompts(Checkpoint.open(folder))
    assert not caplog.records
    changed = Tokenizer.from_file(str(folder / "tokenizer.json"))
    change(changed)
    changed.save(str(folder / "tokenizer.json"))
    text = QUESTIONS["detailed"]
    before = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text, add_special_tokens=False).ids
    assert before != TOKENIZER.encode(text, add_special_tokens=False).ids
    assert prompts(Checkpoint.open(folder)) == expected
    found = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
    assert ["tokenizer.json splits" in message for message in found] == [True] * warnings


def _add_rows(state: dict[str, torch.Tensor], rows: int, names: tuple[str, ...] = ROWS) -> None:
    for name in names:
        state[name] = torch.cat([state[name], torch.zeros(rows, *state[name].shape[1:], dtype=state[name].dtype)])


@pytest.mark.parametrize("given", [False, True], ids=["ids by position", "ids in config.json"])
@pytest.mark.parametrize(("rows", "vocab_size"), [(2, 402), (48, 448), (2, 400)])
def test_spare_rows_of_the_vocabulary_do_no_harm(folder: Path, rows: int, vocab_size: int, given: bool) -> None:
    expected = Checkpoint.open(folder)
    weights = {name: expected.read(name) for name in ROWS}
    own = json.loads((folder / "config.json").read_text())["osprey"]
    ids = {"mask_id": 400, "pos_id": 401} if given else {}
    own = {key: value for key, value in own.items() if key not in ("mask_id", "pos_id")} | ids
    edit_weights(folder, lambda state: _add_rows(state, rows))
    edit(folder / "config.json", vocab_size=vocab_size, osprey=own)
    opened = Checkpoint.open(folder)
    assert opened.config == CONFIG
    assert prompts(opened) == prompts(expected)
    for name in ROWS:
        np.testing.assert_array_equal(opened.read(name), weights[name])
    assert load_checkpoint(folder)[0].lm_head.weight.shape == (400, CONFIG.hidden_size)


@pytest.mark.parametrize("rows", [-1, 600])
def test_tables_of_another_vocabulary_are_named(folder: Path, rows: int) -> None:
    def change(state: dict[str, torch.Tensor]) -> None:
        if rows > 0:
            _add_rows(state, rows)
        else:
            state["lm_head.weight"] = state["lm_head.weight"][:rows].clone()

    edit_weights(folder, change)
    with pytest.raises(InputError, match=rf"wrong shape: lm_head\.weight is \({400 + rows}, 64\)"):
        Checkpoint.open(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(folder: Path, value: float) -> None:
    name = "model.layers.1.mlp.up_proj.weight"

    def change(state: dict[str, torch.Tensor]) -> None:
        state[name][3, 5] = value

    edit_weights(folder, change)
    checkpoint = Checkpoint.open(folder)
    for read in (lambda: checkpoint.read(name), lambda: load_checkpoint(folder)):
        with pytest.raises(InputError, match=rf"{name} has 1 of \d+ values that are not finite"):
            read()


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.int8])
def test_weights_in_another_type_are_named(folder: Path, dtype: torch.dtype) -> None:
    def change(state: dict[str, torch.Tensor]) -> None:
        state["lm_head.weight"] = state["lm_head.weight"].to(dtype)

    edit_weights(folder, change)
    kind = str(dtype).removeprefix("torch.")
    with pytest.raises(InputError, match=rf"wrong type: lm_head\.weight is {kind}, not float32, float16 or bfloat16"):
        Checkpoint.open(folder)


_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:12ab\nsize 14000000000\n"


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "added_tokens.json"])
@pytest.mark.parametrize(
    ("data", "words"),
    [
        (_POINTER, "is a Git LFS pointer instead of the file: run `git lfs pull`"),
        ("{}".encode("utf-16"), "is UTF-16 text; save it as UTF-8"),
        (b'{"a": "caf\xe9"}', r"is not UTF-8 text \(byte 0xe9 at 10\)"),
    ],
    ids=["pointer", "utf-16", "latin-1"],
)
def test_what_lies_in_place_of_a_text_file_is_named(folder: Path, name: str, data: bytes, words: str) -> None:
    (folder / name).write_bytes(data)
    with pytest.raises(InputError, match=rf"{name} {words}"):
        Checkpoint.open(folder)


def test_a_byte_order_mark_does_no_harm(folder: Path) -> None:
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_bytes(b"\xef\xbb\xbf" + (folder / name).read_bytes())
    assert Checkpoint.open(folder).config == CONFIG


def test_a_pointer_in_place_of_a_sentencepiece_model_is_named(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(_POINTER)
    with pytest.raises(InputError, match=r"tokenizer\.model is a Git LFS pointer"):
        Checkpoint.open(folder)


def _refuse(*_: Any) -> bytes:
    raise PermissionError(13, "Permission denied")


def test_a_file_that_may_not_be_read_is_not_called_damaged(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_bytes", _refuse)
    with pytest.raises(InputError, match=r"config\.json cannot be read: permission denied; change the permissions"):
        Checkpoint.open(folder)
