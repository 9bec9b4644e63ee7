"""From a checkpoint folder to a bundle: whole, checked, replaced in one go, and refused where it cannot be built."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from checkpoint_linears import decode
from conftest import up_to
from kind_trees import ONE_TOKEN
from onnx_session import open_session
from tiny import TINY

from export import resources
from export.build import Precisions, Targets, build_bundle
from export.build_engines import main
from export.figures import CROP_STAGE, STAGES, Limit, Limits, VerificationError
from export.linears import encode
from export.options import decoder_precision, resolved
from export.samples import VerificationSample
from export.workspace import partial_folder
from osprey_ros.bundle.bundle import Bundle, write_calibration
from osprey_ros.bundle.calibration import Calibration
from osprey_ros.bundle.fingerprint import write_fingerprint
from osprey_ros.bundle.manifest import CROP, DECODER, KINDS, MASK_EXTRACTOR, ONNX_FILES, TABLES, VISION, EngineEntry
from osprey_ros.decoding.prompt import QUESTIONS
from osprey_ros.describer import Describer
from osprey_ros.errors import BundleError, EngineError, InputError
from osprey_torch.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from osprey_torch.model import Osprey
from osprey_torch.readback import CONFIG, decoder_weights, model_from_bundle
from training.tokenizer import train_tokenizer

# The weights are random: what int4 costs in words says nothing here, the graph must still be right.
LOOSE = Limits(prefix_logits=Limit(0.8, 1.0), answer_logits=Limit(0.8, 1.0), agreement=0.0)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model that is sure of its words, so that greedy tokens can be compared. It has a tree of kinds."""
    tokenizer = train_tokenizer(list(QUESTIONS.values()) * 5, vocab_size=300)
    # Widths that divide into the blocks of both runtimes.
    vocabulary = TINY.with_vocabulary(tokenizer.token_to_id("<mask>"))
    config = replace(vocabulary, intermediate_size=128, crop_size=32)
    torch.manual_seed(0)
    model = Osprey(config).eval()
    model.lm_head.weight.data *= 60
    folder = tmp_path_factory.mktemp("checkpoint")
    save_checkpoint(model, tokenizer, folder, kinds=ONE_TOKEN)
    return folder


@pytest.fixture(scope="module")
def samples() -> list[VerificationSample]:
    rng = np.random.default_rng(0)
    ids = np.zeros((48, 60), np.uint16)
    ids[5:20, 3:30] = 1
    ids[22:44, 28:57] = 4
    ids[10, 40] = 9
    return [VerificationSample("noise", rng.integers(0, 255, (48, 60, 3), dtype=np.uint8), ids)]


