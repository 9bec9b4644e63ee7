"""Find the frame that a request refers to among the latest ones."""

from __future__ import annotations

from collections.abc import Sequence

from osprey_ros.errors import InputError
from osprey_ros.scene.history import ObservedFrame
from osprey_ros.scene.memory import SceneMemory


def recent_frame(memory: SceneMemory, track_ids: Sequence[int] = (), stamp: int = 0) -> ObservedFrame:
    """Return the frame of a stamp; for 0 the latest frame, or the latest frame that shows all tracks.

    Raises InputError if there is none.
    """
    recent = memory.recent
    if not recent:
        raise InputError("no frame with a region has been processed yet; wait for the first one")
    if stamp:
        for seen in recent:
            if seen.stamp == stamp:
                return seen
        first, last = recent[0].stamp, recent[-1].stamp
        raise InputError(
            f"no frame with the stamp {stamp_text(stamp)} is in memory, only the latest {len(recent)} from "
            f"{stamp_text(first)} to {stamp_text(last)}; use one of them, or 0 for the latest"
        )
    now, last = memory.snapshot().stamp, recent[-1].stamp
    if not track_ids and last != now:  # frames without a region are not kept
        raise InputError(
            f"the latest frame ({stamp_text(now)}) has no region, the last one with a region is {stamp_text(last)}; "
            "set this stamp, or wait for the next frame with a region"
        )
    for seen in reversed(recent):
        if set(track_ids) <= {int(track_id) for track_id in seen.track_ids}:
            return seen
    known = {thing.track_id: thing for thing in memory.snapshot().objects}
    for track_id in track_ids:
        if track_id not in known:
            raise unknown_track(track_id)
    unseen = [track_id for track_id in track_ids if track_id not in recent[-1].track_ids]
    ago = ", ".join(f"track {track_id} at {stamp_text(known[track_id].last_seen)}" for track_id in unseen)
    raise InputError(f"no recent frame shows all requested tracks; last seen: {ago}")


def unknown_track(track_id: int) -> InputError:
    """Return the error for a track id that the scene does not have."""
    return InputError(f"unknown track id {track_id}; get_scene lists the known objects")


def stamp_text(stamp: int) -> str:
    """Return a stamp in nanoseconds as text, in seconds."""
    return f"{stamp / 1e9:.3f}"
