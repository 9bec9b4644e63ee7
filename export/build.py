"""Builds a bundle: reads a checkpoint, writes engines and tables, checks them, seals them with a manifest."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from export.graph_decoder import LINEAR_PRECISIONS, DecoderPrecision, DecoderShape, accuracy_level, build_decoder
from export.graph_mask_extractor import build_mask_extractor
from export.graph_vision import build_vision
from export.quantize import BLOCK
from export.samples import VerificationSample, simulated_samples
from export.verify import Limits, verify_engines
from osprey_ros.bundle import (
    DECODER,
    EMBEDDINGS,
    MANIFEST,
    MASK_EXTRACTOR,
    TOKENIZER,
    VISION,
    Manifest,
    write_manifest,
)
from osprey_ros.engines import load_engine
from osprey_ros.prompt import OSPREY_V1, PromptBuilder
from osprey_torch.checkpoint import load_checkpoint
from osprey_torch.config import OspreyConfig
from osprey_torch.model import Osprey

FLOAT_PRECISIONS = ("fp32", "fp16")

# The checkpoint's configuration goes with the bundle: the runtime does not need it, tools that rebuild the model do.
CONFIG = "config.json"

# An .onnx file cannot pass 2 GB; from half of that on weights go to a file beside it.
_EXTERNAL_FROM_BYTES = 1 << 30
# Up to this many weights the output layer stays in float16: a few megabytes buy exact word choices.
_SMALL_LM_HEAD = 1 << 24
_BYTES_PER_WEIGHT = {"fp32": 4.0, "fp16": 2.0, "int8": 1.125, "int4": 0.625}


class BuildError(Exception):
    """A bundle cannot be built; the message says why and what to do."""


@dataclass(frozen=True)
class Precisions:
    """How the weights of each part are stored; arithmetic is float32, int4 and int8 products apart.

    llm: the linears of the decoder's layers. lm_head: its output layer, or "auto": fp16 for small models, else int8.
    """

    vision: str = "fp32"
    mask_extractor: str = "fp32"
    llm: str = "int4"
    lm_head: str = "auto"

    def __post_init__(self) -> None:
        allowed = {
            "vision": FLOAT_PRECISIONS,
            "mask_extractor": FLOAT_PRECISIONS,
            "llm": LINEAR_PRECISIONS,
            "lm_head": ("auto", *LINEAR_PRECISIONS),
        }
        for part, choices in allowed.items():
            kind = getattr(self, part)
            if kind not in choices:
                raise ValueError(f"precision of {part} must be one of {', '.join(choices)}, not {kind!r}")

    def decoder(self, config: OspreyConfig) -> DecoderPrecision:
        """What the decoder graph of this model is built with."""
        lm_head = self.lm_head
        if lm_head == "auto":
            lm_head = "fp16" if config.vocab_size * config.hidden_size <= _SMALL_LM_HEAD else "int8"
        return DecoderPrecision(llm=self.llm, lm_head=lm_head)


def print_progress(line: str) -> None:
    """Writes a line on the error stream, so that standard output stays free for results."""
    print(line, file=sys.stderr, flush=True)


def build_bundle(
    checkpoint: Path,
    output: Path,
    name: str | None = None,
    verify: bool = True,
    precisions: Precisions | None = None,
    samples: Sequence[VerificationSample] | None = None,
    limits: Limits | None = None,
    report: Callable[[str], None] = print_progress,
) -> Manifest:
    """Builds the bundle of a checkpoint folder in `output` and returns its manifest.

    Everything is written into `.NAME.partial` beside `output` and moved into place when it is whole and checked; an
    older bundle at `output` is replaced then, its Markdown files are kept.

    name: the bundle's name, by default that of the folder. samples: pictures for the verification, by default
    simulated tabletop scenes. report takes lines of progress.
    Raises BuildError (`output` is in the way), CheckpointError, SampleError (no pictures), VerificationError (the
    engines are wrong). Then `output` is left as it was.
    """
    output = Path(output).absolute()
    if output.exists() and not (output.is_dir() and ((output / MANIFEST).is_file() or not any(output.iterdir()))):
        raise BuildError(f"{output} exists and is not an engine bundle: give another folder or remove it")
    precisions = precisions or Precisions()
    report(f"checkpoint: reading {checkpoint}")
    model, tokenizer = load_checkpoint(Path(checkpoint))
    # Rendered before the long steps, so that a machine that cannot render says so at once.
    if verify and samples is None:
        report("verify: rendering scenes")
        samples = simulated_samples(count=4)

    partial = output.with_name(f".{output.name}.partial")
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    try:
        _write_engines(model, tokenizer, partial, precisions, report)
        if verify:
            figures = _verify(model, tokenizer, partial, precisions, samples or (), limits, report)
        else:
            figures = {"verified": False}
        manifest = write_manifest(
            partial,
            name=name or output.name,
            model=model.config.model_spec(),
            template=OSPREY_V1.name,
            precisions=_describe(precisions, model.config),
            verification=figures,
        )
        _move_into_place(partial, output)
    finally:
        if partial.exists():
            shutil.rmtree(partial)
    size = sum(entry.bytes for entry in manifest.files.values())
    report(f"bundle: {output}, {size / 1e6:.1f} MB{'' if verify else ', not verified'}")
    return manifest


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


def _write_engines(
    model: Osprey, tokenizer: Tokenizer, folder: Path, precisions: Precisions, report: Callable[[str], None]
) -> None:
    config = model.config
    state = model.state_dict()

    def read(name: str) -> np.ndarray:
        return state[name].detach().float().numpy()

    report("vision: writing the graph")
    build_vision(
        config,
        read,
        folder / VISION,
        half=precisions.vision == "fp16",
        progress=lambda stage: report(f"vision: {stage} of {len(config.vision_depths)}"),
    )
    report("mask extractor: writing the graph")
    build_mask_extractor(config, read, folder / MASK_EXTRACTOR, half=precisions.mask_extractor == "fp16")
    decoder_precision = precisions.decoder(config)
    large = _decoder_bytes(config, decoder_precision) >= _EXTERNAL_FROM_BYTES
    build_decoder(
        decoder_shape(config),
        read,
        folder / DECODER,
        decoder_precision,
        external=folder / f"{DECODER}.data" if large else None,
        progress=lambda layer: report(f"decoder: {layer} of {config.num_layers}, {decoder_precision.llm}"),
    )
    report("embeddings and tokenizer")
    np.save(folder / EMBEDDINGS, read("model.embed_tokens.weight").astype(np.float16))
    tokenizer.save(str(folder / TOKENIZER))
    (folder / CONFIG).write_text(json.dumps(config.to_json(), indent=1) + "\n", encoding="utf-8")


def _verify(
    model: Osprey,
    tokenizer: Tokenizer,
    folder: Path,
    precisions: Precisions,
    samples: Sequence[VerificationSample],
    limits: Limits | None,
    report: Callable[[str], None],
) -> dict[str, Any]:
    return verify_engines(
        {file: load_engine(folder / file) for file in (VISION, MASK_EXTRACTOR, DECODER)},
        np.load(folder / EMBEDDINGS),
        model,
        PromptBuilder(tokenizer, model.config.model_spec()),
        precisions.decoder(model.config),
        samples,
        limits,
        report=report,
    )


def _decoder_bytes(config: OspreyConfig, precision: DecoderPrecision) -> float:
    """About how many bytes the weights of the decoder take on disk."""
    layer = 4 * config.hidden_size**2 + 3 * config.hidden_size * config.intermediate_size
    layers = config.num_layers * layer * _BYTES_PER_WEIGHT[precision.llm]
    return layers + config.vocab_size * config.hidden_size * _BYTES_PER_WEIGHT[precision.lm_head]


def _describe(precisions: Precisions, config: OspreyConfig) -> dict[str, str]:
    """The `precisions` of the manifest."""
    decoder = precisions.decoder(config)
    layers = decoder.llm
    if layers in ("int4", "int8"):
        bits = int(layers.removeprefix("int"))
        levels = sorted({accuracy_level(bits, width) for width in (config.hidden_size, config.intermediate_size)})
        layers += f" symmetric, block {BLOCK}, clip search, accuracy level {' and '.join(map(str, levels))}"
    return {
        "vision": precisions.vision,
        "mask_extractor": precisions.mask_extractor,
        "decoder": layers,
        "lm_head": decoder.lm_head,
        "embeddings": "fp16",
    }


def _move_into_place(partial: Path, output: Path) -> None:
    """Replaces `output` by `partial`; at no moment is there a folder at `output` that is not whole."""
    if not output.exists():
        partial.rename(output)
        return
    for card in output.glob("*.md"):
        shutil.copy2(card, partial / card.name)
    old = output.with_name(f".{output.name}.old")
    if old.exists():
        shutil.rmtree(old)
    output.rename(old)
    partial.rename(output)
    shutil.rmtree(old)
