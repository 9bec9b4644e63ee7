"""The table of what quantization costs: nothing against itself, something against rounded weights.

And that neither it nor the comparison with the loop says anything about no regions.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from conftest import SampleImage, TinyModel

from evaluation import parity
from export import quantization_cost
from export.build import Precisions, build_bundle
from export.quantization_cost import REFERENCE, compare, distance_from_grid, table_of
from export.samples import VerificationSample, scenes_of_test_split
from osprey_torch.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from osprey_torch.quantize import quantize_linear


def test_rows_say_how_far_words_are_from_those_of_exact_weights(
    tiny_model: TinyModel, sample: SampleImage, tmp_path: Path
) -> None:
    build_bundle(
        tiny_model.checkpoint,
        tmp_path / "int4",
        verify=False,
        precisions=Precisions(llm="int4", lm_head="fp32", method="rtn"),
    )
    folders = {REFERENCE: tiny_model.bundle, "same": tiny_model.bundle, "int4": tmp_path / "int4"}
    samples = [VerificationSample("desk", sample.rgb, sample.ids)]
    same, int4 = compare(folders, Checkpoint.open(tiny_model.checkpoint), samples)
    assert (same.name, same.token_agreement, same.identical) == ("same", 1.0, 1.0)
    assert same.kl_divergence < 1e-9
    assert int4.kl_divergence > 1e-3
    assert int4.decoder_bytes < same.decoder_bytes
    # Random weights have no redundancy: some words change, and then so do the answers that they are in.
    assert 0.0 <= int4.identical <= int4.token_agreement < 1.0
    assert table_of([same, int4]).count("\n") == 3


def test_weights_on_the_grid_are_told_from_others(tiny_model: TinyModel, tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(tiny_model.checkpoint)
    assert 1e-3 < distance_from_grid(checkpoint) < 1e-1
    model, tokenizer = load_checkpoint(tiny_model.checkpoint)
    for name, parameter in model.model.layers.named_parameters():
        if parameter.ndim == 2:
            rounded = quantize_linear(parameter.detach().numpy(), name=name).dequantize()
            parameter.data.copy_(parameter.new_tensor(rounded))
    save_checkpoint(model, tokenizer, tmp_path)
    assert distance_from_grid(Checkpoint.open(tmp_path)) == 0.0


@pytest.mark.parametrize(
    ("command", "option"), [(quantization_cost, "--regions"), (parity, "--regions"), (parity, "--new-tokens")]
)
def test_nothing_to_compare_is_a_usage_error(
    command: ModuleType, option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(["--bundle", str(tmp_path / "none"), option, "0"])
    assert ended.value.code == 2
    assert f"argument {option}: '0' is not a whole number of at least 1" in capsys.readouterr().err


def test_scenes_show_as_many_large_regions_as_were_asked_for() -> None:
    pytest.importorskip("mujoco")
    areas = [np.bincount(sample.ids.ravel())[1:] for _, sample in scenes_of_test_split(9, min_area=400)]
    assert sum(int((area > 0).sum()) for area in areas) == 9
    assert all((area[area > 0] > 400).all() for area in areas)
