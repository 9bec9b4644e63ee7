"""Builds the bundle of a segmenter from its checkpoint: graphs, precision of blocks, plans, comparison, manifest."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import onnx
from tqdm import tqdm

from export.build import check_output
from export.graph_small_segmenter import build_small_segmenter
from export.half_blocks import half_blocks, half_weights
from export.options import FLOAT_PRECISIONS, Targets, check_machine
from export.plans import make_segmenter_plan
from export.samples import VerificationSample, simulated_samples
from export.segmenter_precision import BlockPrecision, PrecisionChooser
from export.segmenter_samples import PromptedImage, Segmented, prompted_images, segment_with_torch
from export.segmenter_verify import EXACT, ROUNDED, verify_segmenter, write_segmenter_report
from export.traced_segmenter import save_graph, trace_graphs
from export.workspace import Part, Workspace
from osprey_ros.bundle import fingerprint
from osprey_ros.bundle.hash_cache import sha256_of
from osprey_ros.bundle.manifest import EngineEntry
from osprey_ros.engines import machine
from osprey_ros.errors import InputError
from osprey_ros.file_errors import folder_name
from osprey_ros.segmenter.bundle import ROLES, SegmenterManifest, segmenter_graphs, write_segmenter_manifest
from osprey_ros.segmenter.spec import SegmenterSpec
from osprey_ros.strict_json import to_json
from osprey_torch.segmenter_model import SegmenterModel
from osprey_torch.segmenters import checkpoint_folder, open_segmenter
from osprey_torch.small_segmenter import MODEL_TYPE as SMALL_SEGMENTER

log = logging.getLogger(__name__)

# Families whose graphs are not traced from PyTorch: functions that return the float32 graphs by their roles.
GRAPHS: dict[str, Callable[[SegmenterModel, Path], dict[str, onnx.ModelProto]]] = {
    SMALL_SEGMENTER: build_small_segmenter
}

_VERIFICATION_SCENES = 4
_BLOCKS = "blocks.json"


@dataclass(frozen=True)
class SegmenterOptions:
    """How a segmenter is built.

    Attributes:
        precision: "fp32", "fp16" or "auto": fp16 for the GPU, fp32 for the CPU. For the CPU fp16 is how weights are
            stored; for the GPU it is how blocks compute, except for those that need fp32.
        runtime: "onnxruntime" or "tensorrt".
        device: "cpu" or "cuda".
        max_prompts: the most prompts in one run of a plan; ONNX graphs accept any number.
        max_points: points of each prompt of a plan, two of them for a box; ONNX graphs accept any number.
    """

    precision: str = "auto"
    runtime: str = "onnxruntime"
    device: str = "cpu"
    max_prompts: int = 16
    max_points: int = 8

    def __post_init__(self) -> None:
        if self.precision not in FLOAT_PRECISIONS:
            raise InputError(f"precision must be one of {', '.join(FLOAT_PRECISIONS)}, not {self.precision!r}")
        if self.max_prompts < 1 or self.max_points < 2:
            raise InputError(
                f"{self.max_prompts} prompts of {self.max_points} points: there must be at least 1 prompt of 2 points"
            )

    @property
    def half(self) -> bool:
        """Whether anything is float16."""
        return self.precision == "fp16" or (self.precision == "auto" and self.device == "cuda")

    @property
    def half_compute(self) -> bool:
        """Whether blocks compute in float16."""
        return self.half and self.device == "cuda"


def build_segmenter(
    checkpoint: Path | str,
    output: Path,
    name: str | None = None,
    verify: bool = True,
    options: SegmenterOptions | None = None,
    *,
    samples: Sequence[VerificationSample] | None = None,
) -> SegmenterManifest:
    """Build the bundle of a segmenter's checkpoint in `output` and return its manifest.

    As `export.build.build_bundle` does, it works in `.NAME.partial` beside `output`, continues an unfinished build and
    replaces an older bundle.

    Args:
        checkpoint: see `osprey_torch.segmenters.open_segmenter`.
        name: name of the bundle, by default that of the output folder.
        verify: compare the engines with PyTorch; the manifest records whether this was done.
        options: how it is built.
        samples: images with regions for the choice of precisions and the comparison, by default simulated scenes.

    Raises:
        BundleError: something else is at `output`, it cannot be written, or another build for it is running.
        InputError: the checkpoint cannot be read, or the simulated scenes cannot be rendered.
        EngineError: TensorRT rejects a graph.
        VerificationError: the engines differ from PyTorch. In all cases `output` is unchanged.
    """
    name, output, options = name or folder_name(output), Path(output).resolve(), options or SegmenterOptions()
    check_output(output)
    check_machine(Targets(options.runtime, options.runtime, options.device), verify)
    folder = checkpoint_folder(checkpoint)
    log.info("checkpoint: %s", folder)
    segmenter = open_segmenter(folder)
    scenes: Sequence[VerificationSample] = ()
    if verify or options.half_compute:
        scenes = simulated_samples(_VERIFICATION_SCENES) if samples is None else samples
    with Workspace(
        output, {"segmenter": _digest(folder), **{k: str(v) for k, v in asdict(options).items()}}
    ) as workspace:
        build = _Build(segmenter, options, scenes, workspace)
        workspace.make(build.parts())
        precisions, blocks = build.precisions()
        verification = {**(build.verify() if verify else {"verified": False}), **({"blocks": blocks} if blocks else {})}
        write_segmenter_report(workspace.bundle, name, precisions, verification)
        manifest = write_segmenter_manifest(
            workspace.bundle,
            name=name,
            model=build.spec,
            precisions=precisions,
            verification=verification,
            engines=build.engines(),
        )
        workspace.install()
    total = tqdm.format_sizeof(sum(entry.bytes for entry in manifest.files.values()), "B")
    log.info("bundle: %s, %s%s", output, total, "" if verify else ", not verified")
    return manifest


def _digest(folder: Path) -> str:
    """Return the SHA-256 over the files of a checkpoint."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        digest.update(f"{path.name} {sha256_of(path)}\n".encode())
    return digest.hexdigest()


