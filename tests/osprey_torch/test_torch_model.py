"""The PyTorch model: names as published, packed training equals plain generation."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import TINY

from benchmarks.make_checkpoint import make_tokenizer
from osprey_ros.decoding.prompt import IMAGE, MASK, POSITION
from osprey_ros.errors import InputError
from osprey_torch.checkpoint import load_checkpoint, save_checkpoint
from osprey_torch.config import OSPREY_7B, OSPREY_NANO, OspreyConfig
from osprey_torch.model import Osprey
from osprey_torch.packing import NO_TARGET, Sample, collate, pack
from osprey_torch.reference import generate_region

SMALL = TINY.with_vocabulary(50)
# The published checkpoint's parameter names (README of the reference code and its index file): ConvNeXt-L inside.
PUBLISHED = {
    "model.embed_tokens.weight": (32000, 4096),
    "model.norm.weight": (4096,),
    "lm_head.weight": (32000, 4096),
    "model.layers.31.self_attn.q_proj.weight": (4096, 4096),
    "model.layers.31.self_attn.o_proj.weight": (4096, 4096),
    "model.layers.0.mlp.gate_proj.weight": (11008, 4096),
    "model.layers.0.mlp.down_proj.weight": (4096, 11008),
    "model.layers.0.input_layernorm.weight": (4096,),
    "model.layers.0.post_attention_layernorm.weight": (4096,),
    "model.mm_projector.0.weight": (4096, 768),
    "model.mm_projector.2.bias": (4096,),
    "model.vision_tower.vision_tower.visual.trunk.stem.0.weight": (192, 3, 4, 4),
    "model.vision_tower.vision_tower.visual.trunk.stem.1.bias": (192,),
    "model.vision_tower.vision_tower.visual.trunk.stages.1.downsample.0.weight": (192,),
    "model.vision_tower.vision_tower.visual.trunk.stages.1.downsample.1.weight": (384, 192, 2, 2),
    "model.vision_tower.vision_tower.visual.trunk.stages.2.blocks.26.gamma": (768,),
    "model.vision_tower.vision_tower.visual.trunk.stages.2.blocks.26.conv_dw.weight": (768, 1, 7, 7),
    "model.vision_tower.vision_tower.visual.trunk.stages.2.blocks.0.norm.weight": (768,),
    "model.vision_tower.vision_tower.visual.trunk.stages.3.blocks.2.mlp.fc1.weight": (6144, 1536),
    "model.vision_tower.vision_tower.visual.trunk.stages.3.blocks.2.mlp.fc2.weight": (1536, 6144),
    "mask_extractor.res2.weight": (1024, 192),
    "mask_extractor.res5.weight": (1024, 1536),
    "mask_extractor.feat_linear.weight": (4096, 1024),
    "mask_extractor.mask_linear.layers.0.weight": (1024, 12544),
    "mask_extractor.mask_linear.layers.1.weight": (1024, 1024),
    "mask_extractor.mask_linear.layers.2.weight": (4096, 1024),
}
PREFIXES = (
    "model.embed_tokens.",
    "model.layers.",
    "model.norm.",
    "lm_head.",
    "model.mm_projector.0.",
    "model.mm_projector.2.",
    "model.vision_tower.vision_tower.visual.trunk.stem.",
    "model.vision_tower.vision_tower.visual.trunk.stages.",
    "mask_extractor.res2.",
    "mask_extractor.res3.",
    "mask_extractor.res4.",
    "mask_extractor.res5.",
    "mask_extractor.feat_linear.",
    "mask_extractor.mask_linear.layers.0.",
    "mask_extractor.mask_linear.layers.1.",
    "mask_extractor.mask_linear.layers.2.",
)


@pytest.fixture(scope="module")
def model() -> Osprey:
    torch.manual_seed(0)
    return Osprey(SMALL).eval()


def test_parameter_names_and_shapes_are_the_published_ones() -> None:
    with torch.device("meta"):
        state = Osprey(OSPREY_7B).state_dict()
    assert {name: tuple(state[name].shape) for name in PUBLISHED} == PUBLISHED
    assert [name for name in state if not name.startswith(PREFIXES)] == []
    for prefix in PREFIXES:
        assert any(name.startswith(prefix) for name in state), prefix


def test_nano_is_the_same_model_and_small() -> None:
    nano = Osprey(OSPREY_NANO)
    assert sum(p.numel() for p in nano.parameters()) <= 12e6
    assert [name for name in nano.state_dict() if not name.startswith(PREFIXES)] == []


def test_feature_maps_have_their_strides_and_image_tokens_go_row_by_row(model: Osprey) -> None:
    features, tokens = model.encode_image(torch.randn(1, 3, 64, 64))
    assert [tuple(f.shape[1:]) for f in features] == [(8, 16, 16), (12, 8, 8), (16, 4, 4), (24, 2, 2)]
    third = model.project(features[2][:, :, 0:1, 3:4])  # row 0, column 3 of res4
    torch.testing.assert_close(tokens[:, 3:4], third)


def test_packed_training_forward_equals_region_by_region_generation(model: Osprey) -> None:
    generator = torch.Generator().manual_seed(1)
    features, image_tokens = model.encode_image(torch.randn(1, 3, 64, 64, generator=generator))
    masks = [(torch.rand(3, h, w, generator=generator) > 0.5).float() for h, w in SMALL.feature_sizes]
    tokens = model.encode_regions(features, masks, torch.rand(3, 14, 14, generator=generator))
    shared = (1, 5, IMAGE, 7, 8)
    prompts = [(*shared, MASK, POSITION, 10), (*shared, 12, MASK, POSITION, 13, 14), (*shared, 12, 9, MASK, POSITION)]
    answers = [generate_region(model, p, image_tokens[0], tokens[0][i], tokens[1][i], 5) for i, p in enumerate(prompts)]
    packed = pack([Sample.of(p, tuple(map(int, answers[i][0])), i) for i, p in enumerate(prompts)], SMALL.image_tokens)
    # A second, shorter sequence makes padding part of what is tested.
    short = pack([Sample.of(prompts[0], (3, 2), 0)], SMALL.image_tokens)
    batch = collate([packed, short])
    both = [t.expand(2, -1, -1) for t in (image_tokens, tokens[0][None], tokens[1][None])]
    logprobs = torch.log_softmax(model(*both, batch), -1)
    targets = batch.targets[batch.targets != NO_TARGET]
    found = logprobs.gather(1, targets[:, None])[:-2, 0].detach().numpy()
    expected = np.concatenate([logprob for _, logprob in answers])
    assert len(found) == len(expected)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_packed_dialogues_of_several_turns_and_regions_equal_the_plain_model(model: Osprey) -> None:
    generator = torch.Generator().manual_seed(2)
    image_tokens = torch.randn(1, SMALL.image_tokens, SMALL.hidden_size, generator=generator)
    mask_tokens, position_tokens = torch.randn(2, 1, 3, SMALL.hidden_size, generator=generator)
    question = (1, IMAGE, 7, MASK, POSITION, 9, MASK, POSITION, 4)
    tokens = (*question, 5, 2, 6, 11, 8, 2)
    answers = (False,) * len(question) + (True, True, False, False, True, True)
    # The other branch turns away from it in the middle of the words before the first region.
    other = Sample.of((1, IMAGE, 7, 3, MASK, POSITION), (6, 2), 1)
    batch = collate([pack([other, Sample(tokens, answers, regions=(2, 0))], SMALL.image_tokens)])
    found = model(image_tokens, mask_tokens, position_tokens, batch)[2:]

    words = model.model.embed_tokens.weight
    regions = [torch.stack([mask_tokens[0, n], position_tokens[0, n]]) for n in (2, 0)]
    rows = [words[[1]], image_tokens[0], words[[7]], regions[0], words[[9]], regions[1], words[list(tokens[8:])]]
    hidden = model.model(inputs_embeds=torch.cat(rows)[None], use_cache=False).last_hidden_state[0]
    # The last seven rows are 4, 5, 2, 6, 11, 8, 2: those in front of an answer's tokens predict them.
    expected = model.lm_head(hidden[-7:][[0, 1, 4, 5]])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert batch.targets[batch.targets != NO_TARGET].tolist() == [6, 2, 5, 2, 8, 2]


def test_samples_must_say_which_region_each_mention_is(model: Osprey) -> None:
    with pytest.raises(ValueError, match="name 1 regions came with 2 regions"):
        Sample((1, MASK, POSITION), (False,) * 3, regions=(0, 1))


def test_crops_are_a_part_of_the_model_that_adds_nothing_before_it_is_trained(model: Osprey) -> None:
    config = replace(SMALL, crop_size=32)
    torch.manual_seed(0)
    cropped = Osprey(config).eval()
    own = {name: tensor for name, tensor in cropped.state_dict().items() if ".crop." in name}
    levels = [f"mask_extractor.crop.{name}" for name in ("res2", "res3", "res4", "res5", "feat_linear")]
    assert list(own) == [f"{name}.{part}" for name in levels for part in ("weight", "bias")]
    assert cropped.state_dict().keys() - own.keys() == model.state_dict().keys()

    pixels = torch.randn(3, 3, 32, 32)
    masks = [(torch.rand(3, h, w) > 0.5).float() for h, w in config.crop_feature_sizes]
    assert cropped.encode_crops(pixels, masks).abs().max() == 0
    torch.nn.init.normal_(cropped.mask_extractor.crop.feat_linear.weight)
    found = cropped.encode_crops(pixels, masks)
    # As an image of its own: the mean of each map over the mask, through the layers of the crop.
    maps = cropped.model.vision_tower(pixels[1:2])
    means = [(m * k[1]).sum((2, 3))[0] / (k[1].sum() + 1e-8) for m, k in zip(maps, masks, strict=True)]
    torch.testing.assert_close(found[1], cropped.mask_extractor.crop_tokens(means), atol=1e-5, rtol=1e-5)


def test_crops_are_in_the_configuration_and_in_checkpoints(tmp_path: Path) -> None:
    config = replace(TINY.with_vocabulary(400), crop_size=64, crop_margin=1.5)
    assert OspreyConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
    assert config.model_spec().crop_feature_sizes == config.crop_feature_sizes == ((16, 16), (8, 8), (4, 4), (2, 2))
    without = json.loads(json.dumps(SMALL.to_json()))
    assert not any(name.startswith("crop") for name in without["osprey"])
    without["osprey"]["crop_size"] = 0
    assert OspreyConfig.from_json(without) == SMALL
    for wrong, message in (
        ({"crop_size": 40}, "crop_size 40 is not a multiple"),
        ({"crop_margin": 0.9}, "cuts it off"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(SMALL, **wrong)

    model = Osprey(config)
    torch.nn.init.normal_(model.mask_extractor.crop.feat_linear.weight)
    save_checkpoint(model, make_tokenizer(config), tmp_path)
    loaded, _ = load_checkpoint(tmp_path)
    assert loaded.config == config
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    (tmp_path / "config.json").write_text(json.dumps(replace(config, crop_size=0).to_json()))
    with pytest.raises(InputError, match=r"unexpected: mask_extractor\.crop\.res2\.weight"):
        load_checkpoint(tmp_path)


def test_pooling_of_an_empty_mask_is_zero(model: Osprey) -> None:
    features, _ = model.encode_image(torch.randn(1, 3, 64, 64))
    masks = [torch.zeros(1, 1, h, w) for h, w in SMALL.feature_sizes]
    for pooled in model.mask_extractor.pool(features, masks):
        assert pooled.abs().max() == 0
