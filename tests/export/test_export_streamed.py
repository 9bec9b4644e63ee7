"""The language model layer by layer against the whole one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from tiny import TINY

from export.streamed import PackedRows, StreamedDecoder
from osprey_torch.model import Osprey

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


def _rows(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, CONFIG.hidden_size, generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def _reference(model: Osprey, rows: torch.Tensor) -> torch.Tensor:
    """Logits [S, V] of one plain sequence."""
    return model.lm_head(model.model(inputs_embeds=rows[None], use_cache=False).last_hidden_state[0])


def test_sequences_of_unequal_length_equal_the_whole_model(model: Osprey, read: Callable) -> None:
    sequences = [_rows(21, 1), _rows(4, 2)]
    decoder = StreamedDecoder(CONFIG, read)
    found = decoder.logits(decoder.run([PackedRows.pack(rows) for rows in sequences]))
    for logits, rows in zip(found, sequences, strict=True):
        torch.testing.assert_close(logits, _reference(model, rows), rtol=1e-4, atol=1e-5)


def test_branches_behind_one_prefix_equal_each_alone(model: Osprey, read: Callable) -> None:
    prefix, branches = _rows(9, 3), [_rows(5, 4), _rows(1, 5), _rows(3, 6)]
    decoder = StreamedDecoder(CONFIG, read)
    (states,) = decoder.run([PackedRows.pack(prefix, branches)])
    (logits,) = decoder.logits([states])
    start = len(prefix)
    torch.testing.assert_close(logits[:start], _reference(model, prefix), rtol=1e-4, atol=1e-5)
    for rows in branches:
        alone = _reference(model, torch.cat([prefix, rows]))[len(prefix) :]
        torch.testing.assert_close(logits[start : start + len(rows)], alone, rtol=1e-4, atol=1e-5)
        start += len(rows)


def test_the_first_layers_alone_equal_a_model_that_has_no_more(model: Osprey, read: Callable) -> None:
    rows = _rows(7, 7)
    decoder = StreamedDecoder(CONFIG, read, layers=1)
    (logits,) = decoder.logits(decoder.run([PackedRows.pack(rows)]))
    whole = model.model.layers
    try:
        model.model.layers = whole[:1]
        expected = _reference(model, rows)
    finally:
        model.model.layers = whole
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


def test_one_layer_is_read_at_a_time_and_each_is_logged(read: Callable, caplog: pytest.LogCaptureFixture) -> None:
    names: list[str] = []

    def noted(name: str) -> np.ndarray:
        names.append(name)
        return read(name)

    decoder = StreamedDecoder(CONFIG, noted)
    with caplog.at_level("INFO"):
        decoder.run([PackedRows.pack(_rows(3, 8)), PackedRows.pack(_rows(2, 9))])
    assert caplog.messages == ["verify: layer 1 of 2", "verify: layer 2 of 2"]
    assert [name.split(".")[2] for name in names] == ["0"] * 9 + ["1"] * 9
    assert len(names) == len(set(names)) == 2 * 9
