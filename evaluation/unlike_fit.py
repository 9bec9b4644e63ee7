"""Fit the score "unlike training": Gaussian models of mask tokens and of statistics of images. Pure numpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from osprey_ros.bundle.unlike_training import TYPICAL, UNKNOWN_FROM, Gaussians, UnlikeTraining
from osprey_ros.errors import InputError

_SHRINKAGE = 0.1  # share of the identity in a covariance of scaled numbers; few images and small classes need it
_MOST_DIRECTIONS = 256  # keep the principal directions of longer vectors
_RARE = 0.999  # quantile of known validation regions
# The numbers of a vector are not independent: together they are as much evidence as this number of independent ones.
_NUMBERS_OF_EVIDENCE = 32
_TINY = 1e-6


def fit_unlike_training(
    tokens: np.ndarray,
    labels: Sequence[str] | np.ndarray | None,
    validation_tokens: np.ndarray,
    images: np.ndarray | None = None,
    validation_images: np.ndarray | None = None,
    fitted: str = "",
    ambiguity: bool = False,
) -> UnlikeTraining:
    """Return the score of a model, fitted on regions that it was trained on. Equal arguments give equal results.

    The score is 0 up to a low distance of validation regions, TYPICAL at their 95th percentile, UNKNOWN_FROM at
    their 99.9th, or half as far again as TYPICAL if that is more.

    Args:
        tokens: float [M, hidden size], mask tokens of training regions, from `Describer.encode`.
        labels: The class of each; None if there are no classes.
        validation_tokens: float [V, hidden size], mask tokens of known regions of the validation split.
        images: float [I, F], statistics of training images, from `Describer.image_statistics`, one row for each image.
            None to judge regions by their mask tokens alone.
        validation_images: float [V, F], the statistics of the image of each validation region.
        fitted: The data, as text.
        ambiguity: Count as unlike training, too, that several classes fit about as well. It helps with many classes,
            to recognize others of the same sort.

    Raises:
        InputError: The arrays do not fit together, have values that are not finite, or are too few.
    """
    given = {"tokens": tokens, "validation_tokens": validation_tokens}
    if (images is None) != (validation_images is None):
        raise InputError("give statistics of both training and validation images, or of neither")
    if images is not None and validation_images is not None:
        given |= {"images": images, "validation_images": validation_images}
        if len(validation_images) != len(validation_tokens):
            raise InputError(
                f"there are {len(validation_images)} rows of statistics for {len(validation_tokens)} validation "
                "regions; give the statistics of the image of each region"
            )
    for name, array in given.items():
        if array.ndim != 2 or len(array) < 2 or not np.isfinite(array).all():
            raise InputError(f"{name} has shape {array.shape}; give at least two rows of finite numbers")
    if labels is not None and len(labels) != len(tokens):
        raise InputError(f"there are {len(labels)} labels for {len(tokens)} tokens; give one for each")
    known_regions = _gaussians(tokens, labels)
    if ambiguity:
        known_regions = _with_ambiguity(known_regions, validation_tokens)
    lowest = 0.5 if images is not None else 0.05  # of two distances, only unusual ones should add up
    regions = _ranged(known_regions, validation_tokens, lowest)
    of_images = None
    if images is not None and validation_images is not None:
        of_images = _ranged(_gaussians(images, None), validation_images, lowest)
    plain = UnlikeTraining(regions, of_images, (0.0, 1.0), (0.0, 1.0))
    known = plain.distance(validation_tokens, validation_images)
    low, typical, rare = np.quantile(known, (lowest, 0.95, _RARE))
    typical = max(typical, low + _TINY)
    unknown = max(rare, 1.5 * typical)
    certain = 2 * unknown
    curve = tuple(float(distance) for distance in (low, typical, unknown, certain))
    return UnlikeTraining(regions, of_images, curve, (0.0, TYPICAL, UNKNOWN_FROM, 1.0), fitted)


def _gaussians(vectors: np.ndarray, labels: Sequence[str] | np.ndarray | None) -> Gaussians:
    """Return the models of vectors, with a range of 0 to 1."""
    vectors = vectors.astype(np.float64)
    mean, scale = vectors.mean(axis=0), vectors.std(axis=0)
    scale = np.maximum(scale, max(_TINY, _TINY * float(scale.max())))
    scaled = (vectors - mean) / scale
    basis = _directions(scaled)
    kept = scaled @ basis
    whole = basis @ _whitening(kept)
    if labels is None:
        within, around, centers = whole, np.zeros((len(mean), 0)), np.zeros((1, basis.shape[1]))
    else:
        classes, index = np.unique(np.asarray(labels), return_inverse=True)
        sums = np.zeros((len(classes), basis.shape[1]))
        np.add.at(sums, index, kept)
        means = sums / np.bincount(index)[:, None]
        own = _whitening(kept - means[index])
        within, around, centers = basis @ own, whole, means @ own
    arrays = (mean, scale, within, around, centers, np.array([0.0, 1.0]))
    return Gaussians(*(array.astype(np.float32) for array in arrays))


def _directions(scaled: np.ndarray) -> np.ndarray:
    """Return the principal directions that are kept, float64 [D, K]."""
    width = scaled.shape[1]
    if width <= _MOST_DIRECTIONS:
        return np.eye(width)
    _, vectors = np.linalg.eigh(scaled.T @ scaled)
    return np.ascontiguousarray(vectors[:, : -_MOST_DIRECTIONS - 1 : -1])


def _whitening(centered: np.ndarray) -> np.ndarray:
    """Return the map, float64 [K, K], after which vectors around 0 have about unit covariance."""
    covariance = centered.T @ centered / len(centered)
    shrunk = (1 - _SHRINKAGE) * covariance + _SHRINKAGE * np.eye(len(covariance))
    return np.linalg.cholesky(np.linalg.inv(shrunk))


def _with_ambiguity(gaussians: Gaussians, known: np.ndarray) -> Gaussians:
    """Return the models with ambiguity, which varies among known vectors as much as the distance does."""
    temperature = gaussians.within.shape[1] / _NUMBERS_OF_EVIDENCE
    distances = gaussians.distances(known)
    both = replace(gaussians, ambiguity=np.array([temperature, 1.0], np.float32)).distances(known)
    weight = distances.std() / max(_TINY, (both - distances).std())
    return replace(gaussians, ambiguity=np.array([temperature, weight], np.float32))


def _ranged(gaussians: Gaussians, known: np.ndarray, lowest: float) -> Gaussians:
    """Return the models with the range of distances of known vectors, from the quantile ``lowest`` up."""
    low, high = np.quantile(gaussians.distances(known), (lowest, 0.95))
    ends = np.array([low, max(high, low + max(_TINY, _TINY * abs(low)))], np.float32)
    return replace(gaussians, range=ends)
