"""Builds a bundle from a checkpoint: checks the options, makes the parts, verifies them and writes the manifest."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from export import resources
from export.linears import DecoderPrecision, accuracy_level
from export.options import Precisions, Targets, check_machine, decoder_precision, resolved
from export.parts import BundleParts
from export.report import write_report
from export.samples import VerificationSample, simulated_samples
from export.verify import Limits
from export.workspace import Workspace
from osprey_ros.bundle.bundle import write_manifest
from osprey_ros.bundle.manifest import CALIBRATION, MANIFEST, UNLIKE_TRAINING, Manifest
from osprey_ros.decoding.prompt import OSPREY_V1
from osprey_ros.errors import BundleError, InputError
from osprey_ros.file_errors import folder_name
from osprey_ros.strict_json import to_json
from osprey_torch.checkpoint import Checkpoint
from osprey_torch.config import OspreyConfig

__all__ = ["BundleError", "Precisions", "Targets", "build_bundle"]

log = logging.getLogger(__name__)

_VERIFICATION_SCENES = 4


def build_bundle(
    checkpoint: Path | str,
    output: Path,
    name: str | None = None,
    verify: bool = True,
    precisions: Precisions | None = None,
    targets: Targets | None = None,
    *,
    vision_weights: Path | None = None,
    samples: Sequence[VerificationSample] | None = None,
    limits: Limits | None = None,
    verify_layers: int | None = None,
    force: bool = False,
) -> Manifest:
    """Build the bundle of a checkpoint in `output` and return its manifest.

    The parts are written to `.NAME.partial` beside `output` and moved there when the bundle is complete and verified.
    An older bundle at `output` is replaced; its Markdown files are kept. A build that ends early leaves the working
    folder, and the next build with the same checkpoint and options continues with it. If `output` is a link, its target
    is built. Progress is logged; a terminal shows a bar.

    Args:
        checkpoint: folder in the published layout or hub id, see `Checkpoint.open`.
        name: name of the bundle, by default that of the output folder.
        verify: compare the engines with PyTorch; the manifest records whether this was done.
        precisions: how weights are stored.
        targets: where and for which sizes the bundle will run.
        vision_weights: see `Checkpoint.open`.
        samples: images for the verification, by default simulated tabletop scenes.
        limits: limits of the verification.
        verify_layers: number of decoder layers to compare, by default all, or two of a large decoder.
        force: continue if the disk or memory seem too small.

    Raises:
        BundleError: something else is at `output`, or it cannot be written.
        InputError: the build cannot begin.
        BundleError: another build for `output` is running.
        InputError: the simulated scenes cannot be rendered.
        EngineError: TensorRT rejects a graph.
        VerificationError: the engines differ from PyTorch. In all cases `output` is unchanged.
    """
    name, output, targets = name or folder_name(output), Path(output).resolve(), targets or Targets()
    check_output(output)
    check_machine(targets, verify)
    log.info("checkpoint: %s", checkpoint)
    source = Checkpoint.open(checkpoint, vision_weights)
    config = targets.model(source.config)
    precisions = resolved(precisions or Precisions(), targets, config)
    precision = decoder_precision(precisions, targets, config)
    sizes = resources.Sizes.of(source, precisions)
    layers = resources.layers_to_verify(config, sizes) if verify_layers is None else verify_layers
    if not 1 <= layers <= config.num_layers:
        raise InputError(f"{layers} layers to verify: the decoder has {config.num_layers}")
    if verify and samples is None:
        samples = simulated_samples(_VERIFICATION_SCENES)  # before the long steps, which would be lost if this fails
    needs = resources.needs(config, sizes, precisions, targets, layers if verify else 0)

    calibrated, scored = ((output / name).is_file() for name in (CALIBRATION, UNLIKE_TRAINING))
    with Workspace(output, _key(source, config, precisions, targets)) as workspace:
        resources.check(needs, workspace.folder, workspace.bytes_present(), force)
        build = BundleParts(source, config, precisions, precision, targets, sizes, workspace)
        workspace.make(build.parts())
        figures = build.verify(samples or (), limits or Limits(), layers) if verify else {"verified": False}
        stored = _describe(precisions, precision, config)
        write_report(workspace.bundle, name, stored, figures)
        log.info("manifest: hashing every file")
        manifest = write_manifest(
            workspace.bundle,
            name=name,
            model=config.model_spec(),
            template=OSPREY_V1.name,
            precisions=stored,
            verification=figures,
            engines=build.engines(),
        )
        workspace.install()
    total = tqdm.format_sizeof(sum(entry.bytes for entry in manifest.files.values()), "B")
    log.info("bundle: %s, %s%s", output, total, "" if verify else ", not verified")
    memory = tqdm.format_sizeof(needs.run, "B")
    log.info("memory: describing %d regions at once takes about %s", targets.max_regions, memory)
    if calibrated:
        log.warning(
            "calibration: the new bundle has none: fit one with python -m evaluation.calibration --bundle %s --write "
            "and python -m evaluation.queries --bundle %s --fit",
            output,
            output,
        )
    if scored:
        log.warning(
            "unlike training: the new bundle has no score: fit one with python -m evaluation.unlike_training "
            "--bundle %s --write",
            output,
        )
    return manifest


def check_output(output: Path) -> None:
    """Raise BundleError if no bundle can be put at `output`."""
    if output.exists() and not (output.is_dir() and (_is_bundle(output) or not any(output.iterdir()))):
        raise BundleError(f"{output} exists and is not an engine bundle: give another folder or remove it")
    parent = next(folder for folder in output.parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise BundleError(f"{output} cannot be written: {parent} is not a folder in which you may create files")


def _is_bundle(folder: Path) -> bool:
    """Return whether the folder has a manifest of a bundle, of any version; other programs have manifests, too."""
    try:
        data = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(data, dict) and {"format_version", "engines", "files"} <= data.keys()


def _key(checkpoint: Checkpoint, config: OspreyConfig, precisions: Precisions, targets: Targets) -> dict[str, str]:
    """Return everything that determines the bytes of the parts."""
    model = hashlib.sha256(to_json(config.to_json(), sort_keys=True).encode()).hexdigest()
    options = {name: str(value) for name, value in {**asdict(precisions), **asdict(targets)}.items()}
    return {"checkpoint": checkpoint.digest, "model": model, **options}


def _describe(precisions: Precisions, precision: DecoderPrecision, config: OspreyConfig) -> dict[str, str]:
    """Return the `precisions` of the manifest."""
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
        **({"crop": precisions.vision} if config.crop_size else {}),
        "decoder": layers,
        "lm_head": precision.lm_head,
        "embeddings": "fp16",
    }
