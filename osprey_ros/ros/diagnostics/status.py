"""How the node is, in levels and words that say what to do. Plain data and rules; `diagnostics` publishes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from osprey_ros.bundle.manifest import Manifest
from osprey_ros.ros.diagnostics.input_status import InputState
from osprey_ros.ros.diagnostics.statistics import Summary

_SILENCE = 5.0  # seconds without a result, or without a whole frame, before that is worth a warning
_AHEAD = 0.1  # seconds that clocks of two machines may differ


class Level(IntEnum):
    """The levels of diagnostic_msgs/DiagnosticStatus."""

    OK = 0
    WARN = 1
    ERROR = 2


@dataclass(frozen=True)
class Status:
    """One line of a diagnostics viewer."""

    name: str
    level: Level
    message: str
    values: Mapping[str, str] = field(default_factory=dict)


def lifecycle_status(state: str, problem: str) -> Status:
    """``state`` is the lifecycle state; ``problem`` says why the last transition failed, "" where it did not."""
    values = {"state": state}
    if problem:
        return Status("lifecycle", Level.ERROR, problem, values)
    hint = {
        "unconfigured": "unconfigured: nothing is loaded; configure and activate the node, or set autostart",
        "inactive": "inactive: activate the node to describe frames",
        "finalized": "finalized: the node was shut down, end its process and start it again",
    }
    return Status("lifecycle", Level.OK, hint.get(state, state), values)


def inputs_status(state: InputState, silent_for: float) -> Status:
    """Of all topics together; ``silent_for`` is the time in seconds since the last whole frame."""
    complaints = state.complaints()
    values = {}
    for topic in state.topics:
        about = {
            "type": topic.type,
            "publishers": topic.publishers,
            "received": topic.received,
            "lost": topic.lost,
            "stamp": "none" if topic.last_stamp is None else f"{topic.last_stamp / 1e9:.3f}",
            "reliability": f"{topic.asked_reliability}, offered {' and '.join(topic.offered_reliability) or 'nothing'}",
        }
        if topic.incompatible_qos:
            about["incompatible QoS"] = ", ".join(topic.incompatible_qos)
        values.update({f"{topic.name} {key}": str(value) for key, value in about.items()})
    values["matched"] = str(state.matched)
    values["given up without partner"] = str(state.unmatched_dropped)
    if state.offset is not None:
        values["stamp offset"] = f"{state.offset / 1e6:.3f} ms"
    if complaints:
        # A publisher that is not there may yet come; what is there and does not fit stays as it is.
        wrong = any(topic.incompatible_qos or topic.other_types for topic in state.topics)
        everything = all(topic.received for topic in state.topics)
        return Status("inputs", Level.ERROR if wrong or everything else Level.WARN, "; ".join(complaints), values)
    if silent_for > _SILENCE:
        message = f"no complete frame for {silent_for:.0f} s: do the publishers still send?"
        return Status("inputs", Level.WARN, message, values)
    return Status("inputs", Level.OK, f"{state.matched} complete frames", values)


def frames_status(summary: Summary, max_age: float, interval: float) -> Status:
    """What becomes of complete frames. ``max_age`` (0: any) and ``interval`` between frames are in seconds."""
    values = {
        "rate in": f"{summary.rate_in:.2f} Hz",
        "rate out": f"{summary.rate_out:.2f} Hz",
        "age of the result": "none yet" if summary.age is None else f"{summary.age:.3f} s",
        "described": str(summary.described),
        "dropped for later frames": str(summary.replaced),
        "failed": str(summary.failed),
        "given up at deactivation": str(summary.stopped),
    }
    level, message = _frames_verdict(summary, max_age, interval)
    return Status("frames", level, message, values)


def _frames_verdict(summary: Summary, max_age: float, interval: float) -> tuple[Level, str]:
    if summary.failure:
        return Level.ERROR, summary.failure
    if summary.age is None:
        return Level.OK, "no frame was described yet"
    if summary.nothing:
        return Level.WARN, f"{summary.nothing}; empty arrays are published"
    if summary.age < -_AHEAD:
        return Level.WARN, (
            f"the stamps are {-summary.age:.3g} s ahead of this clock: synchronise the clocks of both machines, "
            "or set use_sim_time on all nodes of a simulation"
        )
    if max_age and summary.age > max_age:
        return Level.WARN, (
            f"results are {summary.age:.3g} s old (max_age {max_age:g} s): lower max_regions or max_new_tokens, set "
            "time_budget or take a smaller bundle; where stamps are of another clock, set use_sim_time"
        )
    if summary.rate_in and summary.silent_for > max(_SILENCE, 3 * interval):
        return Level.WARN, f"no result for {summary.silent_for:.0f} s, though frames come"
    return Level.OK, f"{summary.rate_out:.2f} Hz, {summary.age:.3f} s old"


def scene_status(summary: Summary, file: str, problem: str) -> Status:
    """What is known, and what became of the objects of all frames. ``problem``: why ``file`` could not be written."""
    objects = summary.objects
    values = {
        "known objects": str(objects.known),
        "described": str(objects.described),
        "reused": str(objects.reused),
        "skipped": str(objects.skipped),
        "file": file or "none",
    }
    if problem:
        return Status("scene", Level.ERROR, problem, values)
    message = f"{objects.known} objects are known; described {objects.described} times, reused {objects.reused} times"
    return Status("scene", Level.OK, message, values)


def stages_status(summary: Summary) -> Status:
    """Where the time of a frame goes: median and 95th percentile of the latest frames."""
    values = {}
    for stage, spread in summary.seconds.items():
        values[f"{stage} p50"] = f"{spread.p50 * 1e3:.2f} ms"
        values[f"{stage} p95"] = f"{spread.p95 * 1e3:.2f} ms"
    whole = summary.seconds.get("frame")
    message = f"{whole.p50 * 1e3:.0f} ms a frame" if whole else "no frame was described yet"
    return Status("stages", Level.OK, message, values)


def bundle_status(manifest: Manifest, root: str) -> Status:
    """The bundle and what runs its engines."""
    values = {"name": manifest.name, "folder": root, "verified": "yes" if manifest.verified else "no"}
    for role, entry in manifest.engines.items():
        values[role] = f"{entry.runtime} on {entry.device}, {manifest.precisions.get(role, 'precision not stated')}"
    if not manifest.verified:
        return Status("bundle", Level.WARN, unverified(manifest), values)
    return Status("bundle", Level.OK, f"{manifest.name}, verified against its PyTorch model", values)


def unverified(manifest: Manifest) -> str:
    """What to say of a bundle whose engines were not compared with the model they come from."""
    return (
        f"bundle {manifest.name} was not verified against its PyTorch model: its words may be wrong; "
        "build it again without --no-verify"
    )


def memory_status(resident: int | None, available: int | None, reserve: int) -> Status:
    """Main memory in bytes, None where it is not known; ``reserve`` is what should be left."""
    known = {"resident": resident, "available": available}
    values = {name: "unknown" if size is None else f"{size / (1 << 20):.0f} MB" for name, size in known.items()}
    if available is not None and available < reserve:
        return Status(
            "memory",
            Level.WARN,
            f"{values['available']} are left on this machine, memory_reserve asks for {reserve / (1 << 20):.0f} MB: "
            "end other programs or take a smaller bundle",
            values,
        )
    return Status("memory", Level.OK, f"{values['resident']} held, {values['available']} available", values)
