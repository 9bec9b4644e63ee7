"""Memory and disk that a build needs, and the profiles of its plans."""

from __future__ import annotations

import logging
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest
from checkpoint_linears import Linears
from conftest import TinyModel

from export import resources
from export.build import Precisions, Targets, build_bundle
from export.graph_decoder import DecoderShape, build_decoder
from export.linears import DecoderPrecision
from export.options import resolved
from export.plans import decoder_profiles
from export.resources import Needs, Sizes, check, layers_to_verify, needs
from export.tensorrt_plan import mask_extractor_profiles, profile_shapes
from export.workspace import partial_folder
from osprey_ros.bundle.manifest import DECODER, MASK_EXTRACTOR
from osprey_ros.errors import InputError
from osprey_torch.checkpoint import Checkpoint
from osprey_torch.config import OSPREY_7B

GB = 10**9
Usage = namedtuple("Usage", "total used free")


class Shapes:
    """A checkpoint of which only names and shapes matter: the published 7B model's, with its ConvNeXt as one tensor."""

    def __init__(self) -> None:
        Tensor = namedtuple("Tensor", "shape")
        shapes = {
            "model.vision_tower.x": (197_000_000,),
            "mask_extractor.x": (25_000_000,),
            "lm_head.weight": (32000, 4096),
        }
        shapes["model.embed_tokens.weight"] = (32000, 4096)
        shapes |= {f"model.layers.{i}.x": (4 * 4096**2 + 3 * 4096 * 11008,) for i in range(32)}
        self.tensors = {name: Tensor(shape) for name, shape in shapes.items()}


def estimated(precisions: Precisions, targets: Targets) -> tuple[Sizes, Needs]:
    precisions = resolved(precisions, targets, OSPREY_7B)
    sizes = Sizes.of(Shapes(), precisions)
    return sizes, needs(OSPREY_7B, sizes, precisions, targets, layers_to_verify(OSPREY_7B, sizes))


def test_a_7b_model_is_built_in_4_gb_and_estimated_at_its_known_size() -> None:
    sizes, int4 = estimated(Precisions(), Targets())
    assert 3.6 * GB < sizes.layers < 3.7 * GB  # 6.5e9 weights of 4.5 bits
    assert 1.5 * GB < int4.memory < 4 * GB
    assert sizes.decoder + sizes.encoders < int4.disk < 6 * GB
    assert int4.run > sizes.decoder + sizes.encoders
    sizes, half = estimated(Precisions(llm="fp16"), Targets(device="cuda"))
    assert sizes.layers > 12.9 * GB
    assert half.disk > int4.disk + 8 * GB
    _, plans = estimated(Precisions(), Targets("tensorrt", "tensorrt", "cuda"))
    assert plans.disk > 1.7 * estimated(Precisions(), Targets(device="cuda"))[1].disk


def test_more_regions_and_tokens_of_an_image_need_more_memory_to_run() -> None:
    config, precisions = OSPREY_7B, resolved(Precisions(), Targets(), OSPREY_7B)
    sizes = Sizes.of(Shapes(), precisions)
    few, many = (needs(config, sizes, precisions, Targets(max_regions=n), 0).run for n in (1, 64))
    assert many > few + GB
    assert needs(replace(config, image_size=256), sizes, precisions, Targets(max_regions=1), 0).run < few


@pytest.mark.parametrize("beside", [False, True])
def test_a_build_takes_the_estimated_disk_space(
    tiny_model: TinyModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    beside: bool,
) -> None:
    if beside:
        monkeypatch.setattr(resources, "LARGE_BYTES", 1000)
    monkeypatch.setattr(resources, "_SMALL_FILES", 200_000)  # graphs of two layers, alignment
    taken = []

    class Measure(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage().startswith("manifest"):
                folder = partial_folder(tmp_path / "b")
                taken.append(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()))

    logger, handler = logging.getLogger("export.build"), Measure()
    caplog.set_level("INFO")
    logger.addHandler(handler)
    build_bundle(tiny_model.checkpoint, tmp_path / "b", verify=False)
    logger.removeHandler(handler)
    checkpoint = Checkpoint.open(tiny_model.checkpoint)
    precisions = resolved(Precisions(), Targets(), checkpoint.config)
    disk = needs(checkpoint.config, Sizes.of(checkpoint, precisions), precisions, Targets(), 0).disk
    assert taken[0] <= disk <= 1.3 * taken[0]


@pytest.mark.parametrize(
    ("free", "memory", "message"),
    [
        (10**5, 50 * GB, r"has 100kB free and the build takes .*MB: make room or give --output on another disk"),
        (50 * GB, 10**8, r"100MB of memory are available and the build takes .*: close other programs, or verify less"),
    ],
)
def test_a_machine_that_is_too_small_is_refused_before_work_begins(
    tiny_model: TinyModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    free: int,
    memory: int,
    message: str,
) -> None:
    monkeypatch.setattr(resources.shutil, "disk_usage", lambda path: Usage(100 * GB, 0, free))
    monkeypatch.setattr(resources, "available_memory", lambda: memory)
    caplog.set_level("INFO")
    with pytest.raises(InputError, match=message):
        build_bundle(tiny_model.checkpoint, tmp_path / "b", verify=False)
    assert not (tmp_path / "b").exists()
    assert caplog.messages[-1].startswith("needs: ")
    build_bundle(tiny_model.checkpoint, tmp_path / "b", verify=False, force=True)
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert (tmp_path / "b").exists()


def test_what_lies_there_already_counts_as_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources.shutil, "disk_usage", lambda path: Usage(10, 0, 60))
    with pytest.raises(InputError):
        check(Needs(disk=100, memory=0, run=0), tmp_path, 30, False)
    check(Needs(disk=100, memory=0, run=0), tmp_path, 40, False)


def test_profiles_of_a_decoder_plan_hold_an_image_and_a_step_of_all_regions() -> None:
    step, piece = decoder_profiles(OSPREY_7B, max_regions=16)
    assert step["S"].greatest == 16
    assert piece["S"].greatest >= OSPREY_7B.max_positions
    # Scoring wants logits of every row of its phrases, as many as it allows itself over so large a vocabulary.
    assert piece["R"].greatest == 32 * 2**20 // (4 * OSPREY_7B.vocab_size) > 250
    assert decoder_profiles(OSPREY_7B, max_regions=1000)[1]["R"].greatest == 1000
    assert decoder_profiles(OSPREY_7B, max_regions=1)[0]["B"].greatest == OSPREY_7B.max_positions
    for profile in (step, piece):
        assert profile["P"].least == 0
        assert profile["P"].usual > OSPREY_7B.image_tokens
        assert profile["P"].greatest == OSPREY_7B.max_positions
        assert profile["B_plus_S"].greatest == profile["B"].greatest + profile["S"].greatest


def test_profiles_name_every_free_axis_of_the_graphs(tiny_model: TinyModel, tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(tiny_model.checkpoint)
    config = checkpoint.config
    precision = DecoderPrecision("fp16", "fp16", dialect="tensorrt", half=True)
    build_decoder(DecoderShape.of(config), Linears(checkpoint.read, precision), tmp_path / DECODER)
    for profile in decoder_profiles(config, max_regions=4):
        assert "prefix_key.0" in profile_shapes(tmp_path / DECODER, profile)
    for profile in mask_extractor_profiles(4):
        least, _, greatest = profile_shapes(tiny_model.bundle / MASK_EXTRACTOR, profile)["position"]
        assert (least[0], greatest[0]) == (1, 4)
