"""Compute identity measures and identity switches of tracks.

The true object of each region is known, so that regions need not be matched by position. The identity measures are
those of Ristani et al., "Performance Measures and a Data Set for Multi-Target, Multi-Camera Tracking" (2016): each
object is assigned at most one track for the whole sequence, such that most regions agree.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import astuple, dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment


@dataclass(frozen=True)
class TrackingFigures:
    """Counts over one sequence or several.

    Attributes:
        regions: Regions with an object.
        tracked: Regions with a track.
        matched: Regions whose track is assigned to their object.
        switches: Number of times when an object has another track than when it was last tracked.
        objects: Different objects.
        tracks: Different tracks.
    """

    regions: int
    tracked: int
    matched: int
    switches: int
    objects: int
    tracks: int

    @property
    def idf1(self) -> float:
        """Identity F1 score, 0 to 1; 1 without regions."""
        total = self.regions + self.tracked
        return 2 * self.matched / total if total else 1.0

    def __add__(self, other: TrackingFigures) -> TrackingFigures:
        """Return the figures of both sequences together. Their objects and tracks are different."""
        return TrackingFigures(*(own + more for own, more in zip(astuple(self), astuple(other), strict=True)))


def tracking_figures(frames: Iterable[tuple[np.ndarray, np.ndarray]]) -> TrackingFigures:
    """Return the figures of one sequence.

    Args:
        frames: For each frame in order, the true object ids and the track ids of its regions, integers [N] each. 0
            means no object (a false region) or no track (a missed region).

    Raises:
        ValueError: The lengths differ, or an object or track has two regions in a frame.
    """
    together: Counter[tuple[int, int]] = Counter()
    track_of: dict[int, int] = {}
    regions = tracked = switches = 0
    tracks: set[int] = set()
    objects: set[int] = set()
    for number, (truth, found) in enumerate(frames):
        truth, found = np.asarray(truth), np.asarray(found)
        if truth.shape != found.shape or truth.ndim != 1:
            raise ValueError(f"frame {number} has true ids {list(truth.shape)} and track ids {list(found.shape)}")
        for name, ids in (("object", truth), ("track", found)):
            repeated = [i for i, count in Counter(ids[ids != 0].tolist()).items() if count > 1]
            if repeated:
                raise ValueError(f"frame {number} has {name} {repeated[0]} more than once")
        for obj, track in zip(truth.tolist(), found.tolist(), strict=True):
            regions += obj != 0
            tracked += track != 0
            objects |= {obj} - {0}
            tracks |= {track} - {0}
            if obj and track:
                together[obj, track] += 1
                switches += track_of.get(obj, track) != track
                track_of[obj] = track
    return TrackingFigures(regions, tracked, _most(together), switches, len(objects), len(tracks))


def _most(together: Counter[tuple[int, int]]) -> int:
    """Return the largest number of regions that agree if objects and tracks are assigned one to one."""
    objects = {obj: row for row, obj in enumerate(sorted({obj for obj, _ in together}))}
    tracks = {track: column for column, track in enumerate(sorted({track for _, track in together}))}
    counts = np.zeros((len(objects), len(tracks)), np.int64)
    for (obj, track), count in together.items():
        counts[objects[obj], tracks[track]] = count
    return int(counts[linear_sum_assignment(counts, maximize=True)].sum())
