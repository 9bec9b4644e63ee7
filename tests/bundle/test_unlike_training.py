"""The score "unlike training": its file in a bundle, how it is fitted, and what it separates."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import TinyModel

from evaluation.figures import auroc
from evaluation.unlike_fit import fit_unlike_training
from osprey_ros.bundle.bundle import Bundle, write_unlike_training
from osprey_ros.bundle.manifest import UNLIKE_TRAINING
from osprey_ros.bundle.unlike_training import TYPICAL, UNKNOWN_FROM, UnlikeTraining, channel_statistics, trust
from osprey_ros.describer import Describer
from osprey_ros.errors import BundleError, InputError

WIDTH, STATISTICS, CLASSES = 24, 10, 5


def _clusters(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return vectors around the center of each class, and their classes."""
    centers = 4 * np.random.default_rng(0).normal(size=(CLASSES, WIDTH))
    rng = np.random.default_rng(seed)
    labels = rng.integers(CLASSES, size=count)
    return (centers[labels] + rng.normal(size=(count, WIDTH))).astype(np.float32), labels.astype(str)


def _images(seed: int, count: int, offset: float = 0.0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=(count, STATISTICS)) + offset).astype(np.float32)


@pytest.fixture(scope="module")
def fitted() -> UnlikeTraining:
    tokens, labels = _clusters(1, 600)
    return fit_unlike_training(tokens, labels, _clusters(2, 400)[0], _images(3, 200), _images(4, 400), "a test")


def test_it_separates_vectors_between_the_classes(fitted: UnlikeTraining) -> None:
    known = _clusters(5, 400)[0]
    between = np.random.default_rng(6).normal(scale=4, size=(300, WIDTH)).astype(np.float32)
    scores, others = fitted.score(known), fitted.score(between)
    assert scores.dtype == np.float32
    assert auroc(scores, others) > 0.99
    assert (scores > TYPICAL).mean() < 0.12
    assert (scores >= UNKNOWN_FROM).mean() < 0.01
    without_classes = fit_unlike_training(known, None, _clusters(2, 400)[0])
    assert auroc(without_classes.score(_clusters(7, 400)[0]), without_classes.score(50 + between)) == 1


def test_ambiguity_counts_if_it_is_wanted(fitted: UnlikeTraining) -> None:
    tokens, labels = _clusters(1, 600)
    both = fit_unlike_training(tokens, labels, _clusters(2, 400)[0], ambiguity=True)
    known = _clusters(5, 400)[0]
    centers = np.stack([tokens[labels == name].mean(axis=0) for name in np.unique(labels)])
    halfway = (centers[:-1] + centers[1:]) / 2
    assert both.distance(halfway).min() > np.quantile(both.distance(known), 0.95)
    read = UnlikeTraining.from_bytes(both.to_bytes())
    np.testing.assert_array_equal(read.score(known), both.score(known))
    assert fitted.regions.ambiguity[1] == 0
    old = UnlikeTraining.from_bytes(_changed(fitted, regions__ambiguity=None))
    np.testing.assert_array_equal(old.score(known), fitted.score(known))


def test_a_known_region_in_an_unusual_image_is_unlike_training(fitted: UnlikeTraining) -> None:
    known = _clusters(5, 300)[0]
    assert (fitted.score(known, _images(8, 1)[0]) >= UNKNOWN_FROM).mean() < 0.05
    assert (fitted.score(known, _images(8, 1, offset=9)[0]) >= UNKNOWN_FROM).all()
    assert (fitted.score(known, np.full(STATISTICS, np.inf, np.float32)) == 1).all()


def test_confidence_falls_with_the_score() -> None:
    np.testing.assert_allclose(trust(np.array([0, TYPICAL, 0.75, UNKNOWN_FROM, 1])), [1, 1, 0.5, 0.2, 0], atol=1e-9)


def test_equal_fits_have_equal_files(fitted: UnlikeTraining) -> None:
    tokens, labels = _clusters(1, 600)
    again = fit_unlike_training(tokens, labels, _clusters(2, 400)[0], _images(3, 200), _images(4, 400), "a test")
    data = fitted.to_bytes()
    assert again.to_bytes() == data
    read = UnlikeTraining.from_bytes(data)
    known = _clusters(5, 50)[0]
    np.testing.assert_array_equal(read.score(known, _images(8, 50)), fitted.score(known, _images(8, 50)))
    assert read.fitted == "a test"


def test_long_vectors_keep_their_principal_directions() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(size=(8, 600))
    known = (rng.normal(size=(300, 8)) @ base).astype(np.float32)
    found = fit_unlike_training(known[:200], None, known[200:])
    assert found.regions.within.shape == (600, 256)
    assert found.score((9 * known[:5]).astype(np.float32)).min() >= UNKNOWN_FROM


