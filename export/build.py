"""Builds a bundle from a checkpoint: checks what is asked for, makes its units, seals them with a manifest."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from export import resources
from export.journal import Workspace
from export.linears import DecoderPrecision, accuracy_level
from export.options import OptionError, Precisions, Targets, check_machine, decoder_precision, resolved
from export.progress import Progress, quantity
from export.report import write_report
from export.samples import VerificationSample, folder_samples, simulated_samples
from export.units import BundleUnits, Check, decoder_shape
from export.verify import Limits
from osprey_ros.bundle import CALIBRATION, MANIFEST, Manifest, write_manifest
from osprey_ros.prompt import OSPREY_V1
from osprey_torch.checkpoint import Checkpoint
from osprey_torch.config import OspreyConfig

__all__ = ["BuildError", "Precisions", "Targets", "build_bundle", "decoder_shape"]

# Scenes of the simulator: the first are for verification, the calibration takes others.
_VERIFICATION_SCENES = 4
_CALIBRATION_SCENES = 16
_CALIBRATION_SCENES_LARGE = 4  # from this width on, where a picture has a thousand rows and a layer takes seconds
_LARGE_WIDTH = 2048
_FIRST_CALIBRATION_SCENE = 1000


class BuildError(Exception):
    """A bundle cannot be built there; the message says why and what to do."""


def build_bundle(
    checkpoint: Path | str,
    output: Path,
    name: str | None = None,
    verify: bool = True,
    precisions: Precisions | None = None,
    targets: Targets | None = None,
    *,
    vision_weights: Path | None = None,
    calibration: Path | None = None,
    samples: Sequence[VerificationSample] | None = None,
    limits: Limits | None = None,
    verify_layers: int | None = None,
    force: bool = False,
    report: Callable[[str], None] | None = None,
) -> Manifest:
    """Builds the bundle of a checkpoint in `output` and returns its manifest.

    Everything is written into `.NAME.partial` beside `output` and moved into place when it is whole and checked; an
    older bundle at `output` is replaced then, its Markdown files are kept. A build that ends early leaves that folder:
    the next one with the same checkpoint and options goes on from what is whole in it. Where `output` is a link, all
    this is done where it leads to.

    Args:
        checkpoint: a folder in the published layout or a hub id, as `Checkpoint.open` takes it with vision_weights.
        name: the bundle's name, by default that of the folder or link.
        verify: whether to compare the engines with PyTorch; the manifest says so.
        precisions, targets: how weights are stored; where and for what sizes the bundle will run.
        calibration: folder of pictures and masks for the method "awq", by default simulated tabletop scenes.
        samples: pictures for the verification, by default simulated tabletop scenes.
        limits: what the verification demands. verify_layers: compare only so many of the decoder's first layers; by
            default all, or a few of a decoder that is large.
        force: go on where memory or disk seem not to suffice.
        report: takes lines of progress; by default they go to the error stream, as bars on a terminal.

    Raises:
        BuildError (`output` is in the way), OptionError, ResourceError, JournalError, CheckpointError, SampleError (no
        pictures), PlanError (TensorRT refuses a graph), VerificationError (the engines are wrong). `output` is then
        left as it was.
    """
    name, output = name or Path(output).absolute().name, Path(output).resolve()
    targets, progress = targets or Targets(), Progress(report)
    _check_output(output)
    check_machine(targets, verify)
    progress.say(f"checkpoint: {checkpoint}")
    source = Checkpoint.open(checkpoint, vision_weights)
    config = targets.model(source.config)
    precisions = resolved(precisions or Precisions(), targets, config)
    precision = decoder_precision(precisions, targets, config)
    sizes = resources.Sizes.of(source, precisions)
    layers = resources.layers_to_verify(config, sizes) if verify_layers is None else verify_layers
    if not 1 <= layers <= config.num_layers:
        raise OptionError(f"{layers} layers to verify: the decoder has {config.num_layers}")
    # Rendered before the long steps, so that a machine that cannot render says so at once.
    if verify and samples is None:
        samples = simulated_samples(_VERIFICATION_SCENES)
    check = Check(samples or (), limits or Limits(), layers) if verify else None
    pictures = _calibration_pictures(precisions, calibration, config)
    needs = resources.needs(config, sizes, precisions, targets, layers if verify else 0, len(pictures))

    calibrated = (output / CALIBRATION).is_file()
    with Workspace(output, _key(source, config, precisions, targets, pictures), progress) as workspace:
        if workspace.finished():
            workspace.remove()
            return Manifest.from_json((output / MANIFEST).read_text(encoding="utf-8"))
        if workspace.resumed:
            progress.say(f"going on with {quantity(workspace.bytes_kept(), 'B')} of an unfinished build")
        resources.check(needs, workspace.folder, workspace.bytes_kept(), force, progress.say)
        build = BundleUnits(source, config, precisions, precision, targets, sizes, workspace, progress)
        workspace.make(build.units(pictures, check))
        figures = build.verification() if verify else {"verified": False}
        stored = _describe(precisions, precision, config)
        write_report(workspace.bundle, name, stored, figures)
        progress.say("manifest: reading every file once more")
        manifest = write_manifest(
            workspace.bundle,
            name=name,
            model=config.model_spec(),
            template=OSPREY_V1.name,
            precisions=stored,
            verification=figures,
            engines=build.engines(),
        )
        workspace.seal(manifest)
    total = sum(entry.bytes for entry in manifest.files.values())
    progress.say(f"bundle: {output}, {quantity(total, 'B')}{'' if verify else ', not verified'}")
    progress.say(f"memory: describing {targets.max_regions} regions at once takes about {quantity(needs.run, 'B')}")
    if calibrated:
        progress.say(
            f"calibration: that of the bundle which was there is gone: fit one with python -m evaluation.calibration "
            f"--bundle {output} --write and python -m evaluation.queries --bundle {output} --fit"
        )
    return manifest


def partial_folder(output: Path) -> Path:
    """Where a build for `output` that is not finished lies."""
    return Workspace.folder_for(Path(output).resolve())


def _check_output(output: Path) -> None:
    """Raises BuildError if no bundle can be put at `output`."""
    if output.exists() and not (output.is_dir() and (_is_bundle(output) or not any(output.iterdir()))):
        raise BuildError(f"{output} exists and is not an engine bundle: give another folder or remove it")
    parent = next(folder for folder in output.parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise BuildError(f"{output} cannot be written: {parent} is not a folder in which you may create files")


def _is_bundle(folder: Path) -> bool:
    """Whether the folder has a manifest as bundles have it, of any version: other programs have manifests as well."""
    try:
        data = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(data, dict) and {"format_version", "engines", "files"} <= data.keys()


def _calibration_pictures(
    precisions: Precisions, folder: Path | None, config: OspreyConfig
) -> list[VerificationSample]:
    if precisions.method != "awq":
        if folder is not None:
            raise OptionError(f"calibration pictures serve the method awq only, not {precisions.method}")
        return []
    if folder is not None:
        return folder_samples(folder)
    count = _CALIBRATION_SCENES if config.hidden_size < _LARGE_WIDTH else _CALIBRATION_SCENES_LARGE
    return simulated_samples(count, _FIRST_CALIBRATION_SCENE)


def _key(
    checkpoint: Checkpoint,
    config: OspreyConfig,
    precisions: Precisions,
    targets: Targets,
    pictures: Sequence[VerificationSample],
) -> dict[str, str]:
    """All that decides what the units of a build write."""
    key = {name: str(value) for name, value in {**asdict(precisions), **asdict(targets)}.items()}
    digest = hashlib.sha256()
    for picture in pictures:
        digest.update(picture.rgb.tobytes() + picture.ids.tobytes())
        digest.update(json.dumps(sorted(picture.words.items())).encode())
    model = hashlib.sha256(json.dumps(config.to_json(), sort_keys=True).encode()).hexdigest()
    return {"checkpoint": checkpoint.digest, "model": model, "calibration": digest.hexdigest(), **key}


def _describe(precisions: Precisions, precision: DecoderPrecision, config: OspreyConfig) -> dict[str, str]:
    """The `precisions` of the manifest."""
    layers = precision.llm
    if layers in ("int4", "int8"):
        layers += f" symmetric, block {precision.block}, {precision.method}"
        if precision.dialect == "onnxruntime" and not precision.half:
            widths = (config.hidden_size, config.intermediate_size)
            levels = sorted({accuracy_level(int(precision.llm[3:]), width) for width in widths})
            layers += f", accuracy level {' and '.join(map(str, levels))}"
    return {
        "vision": precisions.vision,
        "mask_extractor": precisions.mask_extractor,
        "decoder": layers,
        "lm_head": precision.lm_head,
        "embeddings": "fp16",
    }
