"""Builds TensorRT plans from ONNX graphs on the machine that will run them, with TensorRT 10.3 to 11.

Networks are strongly typed: the types in the graph determine the precision of each layer, not flags of the builder.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

import onnx
from tqdm import tqdm

from osprey_ros.bundle import fingerprint
from osprey_ros.bundle.hash_cache import sha256_of
from osprey_ros.bundle.manifest import EngineEntry
from osprey_ros.engines import machine
from osprey_ros.engines.machine import require_tensorrt
from osprey_ros.engines.tensorrt import make_logger
from osprey_ros.errors import EngineError
from osprey_ros.files import write_file
from osprey_ros.regions.crops import MOST_CROPS
from osprey_ros.strict_json import to_json

if TYPE_CHECKING:
    import tensorrt as trt

log = logging.getLogger(__name__)

_WORKSPACE = 2 << 30  # bytes of GPU memory that a layer may use while it runs


@dataclass(frozen=True)
class Lengths:
    """Lengths of a free axis of a graph: the least, the one to optimize for, and the greatest."""

    least: int
    usual: int
    greatest: int

    def __post_init__(self) -> None:
        if not 0 <= self.least <= self.usual <= self.greatest:
            raise ValueError(f"lengths must rise from at least 0, not {self.least}, {self.usual}, {self.greatest}")


# Lengths of all free axes by their names in the graph. A run uses the first profile of the plan that takes its shapes,
# so narrow profiles come first.
Profile = Mapping[str, Lengths]


def mask_extractor_profiles(max_regions: int) -> list[Profile]:
    """Return the profiles of the mask-extractor graph for up to `max_regions` regions at once."""
    return [{"N": Lengths(1, min(16, max_regions), max_regions)}]


def crop_profiles(max_regions: int) -> list[Profile]:
    """Return the profiles of the crop graph, which runs at most MOST_CROPS crops at once."""
    most = min(MOST_CROPS, max_regions)
    return [{"N": Lengths(1, min(4, most), most)}]


def build_plan(
    graph: Path,
    folder: Path,
    profiles: Sequence[Profile] = (),
    timing_cache: Path | None = None,
) -> EngineEntry:
    """Build the plan of an ONNX graph in `folder`, with its fingerprint beside it. This can take many minutes.

    An existing plan with the same fingerprint is kept; other plans of the graph in `folder` are removed afterwards.
    Ctrl-C stops the build at its next step, usually within seconds.

    Args:
        graph: `.onnx` file; its weights may be in files beside it. The name of the plan begins with its stem.
        profiles: lengths of the free axes of the graph; empty for a graph without free axes.
        timing_cache: file of kernel measurements, read and updated, also by a build that fails. It makes the next
            build for the same GPU and TensorRT faster; a file that cannot be read or written is ignored.

    Returns:
        The entry for the manifest.

    Raises:
        EngineError: no GPU or no TensorRT.
        EngineError: TensorRT rejects the graph.
        ValueError: the profiles do not fit the graph.
    """
    require_tensorrt()
    shapes = [profile_shapes(graph, profile) for profile in profiles or ({},)]
    options = {
        "profiles": [{axis: [n.least, n.usual, n.greatest] for axis, n in sorted(p.items())} for p in profiles],
        "tf32": False,
        "workspace": _WORKSPACE,
    }
    print_ = machine.current() | {
        "onnx_sha256": graph_sha256(graph),
        "options": to_json(options, sort_keys=True),
    }
    plan = folder / fingerprint.plan_name(graph.stem, print_)
    entry = EngineEntry(plan.name, "tensorrt", "cuda", print_)
    if plan.is_file() and fingerprint.sidecar(plan).is_file() and fingerprint.read_fingerprint(plan) == print_:
        return entry
    data = _build(graph, shapes, timing_cache)
    # The plan last, so that a plan always has its fingerprint.
    fingerprint.write_fingerprint(plan, print_)
    write_file(plan, data)
    for old in folder.glob(f"{graph.stem}.*.plan"):
        if old != plan:
            old.unlink()
            fingerprint.sidecar(old).unlink(missing_ok=True)
    return entry


def graph_sha256(graph: Path) -> str:
    """Return the SHA-256 over an ONNX file and the weight files beside it."""
    tensors = onnx.load(os.fspath(graph), load_external_data=False).graph.initializer
    files = {e.value for t in tensors for e in t.external_data if e.key == "location"}
    digest = hashlib.sha256()
    for path in (graph, *(graph.parent / name for name in sorted(files))):
        digest.update(sha256_of(path).encode())
    return digest.hexdigest()


def profile_shapes(graph: Path, profile: Profile) -> dict[str, tuple[tuple[int, ...], ...]]:
    """Return the least, usual and greatest shape of each input that has free axes.

    Raises ValueError for free axes without lengths and for lengths of unknown axes.
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
    timing_cache: Path | None,
) -> trt.IHostMemory:
    """Return the bytes of the plan."""
    import tensorrt as trt

    errors: list[str] = []
    logger = make_logger(errors)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(os.fspath(graph)):
        refused = [_describe(parser.get_error(index)) for index in range(parser.num_errors)]
        raise EngineError(f"TensorRT {trt.__version__} refuses {graph.name}:\n  " + "\n  ".join(refused or errors))

    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, _WORKSPACE)
    # TF32 has the precision of float16.
    config.clear_flag(trt.BuilderFlag.TF32)
    for shapes in profiles:
        profile = builder.create_optimization_profile()
        for name, (least, usual, greatest) in shapes.items():
            profile.set_shape(name, least, usual, greatest)
        if config.add_optimization_profile(profile) < 0:
            raise EngineError(
                f"TensorRT {trt.__version__} refuses the profile {dict(shapes)} of {graph.name}: {errors}"
            )
    if timing_cache is not None:
        try:
            stored = timing_cache.read_bytes() if timing_cache.is_file() else b""
        except OSError as error:
            log.warning("the timing cache of TensorRT cannot be read: %s", error)
            stored = b""
        cache = config.create_timing_cache(stored)
        if cache is None or not config.set_timing_cache(cache, False):
            # Damaged, or of another GPU or TensorRT version.
            cache = config.create_timing_cache(b"")
            config.set_timing_cache(cache, False)
    cancelled = Event()
    monitor = _monitor(cancelled)
    config.progress_monitor = monitor

    try:
        # In another thread: the builder does not return to Python for minutes, and Python alone handles Ctrl-C.
        with ThreadPoolExecutor(1) as pool:
            try:
                plan = pool.submit(lambda: builder.build_serialized_network(network, config)).result()
            except KeyboardInterrupt:
                cancelled.set()
                raise  # the pool waits for the builder
    finally:
        if timing_cache is not None:
            measured = config.get_timing_cache()
            try:
                write_file(timing_cache, measured.serialize())
            except OSError as error:
                log.warning("the timing cache of TensorRT is not kept for the next build: %s", error)
    if plan is None:
        raise EngineError(
            f"TensorRT {trt.__version__} cannot build {graph.name}: {'; '.join(errors) or 'no reason given'}"
        )
    return plan


def _monitor(cancelled: Event) -> trt.IProgressMonitor:
    """Return a monitor that shows the phases of the builder, which can be nested, as bars on a terminal.

    The build ends at its next step after `cancelled` was set.
    """
    import tensorrt as trt

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.bars: dict[str, tqdm] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.bars[phase_name] = tqdm(desc=phase_name, total=num_steps, leave=False, disable=None)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self.bars.setdefault(phase_name, tqdm(disable=True)).update()
            return not cancelled.is_set()

        def phase_finish(self, phase_name: str) -> None:
            self.bars.pop(phase_name, tqdm(disable=True)).close()

    return Monitor()


def _describe(error: trt.ParserError) -> str:
    """Return one error of the parser: the node, its operator and the description."""
    return f"node {error.node()} {error.node_name()!r} ({error.node_operator()}): {error.desc()}"
