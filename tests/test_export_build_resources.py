"""What a build says before and while it works: memory and disk that it needs, progress, remaining time."""

from __future__ import annotations

import sys
from collections import namedtuple
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import TinyModel

from export import resources
from export.build import Precisions, Targets, build_bundle, decoder_shape, partial_folder
from export.graph_decoder import build_decoder
from export.linears import DecoderPrecision, Linears
from export.options import resolved
from export.plans import decoder_profiles
from export.progress import Progress, duration, quantity
from export.resources import Needs, ResourceError, Sizes, available_memory, check, layers_to_verify, needs
from export.tensorrt_plan import mask_extractor_profiles, profile_shapes
from osprey_ros.bundle import DECODER, MASK_EXTRACTOR
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


def reckoned(precisions: Precisions, targets: Targets) -> tuple[Sizes, Needs]:
    precisions = resolved(precisions, targets, OSPREY_7B)
    sizes = Sizes.of(Shapes(), precisions)
    return sizes, needs(OSPREY_7B, sizes, precisions, targets, layers_to_verify(OSPREY_7B, sizes))


def test_a_7b_model_is_built_in_4_gb_and_reckoned_at_its_known_size() -> None:
    sizes, int4 = reckoned(Precisions(), Targets())
    assert 3.6 * GB < sizes.layers < 3.7 * GB  # 6.5e9 weights of 4.5 bits
    assert 1.5 * GB < int4.memory < 4 * GB
    assert sizes.decoder + sizes.encoders < int4.disk < 6 * GB
    assert int4.run > sizes.decoder + sizes.encoders
    sizes, half = reckoned(Precisions(llm="fp16"), Targets(device="cuda"))
    assert sizes.layers > 12.9 * GB
    assert half.disk > int4.disk + 8 * GB
    _, plans = reckoned(Precisions(), Targets("tensorrt", "tensorrt", "cuda"))
    assert plans.disk > 1.7 * reckoned(Precisions(), Targets(device="cuda"))[1].disk


def test_a_calibration_holds_a_layer_and_all_its_pictures() -> None:
    config, precisions = OSPREY_7B, resolved(Precisions(method="awq"), Targets(), OSPREY_7B)
    sizes = Sizes.of(Shapes(), precisions)
    memory = [needs(config, sizes, precisions, Targets(), 0, pictures).memory for pictures in (0, 100, 200, 300)]
    assert memory == sorted(memory)
    # A picture of 512 pixels has 23.6 MB of feature maps and at least 1024 rows of 4096.
    assert memory[2] - memory[1] == memory[3] - memory[2] > 100 * 40e6
    few = needs(config, sizes, precisions, Targets(), 0, 1).memory
    assert few > 1.1 * GB  # 202 million weights of a layer and those of gate and up once more


def test_more_regions_and_tokens_of_a_picture_need_more_memory_to_run() -> None:
    config, precisions = OSPREY_7B, resolved(Precisions(), Targets(), OSPREY_7B)
    sizes = Sizes.of(Shapes(), precisions)
    few, many = (needs(config, sizes, precisions, Targets(max_regions=n), 0).run for n in (1, 64))
    assert many > few + GB
    assert needs(replace(config, image_size=256), sizes, precisions, Targets(max_regions=1), 0).run < few


@pytest.mark.parametrize("beside", [False, True])
def test_the_disk_that_is_reckoned_is_what_a_build_takes(
    tiny_model: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beside: bool
) -> None:
    if beside:
        monkeypatch.setattr(resources, "LARGE_BYTES", 1000)
    monkeypatch.setattr(resources, "_SMALL_FILES", 200_000)  # graphs of two layers, alignment
    taken = []

    def measure(line: str) -> None:
        if line.startswith("manifest"):
            folder = partial_folder(tmp_path / "b")
            taken.append(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()))

    build_bundle(tiny_model.checkpoint, tmp_path / "b", verify=False, report=measure)
    checkpoint = Checkpoint.open(tiny_model.checkpoint)
    precisions = resolved(Precisions(), Targets(), checkpoint.config)
    disk = needs(checkpoint.config, Sizes.of(checkpoint, precisions), precisions, Targets(), 0).disk
    assert taken[0] <= disk <= 1.3 * taken[0]


@pytest.mark.parametrize(
    ("free", "memory", "message"),
    [
        (10**5, 50 * GB, r"has 100\.0 kB free and the build takes .* MB: make room or give --output on another disk"),
        (50 * GB, 10**8, r"100\.0 MB of memory are available and the build takes .*: close other programs, add swap"),
    ],
)
def test_a_machine_that_is_too_small_is_refused_before_work_begins(
    tiny_model: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, memory: int, message: str
) -> None:
    monkeypatch.setattr(resources.shutil, "disk_usage", lambda path: Usage(100 * GB, 0, free))
    monkeypatch.setattr(resources, "available_memory", lambda: memory)
    lines: list[str] = []
    arguments = {"verify": False, "report": lines.append}
    with pytest.raises(ResourceError, match=message):
        build_bundle(tiny_model.checkpoint, tmp_path / "b", **arguments)
    assert not (tmp_path / "b").exists()
    assert lines[-1].startswith("needs: ")
    build_bundle(tiny_model.checkpoint, tmp_path / "b", force=True, **arguments)
    assert any(line.startswith("warning: ") for line in lines)
    assert (tmp_path / "b").exists()