@dataclass
class _Build:
    """One build: the model, how it is built, images with regions, and where."""

    segmenter: SegmenterModel
    options: SegmenterOptions
    scenes: Sequence[VerificationSample]
    workspace: Workspace
    _compared: tuple[list[PromptedImage], list[Segmented]] | None = field(default=None, init=False)

    @property
    def spec(self) -> SegmenterSpec:
        """The settings of the bundle."""
        spec, most = self.segmenter.spec, self.options.max_prompts
        if self.options.runtime != "tensorrt":
            return spec
        everything = replace(spec.everything, batch=most)
        return replace(spec, max_points=self.options.max_points, max_prompts=most, everything=everything)

    def parts(self) -> list[Part]:
        """Return all parts of the bundle in the order in which they are made."""
        parts = [Part("graphs", self._graphs)]
        if self.options.runtime == "tensorrt":
            here = to_json(machine.current(), sort_keys=True)
            parts += [Part(f"{role} plan", partial(self._plan, role), here) for role in ROLES]
        return parts

    def engines(self) -> dict[str, EngineEntry]:
        """Return the `engines` of the manifest; all parts must be complete."""
        if self.options.runtime != "tensorrt":
            return segmenter_graphs(self.options.device)
        plans = {role: next(self.workspace.bundle.glob(f"{role}.*.plan")) for role in ROLES}
        return {
            role: EngineEntry(plan.name, "tensorrt", "cuda", fingerprint.read_fingerprint(plan))
            for role, plan in plans.items()
        }

    def precisions(self) -> tuple[dict[str, str], dict[str, Any]]:
        """Return the precision of each engine in words, and the record of each block."""
        if not self.options.half_compute:
            return dict.fromkeys(ROLES, "fp16 weights, computes in fp32" if self.options.half else "fp32"), {}
        blocks = json.loads((self.workspace.work / _BLOCKS).read_text(encoding="utf-8"))
        words: dict[str, str] = {}
        for role in ROLES:
            own = {block: one for block, one in blocks.items() if one["engine"] == role}
            kept = [block for block, one in own.items() if one["precision"] == "fp32"]
            words[role] = f"fp16, but fp32 in {', '.join(kept)}" if kept else "fp16"
        return words, blocks

    def verify(self) -> dict[str, Any]:
        """Compare the engines with PyTorch and return the manifest's `verification`."""
        images, references = self._images()
        limit = ROUNDED if self.options.half else EXACT
        return verify_segmenter(self.workspace.bundle, self.engines(), self.spec, images, references, limit)

    def _images(self) -> tuple[list[PromptedImage], list[Segmented]]:
        """Return the images with their prompts, and what PyTorch makes of them; computed once."""
        if self._compared is None:
            images = prompted_images(self.scenes, self.spec)
            log.info("PyTorch: %d images", len(images))
            self._compared = images, segment_with_torch(self.segmenter, images)
        return self._compared

    def _graphs(self) -> list[Path]:
        """Write both graphs: into the bundle, unless only plans are made from them."""
        trace = GRAPHS.get(self.segmenter.spec.family, trace_graphs)
        graphs = trace(self.segmenter, self.workspace.work)
        files: list[Path] = []
        if self.options.half_compute:
            chosen = self._choose(graphs)
            files.append(self.workspace.work / _BLOCKS)
            files[0].write_text(to_json({block: one.to_json() for block, one in chosen.items()}), encoding="utf-8")
            half = [block for block, one in chosen.items() if one.precision == "fp16"]
            graphs = {role: half_blocks(graph, self.segmenter.blocks, half) for role, graph in graphs.items()}
        elif self.options.half:
            graphs = {role: half_weights(graph) for role, graph in graphs.items()}
        for role, graph in graphs.items():
            files += save_graph(graph, self._graph(role))
        return files

    def _choose(self, graphs: Mapping[str, onnx.ModelProto]) -> dict[str, BlockPrecision]:
        images, references = self._images()
        if not images:
            raise InputError("no region to choose precisions by: the images have none; give --precision fp32")
        chooser = PrecisionChooser(
            graphs,
            self.segmenter.blocks,
            images,
            references,
            self.workspace.work,
            self.segmenter.spec.mask_threshold,
        )
        return chooser.choose()

    def _plan(self, role: str) -> list[Path]:
        entry = make_segmenter_plan(
            role, self._graph(role), self.workspace.bundle, self.options.max_prompts, self.options.max_points
        )
        plan = self.workspace.bundle / entry.file
        return [plan, fingerprint.sidecar(plan)]

    def _graph(self, role: str) -> Path:
        folder = self.workspace.work if self.options.runtime == "tensorrt" else self.workspace.bundle
        return folder / segmenter_graphs()[role].file
