"""The report of a bundle for people."""

from __future__ import annotations

from pathlib import Path

from conftest import SampleImage, TinyModel

from export.figures import STAGES
from export.report import write_report
from export.samples import VerificationSample
from export.verify import verify_bundle
from osprey_torch.checkpoint import Checkpoint

PRECISIONS = {"vision": "fp32", "decoder": "int4 symmetric"}


def test_a_report_has_every_figure_and_repeats_to_the_byte(
    tiny_model: TinyModel, sample: SampleImage, tmp_path: Path
) -> None:
    checkpoint = Checkpoint.open(tiny_model.checkpoint)
    samples = [VerificationSample("desk", sample.rgb, sample.ids)]
    figures = verify_bundle(tiny_model.bundle, checkpoint, checkpoint.read, samples, max_new_tokens=3)
    (tmp_path / "decoder.onnx").write_bytes(b"0" * 1_250_000)
    path = write_report(tmp_path, "tiny", PRECISIONS, figures)
    text = path.read_text()
    assert path.name == "report.md"
    assert all(stage in text for stage in STAGES)
    assert "**Verified**" in text
    assert "desk" in text
    assert "5 of 5 (100.0%)" in text
    assert "| decoder | int4 symmetric |" in text
    assert "| decoder.onnx | 1.25 |" in text
    assert "layers of the language model were compared" not in text
    write_report(tmp_path, "tiny", PRECISIONS, figures)
    assert path.read_text() == text


def test_what_was_not_compared_is_said(tmp_path: Path) -> None:
    text = write_report(tmp_path, "quick", PRECISIONS, {"verified": False}).read_text()
    assert "**Not verified**" in text
    assert "int4 symmetric" in text


def test_failures_and_a_shortened_decoder_are_said(tiny_model: TinyModel, sample: SampleImage, tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(tiny_model.checkpoint)
    samples = [VerificationSample("desk", sample.rgb, sample.ids)]
    figures = verify_bundle(tiny_model.bundle, checkpoint, checkpoint.read, samples, max_new_tokens=1)
    failed = {**figures, "verified": False, "failures": ["image_tokens: cosine 0.1"]}
    failed["decoder_layers"] = {"compared": 1, "all": 2}
    text = write_report(tmp_path, "wrong", PRECISIONS, failed).read_text()
    assert "**Failed**" in text
    assert "- image_tokens: cosine 0.1" in text
    assert "Only the first 1 of 2 layers of the language model were compared" in text
