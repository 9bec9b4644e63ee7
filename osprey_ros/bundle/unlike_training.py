"""Unlike training: how much a region and its image differ from everything in the training data, 0 to 1.

The file ``unlike_training.npz`` of a bundle has Gaussian models of the mask tokens of the training regions and of
statistics of the training images. `evaluation/unlike_fit.py` fits them.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from osprey_ros.errors import BundleError

FORMAT_VERSION = 1
TYPICAL = 0.5  # score that 5 % of the known validation regions exceed; confidences are lowered above it
UNKNOWN_FROM = 0.9  # the answer is "unknown" from this score on
REASON = "it is unlike anything that the model was trained on"
IMAGE_MAPS = ("res2", "res3")  # feature maps whose statistics describe an image

_ARRAYS = ("mean", "scale", "within", "around", "centers", "range", "ambiguity")
_CLEAR = np.array([1, 0], np.float32)  # ambiguity does not count


@dataclass(frozen=True)
class Gaussians:
    """Gaussian models of training vectors: one of each class with a shared covariance, and one of all vectors.

    The distance of a vector is its squared Mahalanobis distance to the nearest class, minus its distance to the mean
    of all (the relative Mahalanobis distance of Ren et al., arXiv 2106.09022), plus ambiguity: how evenly several
    classes fit, as the negative logarithm of the probability of the nearest class. It is shifted and scaled by
    ``range``.

    Attributes:
        mean, scale: float [D], mean of the training vectors and the unit of each number.
        within: float [D, K], maps scaled vectors so that distances within a class have unit variance.
        around: float [D, K], the same for all vectors; [D, 0] to compare with the nearest class alone.
        centers: float [classes, K], mapped means of the classes.
        range: float [2], distances that become 0 and 1, such as the median and the 95th percentile of known vectors.
        ambiguity: float [2], temperature of these probabilities, and weight of the ambiguity; 0 to leave it out.

    Raises BundleError for arrays that do not fit together.
    """

    mean: np.ndarray
    scale: np.ndarray
    within: np.ndarray
    around: np.ndarray
    centers: np.ndarray
    range: np.ndarray
    ambiguity: np.ndarray = field(default_factory=_CLEAR.copy)

    def __post_init__(self) -> None:
        arrays = {name: np.asarray(getattr(self, name)) for name in _ARRAYS}
        if not all(array.dtype.kind == "f" and np.isfinite(array).all() for array in arrays.values()):
            raise BundleError("an array has values that are not finite floating-point numbers")
        shapes = {name: array.shape for name, array in arrays.items()}
        width, kept = (*shapes["within"], 0, 0)[:2]
        expected = {
            "mean": (width,),
            "scale": (width,),
            "within": (width, kept),
            "around": (width, *shapes["around"][1:2]),
            "centers": (*shapes["centers"][:1], kept),
            "range": (2,),
            "ambiguity": (2,),
        }
        wrong = [f"{name} has shape {shapes[name]}" for name in _ARRAYS if shapes[name] != expected[name]]
        if wrong or not kept or not len(self.centers):
            raise BundleError(f"the arrays do not fit together ({'; '.join(wrong) or 'one of them is empty'})")
        if not (arrays["scale"] > 0).all() or not arrays["range"][1] > arrays["range"][0]:
            raise BundleError("a scale is not positive, or the range of distances is empty")
        if not arrays["ambiguity"][0] > 0 or arrays["ambiguity"][1] < 0:
            raise BundleError("the temperature of the ambiguity is not positive, or its weight is negative")

    @property
    def width(self) -> int:
        """Length of a vector."""
        return len(self.mean)

    @cached_property
    def _wide(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """``within``, ``around`` and ``centers`` in float64, for every frame."""
        within, around, centers = (part.astype(np.float64) for part in (self.within, self.around, self.centers))
        return within, around, centers

    def distances(self, vectors: np.ndarray) -> np.ndarray:
        """Return the distance of each vector of float [N, D], float64 [N]: 0 and 1 at the ends of ``range``."""
        within, around, centers = self._wide
        scaled = (vectors.astype(np.float64) - self.mean) / self.scale
        scaled[~np.isfinite(scaled)] = np.nan  # without warnings of the products
        mapped = scaled @ within
        squared = (mapped**2).sum(axis=1)[:, None] - 2 * mapped @ centers.T + (centers**2).sum(axis=1)
        nearest = squared.min(axis=1) - ((scaled @ around) ** 2).sum(axis=1)
        temperature, weight = self.ambiguity.astype(np.float64)
        if weight:
            farther = squared - squared.min(axis=1, keepdims=True)
            nearest += weight * np.log(np.exp(-farther / (2 * temperature)).sum(axis=1))
        low, high = self.range.astype(np.float64)
        distances: np.ndarray = (nearest - low) / (high - low)
        return distances


@dataclass(frozen=True)
class UnlikeTraining:
    """Scores of regions, 0 (as in training) to 1 (like nothing in training).

    Attributes:
        regions: Of mask tokens.
        images: Of the statistics of `channel_statistics`; None to judge regions by their mask tokens alone.
        distances, scores: Points of the curve from the distance to the score, each increasing; see `score`.
        fitted: The data of the fit, as text.

    Raises BundleError for a curve that decreases or leaves 0 to 1.
    """

    regions: Gaussians
    images: Gaussians | None
    distances: tuple[float, ...]
    scores: tuple[float, ...]
    fitted: str = ""

    def __post_init__(self) -> None:
        x, y = np.array(self.distances, np.float64), np.array(self.scores, np.float64)
        if len(x) != len(y) or not len(x) or not (np.isfinite(x).all() and ((y >= 0) & (y <= 1)).all()):
            raise BundleError("the curve needs a score of 0 to 1 for each distance")
        if (np.diff(x) <= 0).any() or (np.diff(y) < 0).any():
            raise BundleError("the curve decreases; distances must increase and scores must not decrease")

    def distance(self, mask_tokens: np.ndarray, image: np.ndarray | None = None) -> np.ndarray:
        """Return the distance of regions to the training data, float64 [N], 0 or more.

        It is the root of the sum of squares of two distances, that of the region and that of its image, each of them 1
        at the 95th percentile of known ones.

        Args:
            mask_tokens: float [N, hidden size].
            image: Statistics of their image, float [F], or of the image of each region, float [N, F]. None leaves the
                images out.
        """
        found: np.ndarray = np.maximum(0, self.regions.distances(mask_tokens))
        if self.images is not None and image is not None:
            found = np.hypot(found, np.maximum(0, self.images.distances(np.atleast_2d(image))))
        found[~np.isfinite(found)] = np.inf
        return found

    def score(self, mask_tokens: np.ndarray, image: np.ndarray | None = None) -> np.ndarray:
        """Return the score of regions, float32 [N] in 0..1, by the curve. Arguments: as for `distance`."""
        scores: np.ndarray = np.interp(self.distance(mask_tokens, image), self.distances, self.scores)
        return scores.astype(np.float32)

    def check(self, hidden_size: int, feature_channels: Sequence[int]) -> None:
        """Raise BundleError if this was fitted for a model of other sizes."""
        if self.regions.width != hidden_size:
            raise BundleError(f"it was fitted on tokens of {self.regions.width} numbers, the model has {hidden_size}")
        wanted = 2 * sum(feature_channels[: len(IMAGE_MAPS)])
        if self.images is not None and self.images.width != wanted:
            raise BundleError(f"it was fitted on {self.images.width} statistics of an image, the model has {wanted}")

    def to_bytes(self) -> bytes:
        """Return the contents of ``unlike_training.npz``. Equal fits give equal bytes."""
        arrays: dict[str, np.ndarray] = {
            "format_version": np.array(FORMAT_VERSION, np.int64),
            "fitted": np.array(self.fitted),
            "distances": np.array(self.distances, np.float64),
            "scores": np.array(self.scores, np.float64),
        }
        for part, gaussians in (("regions", self.regions), ("images", self.images)):
            if gaussians is not None:
                arrays |= {f"{part}.{name}": np.asarray(getattr(gaussians, name), np.float32) for name in _ARRAYS}
        file = io.BytesIO()
        np.savez(file, allow_pickle=False, **arrays)  # type: ignore[arg-type]
        return file.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> UnlikeTraining:
        """Read the contents of an ``unlike_training.npz``. Raises BundleError if they are invalid."""
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as file:
                arrays = dict(file)
            version = int(arrays["format_version"])
            if version != FORMAT_VERSION:
                raise BundleError(f"format_version is {version} but this osprey_ros reads {FORMAT_VERSION}")
            images = _gaussians(arrays, "images") if "images.mean" in arrays else None
            distances, scores = (tuple(arrays[name].astype(np.float64).tolist()) for name in ("distances", "scores"))
            return cls(_gaussians(arrays, "regions"), images, distances, scores, str(arrays["fitted"]))
        except KeyError as error:
            raise BundleError(f"the array {error} is missing") from error
        except (ValueError, TypeError, EOFError, OSError, zipfile.BadZipFile) as error:
            raise BundleError("it is not a file of numpy arrays (.npz)") from error


def trust(unlike_training: np.ndarray) -> np.ndarray:
    """Return the factor of the confidence at each score, float64: 1 up to TYPICAL, then linearly down to 0 at 1."""
    factor: np.ndarray = np.clip((1.0 - np.asarray(unlike_training, np.float64)) / (1.0 - TYPICAL), 0.0, 1.0)
    return factor


def channel_statistics(maps: Sequence[np.ndarray]) -> np.ndarray:
    """Return the mean and the standard deviation of each channel, float32 [2 * channels of all maps].

    Args:
        maps: Feature maps of an image, [1, channels, height, width] each: those of IMAGE_MAPS, in this order.
    """
    parts = []
    for feature in maps:
        values = feature.reshape(feature.shape[1], -1).astype(np.float32, copy=False)
        means = values.mean(axis=1)
        variances = np.einsum("cn,cn->c", values, values) / values.shape[1] - means**2
        parts += [means, np.sqrt(np.maximum(variances, 0))]
    return np.concatenate(parts)


def _gaussians(arrays: dict[str, np.ndarray], part: str) -> Gaussians:
    clear = {f"{part}.ambiguity": _CLEAR}
    return Gaussians(**{name: (clear | arrays)[f"{part}.{name}"] for name in _ARRAYS})