def test_what_lies_there_already_counts_as_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources.shutil, "disk_usage", lambda path: Usage(10, 0, 60))
    with pytest.raises(ResourceError):
        check(Needs(disk=100, memory=0, run=0), tmp_path, 30, False, lambda line: None)
    check(Needs(disk=100, memory=0, run=0), tmp_path, 40, False, lambda line: None)


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


MEMINFO = "MemTotal: 16000000 kB\nMemAvailable:  8000000 kB\nSwapFree: 1000000 kB\n"
V2 = {
    "proc/self/cgroup": "0::/robot/build\n",
    "cgroup/robot/build/memory.max": "max\n",
    "cgroup/robot/build/memory.current": "500\n",
    "cgroup/robot/build/memory.stat": "inactive_file 100\n",
    "cgroup/robot/memory.max": "3000000000\n",
    "cgroup/robot/memory.current": "1000000000\n",
    "cgroup/robot/memory.stat": "anon 5\ninactive_file 400000000\n",
}
V1 = {
    "proc/self/cgroup": "12:cpu:/\n4:memory:/docker/abc\n",
    "cgroup/memory/memory.limit_in_bytes": "2000000000\n",
    "cgroup/memory/memory.usage_in_bytes": "500000000\n",
    "cgroup/memory/memory.stat": "total_inactive_file 0\n",
}


@pytest.mark.parametrize(("files", "expected"), [({}, 9_216_000_000), (V2, 2_400_000_000), (V1, 1_500_000_000)])
def test_memory_is_what_the_kernel_and_the_container_allow(
    tmp_path: Path, files: dict[str, str], expected: int
) -> None:
    write(tmp_path, {"proc/meminfo": MEMINFO, **files})
    assert available_memory(tmp_path / "proc", tmp_path / "cgroup") == expected


def test_memory_of_this_machine_can_be_read() -> None:
    assert 10**8 < available_memory() < 10**14


@pytest.fixture
def clock() -> Callable[[], float]:
    seconds = [0.0]

    def now() -> float:
        return seconds[0]

    now.go = lambda to: seconds.__setitem__(0, to)
    return now


def test_without_a_terminal_a_line_comes_every_few_seconds(clock: Callable[[], float]) -> None:
    lines: list[str] = []
    with Progress(lines.append, clock).step("decoder", 4 * GB, "B", done=GB) as step:
        clock.go(2)
        step.advance(GB / 2)
        assert lines == []
        clock.go(10)
        step.advance(GB / 2)
        clock.go(12)
        step.advance(GB / 4)
        assert lines == ["decoder: 50 %, 2.0 GB of 4.0 GB, 100.0 MB/s, 20 s left"]
        clock.go(100)
        step.advance(1.75 * GB)
    assert lines[1:] == ["decoder: 4.0 GB (1.0 GB kept from before) in 1 min 40 s"]


def test_a_step_that_breaks_does_not_claim_to_be_done(clock: Callable[[], float]) -> None:
    lines: list[str] = []
    with pytest.raises(ValueError, match="broken"), Progress(lines.append, clock).step("decoder", 5):
        raise ValueError("broken")
    assert lines == []


def test_a_terminal_shows_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    progress = Progress()
    with progress.step("decoder", 2 * GB, "B") as step:
        step.advance(2 * GB)
        progress.say("a line beside it")
    error = capsys.readouterr().err
    assert "decoder: 100%" in error
    assert "2.00G/2.00G" in error
    assert "a line beside it" in error


def test_numbers_in_words() -> None:
    assert [quantity(n, "B") for n in (12, 3_400, 5_600_000, 7.8e9)] == ["12 B", "3.4 kB", "5.6 MB", "7.8 GB"]
    assert [duration(s) for s in (0.52, 42.4, 200, 3900)] == ["0.5 s", "42 s", "3 min 20 s", "1 h 5 min"]


def test_profiles_of_a_decoder_plan_hold_a_picture_and_a_step_of_all_regions() -> None:
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
    build_decoder(decoder_shape(config), Linears(checkpoint.read, precision), tmp_path / DECODER)
    for profile in decoder_profiles(config, max_regions=4):
        assert "prefix_key.0" in profile_shapes(tmp_path / DECODER, profile)
    for profile in mask_extractor_profiles(4):
        least, _, greatest = profile_shapes(tiny_model.bundle / MASK_EXTRACTOR, profile)["position"]
        assert (least[0], greatest[0]) == (1, 4)
