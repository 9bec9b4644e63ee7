"""The bundle that ships: small, checked when it was built, right about most of what it sees, and faster than a loop."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import onnxruntime
import pytest

from benchmarks import frame
from evaluation import accuracy
from osprey_ros.bundle.bundle import Bundle
from osprey_ros.bundle.manifest import DECODER
from osprey_ros.describer import Describer
from osprey_ros.engines.onnxruntime import release
from osprey_sim.render import MIN_AREA
from osprey_torch.readback import model_from_bundle
from osprey_torch.stored_linears import PRODUCTS

ROOT = Path(__file__).resolve().parents[2]
NANO = ROOT / "engines" / "nano"


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.open(NANO)


def test_it_is_small_and_was_verified(bundle: Bundle) -> None:
    assert sum(path.stat().st_size for path in NANO.iterdir()) <= 16e6
    assert bundle.manifest.verified
    assert sum(p.numel() for p in model_from_bundle(bundle).parameters()) <= 12e6


def test_its_decoder_is_int4(bundle: Bundle) -> None:
    levels = [w for w in onnx.load(bundle.path(DECODER)).graph.initializer if w.name.endswith(".levels")]
    assert {w.data_type for w in levels} == {onnx.TensorProto.INT4}
    assert len(levels) == len(PRODUCTS) * bundle.manifest.model.num_layers


def test_it_names_most_of_what_it_sees(bundle: Bundle) -> None:
    judged = accuracy.judge_scenes(Describer(bundle), range(12), "test", MIN_AREA)
    shares = accuracy.summary(judged)
    assert shares["category"].of > 50
    assert float(shares["category"]) >= 0.88  # 500 scenes are in its card; these are a sample
    assert float(shares["category of parts"]) >= 0.9
    assert float(shares["yes or no: is it a ...?"]) >= 0.9
    assert float(shares["where is it from another?"]) >= 0.8
    assert float(shares["detailed: place true"]) >= 0.85
    assert float(shares["known class"]) >= 0.9
    assert float(shares["known class or part"]) == 1


def test_the_benchmark_compares_equal_words_and_writes_its_figures(tmp_path: Path) -> None:
    out = tmp_path / "frame.json"
    arguments = ["--bundle", str(NANO), "--regions", "3", "--runs", "3", "--without", "memory,decode"]
    assert frame.main([*arguments, "--json", str(out), "--plot", str(tmp_path / "frame.png")]) == 0
    report = json.loads(out.read_text())
    (result,) = report["frames"]
    assert result["regions"] == 3
    assert 3 * 8 < result["new_tokens"] <= 3 * 12
    others = result["others"]
    if release(onnxruntime.__version__) >= (1, 32):
        assert set(others) == {"demo", "loop", "batched"}
    else:
        assert set(others) == {"demo", "loop"}
        assert "ends the process: use 1.32" in report["skipped"]["batched"]
    assert {name: other["same_tokens"] for name, other in others.items()} == dict.fromkeys(others, 1)
    assert 0 < result["engines"]["median"] < min(others[name]["seconds"]["median"] for name in ("demo", "loop"))
    # Medians of parts need not add up to that of the whole; nothing large hides outside of them.
    assert sum(result["stages"].values()) == pytest.approx(result["engines"]["median"], rel=0.5)


def test_wrong_arguments_of_the_measures_end_with_a_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert frame.main(["--bundle", str(NANO), "--regions", "65"]) == 2
    assert "the number of regions is 65; use 1 to 64" in capsys.readouterr().err
    assert accuracy.main(["--bundle", str(tmp_path / "none")]) == 2
    assert "none" in capsys.readouterr().err
