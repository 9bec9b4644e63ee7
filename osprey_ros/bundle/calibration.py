"""Confidence that means something: how often answers were right that were as sure as this one, by kind of answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from osprey_ros.errors import BundleError

FORMAT_VERSION = 1
CATEGORY, DESCRIPTION, ATTRIBUTE, QUERY = "category", "description", "attribute", "query"


@dataclass(frozen=True)
class Curve:
    """The share of right answers by raw confidence: straight between its points, level outside them.

    Both are in 0..1 and of the same length, at least 1; ``confidences`` rise, ``shares`` never fall. Raises
    BundleError for others.
    """

    confidences: tuple[float, ...]
    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        x, y = np.array(self.confidences, dtype=np.float64), np.array(self.shares, dtype=np.float64)
        if len(x) != len(y) or not len(x):
            raise BundleError(f"a curve has {len(x)} confidences and {len(y)} shares: it needs one for one")
        if not all(((part >= 0) & (part <= 1)).all() for part in (x, y)):
            raise BundleError("a curve leaves 0 to 1: confidences and shares are probabilities")
        if (np.diff(x) <= 0).any() or (np.diff(y) < 0).any():
            raise BundleError("a curve falls: confidences must rise, and shares must not fall")

    def __call__(self, confidence: float) -> float:
        """The share at a raw confidence."""
        return float(np.interp(confidence, self.confidences, self.shares))


@dataclass(frozen=True)
class Calibration:
    """Curves by kind: "category", "description", "attribute", "query". A kind without one keeps its raw confidence.

    ``fitted``: on what, for whoever reads the file.
    """

    curves: Mapping[str, Curve] = field(default_factory=dict)
    fitted: str = ""

    def apply(self, kind: str, confidence: float) -> float:
        """How likely an answer of this kind is right, in 0..1, from its raw confidence."""
        curve = self.curves.get(kind)
        return curve(confidence) if curve else confidence

    def to_json(self) -> str:
        """The text of ``calibration.json``."""
        data = {
            "format_version": FORMAT_VERSION,
            "fitted": self.fitted,
            "curves": {
                kind: {"confidences": list(curve.confidences), "shares": list(curve.shares)}
                for kind, curve in sorted(self.curves.items())
            },
        }
        return json.dumps(data, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Calibration:
        """Reads the text of a ``calibration.json``. Raises BundleError."""
        try:
            data: dict[str, Any] = json.loads(text)
            version = data["format_version"]
            if version != FORMAT_VERSION:
                raise BundleError(f"format_version is {version!r}, this osprey_ros reads {FORMAT_VERSION}")
            curves = {
                str(kind): Curve(
                    tuple(float(v) for v in curve["confidences"]), tuple(float(v) for v in curve["shares"])
                )
                for kind, curve in data["curves"].items()
            }
            return cls(curves, str(data["fitted"]))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BundleError(f"it is not a calibration ({type(error).__name__}: {error})") from error
