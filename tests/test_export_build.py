"""From a checkpoint folder to a bundle: whole, checked, replaced in one go, and refused when engines are wrong."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import TINY

from export.build import CONFIG, BuildError, Precisions, build_bundle
from export.build_engines import main
from export.readback import model_from_bundle
from export.samples import VerificationSample
from export.verify import STAGES, Limit, Limits, TokenFigures, VerificationError, quantized_copy, verify_engines
from osprey_ros.bundle import DECODER, MASK_EXTRACTOR, REQUIRED_FILES, VISION, Bundle
from osprey_ros.engines import Engine, load_engine
from osprey_ros.prompt import QUESTIONS, PromptBuilder
from osprey_torch.checkpoint import load_checkpoint, save_checkpoint
from osprey_torch.model import Osprey
from training.tokenizer import train_tokenizer


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model that is sure of its words, so that greedy tokens can be compared."""
    tokenizer = train_tokenizer(list(QUESTIONS.values()) * 5, vocab_size=300)
    config = TINY.with_vocabulary(tokenizer.token_to_id("<mask>"))
    torch.manual_seed(0)
    model = Osprey(config).eval()
    model.lm_head.weight.data *= 60
    folder = tmp_path_factory.mktemp("checkpoint")
    save_checkpoint(model, tokenizer, folder)
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
def bundle(checkpoint: Path, samples: list[VerificationSample], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("bundles") / "exact"
    build_bundle(checkpoint, output, precisions=Precisions(llm="fp32", lm_head="fp32"), samples=samples)
    return output


def test_bundle_is_whole_and_holds_its_figures(checkpoint: Path, bundle: Path) -> None:
    opened = Bundle.open(bundle)
    manifest = opened.manifest
    assert set(manifest.files) == {*REQUIRED_FILES, CONFIG}
    assert [path.name for path in bundle.parent.iterdir()] == ["exact"]
    assert manifest.name == "exact"
    assert manifest.verified
    assert manifest.precisions["decoder"] == "fp32"
    model, _ = load_checkpoint(checkpoint)
    np.testing.assert_allclose(opened.embeddings(), model.model.embed_tokens.weight.detach(), rtol=1e-3, atol=1e-7)

    figures = manifest.verification
    assert set(figures["stages"]) == set(STAGES)
    # Nothing is quantized here but the embedding table, to float16: engines and PyTorch agree throughout.
    assert all(stage["relative"] < 2e-3 and stage["cosine"] > 0.99999 for stage in figures["stages"].values())
    tokens = figures["greedy_tokens"]
    assert tokens["regions"] == 3
    assert tokens["identical_answers"] == 3
    assert tokens["decided_steps"] == tokens["decided_steps_equal"] > 10


def test_int4_bundle_passes_and_is_smaller(
    checkpoint: Path, samples: list[VerificationSample], bundle: Path, tmp_path: Path
) -> None:
    # The weights are random: what int4 costs in words says nothing here, the graph must still be right.
    limits = Limits(prefix_logits=Limit(0.8, 1.0), answer_logits=Limit(0.8, 1.0), agreement=0.0)
    manifest = build_bundle(checkpoint, tmp_path / "int4", name="small", samples=samples, limits=limits)
    assert manifest.name == "small"
    assert manifest.precisions["decoder"].startswith("int4")
    assert manifest.verification["stages"]["decoder_graph"]["relative"] < 5e-3
    assert manifest.verification["stages"]["prefix_logits"]["relative"] > 1e-2
    assert manifest.files[DECODER].bytes < Bundle.open(bundle).manifest.files[DECODER].bytes * 0.75


def test_the_model_read_back_from_a_bundle_is_the_quantized_one(checkpoint: Path, tmp_path: Path) -> None:
    precisions = Precisions(lm_head="int8")
    build_bundle(checkpoint, tmp_path / "bundle", verify=False, precisions=precisions)
    model, _ = load_checkpoint(checkpoint)
    expected = quantized_copy(model, precisions.decoder(model.config))
    found = model_from_bundle(Bundle.open(tmp_path / "bundle"))
    ids = torch.arange(20)[None]
    pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        logits = [m.lm_head(m.model(input_ids=ids).last_hidden_state) for m in (found, expected)]
        tokens = [m.encode_image(pixels)[1] for m in (found, expected)]
    # The embedding table is float16 in a bundle.
    torch.testing.assert_close(logits[0], logits[1], rtol=2e-3, atol=2e-3 * float(logits[1].abs().max()))
    torch.testing.assert_close(tokens[0], tokens[1], rtol=1e-4, atol=1e-5)
    linear = "model.layers.1.mlp.down_proj.weight"
    torch.testing.assert_close(found.state_dict()[linear], expected.state_dict()[linear], rtol=0, atol=0)


@pytest.mark.parametrize("stage", STAGES)
def test_a_limit_that_is_passed_stops_the_build_by_the_stage_s_name(
    checkpoint: Path, samples: list[VerificationSample], tmp_path: Path, stage: str
) -> None:
    limits = replace(Limits(), **{stage: Limit(cosine=1.01, relative=1.0)})
    with pytest.raises(VerificationError, match=stage):
        build_bundle(checkpoint, tmp_path / "bundle", samples=samples, limits=limits)
    assert list(tmp_path.iterdir()) == []


class _Distorted:
    """An engine one of whose outputs is wrong."""

    def __init__(self, engine: Engine, output: str, value: float) -> None:
        self._engine = engine
        self._output = output
        self._value = value
        self.input_names, self.output_names = engine.input_names, engine.output_names

    def run(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        results = self._engine.run(inputs, outputs)
        wrong = results[self._output].copy()
        wrong.reshape(-1)[::3] += self._value
        return {**results, self._output: wrong}


@pytest.mark.parametrize(
    ("file", "output", "value", "stage"),
    [
        (VISION, "res3", 1.0, "vision_features"),
        (VISION, "image_tokens", 1.0, "image_tokens"),
        (MASK_EXTRACTOR, "mask_tokens", 1.0, "mask_tokens"),
        (MASK_EXTRACTOR, "position_tokens", float("nan"), "position_tokens"),
        (DECODER, "logits", 20.0, "decoder_graph"),
        (DECODER, "new_value.1", 1.0, "answer_logits"),
    ],
)
def test_a_wrong_engine_is_found_at_its_stage(
    checkpoint: Path, bundle: Path, samples: list[VerificationSample], file: str, output: str, value: float, stage: str
) -> None:
    model, tokenizer = load_checkpoint(checkpoint)
    precision = Precisions(llm="fp32", lm_head="fp32").decoder(model.config)
    engines = {name: load_engine(bundle / name) for name in (VISION, MASK_EXTRACTOR, DECODER)}
    engines[file] = _Distorted(engines[file], output, value)
    prompts = PromptBuilder(tokenizer, model.config.model_spec())
    with pytest.raises(VerificationError, match=stage):
        verify_engines(engines, Bundle.open(bundle).embeddings(), model, prompts, precision, samples)


def test_answers_are_compared_up_to_their_first_difference() -> None:
    figures = TokenFigures()
    reference = np.array([5, 6, 7, 2])
    margins = np.array([0.9, 0.02, 0.9, 0.9])
    figures.add_answer(reference, reference, margins, 0.1)
    figures.add_answer(np.array([5, 8, 1, 1]), reference, margins, 0.1)  # a near tie fell the other way
    figures.add_answer(np.array([5, 6, 1, 2]), reference, margins, 0.1)  # a clear choice was missed
    figures.add_answer(np.array([5, 6]), reference, margins, 0.1)  # the engine stopped early
    assert (figures.regions, figures.identical_answers) == (4, 1)
    assert (figures.steps, figures.steps_equal) == (4 + 2 + 3 + 3, 4 + 1 + 2 + 2)
    assert (figures.decided_steps, figures.decided_steps_equal) == (3 + 1 + 2 + 2, 3 + 1 + 1 + 1)


def test_a_rebuild_replaces_the_bundle_and_keeps_its_card(checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "bundle"
    first = build_bundle(checkpoint, output, verify=False)
    (output / "README.md").write_text("written by hand\n")
    (output / DECODER).write_bytes(b"spoilt")
    second = build_bundle(checkpoint, output, verify=False)
    assert second.files == first.files
    assert (output / "README.md").read_text() == "written by hand\n"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    assert not Bundle.open(output).manifest.verified


def test_a_folder_that_is_no_bundle_is_not_replaced(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("two years of work")
    with pytest.raises(BuildError, match="not an engine bundle"):
        build_bundle(checkpoint, tmp_path, verify=False)
    assert (tmp_path / "thesis.txt").read_text() == "two years of work"


def test_a_build_that_was_killed_leaves_nothing_in_the_way(checkpoint: Path, tmp_path: Path) -> None:
    leftover = tmp_path / ".bundle.partial"
    leftover.mkdir()
    (leftover / "vision.onnx").write_bytes(b"half")
    build_bundle(checkpoint, tmp_path / "bundle", verify=False)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_command_line_builds_without_verification_and_says_so(checkpoint: Path, tmp_path: Path, capsys) -> None:
    options = ["--checkpoint", str(checkpoint), "--output", str(tmp_path / "quick"), "--name", "q", "--no-verify"]
    assert main([*options, "--vision", "fp16", "--llm", "int8"]) == 0
    manifest = Bundle.open(tmp_path / "quick").manifest
    assert manifest.name == "q"
    assert manifest.verification == {"verified": False}
    assert manifest.precisions["vision"] == "fp16"
    assert manifest.precisions["decoder"].startswith("int8")
    assert "not verified" in capsys.readouterr().err


def test_the_script_runs_from_anywhere_and_names_a_missing_checkpoint(tmp_path: Path) -> None:
    script = Path(__file__).resolve().parents[1] / "export" / "build_engines.py"
    command = [sys.executable, str(script), "--checkpoint", "no_such_folder", "--output", "out"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 2, result.stderr
    assert "no_such_folder" in result.stderr
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []
