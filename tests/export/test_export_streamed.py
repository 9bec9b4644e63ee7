"""The model part by part against the whole one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from tiny import TINY

from export.streamed import streamed_model
from osprey_ros.decoding.prompt import IMAGE, MASK, POSITION
from osprey_torch.model import Osprey
from osprey_torch.packing import PADDING, PackedBatch, Sample, collate, pack

CONFIG = TINY.with_vocabulary(50)


@pytest.fixture(scope="module")
def model() -> Osprey:
    torch.manual_seed(0)
    model = Osprey(CONFIG).eval()
    with torch.no_grad():
        for parameter in [*model.model.layers.parameters(), *model.model.norm.parameters()]:
            # Weights this large make attention sharp and every norm's scale different: mistakes show.
            parameter.copy_(torch.randn_like(parameter) * (0.15 if parameter.ndim == 2 else 0.5))
    return model


@pytest.fixture
def read(model: Osprey) -> Callable[[str], np.ndarray]:
    state = model.state_dict()
    return lambda name: state[name].numpy()


@pytest.fixture
def batch() -> PackedBatch:
    """Two images, one with two regions and one with a single region: sequences of unequal length."""
    prompt = (1, IMAGE, 5, 6, MASK, POSITION, 7)
    one, two, three = (Sample.of(prompt, answer, n) for n, answer in ((0, (8, 9, 2)), (1, (10, 2)), (0, (11, 2))))
    return collate([pack([one, two], CONFIG.image_tokens), pack([three], CONFIG.image_tokens)])


@torch.inference_mode()
def _hidden(model: Osprey, batch: PackedBatch) -> torch.Tensor:
    random = torch.Generator().manual_seed(1)
    tokens = [torch.randn(2, count, CONFIG.hidden_size, generator=random) for count in (CONFIG.image_tokens, 2, 2)]
    return model.hidden_states(*tokens, batch)


def test_packed_sequences_equal_those_of_the_whole_model(model: Osprey, read: Callable, batch: PackedBatch) -> None:
    found, expected = (_hidden(one, batch) for one in (streamed_model(CONFIG, read), model))
    seen = batch.branches != PADDING
    torch.testing.assert_close(found[seen], expected[seen], rtol=1e-4, atol=1e-5)
    with torch.inference_mode():
        torch.testing.assert_close(streamed_model(CONFIG, read).lm_head(found), model.lm_head(found))


def test_an_image_and_its_regions_equal_those_of_the_whole_model(model: Osprey, read: Callable) -> None:
    size, random = CONFIG.image_size, torch.Generator().manual_seed(2)
    pixels = torch.randn(2, 3, size, size, generator=random)
    masks = [torch.randint(0, 2, (3, *level), generator=random).float() for level in CONFIG.feature_sizes]
    positions = torch.rand(3, CONFIG.position_size, CONFIG.position_size, generator=random)
    results = []
    with torch.inference_mode():
        for one in (streamed_model(CONFIG, read), model):
            features, image = one.encode_image(pixels)
            results.append([*features, image, *one.encode_regions([f[:1] for f in features], masks, positions)])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_first_layers_alone_equal_a_model_that_has_no_more(
    model: Osprey, read: Callable, batch: PackedBatch
) -> None:
    found = _hidden(streamed_model(CONFIG, read, layers=1), batch)
    whole = model.model.layers
    try:
        model.model.layers = whole[:1]
        expected = _hidden(model, batch)
    finally:
        model.model.layers = whole
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_each_weight_is_read_once_and_not_kept(read: Callable, batch: PackedBatch) -> None:
    names: list[str] = []

    def noted(name: str) -> np.ndarray:
        held = sum(parameter.device.type != "meta" for parameter in streamed.parameters())
        assert held <= 2, "the weights of a part before are still in memory"
        names.append(name)
        return read(name)

    streamed = streamed_model(CONFIG, noted)
    _hidden(streamed, batch)
    layers = [int(name.split(".")[2]) for name in names if name.startswith("model.layers.")]
    assert layers == sorted(layers)
    assert len(names) == len(set(names)) == 1 + 2 * 9 + 1  # the embedding table, nine for each layer, the last norm
    assert all(parameter.device.type == "meta" for parameter in streamed.parameters())
