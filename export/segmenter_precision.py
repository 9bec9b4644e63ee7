"""Chooses the blocks of a segmenter that compute in float16: those whose numbers fit, and whose masks stay the same.

Every measurement runs graphs with onnxruntime on the CPU, which rounds as float16 does (`export.half_blocks`).
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from export.half_blocks import LARGEST, blocks_of, largest_activations, largest_weights, rounded_blocks, with_largest
from export.segmenter_samples import PromptedImage, Segmented, decode_with_engine, encode_with_engine, mask_ious
from export.traced_segmenter import save_graph
from osprey_ros.engines.base import Engine, load_engine
from osprey_ros.errors import InputError
from osprey_ros.segmenter.spec import DECODER, ENCODER

log = logging.getLogger(__name__)

LEAST_MASK_IOU = 0.99  # mean over the prompts, between float16 and float32
# Blocks with larger activations on the samples stay in float32: other images may have twice as large ones.
LARGEST_ACTIVATION = LARGEST / 2


@dataclass(frozen=True)
class BlockPrecision:
    """Precision of one block.

    Attributes:
        engine: role of the engine that it belongs to.
        precision: "fp16" or "fp32".
        largest: the largest absolute value of its activations on the samples, in float32.
        reason: why it stays in fp32: "activations", "weights" or "masks"; empty for fp16.
    """

    engine: str
    precision: str
    largest: float
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the record of the manifest."""
        return {**asdict(self), "largest": float(f"{self.largest:.5g}")}


class PrecisionChooser:
    """Measures graphs on images whose masks in PyTorch are known."""

    def __init__(
        self,
        graphs: Mapping[str, onnx.ModelProto],
        blocks: Sequence[str],
        images: Sequence[PromptedImage],
        references: Sequence[Segmented],
        folder: Path,
        threshold: float = 0.0,
    ) -> None:
        """graphs: float32, by roles. folder: for files that exist during a measurement. threshold: of masks."""
        self._graphs = graphs
        self._blocks = blocks
        self._images = images
        self._references = references
        self._folder = folder
        self._threshold = threshold
        self._blocks_of = {role: blocks_of(graph, blocks) for role, graph in graphs.items()}
        self._exact: dict[str, Engine] = {}  # engines without float16, which many measurements need

    def choose(self) -> dict[str, BlockPrecision]:
        """Return the precision of each block that the graphs have.

        Raises InputError for a model with activations that are not finite.
        """
        largest = self.largest()
        weights = {role: largest_weights(graph, self._blocks) for role, graph in self._graphs.items()}
        found = {}
        for (role, block), value in largest.items():
            if not np.isfinite(value):
                raise InputError(f"{block} has activations that are not finite: download the checkpoint again")
            reason = "" if value <= LARGEST_ACTIVATION else "activations"
            reason = "weights" if weights[role].get(block, 0.0) > LARGEST else reason
            found[block] = BlockPrecision(role, "fp32" if reason else "fp16", value, reason)
            if reason:
                log.info("precision: %s stays in fp32, its largest activation is %.5g", block, value)
        return self._keep_masks(found)

    def largest(self) -> dict[tuple[str, str], float]:
        """Return the largest absolute activation, over all images in float32, of each block of each role."""
        graphs = {role: with_largest(graph, self._blocks) for role, graph in self._graphs.items()}
        found: dict[tuple[str, str], float] = {}
        encoder, decoder = (self._load(role, graphs[role]) for role in (ENCODER, DECODER))
        for one in self._images:
            encoded = encoder.run({"image": one.image})
            read = {name: encoded[name] for name in decoder.input_names if name in encoded}
            for role, outputs in ((ENCODER, encoded), (DECODER, decoder.run({**read, **one.prompts}))):
                for block, value in largest_activations(outputs).items():
                    found[role, block] = float(np.maximum(found.get((role, block), 0.0), value))  # keeps NaN
        return found

    def mask_iou(self, chosen: Collection[str]) -> float:
        """Return the mean IoU of the masks with those of PyTorch where the chosen blocks compute in float16."""
        encoded = [one.features for one in self._references]
        if self._blocks_of[ENCODER].intersection(chosen):
            encoded = encode_with_engine(self._rounded(ENCODER, chosen), self._images)
        found = decode_with_engine(self._rounded(DECODER, chosen), self._images, encoded)
        pairs = zip(found, self._references, strict=True)
        return float(np.concatenate([mask_ious(one, other, self._threshold) for one, other in pairs]).mean())

    def _keep_masks(self, found: dict[str, BlockPrecision]) -> dict[str, BlockPrecision]:
        """Return the precisions with fp32 for the blocks that change the masks most, until the masks stay."""
        chosen = [block for block, one in found.items() if one.precision == "fp16"]
        iou = self.mask_iou(chosen)
        log.info("precision: mask IoU %.4f with %d of %d blocks in fp16", iou, len(chosen), len(found))
        if iou >= LEAST_MASK_IOU:
            return found
        alone = {block: self.mask_iou([block]) for block in chosen}
        for block in sorted(chosen, key=alone.__getitem__):
            found[block] = replace(found[block], precision="fp32", reason="masks")
            chosen.remove(block)
            iou = self.mask_iou(chosen)
            log.info("precision: %s stays in fp32 (alone %.4f): mask IoU %.4f", block, alone[block], iou)
            if iou >= LEAST_MASK_IOU:
                break
        return found

    def _rounded(self, role: str, chosen: Collection[str]) -> Engine:
        """Return the engine of a role that rounds in the chosen blocks."""
        rounds = bool(self._blocks_of[role].intersection(chosen))
        if not rounds and role in self._exact:
            return self._exact[role]
        engine = self._load(role, rounded_blocks(self._graphs[role], self._blocks, chosen))
        if not rounds:
            self._exact[role] = engine
        return engine

    def _load(self, role: str, graph: onnx.ModelProto) -> Engine:
        files = save_graph(graph, self._folder / f"measured.{role}.onnx")
        try:
            return load_engine(files[0])
        finally:
            for file in files:
                file.unlink()
