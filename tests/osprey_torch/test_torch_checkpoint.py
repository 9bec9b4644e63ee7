"""Checkpoints: every published form of the folder reads the same, what is wrong is named, memory stays bounded."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import TINY

from benchmarks.make_checkpoint import OPEN_CLIP_FILE, make_tokenizer, write_checkpoint
from osprey_ros.errors import InputError
from osprey_torch.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from osprey_torch.model import Osprey
from osprey_torch.tensor_files import list_file, read_stored

CONFIG = TINY.with_vocabulary(400)
TOKENIZER = make_tokenizer(CONFIG)
FIRST_SHARD = "pytorch_model-00001-of-00002.bin"
LAST_SHARD = "pytorch_model-00002-of-00002.bin"
STEM = "model.vision_tower.vision_tower.visual.trunk.stem.0.weight"


def write(folder: Path, **form: object) -> Path:
    write_checkpoint(CONFIG, folder, tokenizer=TOKENIZER, **form)
    return folder


def change(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "published")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """What PyTorch's own reader finds in the published form."""
    folder = write(tmp_path_factory.mktemp("reference"))
    state: dict[str, torch.Tensor] = {}
    for shard in (FIRST_SHARD, LAST_SHARD):
        state |= torch.load(folder / shard, weights_only=True)
    return state


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"shards": 1},
        {"format": "safetensors"},
        {"format": "safetensors", "shards": 1},
        {"vision": "beside"},
        {"format": "safetensors", "shards": 3, "vision": "beside", "model_type": "osprey-stage2"},
    ],
    ids=str,
)
def test_every_published_form_of_the_folder_is_the_same_model(form, weights, tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(write(tmp_path, **form))
    assert checkpoint.config == CONFIG
    assert "mm_hidden_size" not in json.loads((tmp_path / "config.json").read_text())
    assert checkpoint.names < set(weights)  # buffers of old transformers and the CLIP head are left out
    assert {name for name in weights if name not in checkpoint.names} == {
        name for name in weights if "inv_freq" in name or ".head." in name
    }
    for name in checkpoint.names:
        assert torch.equal(checkpoint.read_tensor(name), weights[name]), name
        np.testing.assert_array_equal(checkpoint.read(name), weights[name].float().numpy())
    assert checkpoint.read_tensor(STEM).dtype == torch.float16
    assert checkpoint.read(STEM).dtype == np.float32
    assert all(path.is_file() for path in checkpoint.files)


def test_the_model_is_loaded_whole(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    model, tokenizer = load_checkpoint(folder)
    assert not model.training
    for name, parameter in model.state_dict().items():
        assert parameter.dtype == torch.float32
        assert torch.equal(parameter, weights[name].float()), name
    assert tokenizer.token_to_id("<mask>") == CONFIG.vocab_size


def test_saved_checkpoints_are_read_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Osprey(CONFIG)
    save_checkpoint(model, TOKENIZER, tmp_path)
    loaded, tokenizer = load_checkpoint(tmp_path)
    assert loaded.config == CONFIG
    assert tokenizer.to_str() == TOKENIZER.to_str()
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    # A state dictionary as `torch.save` writes it whole: an ordered one, with its versions of modules.
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    for name, tensor in load_checkpoint(tmp_path)[0].state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name


def test_types_and_views_are_read_as_pytorch_reads_them(tmp_path: Path) -> None:
    # More than one chunk of a conversion; a view into a storage; a parameter; no elements; no axes.
    big = torch.arange(5_000_001, dtype=torch.float32).to(torch.bfloat16)
    state = {
        "big": big,
        "tail": big[-7:],
        "parameter": torch.nn.Parameter(torch.ones(2, 3, dtype=torch.float64)),
        "empty": torch.empty(0, 4),
        "scalar": torch.tensor(2.5).half(),
        "numbers": torch.arange(4),
    }
    torch.save(state, tmp_path / "a.bin")
    places = list_file(tmp_path / "a.bin")
    assert set(places) == set(state)
    for name, place in places.items():
        assert torch.equal(read_stored(place), state[name].detach()), name
        assert torch.equal(read_stored(place, torch.float32), state[name].detach().float()), name


def test_vision_weights_come_from_the_file_that_is_given(tmp_path: Path) -> None:
    folder = write(tmp_path / "inside")
    other = tmp_path / "other"
    write_checkpoint(CONFIG, other, tokenizer=TOKENIZER, vision="beside", seed=7)
    given = Checkpoint.open(folder, vision_weights=other / OPEN_CLIP_FILE)
    expected = torch.load(other / OPEN_CLIP_FILE, weights_only=True)
    for name in given.names:
        if name.startswith("model.vision_tower."):
            own = name.removeprefix("model.vision_tower.vision_tower.")
            assert torch.equal(given.read_tensor(name), expected[own]), name
    assert other / OPEN_CLIP_FILE in given.files
    assert given.digest != Checkpoint.open(folder).digest
    # The same as safetensors, and as the folder that it lies in.
    save_file({name: tensor.contiguous() for name, tensor in expected.items()}, other / "open_clip_model.safetensors")
    (other / OPEN_CLIP_FILE).unlink()
    again = Checkpoint.open(folder, vision_weights=other)
    assert torch.equal(again.read_tensor(STEM), expected["visual.trunk.stem.0.weight"])


def test_without_vision_weights_the_error_says_which_option_to_give(tmp_path: Path) -> None:
    folder = write(tmp_path / "published", vision="none")
    with pytest.raises(InputError, match="--vision-weights") as caught:
        Checkpoint.open(folder)
    assert f"/weights/{OPEN_CLIP_FILE}" in str(caught.value)
    with pytest.raises(InputError, match=r"nowhere\.bin"):
        Checkpoint.open(folder, vision_weights=tmp_path / "nowhere.bin")
    # An absolute path in config.json works like one from the folder.
    write(tmp_path / "other", vision="beside")
    change(folder, mm_vision_tower=str(tmp_path / "other" / OPEN_CLIP_FILE))
    assert STEM in Checkpoint.open(folder).names
    with pytest.raises(InputError, match="ConvNeXt trunk"):
        Checkpoint.open(folder, vision_weights=folder / FIRST_SHARD)


def test_all_that_is_wrong_with_the_weights_is_listed_by_name_at_once(tmp_path: Path) -> None:
    folder = write(tmp_path, format="safetensors", shards=1)
    state = load_file(folder / "model.safetensors")
    del state["model.norm.weight"]
    del state[STEM]
    state["lm_head.weight"] = torch.ones(3, 3)
    state["extra.weight"] = torch.ones(1)
    state["mask_extractor.res2.bias"] = torch.ones(16, dtype=torch.int64)
    save_file(state, folder / "model.safetensors")
    with pytest.raises(InputError) as caught:
        Checkpoint.open(folder)
    message = str(caught.value)
    for part in (
        "missing: model.norm.weight (64,)",
        f"missing: {STEM}",
        "unexpected: extra.weight in model.safetensors",
        "wrong shape: lm_head.weight is (3, 3), config.json says (400, 64)",
        "wrong type: mask_extractor.res2.bias",
    ):
        assert part in message
    assert message.count("; ") == 4
    assert "\n" not in message


class _Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("weights_key", [False, True])
def test_code_in_a_pickle_is_refused_and_not_run(folder: Path, tmp_path: Path, weights_key: bool) -> None:
    state = torch.load(folder / FIRST_SHARD, weights_only=True)
    bomb = _Bomb(tmp_path / "ran")
    state["lm_head.weight" if weights_key else "note"] = bomb
    torch.save(state, folder / FIRST_SHARD)
    with pytest.raises(InputError, match=r"mkdir.*nothing in it was run|nothing in it was run.*mkdir"):
        Checkpoint.open(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda data: data[: len(data) // 2], "cut short"),
        (lambda data: b"", "cut short"),
        (lambda data: b"<html>sign in</html>", "cut short"),
        (lambda data: data.replace(b"_rebuild_tensor_v2", b"_rebuild_tensor_v9"), "rejected"),
    ],
    ids=["half", "empty", "a web page", "damaged table"],
)
def test_a_damaged_bin_shard_is_named_with_its_remedy(folder: Path, damage, words: str) -> None:
    shard = folder / LAST_SHARD
    shard.write_bytes(damage(shard.read_bytes()))
    with pytest.raises(InputError, match=words) as caught:
        Checkpoint.open(folder)
    assert LAST_SHARD in str(caught.value)
    assert "download it again" in str(caught.value)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-10],
        lambda data: data[:100],
        lambda data: b"",
        lambda data: b"<html>sign in</html>",
        lambda data: data.replace(b'"shape":[400,64]', b'"shape":[400,63]'),
        lambda data: data.replace(b'"dtype":"F16"', b'"dtype":"F17"'),
    ],
    ids=["tail", "header", "empty", "a web page", "shape", "type"],
)
def test_a_damaged_safetensors_file_is_named_with_its_remedy(tmp_path: Path, damage) -> None:
    folder = write(tmp_path, format="safetensors", shards=1)
    shard = folder / "model.safetensors"
    shard.write_bytes(damage(shard.read_bytes()))
    with pytest.raises(InputError, match=r"model\.safetensors.*download it again"):
        Checkpoint.open(folder)


