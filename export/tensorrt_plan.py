"""ONNX graphs to TensorRT plans, on the machine that will run them: one code path for TensorRT 10.3 to 11.

Networks are strongly typed: the graph says in which type each part is computed, and no flag of the builder does.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from osprey_ros import fingerprint
from osprey_ros.bundle import EngineEntry, sha256_of
from osprey_ros.engines.tensorrt import make_logger, require_tensorrt

if TYPE_CHECKING:
    import tensorrt as trt

# Called with the outermost phase of TensorRT's builder and how much of it is done, 0 to 1.
PlanProgress = Callable[[str, float], None]


class PlanError(Exception):
    """A plan that cannot be built; the message says what TensorRT refuses, node by node."""


@dataclass(frozen=True)
class Lengths:
    """The lengths that a free axis of a graph takes: the least, the one to be fast for, and the greatest."""

    least: int
    usual: int
    greatest: int

    def __post_init__(self) -> None:
        if not 0 <= self.least <= self.usual <= self.greatest:
            raise ValueError(f"lengths must rise from at least 0, not {self.least}, {self.usual}, {self.greatest}")


# The lengths of all free axes, by their names in the graph. A plan has one profile or more, the first that takes a
# shape is used: narrow ones come first.
Profile = Mapping[str, Lengths]


def mask_extractor_profiles(max_regions: int) -> list[Profile]:
    """Profiles of the mask-extractor graph for up to `max_regions` regions at once."""
    return [{"N": Lengths(1, min(16, max_regions), max_regions)}]


def build_plan(
    graph: Path,
    folder: Path,
    profiles: Sequence[Profile] = (),
    workspace: int = 2 << 30,
    timing_cache: Path | None = None,
    progress: PlanProgress | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> EngineEntry:
    """Builds the plan of an ONNX graph and writes it to `folder`, its fingerprint beside it. Can take many minutes.

    A plan that is there already and has the same fingerprint is kept; other plans of the graph in `folder` are removed
    once the new one is there. Ctrl-C stops the build at its next step, which is mostly a matter of seconds.

    Args:
        graph: the `.onnx` file; its weights may lie in files beside it. Its name without ".onnx" begins the plan's.
        profiles: what lengths the free axes of the graph take; nothing for a graph without free axes.
        workspace: bytes of GPU memory that a layer may use while it runs.
        timing_cache: file of measured kernels, read if it is there and written again, also where the build breaks
            off: the next build of the same GPU and TensorRT goes faster. Where it cannot be read or written the plan is
            built without.
        progress: called from another thread, rarely more than a few times a second.
        report: takes a line about a timing cache that cannot be used.

    Returns the entry for the manifest. Raises EngineError where there is no GPU or no TensorRT, PlanError for a graph
    that TensorRT refuses and ValueError for profiles that do not fit the graph.
    """
    require_tensorrt()
    shapes = [profile_shapes(graph, profile) for profile in profiles or ({},)]
    options = {
        "profiles": [{axis: [n.least, n.usual, n.greatest] for axis, n in sorted(p.items())} for p in profiles],
        "tf32": False,
        "workspace": workspace,
    }
    print_ = fingerprint.current() | {
        "onnx_sha256": graph_sha256(graph),
        "options": json.dumps(options, sort_keys=True),
    }
    plan = folder / fingerprint.plan_name(graph.stem, print_)
    entry = EngineEntry(plan.name, "tensorrt", "cuda", print_)
    if plan.is_file() and fingerprint.sidecar(plan).is_file() and fingerprint.read_fingerprint(plan) == print_:
        return entry
    data = _build(graph, shapes, workspace, timing_cache, progress, report)
    # The plan last: where it is, it is whole and its fingerprint is there.
    fingerprint.write_fingerprint(plan, print_)
    _write(plan, data)
    for old in folder.glob(f"{graph.stem}.*.plan"):
        if old != plan:
            old.unlink()
            fingerprint.sidecar(old).unlink(missing_ok=True)
    return entry


def graph_sha256(graph: Path) -> str:
    """SHA-256 over an ONNX file and the files of weights beside it."""
    tensors = onnx.load(os.fspath(graph), load_external_data=False).graph.initializer
    files = {e.value for t in tensors for e in t.external_data if e.key == "location"}
    digest = hashlib.sha256()
    for path in (graph, *(graph.parent / name for name in sorted(files))):
        digest.update(sha256_of(path).encode())
    return digest.hexdigest()


def profile_shapes(graph: Path, profile: Profile) -> dict[str, tuple[tuple[int, ...], ...]]:
    """Least, usual and greatest shape of each input that has free axes.

    Raises ValueError for free axes without lengths and for lengths of axes that the graph does not have.
    """
    shapes: dict[str, tuple[tuple[int, ...], ...]] = {}
    axes: set[str] = set()
    for value in onnx.load(os.fspath(graph), load_external_data=False).graph.input:
        dims = [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        free = {d for d in dims if isinstance(d, str)}
        axes |= free
        missing = sorted(free - set(profile))
        if missing:
            raise ValueError(f"{graph.name}: no lengths for the axis {', '.join(missing)} of its input {value.name}")
        if free:
            shapes[value.name] = tuple(
                tuple(getattr(profile[d], which) if isinstance(d, str) else d for d in dims)
                for which in ("least", "usual", "greatest")
            )
    unknown = sorted(set(profile) - axes)
    if unknown:
        raise ValueError(
            f"{graph.name} has no free axis {', '.join(unknown)}; it has {', '.join(sorted(axes)) or 'none'}"
        )
    return shapes


def _build(
    graph: Path,
    profiles: Sequence[Mapping[str, tuple[tuple[int, ...], ...]]],
    workspace: int,
    timing_cache: Path | None,
    progress: PlanProgress | None,
    report: Callable[[str], None],
) -> trt.IHostMemory:
    """The bytes of the plan."""
    import tensorrt as trt

    errors: list[str] = []
    logger = make_logger(errors)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(os.fspath(graph)):
        refused = [_describe(parser.get_error(index)) for index in range(parser.num_errors)]
        raise PlanError(f"TensorRT {trt.__version__} refuses {graph.name}:\n  " + "\n  ".join(refused or errors))

    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace)
    # What the graph computes in float32 needs float32: TF32 has the precision of float16.
    config.clear_flag(trt.BuilderFlag.TF32)
    for shapes in profiles:
        profile = builder.create_optimization_profile()
        for name, (least, usual, greatest) in shapes.items():
            profile.set_shape(name, least, usual, greatest)
        if config.add_optimization_profile(profile) < 0:
            raise PlanError(f"TensorRT {trt.__version__} refuses the profile {dict(shapes)} of {graph.name}: {errors}")
    if timing_cache is not None:
        try:
            stored = timing_cache.read_bytes() if timing_cache.is_file() else b""
        except OSError as error:
            report(f"kernels that TensorRT has measured before cannot be read: {error}")
            stored = b""
        cache = config.create_timing_cache(stored)
        if cache is None or not config.set_timing_cache(cache, False):
            # Damaged, or of another GPU or another TensorRT: begin a new one.
            cache = config.create_timing_cache(b"")
            config.set_timing_cache(cache, False)
    watch = Watch(progress)
    monitor = _monitor(watch)
    config.progress_monitor = monitor

    try:
        # In a thread of its own: the builder does not come back to Python for minutes, and Ctrl-C only reaches Python.
        with ThreadPoolExecutor(1) as pool:
            try:
                plan = pool.submit(lambda: builder.build_serialized_network(network, config)).result()
            except KeyboardInterrupt:
                watch.cancelled = True
                raise  # the pool is left when the builder has come back
    finally:
        if timing_cache is not None:
            measured = config.get_timing_cache()
            try:
                _write(timing_cache, measured.serialize())
            except OSError as error:  # it only saves time: the plan, or what broke it off, comes before
                report(f"kernels that TensorRT has measured are not kept for the next build: {error}")
    if watch.failure is not None:
        raise watch.failure
    if plan is None:
        raise PlanError(
            f"TensorRT {trt.__version__} cannot build {graph.name}: {'; '.join(errors) or 'no reason given'}"
        )
    return plan


def _monitor(watch: Watch) -> trt.IProgressMonitor:
    """A monitor that tells `watch` what TensorRT's builder does."""
    import tensorrt as trt

    class Monitor(trt.IProgressMonitor):
        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            watch.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return watch.complete(phase_name, step)

        def phase_finish(self, phase_name: str) -> None:
            watch.finish(phase_name)

    return Monitor()


