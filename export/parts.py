"""The parts of a bundle and how each is written: `BundleParts.parts` lists the whole build."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto

from export.graph_crop import build_crop
from export.graph_decoder import DecoderShape, build_decoder
from export.graph_mask_extractor import build_mask_extractor
from export.graph_vision import build_vision
from export.linears import DecoderPrecision, StoredLinears, encode
from export.options import Precisions, Targets
from export.plans import make_plan
from export.resources import Sizes
from export.samples import VerificationSample
from export.verify import Limits, verify_bundle
from export.workspace import Part, Workspace
from osprey_ros.bundle import fingerprint
from osprey_ros.bundle.manifest import (
    CROP,
    DECODER,
    EMBEDDINGS,
    KINDS,
    MASK_EXTRACTOR,
    ONNX_FILES,
    OPTIONAL_FILES,
    TOKENIZER,
    VISION,
    EngineEntry,
    onnx_engines,
)
from osprey_ros.engines import machine
from osprey_ros.strict_json import to_json
from osprey_torch.checkpoint import Checkpoint
from osprey_torch.config import OspreyConfig
from osprey_torch.onnx_graph import to_half
from osprey_torch.readback import CONFIG, EMBEDDING_TABLE, decoder_weights
from osprey_torch.stored_linears import PRODUCTS, attention_vectors, stored_name
from osprey_torch.weight_files import WeightFile, read_index, write_index

VISION_DATA = f"{VISION}.data"
CROP_DATA = f"{CROP}.data"

_NORMS = ("input_layernorm", "post_attention_layernorm")
_FINAL_NORM = "model.norm.weight"
_LM_HEAD = "lm_head"


@dataclass(frozen=True)
class BundleParts:
    """One build: the checkpoint, the model as the bundle will have it, how and for what it is built, and where."""

    checkpoint: Checkpoint
    config: OspreyConfig
    precisions: Precisions
    precision: DecoderPrecision
    targets: Targets
    sizes: Sizes
    workspace: Workspace

    def parts(self) -> list[Part]:
        """Return all parts of the bundle in the order in which they are made."""
        parts = [
            Part("vision", self._vision),
            Part("mask extractor", self._mask_extractor),
            *([Part("crop", self._crop)] if self.config.crop_size else []),
            Part("embeddings", self._embeddings),
            Part("tokenizer", self._tokenizer),
        ]
        parts += [Part(f"layer {layer}", partial(self._layer, layer)) for layer in range(self.config.num_layers)]
        parts += [Part("output layer", self._lm_head), Part("decoder graph", self._decoder_graph)]
        # A build can continue after an upgrade, in another power mode or on another machine; its plans cannot.
        here = to_json(machine.current(), sort_keys=True) if self._plan_roles() else ""
        return parts + [Part(f"{role} plan", partial(self._plan, role), here) for role in self._plan_roles()]

    def engines(self) -> dict[str, EngineEntry]:
        """Return the `engines` of the manifest; all parts must be complete."""
        entries = onnx_engines(self.targets.device, crops=bool(self.config.crop_size))
        for role in self._plan_roles():
            (plan,) = self.workspace.bundle.glob(f"{role}.*.plan")
            entries[role] = EngineEntry(plan.name, "tensorrt", "cuda", fingerprint.read_fingerprint(plan))
        return entries

    def verify(self, samples: Sequence[VerificationSample], limits: Limits, layers: int) -> dict[str, Any]:
        """Compare the engines with PyTorch and return the figures for the manifest.

        Only the first `layers` layers of the decoder are compared. Raises VerificationError if a limit is exceeded.
        """
        part = None
        with ExitStack() as stack:
            if layers < self.config.num_layers:
                # Beside the weight files of the whole decoder, which it shares.
                graph = self._decoder_path.with_name(f"first{layers}.onnx")
                stack.callback(graph.unlink, missing_ok=True)
                self._write_decoder(graph, layers)
                part = graph
                if self.targets.decoder == "tensorrt":
                    plan = make_plan("decoder", graph, self.workspace.work, self.config, self.targets.max_regions)
                    part = self.workspace.work / plan.file
            return verify_bundle(
                self.workspace.bundle,
                self.checkpoint,
                decoder_weights(self._decoder_path, self.config),
                samples,
                engines=self.engines(),
                config=self.config,
                limits=limits,
                layers=layers,
                decoder=part,
            )

    def _vision(self) -> list[Path]:
        return self._tower("vision", build_vision, VISION, VISION_DATA)

    def _crop(self) -> list[Path]:
        return self._tower("crop", build_crop, CROP, CROP_DATA)

    def _tower(self, role: str, build: Callable[..., None], file: str, data_file: str) -> list[Path]:
        """Write a graph with the vision tower."""
        graph = self._folder(role) / file
        data = graph.with_name(data_file) if self.sizes.vision_is_large else None
        kind = self.precisions.vision
        build(
            self.config,
            self.checkpoint.read,
            graph,
            kind == "fp16",
            external=data,
            half_compute=self._computes_half(kind),
            compact=role not in self._plan_roles(),
        )
        return [graph, data] if data else [graph]

    def _mask_extractor(self) -> list[Path]:
        graph, kind = self._folder("mask_extractor") / MASK_EXTRACTOR, self.precisions.mask_extractor
        half = self._computes_half(kind)
        build_mask_extractor(self.config, self.checkpoint.read, graph, kind == "fp16", half_compute=half)
        return [graph]

    def _embeddings(self) -> list[Path]:
        path = self.workspace.bundle / EMBEDDINGS
        np.save(path, to_half(EMBEDDING_TABLE, self.checkpoint.read(EMBEDDING_TABLE)))
        return [path]

    def _tokenizer(self) -> list[Path]:
        tokenizer, config = (self.workspace.bundle / name for name in (TOKENIZER, CONFIG))
        # Tokenizer.save() raises a bare Exception if the disk is full.
        tokenizer.write_text(self.checkpoint.tokenizer.to_str(pretty=True), encoding="utf-8")
        config.write_text(to_json(self.config.to_json(), indent=1) + "\n", encoding="utf-8")
        if self.checkpoint.kinds is None:
            return [tokenizer, config]
        kinds = self.workspace.bundle / KINDS
        kinds.write_text(self.checkpoint.kinds.to_json(), encoding="utf-8")
        return [tokenizer, config, kinds]

    def _layer(self, layer: int) -> list[Path]:
        prefix = f"model.layers.{layer}"
        groups = [[f"{prefix}.{part}" for part in product] for product in PRODUCTS.values()]
        vectors = [f"{norm}.weight" for norm in _NORMS] + attention_vectors(self.config.family)
        return self._write_weights(f"layer{layer:02d}", groups, [f"{prefix}.{vector}" for vector in vectors])

    def _lm_head(self) -> list[Path]:
        return self._write_weights(_LM_HEAD, [[_LM_HEAD]], [_FINAL_NORM])

    def _decoder_graph(self) -> list[Path]:
        self._write_decoder(self._decoder_path, self.config.num_layers)
        return [self._decoder_path]

    def _plan(self, role: str) -> list[Path]:
        graph = self._folder(role) / {**ONNX_FILES, **OPTIONAL_FILES}[role]
        entry = make_plan(role, graph, self.workspace.bundle, self.config, self.targets.max_regions)
        plan = self.workspace.bundle / entry.file
        return [plan, fingerprint.sidecar(plan)]

    def _write_weights(self, part: str, groups: list[list[str]], vectors: list[str]) -> list[Path]:
        """Write a data file of the decoder and its index."""
        read = self.checkpoint.read
        data, index = self._weight_files(part)
        with WeightFile(data) as file:
            for group in groups:
                for name, tensor in encode(read, group, self.precision, output=group == [_LM_HEAD]).items():
                    file.add(f"{stored_name(group)}.{name}", tensor)
            for name in vectors:
                file.add(name, read(name))
        write_index(index, file.index)
        return [data, index]

    def _write_decoder(self, path: Path, layers: int) -> None:
        """Write a graph of the first `layers` layers over the data files; only a small model's weights are read."""
        index: dict[str, TensorProto] = {}
        for part in (*(f"layer{layer:02d}" for layer in range(layers)), _LM_HEAD):
            index |= read_index(self._weight_files(part)[1])
        inline = None if self.sizes.decoder_is_large else self.workspace.work
        shape = replace(DecoderShape.of(self.config), num_layers=layers)
        build_decoder(shape, StoredLinears(index, self.precision, inline), path)

    def _weight_files(self, part: str) -> tuple[Path, Path]:
        """Return a data file of the decoder and its index; only a large decoder has the data file in its bundle."""
        folder = self._folder("decoder") if self.sizes.decoder_is_large else self.workspace.work
        return folder / f"decoder.{part}.data", self.workspace.work / f"decoder.{part}.index"

    @property
    def _decoder_path(self) -> Path:
        return self._folder("decoder") / DECODER

    def _plan_roles(self) -> list[str]:
        """Return the engines that are TensorRT plans."""
        encoders = ["vision", "mask_extractor", *(["crop"] if self.config.crop_size else [])]
        roles = encoders if self.targets.runtime == "tensorrt" else []
        return [*roles, "decoder"] if self.targets.decoder == "tensorrt" else roles

    def _folder(self, role: str) -> Path:
        """Return the folder of an ONNX graph: in the bundle, unless only a plan is made from it."""
        return self.workspace.work if role in self._plan_roles() else self.workspace.bundle

    def _computes_half(self, kind: str) -> bool:
        return self.targets.device == "cuda" and kind == "fp16"