@pytest.mark.parametrize("form", [{}, {"format": "safetensors"}])
def test_a_git_lfs_pointer_in_place_of_a_shard_is_named_with_its_remedy(tmp_path: Path, form: dict[str, str]) -> None:
    folder = write(tmp_path, shards=1, **form)
    path = next(path for path in folder.iterdir() if path.suffix in (".bin", ".safetensors"))
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:12ab\nsize 14000000000\n")
    with pytest.raises(InputError, match="is a Git LFS pointer instead of the file: run `git lfs pull`"):
        Checkpoint.open(folder)


def test_a_bin_without_tensors_by_name_is_refused(folder: Path) -> None:
    torch.save([torch.ones(2)], folder / FIRST_SHARD)
    with pytest.raises(InputError, match="holds a list, not a dictionary of tensors"):
        Checkpoint.open(folder)


def test_a_shard_that_shrinks_after_opening_is_reported(folder: Path) -> None:
    checkpoint = Checkpoint.open(folder)
    path = checkpoint.tensors["lm_head.weight"].path
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(InputError, match=rf"{path.name} is cut short"):
        checkpoint.read("lm_head.weight")


def test_a_folder_that_is_not_a_checkpoint_says_what_it_lacks(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no config\.json"):
        Checkpoint.open(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        Checkpoint.open(tmp_path / "nowhere")
    (folder / LAST_SHARD).unlink()
    with pytest.raises(InputError, match=rf"shards that are not there: {LAST_SHARD}"):
        Checkpoint.open(folder)
    index = folder / "pytorch_model.bin.index.json"
    for text, words in (
        ("{", "not JSON"),
        ("[]", "holds a list"),
        ("{}", "no index of shards"),
        ('{"weight_map": {"a": "../b"}}', "no index of shards"),
    ):
        index.write_text(text)
        with pytest.raises(InputError, match=words):
            Checkpoint.open(folder)
    index.unlink()
    with pytest.raises(InputError, match=r"no model\.safetensors"):
        Checkpoint.open(folder)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model_type": "llava"}, "model_type 'llava'"),
        ({"mm_projector_type": "linear"}, "mm_projector_type 'linear'"),
        ({"num_key_value_heads": 3}, r"do not divide into 3 groups \(key-value heads\)"),
        ({"num_key_value_heads": 2}, "wrong shape: .*k_proj.weight"),
        ({"attention_bias": True}, "attention_bias is True: such biases are not supported"),
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, "rope_scaling is .* only 'llama3'"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "rope_scaling lacks 'low_freq_factor'"),
        ({"hidden_size": None}, r"config\.json"),
    ],
)
def test_another_models_config_is_refused(folder: Path, values: dict[str, object], words: str) -> None:
    change(folder, **values)
    with pytest.raises(InputError, match=words):
        Checkpoint.open(folder)


