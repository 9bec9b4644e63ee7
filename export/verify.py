"""Compares the engines of a bundle with the fp32 PyTorch model, stage by stage, on images with regions.

Every stage of the engines reads what the engine stage before it produced, as on the robot; the reference is PyTorch
from pixels to words. So each figure holds everything that has gone wrong up to there. One more stage, `decoder_graph`,
compares the decoder with PyTorch on the engine's own inputs and weights: it tells a wrong graph from the price of int4.

One engine or one part of PyTorch is in memory at a time, and of the language model one layer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from export.figures import CROP_STAGE, STAGES, Limit, Limits, StageFigures, TokenFigures, VerificationError
from export.samples import VerificationSample
from export.streamed import streamed_model
from export.verify_decoder import Conversation, ask_engine, compare_graph, compare_words, follow
from export.verify_encoders import EncoderInputs, compare_encoders, encode_with_engines, encode_with_torch
from osprey_ros.bundle.manifest import EMBEDDINGS, EngineEntry, onnx_engines
from osprey_ros.decoding.decoder import Decoder
from osprey_ros.decoding.prompt import QUESTIONS, PromptBuilder
from osprey_ros.engines.base import Engine, load_engine
from osprey_ros.errors import EngineError
from osprey_ros.system.process_memory import release_freed_memory
from osprey_torch.checkpoint import Checkpoint
from osprey_torch.config import OspreyConfig
from osprey_torch.readback import EMBEDDING_TABLE, Read

__all__ = ["STAGES", "Limit", "Limits", "VerificationError", "verify_bundle"]

log = logging.getLogger(__name__)

QUESTION = QUESTIONS["short"]


def _load(path: Path, entry: EngineEntry) -> Engine:
    return load_engine(path, entry.runtime, entry.device)


def verify_bundle(
    folder: Path,
    checkpoint: Checkpoint,
    weights: Read,
    samples: Sequence[VerificationSample],
    *,
    engines: Mapping[str, EngineEntry] | None = None,
    config: OspreyConfig | None = None,
    limits: Limits | None = None,
    max_new_tokens: int = 8,
    max_regions: int = 12,
    layers: int | None = None,
    decoder: Path | None = None,
    load: Callable[[Path, EngineEntry], Engine] = _load,
) -> dict[str, Any]:
    """Compare the engines in `folder` with the checkpoint on `samples`; returns the manifest's `verification`.

    Args:
        folder: a bundle's folder with its engines and embedding table; a manifest is not needed.
        weights: gives the decoder's tensors by their names in the checkpoint as the engine has them, dequantized.
        samples: images with regions; those without any are left out.
        engines: the bundle's, by default three ONNX graphs on the CPU.
        config: the bundle's model where it differs from the checkpoint's, in the size of images.
        limits: limits of the differences.
        max_new_tokens: number of compared tokens of each answer.
        max_regions: number of compared regions of an image, the largest ones.
        layers: compare only that many of the decoder's first layers, for machines that cannot hold all of them.
        decoder: then, the file of an engine that has only these layers.
        load: opens an engine file, by default with the runtime and device of its entry.

    Raises:
        VerificationError: a limit is exceeded; the message names all such stages with their figures.
    """
    limits = limits or Limits()
    config = config or checkpoint.config
    entries = dict(engines or onnx_engines(crops=bool(config.crop_size)))
    files = {role: folder / entry.file for role, entry in entries.items()}
    if decoder is not None:
        files["decoder"] = decoder
    spec = replace(config.model_spec(), num_layers=config.num_layers if layers is None else layers)
    prompt = PromptBuilder(checkpoint.tokenizer, spec).prompt(QUESTION)
    conversation = Conversation(prompt, max_new_tokens, spec.eos_id)
    samples = [sample for sample in samples if sample.ids.any()]
    if not samples:
        raise VerificationError("no region to compare: the images have none")

    compared = (*STAGES, CROP_STAGE) if config.crop_size else STAGES
    stages, tokens = {stage: StageFigures() for stage in compared}, TokenFigures()
    inputs = [EncoderInputs.of(sample, config, max_regions) for sample in samples]
    engine = encode_with_engines(inputs, lambda role: load(files[role], entries[role]))
    model = streamed_model(config, checkpoint.read, spec.num_layers)
    exact = encode_with_torch(inputs, model)
    for found, reference in zip(engine, exact, strict=True):
        compare_encoders(found, reference, stages)

    log.info("verify: decoder engine, %d of %d layers", spec.num_layers, config.num_layers)
    own = [one.tokens for one in engine]
    table = np.load(folder / EMBEDDINGS, mmap_mode="r", allow_pickle=False)
    runner = Decoder(load(files["decoder"], entries["decoder"]), spec)
    layers_compared = {"compared": spec.num_layers, "all": config.num_layers}
    try:
        answers = [ask_engine(runner, one, table, conversation) for one in own]
    except EngineError as error:  # values that are not finite, which may come from another engine
        figures = _figures(samples, layers_compared, stages, tokens, limits)
        raise _differing([*_failures(stages, tokens, limits), f"decoder_graph: {error}"], figures) from error
    del runner  # the largest engine makes room for PyTorch
    release_freed_memory()

    log.info("verify: decoder in PyTorch with the weights of the engine")
    same = streamed_model(config, lambda name: table if name == EMBEDDING_TABLE else weights(name), spec.num_layers)
    for answer, other in zip(answers, follow(same, own, answers, conversation), strict=True):
        compare_graph(answer, other, stages)
    log.info("verify: decoder in PyTorch with the weights of the checkpoint")
    references = follow(model, [one.tokens for one in exact], answers, conversation)
    for answer, other in zip(answers, references, strict=True):
        compare_words(answer, other, stages, tokens, limits.margin)
    figures = _figures(samples, layers_compared, stages, tokens, limits)
    failures = _failures(stages, tokens, limits)
    if failures:
        raise _differing(failures, figures)
    return {"verified": True, **figures}


def _figures(
    samples: Sequence[VerificationSample],
    layers: Mapping[str, int],
    stages: Mapping[str, StageFigures],
    tokens: TokenFigures,
    limits: Limits,
) -> dict[str, Any]:
    return {
        "reference": "PyTorch fp32",
        "pictures": [sample.name for sample in samples],
        "question": QUESTION,
        "decoder_layers": dict(layers),
        "stages": {
            stage: {**found.to_json(), "limits": asdict(getattr(limits, stage))} for stage, found in stages.items()
        },
        "greedy_tokens": {
            **tokens.to_json(),
            "margin_of_decided_steps": limits.margin,
            "limits": {"agreement": limits.agreement},
        },
        "versions": {"onnxruntime": onnxruntime.__version__, "torch": torch.__version__},
    }


def _differing(failures: Sequence[str], figures: Mapping[str, Any]) -> VerificationError:
    failed = {"verified": False, "failures": list(failures), **figures}
    return VerificationError("engines differ from PyTorch: " + "; ".join(failures), failed)


def _failures(stages: Mapping[str, StageFigures], tokens: TokenFigures, limits: Limits) -> list[str]:
    """Log all figures and return one line for each limit that is exceeded."""
    failures = []
    for stage, found in stages.items():
        limit: Limit = getattr(limits, stage)
        line = f"{stage}: cosine {found.cosine:.6f}, relative difference {found.relative:.2e}"
        log.info("verify: %s", line)
        if not found.within(limit):
            failures.append(f"{line} (limits {limit.cosine} and {limit.relative:.2e})")
    line = (
        f"greedy_tokens: {tokens.identical_answers} of {tokens.regions} answers identical, "
        f"{tokens.decided_steps_equal} of {tokens.decided_steps} decided steps equal"
    )
    log.info("verify: %s", line)
    if tokens.decided_steps and not tokens.agreement >= limits.agreement:
        failures.append(f"{line} (limit {limits.agreement})")
    return failures