def test_statistics_are_means_and_deviations_of_channels() -> None:
    maps = [np.random.default_rng(n).normal(n, 1 + n, (1, 3 + n, 4, 5)).astype(np.float16) for n in range(2)]
    wide = [one[0].astype(np.float64).reshape(len(one[0]), -1) for one in maps]
    expected = np.concatenate([part for one in wide for part in (one.mean(axis=1), one.std(axis=1))])
    found = channel_statistics(maps)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": ["a"]}, "1 labels for 20 tokens"),
        ({"tokens": np.full((20, 4), np.nan)}, "finite"),
        ({"validation_tokens": np.zeros((1, 4))}, "at least two rows"),
        ({"images": np.zeros((3, 2))}, "of neither"),
        ({"images": np.zeros((3, 2)), "validation_images": np.zeros((3, 2))}, "3 rows of statistics for 20"),
    ],
)
def test_a_fit_on_unusable_arrays_is_refused(change: dict[str, object], message: str) -> None:
    tokens = np.random.default_rng(0).normal(size=(20, 4))
    arguments: dict[str, object] = {"tokens": tokens, "labels": None, "validation_tokens": tokens, **change}
    with pytest.raises(InputError, match=message):
        fit_unlike_training(**arguments)  # type: ignore[arg-type]


def _changed(fitted: UnlikeTraining, **changes: np.ndarray | None) -> bytes:
    """Return the file with arrays replaced, or without them."""
    with np.load(io.BytesIO(fitted.to_bytes())) as file:
        arrays = dict(file) | {name.replace("__", "."): array for name, array in changes.items()}
    out = io.BytesIO()
    np.savez(out, **{name: array for name, array in arrays.items() if array is not None})
    return out.getvalue()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": np.array(9)}, "format_version is 9"),
        ({"regions__within": None}, r"'regions\.within' is missing"),
        ({"regions__within": np.zeros((3, 2), np.float32)}, "do not fit together"),
        ({"regions__centers": np.zeros((0, WIDTH), np.float32)}, "empty"),
        ({"regions__scale": np.zeros(WIDTH, np.float32)}, "not positive"),
        ({"regions__mean": np.full(WIDTH, np.inf, np.float32)}, "not finite"),
        ({"images__mean": np.array(["a"] * STATISTICS)}, "not finite"),
        ({"regions__ambiguity": np.zeros(2, np.float32)}, "temperature"),
        ({"scores": np.array([0.0, 0.9, 0.5, 1.0])}, "decreases"),
        ({"distances": np.array([0.0])}, "for each distance"),
    ],
)
def test_a_file_with_unusable_arrays_is_refused(
    fitted: UnlikeTraining, changes: dict[str, np.ndarray | None], message: str
) -> None:
    with pytest.raises(BundleError, match=message):
        UnlikeTraining.from_bytes(_changed(fitted, **changes))


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"text", b"\x93NUMPY"])
def test_a_file_that_holds_no_arrays_is_refused(data: bytes) -> None:
    with pytest.raises(BundleError, match="not a file of numpy arrays"):
        UnlikeTraining.from_bytes(data)


def test_a_bundle_keeps_its_score(tiny_model: TinyModel, tmp_path: Path, fitted: UnlikeTraining) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(tiny_model.bundle, folder)
    before = Bundle.open(folder)
    assert before.unlike_training() is None
    with pytest.raises(BundleError, match=r"tokens of 24 numbers, the model has \d+"):
        write_unlike_training(folder, fitted)
    with Describer(before) as describer:
        with pytest.raises(InputError, match="call set_image first"):
            describer.image_statistics()
        describer.set_image(np.zeros((20, 30, 3), np.uint8))
        dark = describer.image_statistics()
        describer.set_image(np.full((20, 30, 3), 250, np.uint8))
        assert not np.array_equal(dark, describer.image_statistics())
    tokens = np.random.default_rng(0).normal(size=(9, before.manifest.model.hidden_size))
    images = np.random.default_rng(1).normal(size=(9, len(dark)))
    own = fit_unlike_training(tokens, None, tokens, images, images)
    write_unlike_training(folder, own)
    after = Bundle.open(folder)
    read = after.unlike_training()
    assert read is not None
    np.testing.assert_array_equal(read.score(tokens, images), own.score(tokens, images))
    assert set(after.manifest.files) == {*before.manifest.files, UNLIKE_TRAINING}
    (folder / UNLIKE_TRAINING).write_bytes(b"x" * after.manifest.files[UNLIKE_TRAINING].bytes)
    with pytest.raises(BundleError, match=r"unlike_training\.npz cannot be used .*osprey eval unlike_training"):
        Bundle.open(folder, verify=False).unlike_training()