def test_the_digest_tells_checkpoints_apart_and_not_their_places(folder: Path, tmp_path: Path) -> None:
    digest = Checkpoint.open(folder).digest
    assert digest == Checkpoint.open(write(tmp_path / "again")).digest
    write_checkpoint(CONFIG, tmp_path / "other", tokenizer=TOKENIZER, seed=1)
    assert digest != Checkpoint.open(tmp_path / "other").digest
    change(folder, rms_norm_eps=1e-6)
    assert digest != Checkpoint.open(folder).digest


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("format", ["bin", "safetensors"])
def test_reading_tensor_after_tensor_leaves_nothing_behind_in_memory(tmp_path: Path, format: str) -> None:
    shapes = {f"w{i}": torch.zeros(8 << 20, dtype=torch.float16) for i in range(12)}  # 12 of 16 MiB
    path = tmp_path / f"weights.{format}"
    if format == "bin":
        torch.save(shapes, path)
    else:
        save_file(shapes, path)
    del shapes
    places = list_file(path)
    read_stored(places["w0"], torch.float32)
    before = _resident_bytes()
    peak = 0
    for place in places.values():
        tensor = read_stored(place, torch.float32)  # 32 MiB
        tensor.sum()
        peak = max(peak, _resident_bytes() - before)
        del tensor
    # One tensor and the chunk it is converted in; all of the file would be 192 MiB.
    assert peak < 64 << 20


@pytest.mark.parametrize(
    "name", ["model.mm_projector.2.bias", "model.layers.1.mlp.down_proj.weight", "mask_extractor.res4.bias"]
)
def test_the_digest_sees_every_parameter(tmp_path: Path, name: str) -> None:
    folders = [tmp_path / "before", tmp_path / "after"]
    for folder in folders:
        write(folder, format="safetensors", shards=1)
    state = load_file(folders[1] / "model.safetensors")
    state[name] = state[name] * 1.5 + 1
    save_file(state, folders[1] / "model.safetensors")
    assert Checkpoint.open(folders[0]).digest != Checkpoint.open(folders[1]).digest