class Watch:
    """Follows the phases of a build, which lie within each other, passes on how far it is, and can end it.

    Set `cancelled` to end the build. `failure` is what `progress` raised, which ends the build, too.
    """

    def __init__(self, progress: PlanProgress | None) -> None:
        self.cancelled = False
        self.failure: Exception | None = None
        self._progress = progress
        self._steps: dict[str, tuple[int, int]] = {}  # of each phase that is under way: done, total
        self._parents: dict[str, str | None] = {}

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        """A phase of so many steps begins, within `parent` if that is given."""
        self._steps[phase] = (0, max(steps, 1))
        self._parents[phase] = parent if parent in self._steps else None

    def complete(self, phase: str, step: int) -> bool:
        """Step number `step` of a phase, counted from 0, is done. Returns whether the build shall go on."""
        if phase in self._steps:
            self._steps[phase] = (step + 1, self._steps[phase][1])
        if self._progress is not None and not self.cancelled:
            try:
                self._progress(*self._outermost(phase))
            except Exception as error:  # through TensorRT it would end the process: the build raises it again
                self.failure = error
                self.cancelled = True
        return not self.cancelled

    def finish(self, phase: str) -> None:
        """A phase is over."""
        self._steps.pop(phase, None)
        self._parents.pop(phase, None)

    def _outermost(self, phase: str) -> tuple[str, float]:
        """The outermost phase around `phase` and how much of it is done, parts of the step under way included."""
        outer, fraction = phase, 0.0
        name: str | None = phase
        while name is not None and name in self._steps:
            done, total = self._steps[name]
            outer, fraction = name, min((done + fraction) / total, 1.0)
            name = self._parents[name]
        return outer, fraction


def _describe(error: trt.ParserError) -> str:
    """One error of the parser in words: which node, its operator, and what is wrong with it."""
    return f"node {error.node()} {error.node_name()!r} ({error.node_operator()}): {error.desc()}"


def _write(path: Path, data: trt.IHostMemory) -> None:
    """Writes a file that is whole or not there."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
