"""The parts of a bundle and how each is written: the list in `BundleUnits.units` is the whole build."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from export import awq
from export.graph_decoder import PRODUCTS, DecoderShape, build_decoder
from export.graph_mask_extractor import build_mask_extractor
from export.graph_vision import build_vision
from export.journal import BUNDLE, WORK, Unit, Workspace
from export.linears import DecoderPrecision, StoredLinears, encode, stored_name
from export.onnx_graph import to_half
from export.options import Precisions, Targets
from export.plans import make_plan
from export.progress import Progress, Step
from export.readback import CONFIG, decoder_weights
from export.resources import LAYER_PARTS, REGION_PARTS, VISION_PARTS, Sizes, weight_bytes
from export.samples import VerificationSample
from export.streamed import NORMS, Read
from export.verify import Limits, verify_bundle
from export.weight_files import StoredWeight, Tensor, WeightFile, read_index, write_index
from osprey_ros import fingerprint
from osprey_ros.bundle import (
    DECODER,
    EMBEDDINGS,
    MASK_EXTRACTOR,
    ONNX_FILES,
    TOKENIZER,
    VISION,
    EngineEntry,
    onnx_engines,
)
from osprey_torch.checkpoint import Checkpoint
from osprey_torch.config import OspreyConfig

VISION_DATA = f"{VISION}.data"
VERIFICATION = "verification.json"

_EMBEDDING_TABLE = "model.embed_tokens.weight"
_FINAL_NORM = "model.norm.weight"
_LM_HEAD = "lm_head"
_SCALES = "awq.npz"


@dataclass(frozen=True)
class Check:
    """What a verification compares: pictures, the limits to keep, how many of the decoder's first layers."""

    samples: Sequence[VerificationSample]
    limits: Limits
    layers: int


