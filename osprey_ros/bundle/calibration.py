"""Calibration: curves from the raw confidence of an answer to the measured share of right answers, for each kind."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from osprey_ros.errors import BundleError
from osprey_ros.file_errors import wrong_value
from osprey_ros.strict_json import to_json

FORMAT_VERSION = 1
CATEGORY, DESCRIPTION, ATTRIBUTE, QUERY = "category", "description", "attribute", "query"
KIND = "kind"  # probabilities of the nodes of a tree of kinds


@dataclass(frozen=True)
class Curve:
    """The share of right answers by raw confidence: linear between its points, constant outside them.

    Attributes:
        confidences: Raw confidences in 0..1, strictly increasing, at least one.
        shares: Share of right answers at each of them, in 0..1, never decreasing.

    Raises BundleError for other values.
    """

    confidences: tuple[float, ...]
    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        x, y = np.array(self.confidences, dtype=np.float64), np.array(self.shares, dtype=np.float64)
        if len(x) != len(y) or not len(x):
            raise BundleError(
                f"a curve has {len(x)} confidences and {len(y)} shares; give one share for each confidence"
            )
        if not all(((part >= 0) & (part <= 1)).all() for part in (x, y)):
            raise BundleError("a curve leaves the range 0 to 1; confidences and shares are probabilities")
        if (np.diff(x) <= 0).any() or (np.diff(y) < 0).any():
            raise BundleError("a curve decreases; confidences must increase and shares must not decrease")

    def __call__(self, confidence: float) -> float:
        """Return the share of right answers at a raw confidence."""
        return float(np.interp(confidence, self.confidences, self.shares))


@dataclass(frozen=True)
class Calibration:
    """Curves by the kind of answer: "category", "description", "attribute", "query" or "kind" (of a tree of kinds).

    Attributes:
        curves: The curve of each kind. A kind without a curve keeps its raw confidence.
        fitted: The data on which the curves were fitted, as text.
    """

    curves: Mapping[str, Curve] = field(default_factory=dict)
    fitted: str = ""

    def apply(self, kind: str, confidence: float) -> float:
        """Return the calibrated confidence of an answer, in 0..1."""
        curve = self.curves.get(kind)
        return curve(confidence) if curve else confidence

    def apply_all(self, kind: str, confidences: np.ndarray) -> np.ndarray:
        """Return calibrated confidences, float64 in the shape of ``confidences``. They share no memory with them."""
        curve = self.curves.get(kind)
        if curve is None:
            return np.array(confidences, dtype=np.float64)
        shares: np.ndarray = np.interp(confidences, curve.confidences, curve.shares)
        return shares

    def to_json(self) -> str:
        """Return the text of ``calibration.json``."""
        data = {
            "format_version": FORMAT_VERSION,
            "fitted": self.fitted,
            "curves": {
                kind: {"confidences": list(curve.confidences), "shares": list(curve.shares)}
                for kind, curve in sorted(self.curves.items())
            },
        }
        return to_json(data, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Calibration:
        """Read the text of a ``calibration.json``. Raises BundleError if it is invalid."""
        try:
            data: dict[str, Any] = json.loads(text)
            version = data["format_version"]
            if version != FORMAT_VERSION:
                raise BundleError(f"format_version is {version!r} but this osprey_ros reads {FORMAT_VERSION}")
            curves = {
                str(kind): Curve(
                    tuple(float(v) for v in curve["confidences"]), tuple(float(v) for v in curve["shares"])
                )
                for kind, curve in data["curves"].items()
            }
            return cls(curves, str(data["fitted"]))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BundleError(f"not a calibration ({wrong_value(error)})") from error
