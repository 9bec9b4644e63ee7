"""Choose the most specific name of a tree of kinds that is probable enough: "mug", else "cup", else "container"."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from osprey_ros.kinds.tree import KindTree


@dataclass(frozen=True)
class KindProbability:
    """A kind, and the calibrated probability that the object is of this kind, 0 to 1."""

    name: str
    probability: float


@dataclass(frozen=True)
class NamedKind:
    """The name of an object.

    Attributes:
        name: The most specific node that is probable enough.
        confidence: Its probability, calibrated.
        raw_confidence: Its probability before calibration.
        chain: From the most likely kind at or below the node up to the root, each with its calibrated probability.
    """

    name: str
    confidence: float
    raw_confidence: float
    chain: tuple[KindProbability, ...]


def back_off(
    tree: KindTree,
    own: np.ndarray,
    calibrate: Callable[[np.ndarray], np.ndarray],
    threshold: float,
    trust: np.ndarray | None = None,
) -> list[NamedKind]:
    """Return the most specific node of each object whose calibrated probability is at least the threshold.

    A node qualifies with the threshold or more. Of the qualifying nodes without a qualifying node below them, the most
    probable one is taken. With a threshold above 0.5 there is only one, unless a calibration raises probabilities. With
    0 it is the most probable leaf. The root has probability 1 and always qualifies.

    Args:
        tree: The kinds.
        own: float [objects, nodes] in the order of ``tree.names``, the probability that each node is the most specific
            name. They add up to 1.
        calibrate: Maps probabilities, float64, to calibrated ones; it never decreases.
        threshold: 0 to 1.
        trust: float [objects], factor of the probabilities of each object, 0 to 1. By default 1.
    """
    raw = tree.cumulative(own)
    probabilities = calibrate(raw)
    if trust is not None:
        probabilities *= trust[:, None]
    probabilities[:, 0] = 1.0
    rows, places = np.nonzero(probabilities >= threshold)
    # Nodes above a qualifying one qualify, too: those without a qualifying child have none below them.
    lowest = np.full(raw.shape, -1.0)
    lowest[rows, places] = raw[rows, places]
    below_root = places > 0
    lowest[rows[below_root], tree.parents[places[below_root]]] = -1.0
    chosen = lowest.argmax(axis=1)
    named = []
    for row, place in enumerate(chosen.tolist()):
        likeliest = place + int(own[row, place : tree.ends[place]].argmax())
        chain = tuple(
            KindProbability(name, float(probabilities[row, tree.index[name]]))
            for name in tree.chain(tree.names[likeliest])
        )
        named.append(NamedKind(tree.names[place], float(probabilities[row, place]), float(raw[row, place]), chain))
    return named
