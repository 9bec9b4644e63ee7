"""Rules that turn counts and states into diagnostic levels and messages. Plain data, no ROS."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from osprey_ros.bundle.manifest import EngineManifest
from osprey_ros.ros.diagnostics.input_status import InputState
from osprey_ros.ros.diagnostics.statistics import Summary
from osprey_ros.ros.diagnostics.transform_state import TransformState
from osprey_ros.scene.settings import StepSettings

SILENCE_LIMIT = 5.0  # seconds without a result or a complete frame before a warning
_STEP = StepSettings()
WRONG_CLOCK = 3600.0  # seconds; an older stamp is of another clock, because no frame takes this long
CLOCK_TOLERANCE = 0.1  # seconds by which the clocks of two machines may differ


class Level(IntEnum):
    """Levels of diagnostic_msgs/DiagnosticStatus."""

    OK = 0
    WARN = 1
    ERROR = 2


@dataclass(frozen=True)
class Status:
    """One entry of the diagnostics."""

    name: str
    level: Level
    message: str
    values: Mapping[str, str] = field(default_factory=dict)


def lifecycle_status(state: str, problem: str) -> Status:
    """Return the status of the lifecycle.

    Args:
        state: label of the lifecycle state.
        problem: reason why the last transition failed, "" if it succeeded.
    """
    values = {"state": state}
    if problem:
        return Status("lifecycle", Level.ERROR, problem, values)
    hint = {
        "unconfigured": "unconfigured: no engines are loaded; configure and activate the node, or set autostart",
        "inactive": "inactive: activate the node to describe frames",
        "finalized": "finalized: the node was shut down; restart its process",
    }
    return Status("lifecycle", Level.OK, hint.get(state, state), values)


def inputs_status(state: InputState, silent_for: float) -> Status:
    """Return the status of all subscriptions; ``silent_for`` is the time in seconds since the last complete frame."""
    problems = state.problems()
    values = {}
    for topic in state.topics:
        offered = " and ".join(topic.offered_reliability) or "nothing"
        about = {
            "type": topic.type,
            "publishers": topic.publishers,
            "received": topic.received,
            "lost": topic.lost,
            "stamp": f"{topic.last_stamp / 1e9:.3f}" if topic.last_stamp else "none",
            "reliability": f"{topic.requested_reliability} requested, {offered} offered",
        }
        if topic.incompatible_qos:
            about["incompatible QoS"] = ", ".join(topic.incompatible_qos)
        if topic.offered_durability:
            about["durability"] = " and ".join(topic.offered_durability)
        values.update({f"{topic.name} {key}": str(value) for key, value in about.items()})
    values["matched"] = str(state.matched)
    values["dropped without a match"] = str(state.unmatched_dropped)
    if state.offset is not None:
        values["stamp offset"] = f"{state.offset / 1e6:.3f} ms"
    if problems:
        # A missing publisher may still start. A mismatch stays until somebody acts.
        mismatch = any(topic.incompatible_qos or topic.other_types for topic in state.topics)
        everything = all(topic.received for topic in state.topics)
        return Status("inputs", Level.ERROR if mismatch or everything else Level.WARN, "; ".join(problems), values)
    if state.latched and state.matched:
        return Status("inputs", Level.OK, f"{state.matched} complete frames of latched topics", values)
    if silent_for > SILENCE_LIMIT:
        message = f"no complete frame for {silent_for:.0f} s; check that the publishers still send"
        return Status("inputs", Level.WARN, message, values)
    return Status("inputs", Level.OK, f"{state.matched} complete frames", values)


def transforms_status(state: TransformState) -> Status:
    """Return the status of the transforms to the fixed frame."""
    values = {"with a pose": str(state.known), "without a pose": str(state.unknown)}
    if state.refused:
        values["refused"] = state.refused
    if state.problem:
        return Status("transforms", Level.WARN, f"no pose in {state.fixed_frame}: {state.problem}", values)
    text = "no frame yet" if not state.known else f"poses in {state.fixed_frame}"
    return Status("transforms", Level.OK, text, values)


def frames_status(summary: Summary, max_age: float, interval: float, step: StepSettings = _STEP) -> Status:
    """Return the status of the described frames.

    Args:
        summary: counts and rates.
        max_age: age of a result in seconds above which the level is WARN; 0: no limit.
        interval: minimum time between two frames in seconds.
        step: settings that decide how long a frame takes.
    """
    values = {
        "rate in": f"{summary.rate_in:.2f} Hz",
        "rate out": f"{summary.rate_out:.2f} Hz",
        "age of the result": "none yet" if summary.age is None else f"{summary.age:.3f} s",
        "described": str(summary.described),
        "dropped for later frames": str(summary.replaced),
        "failed": str(summary.failed),
        "interrupted by deactivation": str(summary.stopped),
    }
    level, message = _frames_verdict(summary, max_age, interval, step)
    return Status("frames", level, message, values)


def _frames_verdict(summary: Summary, max_age: float, interval: float, step: StepSettings) -> tuple[Level, str]:
    if summary.failure:
        return Level.ERROR, summary.failure
    if summary.age is None:
        return Level.OK, "no frame described yet"
    if summary.empty_reason:
        return Level.WARN, f"{summary.empty_reason}; the results are empty"
    if summary.age < -CLOCK_TOLERANCE:
        return Level.WARN, (
            f"the stamps are {-summary.age:.3g} s ahead of this machine's clock; synchronize the clocks of both "
            "machines, or set use_sim_time on all nodes of a simulation"
        )
    if max_age and summary.age > max_age:
        return (
            Level.WARN,
            f"results are {summary.age:.3g} s old, max_age is {max_age:g} s; {_age_remedy(summary, step)}",
        )
    if summary.rate_in and summary.silent_for > max(SILENCE_LIMIT, 3 * interval):
        return Level.WARN, f"no result for {summary.silent_for:.0f} s although frames arrive"
    return Level.OK, f"{summary.rate_out:.2f} Hz, {summary.age:.3f} s old"


def _age_remedy(summary: Summary, step: StepSettings) -> str:
    """Return what helps against old results. Settings at their limit are left out."""
    assert summary.age is not None
    whole = summary.seconds.get("frame")
    if summary.age > WRONG_CLOCK:
        return (
            "the stamps are of another clock: synchronize the clocks of both machines, or set use_sim_time if the "
            "stamps are simulated or recorded time"
        )
    if whole is not None and summary.age > 3 * whole.p95:  # a frame may wait for the one before it
        return (
            f"the node takes {whole.p50:.3g} s of it, the other time passes before the frame arrives: speed up the "
            "publisher or the network; set use_sim_time if the stamps are simulated time"
        )
    lower = [name for name in ("max_regions", "max_new_tokens") if getattr(step, name) != 1]
    faster = [f"lower {' or '.join(lower)}"] if lower else []
    faster += [f"{'lower' if step.time_budget else 'set'} time_budget", "or use a smaller bundle"]
    return f"{', '.join(faster)}; set use_sim_time if the stamps are simulated time"


def scene_status(summary: Summary, file: str, problem: str) -> Status:
    """Return the status of the scene: known objects, and the number of captions over all frames.

    Args:
        summary: counts.
        file: path of the scene file, "" if there is none.
        problem: reason why the scene file cannot be written, "" if it can.
    """
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
    message = f"{objects.known} known objects; {objects.described} captions generated, {objects.reused} reused"
    return Status("scene", Level.OK, message, values)


def stages_status(summary: Summary) -> Status:
    """Return the durations of the stages of a frame: median and 95th percentile of the latest frames."""
    values = {}
    for stage, spread in summary.seconds.items():
        values[f"{stage} p50"] = f"{spread.p50 * 1e3:.2f} ms"
        values[f"{stage} p95"] = f"{spread.p95 * 1e3:.2f} ms"
    whole = summary.seconds.get("frame")
    message = f"{whole.p50 * 1e3:.0f} ms per frame" if whole else "no frame described yet"
    return Status("stages", Level.OK, message, values)


def bundle_status(manifest: EngineManifest, root: str, loading: str = "", problem: str = "") -> Status:
    """Return the status of the engine bundle.

    Args:
        manifest: that of the bundle in use.
        root: its folder.
        loading: name of the bundle that is being loaded to replace it, "" if none is.
        problem: reason why the latest replacement failed, "" if it did not.
    """
    values = {"name": manifest.name, "folder": root, "verified": "yes" if manifest.verified else "no"}
    for role, entry in manifest.engines.items():
        values[role] = f"{entry.runtime} on {entry.device}, {manifest.precisions.get(role, 'unknown precision')}"
    if loading:
        values["loading"] = loading
    if problem:
        return Status("bundle", Level.WARN, f"{manifest.name} stays in use, load_bundle failed: {problem}", values)
    if not manifest.verified:
        return Status("bundle", Level.WARN, unverified(manifest), values)
    also = f"; {loading} is being loaded" if loading else ""
    return Status("bundle", Level.OK, f"{manifest.name}, verified against its PyTorch model{also}", values)


def unverified(manifest: EngineManifest) -> str:
    """Return the warning about a bundle whose engines were not compared with their PyTorch model."""
    return (
        f"bundle {manifest.name} was not verified against its PyTorch model, its captions may be wrong; "
        "rebuild it without --no-verify"
    )


def memory_status(resident: int | None, available: int | None, reserve: int) -> Status:
    """Return the status of the main memory.

    Args:
        resident: bytes that the process holds, None if unknown.
        available: free bytes of the machine or its container, None if unknown.
        reserve: bytes that should stay free.
    """
    known = {"resident": resident, "available": available}
    values = {name: "unknown" if size is None else f"{size / (1 << 20):.0f} MB" for name, size in known.items()}
    if available is not None and available < reserve:
        return Status(
            "memory",
            Level.WARN,
            f"{values['available']} of memory are available, memory_reserve is {reserve / (1 << 20):.0f} MB; "
            "stop other programs or use a smaller bundle",
            values,
        )
    return Status("memory", Level.OK, f"{values['resident']} held, {values['available']} available", values)