@dataclass(frozen=True)
class BundleUnits:
    """One build: the checkpoint, the model as the bundle will have it, how and for what it is built, and where."""

    checkpoint: Checkpoint
    config: OspreyConfig
    precisions: Precisions
    precision: DecoderPrecision
    targets: Targets
    sizes: Sizes
    workspace: Workspace
    progress: Progress

    def units(self, calibration: Sequence[VerificationSample], check: Check | None) -> list[Unit]:
        """Every part of the bundle, in the order in which they are made.

        calibration: pictures for the method "awq". check: None for a bundle that is not verified.
        """
        size, encoders, decoder = self._bytes, self._folder("vision"), self._folder("decoder")
        vision = (VISION, VISION_DATA) if self.sizes.vision_is_large else (VISION,)
        units = [
            Unit("vision", "vision", _in(encoders, *vision), self._vision, size(*VISION_PARTS)),
            Unit("regions", "mask extractor", _in(encoders, MASK_EXTRACTOR), self._mask_extractor, size(*REGION_PARTS)),
            Unit("embeddings", "embeddings", _in(BUNDLE, EMBEDDINGS), self._embeddings, size(_EMBEDDING_TABLE)),
            Unit("tokenizer", "tokenizer", _in(BUNDLE, TOKENIZER, CONFIG), self._tokenizer),
        ]
        if calibration:
            make = partial(self._calibration, calibration)
            units.append(Unit("calibration", "calibration", _in(WORK, _SCALES), make, size(*LAYER_PARTS)))
        for layer in range(self.config.num_layers):
            make = partial(self._layer, layer)
            files = self._weight_files(f"layer{layer:02d}")
            units.append(Unit(f"layer {layer}", "decoder", files, make, size(f"model.layers.{layer}.")))
        units += [
            Unit("lm_head", "decoder", self._weight_files(_LM_HEAD), self._lm_head, size(_FINAL_NORM, f"{_LM_HEAD}.")),
            Unit("decoder graph", "decoder graph", _in(decoder, DECODER), self._decoder_graph),
        ]
        # A build may go on after an upgrade, in another power mode or on another machine: its plans do not.
        machine = json.dumps(fingerprint.current(), sort_keys=True) if self._planned() else ""
        for role in self._planned():
            make = partial(self._plan, role)
            units.append(Unit(f"{role} plan", f"{role} plan", _in(BUNDLE, f"{role}.*.plan*"), make, inputs=machine))
        if check is not None:
            make = partial(self._verification, check)
            files, inputs = _in(WORK, VERIFICATION), _described(check)
            units.append(Unit("verification", "verification", files, make, inputs=inputs, vouches=True))
        return units

    def engines(self) -> dict[str, EngineEntry]:
        """The `engines` of the manifest; all units but the verification must be made."""
        entries = onnx_engines(self.targets.device)
        for role in self._planned():
            (plan,) = self.workspace.bundle.glob(f"{role}.*.plan")
            entries[role] = EngineEntry(plan.name, "tensorrt", "cuda", fingerprint.read_fingerprint(plan))
        return entries

    def verification(self) -> dict[str, Any]:
        """The figures that the unit of this name has found."""
        return json.loads((self.workspace.work / VERIFICATION).read_text(encoding="utf-8"))

    def _vision(self, step: Step) -> None:
        folder = self.workspace.folder / self._folder("vision")
        build_vision(
            self.config,
            self._reader(step),
            folder / VISION,
            half=self.precisions.vision == "fp16",
            external=folder / VISION_DATA if self.sizes.vision_is_large else None,
            half_compute=self._computes_half(self.precisions.vision),
        )

    def _mask_extractor(self, step: Step) -> None:
        build_mask_extractor(
            self.config,
            self._reader(step),
            self.workspace.folder / self._folder("mask_extractor") / MASK_EXTRACTOR,
            half=self.precisions.mask_extractor == "fp16",
            half_compute=self._computes_half(self.precisions.mask_extractor),
        )

    def _embeddings(self, step: Step) -> None:
        table = self._reader(step)(_EMBEDDING_TABLE)
        np.save(self.workspace.bundle / EMBEDDINGS, to_half(_EMBEDDING_TABLE, table))

    def _tokenizer(self, step: Step) -> None:
        folder = self.workspace.bundle
        # Not by its own save(), which raises a bare Exception where the disk is full.
        (folder / TOKENIZER).write_text(self.checkpoint.tokenizer.to_str(pretty=True), encoding="utf-8")
        (folder / CONFIG).write_text(json.dumps(self.config.to_json(), indent=1) + "\n", encoding="utf-8")

    def _calibration(self, pictures: Sequence[VerificationSample], step: Step) -> None:
        bits = 8 if self.precisions.llm == "int8" else 4
        size = self._bytes(*LAYER_PARTS) // self.config.num_layers
        scales = awq.calibrate(
            self.checkpoint,
            pictures,
            bits,
            self.config,
            progress=lambda layer, layers: step.advance(size),
            block=self.precision.block,
        )
        awq.save_scales(self.workspace.work / _SCALES, scales)

    def _layer(self, layer: int, step: Step) -> None:
        prefix = f"model.layers.{layer}"
        groups = [[f"{prefix}.{part}" for part in product] for product in PRODUCTS.values()]
        self._write_weights(f"layer{layer:02d}", groups, [f"{prefix}.{norm}.weight" for norm in NORMS], step)

    def _lm_head(self, step: Step) -> None:
        self._write_weights(_LM_HEAD, [[_LM_HEAD]], [_FINAL_NORM], step)

    def _decoder_graph(self, step: Step) -> None:
        self._write_decoder(self._decoder_path, self.config.num_layers)

    def _plan(self, role: str, step: Step) -> None:
        graph = self.workspace.folder / self._folder(role) / ONNX_FILES[role]
        self._build_plan(role, graph, self.workspace.bundle)

    def _verification(self, check: Check, step: Step) -> None:
        engines, part = self.engines(), None
        with ExitStack() as stack:
            if check.layers < self.config.num_layers:
                # Beside the weight files of the whole decoder, which it shares.
                graph = self._decoder_path.with_name(f"first{check.layers}.onnx")
                stack.callback(graph.unlink, missing_ok=True)
                self._write_decoder(graph, check.layers)
                part = graph
                if self.targets.decoder == "tensorrt":
                    part = self.workspace.work / self._build_plan("decoder", graph, self.workspace.work).file
            figures = verify_bundle(
                self.workspace.bundle,
                self.checkpoint,
                decoder_weights(self._decoder_path),
                check.samples,
                engines=engines,
                config=self.config,
                limits=check.limits,
                layers=check.layers,
                decoder=part,
                report=self.progress.say,
            )
        text = json.dumps(figures, indent=1, sort_keys=True)
        (self.workspace.work / VERIFICATION).write_text(text, encoding="utf-8")

    def _build_plan(self, role: str, graph: Path, folder: Path) -> EngineEntry:
        return make_plan(role, graph, folder, self.config, self.targets.max_regions, self.progress)

    def _write_weights(self, part: str, groups: list[list[str]], vectors: list[str], step: Step) -> None:
        """Writes a data file of the decoder and its index."""
        read = self._reader(step)
        if self.precisions.method == "awq":
            read = awq.settled(read, awq.load_scales(self.workspace.work / _SCALES))
        data, index = (self.workspace.folder / name for name in self._weight_files(part))
        with WeightFile(data) as file:
            for group in groups:
                for name, tensor in encode(read, group, self.precision, output=group == [_LM_HEAD]).items():
                    file.add(f"{stored_name(group)}.{name}", tensor)
            for name in vectors:
                file.add(name, Tensor.of(read(name)))
        write_index(index, file.index)

    def _write_decoder(self, path: Path, layers: int) -> None:
        """Writes a graph of the first `layers` layers over the data files: no weight is read, but for a small model."""
        index: dict[str, StoredWeight] = {}
        for part in (*(f"layer{layer:02d}" for layer in range(layers)), _LM_HEAD):
            index |= read_index(self.workspace.folder / self._weight_files(part)[1])
        inline = None if self.sizes.decoder_is_large else self.workspace.work
        shape = replace(decoder_shape(self.config), num_layers=layers)
        build_decoder(shape, StoredLinears(index, self.precision, inline), path)

    def _weight_files(self, part: str) -> tuple[str, str]:
        """A data file of the decoder, which goes with the bundle unless the graph takes in the weights; its index."""
        folder = self._folder("decoder") if self.sizes.decoder_is_large else WORK
        return f"{folder}/decoder.{part}.data", f"{WORK}/decoder.{part}.json"

    @property
    def _decoder_path(self) -> Path:
        return self.workspace.folder / self._folder("decoder") / DECODER

    def _planned(self) -> list[str]:
        """The engines that are TensorRT plans."""
        roles = ["vision", "mask_extractor"] if self.targets.runtime == "tensorrt" else []
        return [*roles, "decoder"] if self.targets.decoder == "tensorrt" else roles

    def _folder(self, role: str) -> str:
        """Where the ONNX graph of an engine goes: a plan is made of it on the way, or it is the engine."""
        return WORK if role in self._planned() else BUNDLE

    def _computes_half(self, kind: str) -> bool:
        return self.targets.device == "cuda" and kind == "fp16"

    def _bytes(self, *prefixes: str) -> int:
        """Size of the tensors whose names begin so, as float32: what a unit advances its step by."""
        return weight_bytes(self.checkpoint, *prefixes)

    def _reader(self, step: Step) -> Read:
        """The checkpoint's `read`, which advances the step by each tensor when it is read first."""
        seen: set[str] = set()

        def read(name: str) -> np.ndarray:
            tensor = self.checkpoint.read(name)
            if name not in seen:
                seen.add(name)
                step.advance(tensor.nbytes)
            return tensor

        return read


def decoder_shape(config: OspreyConfig) -> DecoderShape:
    """The decoder's part of a model configuration."""
    return DecoderShape(
        hidden_size=config.hidden_size,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        head_dim=config.head_dim,
        vocab_size=config.vocab_size,
        max_positions=config.max_positions,
        rms_norm_eps=config.rms_norm_eps,
        rope_theta=config.rope_theta,
    )


def _in(folder: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{folder}/{name}" for name in names)


def _described(check: Check) -> str:
    """What decides the outcome of a verification, in a line."""
    digest = hashlib.sha256()
    for sample in check.samples:
        digest.update(sample.rgb.tobytes() + sample.ids.tobytes())
    return json.dumps({"pictures": digest.hexdigest(), "limits": asdict(check.limits), "layers": check.layers})