@pytest.fixture(scope="module")
def exact(checkpoint: Path, samples: list[VerificationSample], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("bundles") / "exact"
    build_bundle(checkpoint, output, precisions=Precisions(llm="fp32", lm_head="fp32"), samples=samples)
    return output


def test_bundle_is_whole_and_holds_its_figures(checkpoint: Path, exact: Path) -> None:
    opened = Bundle.open(exact)
    manifest = opened.manifest
    assert opened.kinds() == ONE_TOKEN
    assert set(manifest.files) == {*ONNX_FILES.values(), CROP, *TABLES, CONFIG, KINDS}
    assert manifest.engines["crop"] == EngineEntry(CROP)
    assert (manifest.model.crop_size, manifest.precisions["crop"]) == (32, "fp32")
    assert [path.name for path in exact.parent.iterdir()] == ["exact"]
    assert manifest.name == "exact"
    assert manifest.verified
    assert manifest.precisions["decoder"] == "fp32"
    assert "Verified" in (exact / "report.md").read_text()
    model, _ = load_checkpoint(checkpoint)
    np.testing.assert_allclose(opened.embeddings(), model.model.embed_tokens.weight.detach(), rtol=1e-3, atol=1e-7)

    figures = manifest.verification
    assert set(figures["stages"]) == {*STAGES, CROP_STAGE}
    # Nothing is quantized here but the embedding table, to float16: engines and PyTorch agree throughout.
    assert all(stage["relative"] < 2e-3 and stage["cosine"] > 0.99999 for stage in figures["stages"].values())


CPU_OPTIONS = {
    "int4 clip": (Precisions(), "int4 symmetric, block 32, clip, accuracy level 0"),
    "int4 rtn": (Precisions(method="rtn"), "int4 symmetric, block 32, rtn, accuracy level 0"),
    "int4 with int8 output": (Precisions(lm_head="int8"), "int4 symmetric, block 32, clip, accuracy level 0"),
    "int8": (Precisions(llm="int8", lm_head="int8"), "int8 symmetric, block 32, clip, accuracy level 4"),
    "fp16": (Precisions("fp16", "fp16", llm="fp16"), "fp16"),
}


@pytest.mark.parametrize("option", CPU_OPTIONS)
def test_every_option_for_the_cpu_gives_a_bundle_that_passes_and_speaks(
    checkpoint: Path, samples: list[VerificationSample], exact: Path, tmp_path: Path, option: str
) -> None:
    precisions, described = CPU_OPTIONS[option]
    manifest = build_bundle(checkpoint, tmp_path / "bundle", precisions=precisions, samples=samples, limits=LOOSE)
    assert manifest.verified
    assert manifest.precisions["decoder"] == described
    assert manifest.verification["stages"]["decoder_graph"]["relative"] < 1e-2
    assert manifest.files[DECODER].bytes < Bundle.open(exact).manifest.files[DECODER].bytes * 0.75
    describer = Describer(Bundle.open(tmp_path / "bundle"))
    describer.set_image(samples[0].rgb)
    assert len(describer.describe(samples[0].ids, config=up_to(3))) == 3


def test_weights_read_back_from_a_bundle_are_the_quantized_ones(checkpoint: Path, tmp_path: Path) -> None:
    precisions = Precisions(lm_head="int8")
    build_bundle(checkpoint, tmp_path / "bundle", verify=False, precisions=precisions)
    source = Checkpoint.open(checkpoint)
    precision = decoder_precision(resolved(precisions, Targets(), source.config), Targets(), source.config)
    model = model_from_bundle(Bundle.open(tmp_path / "bundle"))
    state = model.state_dict()
    read = decoder_weights(tmp_path / "bundle" / DECODER, source.config)
    for layer, output in (("model.layers.1.mlp.up_proj", False), ("lm_head", True)):
        expected = decode(encode(source.read, [layer], precision, output))
        np.testing.assert_array_equal(read(f"{layer}.weight"), expected)
        np.testing.assert_array_equal(state[f"{layer}.weight"].numpy(), expected)
    norm = "model.layers.0.input_layernorm.weight"
    np.testing.assert_array_equal(state[norm].numpy(), source.read(norm))
    original, _ = load_checkpoint(checkpoint)
    pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        tokens = [m.encode_image(pixels)[1] for m in (model, original)]
    torch.testing.assert_close(tokens[0], tokens[1], rtol=1e-4, atol=1e-5)


def test_a_float16_tower_is_read_back_with_its_layer_scales(checkpoint: Path, tmp_path: Path) -> None:
    build_bundle(checkpoint, tmp_path / "bundle", targets=Targets(device="cuda"), verify=False)
    found, original = model_from_bundle(Bundle.open(tmp_path / "bundle")), load_checkpoint(checkpoint)[0]
    pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        tokens = [m.encode_image(pixels)[1] for m in (found, original)]
    torch.testing.assert_close(tokens[0], tokens[1], rtol=1e-2, atol=1e-3)


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every model is taken for one whose weights do not fit into its graphs."""
    monkeypatch.setattr(resources, "LARGE_BYTES", 1000)


def test_a_large_model_has_its_weights_beside_small_graphs(
    checkpoint: Path, samples: list[VerificationSample], exact: Path, tmp_path: Path, large: None
) -> None:
    precisions = Precisions(llm="fp32", lm_head="fp32")
    build_bundle(checkpoint, tmp_path / "large", precisions=precisions, samples=samples)
    found = Bundle.open(tmp_path / "large")
    data = {
        "vision.onnx.data",
        "crop.onnx.data",
        "decoder.layer00.data",
        "decoder.layer01.data",
        "decoder.lm_head.data",
    }
    assert set(found.manifest.files) == {*Bundle.open(exact).manifest.files, *data}
    assert found.manifest.verified
    whole, parts = (model_from_bundle(Bundle.open(path)).state_dict() for path in (exact, tmp_path / "large"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    answers = []
    for path in (exact, tmp_path / "large"):
        describer = Describer(Bundle.open(path))
        describer.set_image(samples[0].rgb)
        answers.append([d.text for d in describer.describe(samples[0].ids, config=up_to(4))])
    assert answers[0] == answers[1]


def test_a_large_decoder_is_verified_on_its_first_layers_over_the_same_files(
    checkpoint: Path, samples: list[VerificationSample], tmp_path: Path, large: None
) -> None:
    manifest = build_bundle(checkpoint, tmp_path / "large", samples=samples, limits=LOOSE, verify_layers=1)
    assert manifest.verified
    assert manifest.verification["decoder_layers"] == {"compared": 1, "all": 2}
    assert "first 1 of 2 layers" in (tmp_path / "large" / "report.md").read_text()
    assert not [name for name in manifest.files if name.startswith("first")]


def test_image_size_and_tokens_make_another_model_of_the_same_weights(
    checkpoint: Path, samples: list[VerificationSample], tmp_path: Path
) -> None:
    targets = Targets(image_size=96, max_tokens=128)
    precisions = Precisions(llm="fp32", lm_head="fp32")
    manifest = build_bundle(checkpoint, tmp_path / "b", precisions=precisions, targets=targets, samples=samples)
    assert manifest.verified
    model = manifest.model
    assert (model.image_size, model.image_tokens, model.max_positions, model.position_size) == (96, 36, 128, 14)
    graph = onnx.load(tmp_path / "b" / DECODER).graph
    assert {tensor.dims[0] for tensor in graph.initializer if tensor.name.startswith("rope")} == {128}
    describer = Describer(Bundle.open(tmp_path / "b"))
    describer.set_image(samples[0].rgb)
    assert len(describer.describe(samples[0].ids, config=up_to(2))) == 3


def test_a_bundle_for_the_gpu_computes_in_half_precision(checkpoint: Path, tmp_path: Path) -> None:
    manifest = build_bundle(checkpoint, tmp_path / "b", verify=False, targets=Targets(device="cuda"))
    assert {entry.device for entry in manifest.engines.values()} == {"cuda"}
    assert manifest.precisions["vision"] == manifest.precisions["mask_extractor"] == "fp16"
    decoder = open_session(tmp_path / "b" / DECODER)
    types = {i.name: i.type for i in decoder.get_inputs()}
    assert types["prefix_key.0"] == "tensor(float16)"
    for file in (VISION, MASK_EXTRACTOR):
        products = [node for node in onnx.load(tmp_path / "b" / file).graph.node if node.op_type == "MatMul"]
        assert products
        assert onnx.TensorProto.FLOAT16 in {t.data_type for t in onnx.load(tmp_path / "b" / file).graph.initializer}


def test_plans_take_the_place_of_graphs(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT itself is played: what it is given and what becomes of its plans is real."""
    made = {}

    def make_plan(role, graph, folder, config, max_regions) -> EngineEntry:
        model = onnx.load(graph)
        made[role] = ({node.op_type for node in model.graph.node}, {node.domain for node in model.graph.node})
        plan = folder / f"{role}.0123.plan"
        plan.write_bytes(b"plan")
        write_fingerprint(plan, {"gpu": "played"})
        return EngineEntry(plan.name, "tensorrt", "cuda", {"gpu": "played"})

    monkeypatch.setattr("export.parts.make_plan", make_plan)
    monkeypatch.setattr("osprey_ros.engines.machine.current", lambda: {})
    targets = Targets(runtime="tensorrt", decoder="tensorrt", device="cuda")
    manifest = build_bundle(checkpoint, tmp_path / "b", verify=False, targets=targets)
    assert set(made) == {"vision", "mask_extractor", "crop", "decoder"}
    assert {domain for _, domains in made.values() for domain in domains} == {""}
    assert "DequantizeLinear" in made["decoder"][0]
    assert manifest.precisions["decoder"] == "int4 symmetric, block 64, clip"
    for role, entry in manifest.engines.items():
        assert entry == EngineEntry(f"{role}.0123.plan", "tensorrt", "cuda", {"gpu": "played"})
    plans = {f"{role}.0123.plan{end}" for role in made for end in ("", ".json")}
    assert set(manifest.files) == {*plans, *TABLES, CONFIG, KINDS}
    assert Bundle.open(tmp_path / "b").engine("decoder").runtime == "tensorrt"


@pytest.mark.parametrize(("multiprocessors", "again"), [("8", False), ("4", True)])
def test_plans_of_another_machine_are_not_gone_on_with(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, multiprocessors: str, again: bool
) -> None:
    made: list[str] = []

    def make_plan(role, graph, folder, config, max_regions) -> EngineEntry:
        made.append(role)
        if role == "mask_extractor" and not again_begun:
            raise KeyboardInterrupt
        for old in folder.glob(f"{role}.*.plan*"):
            old.unlink()
        plan = folder / f"{role}.{machine['multiprocessors']}.plan"
        plan.write_bytes(b"plan")
        write_fingerprint(plan, machine)
        return EngineEntry(plan.name, "tensorrt", "cuda", machine)

    monkeypatch.setattr("export.parts.make_plan", make_plan)
    monkeypatch.setattr("osprey_ros.engines.machine.current", lambda: machine)
    again_begun, machine = False, {"gpu": "played", "multiprocessors": "8"}
    options = {"verify": False, "targets": Targets(runtime="tensorrt", device="cuda")}
    with pytest.raises(KeyboardInterrupt):
        build_bundle(checkpoint, tmp_path / "b", **options)
    made.clear()
    again_begun, machine = True, {"gpu": "played", "multiprocessors": multiprocessors}
    manifest = build_bundle(checkpoint, tmp_path / "b", **options)
    assert made == (["vision"] if again else []) + ["mask_extractor", "crop"]
    assert manifest.engines["vision"].file == f"vision.{multiprocessors}.plan"


def test_a_graph_that_tensorrt_refuses_is_said_in_a_line(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*arguments: object) -> EngineEntry:
        raise EngineError("TensorRT 10.3.0 refuses vision.onnx")

    monkeypatch.setattr("export.parts.make_plan", refuse)
    monkeypatch.setattr("osprey_ros.engines.machine.current", lambda: {})
    options = ["--checkpoint", str(checkpoint), "--output", str(tmp_path / "b"), "--no-verify"]
    assert main([*options, "--runtime", "tensorrt"]) == 2
    error = capsys.readouterr().err
    assert "build_engines: TensorRT 10.3.0 refuses vision.onnx\n" in error
    assert f"complete parts are kept in {tmp_path / '.b.partial'}" in error


def test_a_tokenizer_that_cannot_be_written_is_said_in_a_line(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_text = Path.write_text

    def full(self: Path, data: str, **options: str) -> int:
        if self.name == "tokenizer.json":
            raise OSError(28, "No space left on device", str(self))
        return write_text(self, data, **options)

    monkeypatch.setattr(Path, "write_text", full)
    assert main(["--checkpoint", str(checkpoint), "--output", str(tmp_path / "b"), "--no-verify"]) == 2
    assert "the disk is full" in capsys.readouterr().err


@pytest.mark.parametrize("stage", STAGES)
def test_a_limit_that_is_passed_stops_the_build_by_the_stage_s_name_and_keeps_the_engines(
    checkpoint: Path, samples: list[VerificationSample], tmp_path: Path, stage: str, caplog: pytest.LogCaptureFixture
) -> None:
    limits = replace(LOOSE, **{stage: Limit(cosine=1.01, relative=1.0)})
    with pytest.raises(VerificationError, match=stage):
        build_bundle(checkpoint, tmp_path / "bundle", samples=samples, limits=limits)
    assert [path.name for path in tmp_path.iterdir()] == [".bundle.partial"]
    with caplog.at_level("INFO"):
        manifest = build_bundle(checkpoint, tmp_path / "bundle", verify=False)
    assert not manifest.verified
    assert "decoder graph: kept from before" in caplog.messages
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_rebuild_replaces_the_bundle_and_keeps_its_card(checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "bundle"
    first = build_bundle(checkpoint, output, verify=False)
    (output / "README.md").write_text("written by hand\n")
    (output / "report.md").write_text("of the old bundle\n")
    (output / DECODER).write_bytes(b"spoilt")
    second = build_bundle(checkpoint, output, verify=False)
    assert second.files == first.files
    assert (output / "README.md").read_text() == "written by hand\n"
    assert "Not verified" in (output / "report.md").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    assert not Bundle.open(output).manifest.verified


def test_a_calibration_that_a_rebuild_ends_is_spoken_of(checkpoint: Path, tmp_path: Path, capsys) -> None:
    command = ["--checkpoint", str(checkpoint), "--output", str(tmp_path / "bundle"), "--no-verify"]
    assert main(command) == 0
    assert "evaluation.calibration" not in capsys.readouterr().err
    write_calibration(tmp_path / "bundle", Calibration())
    assert main(command) == 0
    assert f"python -m evaluation.calibration --bundle {tmp_path / 'bundle'} --write" in capsys.readouterr().err
    assert Bundle.open(tmp_path / "bundle").calibration() == Calibration()


def test_what_is_in_the_way_is_named_and_left_alone(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("two years of work")
    with pytest.raises(BundleError, match="not an engine bundle"):
        build_bundle(checkpoint, tmp_path, verify=False)
    with pytest.raises(BundleError, match=r"thesis\.txt/bundle cannot be written: .*thesis\.txt is not a folder"):
        build_bundle(checkpoint, tmp_path / "thesis.txt" / "bundle", verify=False)
    assert (tmp_path / "thesis.txt").read_text() == "two years of work"


@pytest.mark.parametrize("manifest", ['{"name": "app"}', "[]", "{", '{"format_version": 1, "files": {}}'])
def test_a_folder_with_a_manifest_of_something_else_is_left_alone(
    checkpoint: Path, tmp_path: Path, manifest: str
) -> None:
    app = tmp_path / "app"
    write(app / "src" / "x", "two years of work")
    write(app / "manifest.json", manifest)
    with pytest.raises(BundleError, match="not an engine bundle"):
        build_bundle(checkpoint, app, verify=False)
    assert (app / "src" / "x").read_text() == "two years of work"
    assert (app / "manifest.json").read_text() == manifest
    assert [path.name for path in tmp_path.iterdir()] == ["app"]


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_folder_without_a_name_is_refused_in_a_line(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--checkpoint", str(checkpoint), "--output", "/", "--no-verify"]) == 2
    assert (
        capsys.readouterr().err
        == "build_engines: / exists and is not an engine bundle: give another folder or remove it\n"
    )


def test_a_link_to_a_bundle_stays_and_what_it_leads_to_is_built(checkpoint: Path, tmp_path: Path) -> None:
    link, there = tmp_path / "newest", tmp_path / "disk" / "bundle"
    there.parent.mkdir()
    link.symlink_to(there)  # nothing is there yet
    for _ in range(2):
        manifest = build_bundle(checkpoint, link, verify=False)
        assert manifest.name == "newest"
        assert link.readlink() == there
        assert Bundle.open(link).manifest == manifest == Bundle.open(there).manifest
        assert [path.name for path in there.parent.iterdir()] == ["bundle"]
        assert {path.name for path in tmp_path.iterdir()} == {"newest", "disk"}
    assert partial_folder(link) == partial_folder(there)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": Targets(runtime="tensorrt")}, "TensorRT runs on NVIDIA GPUs only"),
        ({"targets": Targets(image_size=100)}, "image size 100: it must be a multiple of 32"),
        ({"targets": Targets(max_tokens=1000)}, "1000 tokens: the model knows 512 positions"),
        ({"targets": Targets(max_tokens=70)}, "70 tokens: an image of 64 pixels takes 16 of them"),
        ({"targets": Targets(device="cuda"), "precisions": Precisions(llm="fp32")}, "llm fp32: this decoder computes"),
        ({"targets": Targets(device="cuda"), "verify": True}, "this onnxruntime has no CUDA"),
        ({"verify": True, "verify_layers": 3}, "3 layers to verify: the decoder has 2"),
    ],
)
def test_the_impossible_is_refused_before_anything_is_written(
    checkpoint: Path, tmp_path: Path, options: dict, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        build_bundle(checkpoint, tmp_path / "b", **{"verify": False, "samples": [], **options})
    assert list(tmp_path.iterdir()) == []


def test_without_tensorrt_or_its_gpu_plans_are_refused_at_once(checkpoint: Path, tmp_path: Path) -> None:
    for targets in (Targets(runtime="tensorrt", device="cuda"), Targets(decoder="tensorrt", device="cuda")):
        with pytest.raises(EngineError):
            build_bundle(checkpoint, tmp_path / "b", verify=False, targets=targets)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (Precisions, {"vision": "int4"}, "precision of vision must be one of auto, fp32, fp16"),
        (Precisions, {"method": "gptq"}, "method must be one of rtn, clip"),
        (Targets, {"device": "tpu"}, "device must be one of cpu, cuda"),
        (Targets, {"max_regions": 0}, "max_regions is 0"),
    ],
)
def test_unknown_values_are_refused(kind: type, values: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        kind(**values)


def test_command_line_builds_without_verification_and_says_so(checkpoint: Path, tmp_path: Path, capsys) -> None:
    options = ["--checkpoint", str(checkpoint), "--output", str(tmp_path / "quick"), "--name", "q", "--no-verify"]
    assert main([*options, "--vision", "fp16", "--llm", "int8", "--method", "rtn", "--max-tokens", "256"]) == 0
    manifest = Bundle.open(tmp_path / "quick").manifest
    assert manifest.name == "q"
    assert manifest.verification == {"verified": False}
    assert manifest.precisions["vision"] == "fp16"
    assert manifest.precisions["decoder"].startswith("int8 symmetric, block 32, rtn")
    assert manifest.model.max_positions == 256
    error = capsys.readouterr().err
    assert "not verified" in error
    assert "memory: describing 64 regions at once takes about" in error


def test_command_line_without_arguments_shows_how_it_is_used(capsys) -> None:
    assert main([]) == 2
    assert "--checkpoint" in capsys.readouterr().out


def test_command_line_says_what_is_wrong_in_a_line(checkpoint: Path, tmp_path: Path, capsys) -> None:
    options = ["--checkpoint", str(checkpoint), "--output", str(tmp_path / "b"), "--no-verify"]
    assert main([*options, "--llm", "fp16", "--method", "rtn"]) == 2
    assert "--method rtn is how int4 and int8 weights are found" in capsys.readouterr().err
    assert main([*options, "--runtime", "tensorrt", "--device", "cpu"]) == 2
    assert "NVIDIA GPUs only" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_method_serves_an_output_layer_that_becomes_int8(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export.options._SMALL_LM_HEAD", 1)
    options = ["--checkpoint", str(checkpoint), "--output", str(tmp_path / "b"), "--no-verify"]
    assert main([*options, "--llm", "fp16", "--method", "rtn"]) == 0
    assert Bundle.open(tmp_path / "b").manifest.precisions["lm_head"] == "int8"


def test_the_script_runs_from_anywhere_and_names_a_missing_checkpoint(tmp_path: Path) -> None:
    script = Path(__file__).resolve().parents[2] / "export" / "build_engines.py"
    command = [sys.executable, str(script), "--checkpoint", "no_such_folder", "--output", "out"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 2, result.stderr
    assert "no_such_folder" in result.stderr
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []
