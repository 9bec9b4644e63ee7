"""Compares the engines of a segmenter with PyTorch in float32: each engine on the same inputs, and the masks of both.

The decoder is compared on PyTorch's features, which tells a wrong graph from rounding that it amplifies. The masks come
from the image through both engines, as on the robot.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from export.figures import Limit, StageFigures, VerificationError
from export.report import sizes, stages, table, write_sections
from export.segmenter_precision import LEAST_MASK_IOU
from export.segmenter_samples import PromptedImage, Segmented, decode_with_engine, encode_with_engine, mask_ious
from osprey_ros.bundle.manifest import EngineEntry
from osprey_ros.engines.base import load_engine
from osprey_ros.segmenter.spec import DECODER, ENCODER, SegmenterSpec

log = logging.getLogger(__name__)

# Only rounding differs. Graphs of float32 weights stay far within the first; float16 weights or blocks need the second.
EXACT, ROUNDED = Limit(cosine=0.99999, relative=0.001), Limit(cosine=0.999, relative=0.05)

_STAGES = {
    "image_embeddings": "features of the image",
    "high_res_features_0": "features of the image, at the finest stride",
    "high_res_features_1": "features of the image, at a fine stride",
    "objectness": "where a click gives an object",
    "mask_logits": "all masks of all prompts, on the features of PyTorch",
    "iou_scores": "predicted quality of these masks",
}


def verify_segmenter(
    folder: Path,
    engines: Mapping[str, EngineEntry],
    spec: SegmenterSpec,
    images: Sequence[PromptedImage],
    references: Sequence[Segmented],
    limit: Limit,
) -> dict[str, Any]:
    """Compare the engines in `folder` with the references of PyTorch and return the manifest's `verification`.

    Raises VerificationError if a stage exceeds its limit, or the masks differ; the message names all such stages.
    """
    if not images:
        raise VerificationError("no region to compare: the images have none")
    encoder, decoder = (
        load_engine(folder / engines[role].file, engines[role].runtime, engines[role].device)
        for role in (ENCODER, DECODER)
    )
    figures: dict[str, StageFigures] = {}
    ious = []
    encoded = encode_with_engine(encoder, images)
    same = decode_with_engine(decoder, images, [one.features for one in references], spec.max_prompts)
    found = decode_with_engine(decoder, images, encoded, spec.max_prompts)
    for features, decoded, own, other in zip(encoded, same, found, references, strict=True):
        for name, value in other.features.items():
            # A map is one direction: single pixels of it may be near zero.
            figures.setdefault(name, StageFigures()).add(features[name].reshape(1, -1), value.reshape(1, -1))
        for name in ("mask_logits", "iou_scores"):
            pair = (getattr(side, name).reshape(len(other.mask_logits), -1) for side in (decoded, other))
            figures.setdefault(name, StageFigures()).add(*pair)
        ious.append(mask_ious(own, other, spec.mask_threshold))
    return _judged(figures, np.concatenate(ious), [one.name for one in images], limit)


def _judged(
    figures: Mapping[str, StageFigures], ious: np.ndarray, names: Sequence[str], limit: Limit
) -> dict[str, Any]:
    mean = float(ious.mean())
    failures = [
        f"{stage}: cosine {one.cosine:.6f}, relative difference {one.relative:.2e} "
        f"(limits {limit.cosine} and {limit.relative:.0e})"
        for stage, one in figures.items()
        if not one.within(limit)
    ]
    if mean < LEAST_MASK_IOU:
        failures.append(f"masks: mean IoU {mean:.4f} (limit {LEAST_MASK_IOU})")
    for stage, one in figures.items():
        log.info("verify: %s: cosine %.6f, relative difference %.2e", stage, one.cosine, one.relative)
    log.info("verify: masks of %d prompts: mean IoU %.4f, least %.4f", len(ious), mean, ious.min())
    found = {
        "reference": "PyTorch fp32",
        "images": list(names),
        "stages": {stage: {**one.to_json(), "limits": asdict(limit)} for stage, one in figures.items()},
        "masks": {
            "prompts": len(ious),
            "mean_iou": round(mean, 6),
            "least_iou": round(float(ious.min()), 6),
            "limits": {"mean_iou": LEAST_MASK_IOU},
        },
        "versions": {"onnxruntime": onnxruntime.__version__, "torch": torch.__version__},
    }
    if failures:
        failed = {"verified": False, "failures": failures, **found}
        raise VerificationError("engines differ from PyTorch: " + "; ".join(failures), failed)
    return {"verified": True, **found}


def write_segmenter_report(
    folder: Path, name: str, precisions: Mapping[str, str], verification: Mapping[str, Any]
) -> Path:
    """Write `report.md` into the folder of a segmenter's bundle and return its path.

    name, precisions, verification: as in the manifest.
    """
    sections = [f"# {name}: its engines against PyTorch"]
    if verification["verified"]:
        masks, images = verification["masks"], verification["images"]
        sections += [
            "**Verified**: every figure is within its limit.",
            f"Reference: {verification['reference']}, on {len(images)} images: {', '.join(images)}. A click and a box "
            "for each of their largest regions.",
            stages(verification, _STAGES, "Each engine reads the same as PyTorch in fp32."),
            f"## Masks\n\nThrough both engines. IoU of the best mask of {masks['prompts']} prompts with PyTorch's: "
            f"mean {masks['mean_iou']:.4f} (>= {masks['limits']['mean_iou']}), least {masks['least_iou']:.4f}.",
        ]
    else:
        sections.append("**Not verified**: the engines were not compared with PyTorch.")
    sections.append("## Weights\n\n" + table(("engine", "precision"), sorted(precisions.items())))
    if blocks := verification.get("blocks"):
        rows = [
            (block, one["precision"], f"{one['largest']:g}", one["reason"] and f"its {one['reason']}")
            for block, one in blocks.items()
        ]
        header = ("block", "precision", "largest activation", "what keeps it in fp32")
        note = "Activations in float32 on the same images; float16 ends at 65504."
        sections.append(f"## Blocks\n\n{note}\n\n{table(header, rows)}")
    sections.append("## Files\n\n" + table(("file", "MB"), sizes(folder)))
    return write_sections(folder, sections, verification)
