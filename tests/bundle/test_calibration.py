"""Confidence: curves, their file in a bundle, how they are fitted, and what they are worth."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import TinyModel

from evaluation import calibration as measured
from evaluation.calibration import answers_of_scenes
from evaluation.curves import Answers, expected_calibration_error, fit, reliability
from osprey_ros.bundle.bundle import Bundle, write_calibration
from osprey_ros.bundle.calibration import ATTRIBUTE, CATEGORY, DESCRIPTION, QUERY, Calibration, Curve
from osprey_ros.bundle.manifest import CALIBRATION, MANIFEST
from osprey_ros.describer import Describer
from osprey_ros.errors import BundleError, InputError

CURVES = Calibration({"category": Curve((0.2, 0.8), (0.1, 0.5))}, "a test")


def _answers(count: int, seed: int) -> Answers:
    """Answers that are right as often as the square of their confidence says."""
    rng = np.random.default_rng(seed)
    confidences = rng.uniform(size=count)
    return Answers(confidences, rng.uniform(size=count) < confidences**2)


def test_a_curve_is_straight_between_its_points_and_level_outside() -> None:
    assert [CURVES.apply("category", c) for c in (0.0, 0.2, 0.5, 0.8, 1.0)] == pytest.approx([0.1, 0.1, 0.3, 0.5, 0.5])
    assert CURVES.apply("description", 0.7) == 0.7  # a kind without a curve


@pytest.mark.parametrize(
    ("confidences", "shares", "message"),
    [
        ((), (), "one share for each confidence"),
        ((0.1, 0.2), (0.1,), "one share for each confidence"),
        ((0.1, 1.2), (0.1, 0.2), "leaves the range 0 to 1"),
        ((0.1, float("nan")), (0.1, 0.2), "leaves the range 0 to 1"),
        ((0.2, 0.1), (0.1, 0.2), "decreases"),
        ((0.1, 0.2), (0.3, 0.2), "decreases"),
    ],
)
def test_a_curve_that_is_none_is_refused(confidences: tuple[float], shares: tuple[float], message: str) -> None:
    with pytest.raises(BundleError, match=message):
        Curve(confidences, shares)


def test_a_bundle_keeps_its_calibration(tiny_model: TinyModel, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(tiny_model.bundle, folder)
    before = Bundle.open(folder)
    assert before.calibration() == Calibration()
    write_calibration(folder, CURVES)
    after = Bundle.open(folder)
    assert after.calibration() == CURVES
    assert set(after.manifest.files) == {*before.manifest.files, CALIBRATION}
    assert after.manifest.verification == before.manifest.verification
    write_calibration(folder, Calibration())  # a new one takes its place
    assert Bundle.open(folder).calibration() == Calibration()
    (folder / CALIBRATION).write_text("{}\n" + " " * 400)
    with pytest.raises(BundleError, match=r"calibration\.json"):
        Bundle.open(folder)
    (folder / CALIBRATION).unlink()
    with pytest.raises(BundleError, match=r"calibration\.json is missing"):
        write_calibration(folder, CURVES)


@pytest.mark.parametrize("method", ["write_bytes", "replace"])
@pytest.mark.parametrize("earlier", [CURVES, None])
def test_a_calibration_that_cannot_be_written_leaves_the_bundle_as_it_was(
    tiny_model: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, earlier: Calibration | None
) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(tiny_model.bundle, folder)
    if earlier is not None:
        write_calibration(folder, earlier)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    original = getattr(Path, method)

    def full(path: Path, *arguments: object, **named: object) -> object:
        if path.name.startswith(MANIFEST):
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(path, *arguments, **named)

    monkeypatch.setattr(Path, method, full)
    with pytest.raises(BundleError, match=r"cannot write calibration\.json: the disk is full; free some space"):
        write_calibration(folder, Calibration())
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert Bundle.open(folder).calibration() == (earlier or Calibration())


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format_version": 9}', '{"format_version": 1, "fitted": "", "curves": 3}']
)
def test_a_file_that_is_no_calibration_is_refused(text: str) -> None:
    with pytest.raises(BundleError):
        Calibration.from_json(text)
    assert Calibration.from_json(CURVES.to_json()) == CURVES


def test_the_error_is_the_distance_of_confidence_and_share() -> None:
    answers = Answers(np.array([0.95, 0.95, 0.95, 0.95, 0.15, 0.15]), np.array([True, True, True, False, False, False]))
    assert [(part.count, part.confidence, part.share) for part in reliability(answers, 10)] == [
        (2, pytest.approx(0.15), 0.0),
        (4, pytest.approx(0.95), 0.75),
    ]
    assert expected_calibration_error(answers, 10) == pytest.approx((2 * 0.15 + 4 * 0.20) / 6)
    assert expected_calibration_error(Answers(np.ones(3), np.ones(3, bool))) == 0


def test_a_fit_makes_other_answers_mean_what_they_say() -> None:
    calibration = Calibration({"category": fit(_answers(2000, seed=1))})
    others = _answers(2000, seed=2)
    assert expected_calibration_error(others) > 0.14
    assert expected_calibration_error(others.calibrated(calibration, "category")) < 0.04
    few = fit(_answers(5, seed=3))  # too few to say anything in detail
    assert len(few.shares) == 1
    assert 0 < few.shares[0] < 1


def test_answers_that_are_equally_sure_share_one_point() -> None:
    curve = fit(Answers(np.ones(60), np.array([False] + [True] * 59)))
    assert curve == Curve((1.0,), (60 / 62,))
    # 25 answers at 0.2, 40 at 0.5 across two blocks, and 30 at 0.9; every other one, half and all but one right.
    confidences = np.repeat([0.2, 0.5, 0.9], [25, 40, 30])
    right = np.arange(95) % 2 == 0
    right[65:94] = True
    curve = fit(Answers(confidences, right))
    assert curve.confidences == pytest.approx(((25 * 0.2 + 40 * 0.5) / 65, 0.9))
    assert curve.shares == pytest.approx((34 / 67, 31 / 32))


def test_confidences_whose_means_round_to_one_number_share_one_point() -> None:
    below = 0.8132702392002724
    above = float(np.nextafter(below, 1))
    assert np.full(30, below).mean() == np.full(30, above).mean()
    assert fit(Answers(np.repeat([below, above], 30), np.arange(60) >= 20)).shares == (41 / 62,)


def test_the_error_of_no_answers_is_refused() -> None:
    with pytest.raises(InputError, match="no answers to judge"):
        expected_calibration_error(Answers(np.zeros(0), np.zeros(0, bool)))


def test_nano_is_calibrated() -> None:
    describer = Describer("nano", threads=1)
    calibration = describer.bundle.calibration()
    assert set(calibration.curves) == {CATEGORY, DESCRIPTION, ATTRIBUTE, QUERY}
    answers = answers_of_scenes(describer, range(20), "test")
    for kind in (CATEGORY, DESCRIPTION):
        before = expected_calibration_error(answers[kind], 5)
        after = expected_calibration_error(answers[kind].calibrated(calibration, kind), 5)
        assert after < before / 2


def test_the_command_fits_prints_draws_and_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "nano"
    shutil.copytree(Bundle.open("nano").root, bundle)
    few = ["--bundle", str(bundle), "--fit-scenes", "3", "--scenes", "2"]
    assert (
        measured.main([*few, "--write", "--plot", str(tmp_path / "plot.png"), "--json", str(tmp_path / "out.json")])
        == 0
    )
    assert "ECE before" in capsys.readouterr().out
    written = Bundle.open(bundle).calibration()
    assert written.fitted.startswith("3 simulated validation scenes")
    assert written.curves[QUERY] == Bundle.open("nano").calibration().curves[QUERY]  # not its business
    assert (tmp_path / "plot.png").stat().st_size > 5000
    assert (tmp_path / "out.json").exists()
    assert measured.main(["--bundle", str(tmp_path / "none")]) == 2
    assert "none" in capsys.readouterr().err
