"""Compares the engines of a bundle with the fp32 PyTorch model, stage by stage, on pictures with regions.

Every stage of the engines reads what the engine stage before it produced, as on the robot; the reference is PyTorch
from pixels to words. So each figure holds everything that has gone wrong up to there. One more stage, `decoder_graph`,
compares the decoder with PyTorch on the same quantized weights: it tells a wrong graph from the price of int4.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import onnxruntime
import torch

from export.graph_decoder import DecoderPrecision
from export.graph_mask_extractor import LEVELS
from export.quantize import quantize_linear
from export.samples import VerificationSample
from osprey_ros.bundle import DECODER, MASK_EXTRACTOR, VISION
from osprey_ros.decoder import HIDDEN, Decoder, Prefix
from osprey_ros.engines import Engine
from osprey_ros.image import preprocess
from osprey_ros.prompt import IMAGE, MASK, POSITION, QUESTIONS, PromptBuilder, common_prefix
from osprey_ros.regions import regions_from_id_image
from osprey_torch.model import Osprey
from osprey_torch.reference import generate_region

QUESTION = QUESTIONS["short"]

# Prefix logits are compared for at most this many rows at its end: enough words, and no gigabyte at 32000 tokens.
_PREFIX_ROWS = 32


class VerificationError(Exception):
    """The engines differ from PyTorch by more than the limits; the message names the stages."""


@dataclass(frozen=True)
class Limit:
    """What a stage must keep: the least cosine of any row, the largest difference relative to the largest value."""

    cosine: float
    relative: float


@dataclass(frozen=True)
class Limits:
    """Limits of every stage.

    Up to `decoder_graph` only rounding may differ (float16 weights, int8 products): correct engines stay far inside.
    The logits also hold the price of int4, which the last two limits bound loosely: even random weights, where nothing
    is redundant, keep a cosine above 0.98.

    agreement: least share of decoding steps with the same token, among steps where PyTorch's first choice leads its
    second by `margin` in probability. Nearer ties may fall either way and are reported only.
    """

    vision_features: Limit = Limit(cosine=0.9999, relative=0.01)
    image_tokens: Limit = Limit(cosine=0.9999, relative=0.01)
    mask_tokens: Limit = Limit(cosine=0.9999, relative=0.01)
    position_tokens: Limit = Limit(cosine=0.9999, relative=0.01)
    decoder_graph: Limit = Limit(cosine=0.999, relative=0.05)
    prefix_logits: Limit = Limit(cosine=0.97, relative=0.3)
    answer_logits: Limit = Limit(cosine=0.97, relative=0.3)
    agreement: float = 0.95
    margin: float = 0.1


@dataclass
class StageFigures:
    """The worst values of one stage over all pictures."""

    cosine: float = 1.0
    max_difference: float = 0.0
    relative: float = 0.0

    def add(self, engine: np.ndarray, reference: np.ndarray) -> None:
        """Takes in a pair of arrays [..., D] of equal shape; cosines are taken over the last axis."""
        if engine.shape != reference.shape:
            raise VerificationError(f"the engine returned shape {engine.shape} where PyTorch has {reference.shape}")
        engine, reference = engine.astype(np.float64), reference.astype(np.float64)
        difference = float(np.abs(engine - reference).max())
        scale = max(float(np.abs(reference).max()), 1e-12)
        norms = np.linalg.norm(engine, axis=-1) * np.linalg.norm(reference, axis=-1)
        # A row of zeros has no direction: it agrees with zeros only, which the differences see.
        cosines = np.where(norms > 0, (engine * reference).sum(-1) / np.where(norms > 0, norms, 1.0), 1.0)
        # numpy's minimum and maximum keep NaN, Python's min and max may drop it.
        self.cosine = float(np.minimum(self.cosine, cosines.min()))
        self.max_difference = float(np.maximum(self.max_difference, difference))
        self.relative = float(np.maximum(self.relative, difference / scale))


@dataclass
class TokenFigures:
    """Greedy decoding, engine against PyTorch, over all regions of all pictures."""

    regions: int = 0
    identical_answers: int = 0
    decided_steps: int = 0
    decided_steps_equal: int = 0
    steps: int = 0
    steps_equal: int = 0
    kl_sum: float = field(default=0.0, repr=False)
    kl_rows: int = field(default=0, repr=False)

    def add_answer(self, engine: np.ndarray, reference: np.ndarray, margins: np.ndarray, margin: float) -> None:
        """Takes in both answers to one question and how far PyTorch's first choice led at each of its steps.

        Steps count up to the first difference: behind it the two answer different texts.
        """
        self.regions += 1
        self.identical_answers += int(np.array_equal(engine, reference))
        for step, token in enumerate(reference):
            equal = step < len(engine) and int(engine[step]) == int(token)
            decided = bool(margins[step] >= margin)
            self.steps += 1
            self.steps_equal += int(equal)
            self.decided_steps += int(decided)
            self.decided_steps_equal += int(decided and equal)
            if not equal:
                return

    def add_logits(self, engine: np.ndarray, reference: np.ndarray) -> None:
        """Takes in logits [R, V] of the same rows for the divergence of the two distributions."""
        own, other = _log_softmax(reference), _log_softmax(engine)
        self.kl_sum += float((np.exp(own) * (own - other)).sum())
        self.kl_rows += len(own)

    @property
    def agreement(self) -> float:
        return self.decided_steps_equal / max(self.decided_steps, 1)


STAGES = (
    "vision_features",
    "image_tokens",
    "mask_tokens",
    "position_tokens",
    "decoder_graph",
    "prefix_logits",
    "answer_logits",
)


def verify_engines(
    engines: Mapping[str, Engine],
    embeddings: np.ndarray,
    model: Osprey,
    prompts: PromptBuilder,
    precision: DecoderPrecision,
    samples: Sequence[VerificationSample],
    limits: Limits | None = None,
    max_new_tokens: int = 16,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Compares engines with `model` on `samples` and returns the figures for the manifest.

    engines: by file name, VISION, MASK_EXTRACTOR and DECODER. embeddings: [vocab, H] as the robot has them.
    precision: what the decoder was built with, so that the same quantization can be given to PyTorch.
    Raises VerificationError naming every stage that is past its limit, with its figures.
    """
    limits = limits or Limits()
    comparison = _Comparison(engines, embeddings, model, prompts, precision, limits, max_new_tokens)
    for number, sample in enumerate(samples, 1):
        report(f"verify: {sample.name} ({number} of {len(samples)})")
        comparison.add(sample)
    tokens = comparison.tokens
    failures = []
    if tokens.regions == 0:
        failures.append("no region to compare: the pictures have none")
    stages: dict[str, Any] = {}
    for stage in STAGES:
        figures, limit = comparison.stages[stage], getattr(limits, stage)
        stages[stage] = {**asdict(figures), "limits": asdict(limit)}
        line = f"{stage}: cosine {figures.cosine:.6f}, relative difference {figures.relative:.2e}"
        report(f"verify: {line}")
        # Written so that NaN fails.
        if not (figures.cosine >= limit.cosine and figures.relative <= limit.relative):
            failures.append(f"{line} (limits {limit.cosine} and {limit.relative:.2e})")
    line = (
        f"greedy_tokens: {tokens.identical_answers} of {tokens.regions} answers identical, "
        f"{tokens.decided_steps_equal} of {tokens.decided_steps} decided steps equal"
    )
    report(f"verify: {line}")
    if tokens.decided_steps and not tokens.agreement >= limits.agreement:
        failures.append(f"{line} (limit {limits.agreement})")
    if failures:
        raise VerificationError("engines differ from PyTorch: " + "; ".join(failures))
    return {
        "verified": True,
        "reference": "PyTorch fp32",
        "pictures": [sample.name for sample in samples],
        "question": QUESTION,
        "stages": stages,
        "greedy_tokens": {
            "regions": tokens.regions,
            "identical_answers": tokens.identical_answers,
            "steps": tokens.steps,
            "steps_equal": tokens.steps_equal,
            "decided_steps": tokens.decided_steps,
            "decided_steps_equal": tokens.decided_steps_equal,
            "margin_of_decided_steps": limits.margin,
            "mean_kl_divergence": tokens.kl_sum / max(tokens.kl_rows, 1),
            "limits": {"agreement": limits.agreement},
        },
        "versions": {"onnxruntime": onnxruntime.__version__, "torch": torch.__version__},
    }


class _Comparison:
    """Runs both sides on one picture after another and keeps the figures."""

    def __init__(
        self,
        engines: Mapping[str, Engine],
        embeddings: np.ndarray,
        model: Osprey,
        prompts: PromptBuilder,
        precision: DecoderPrecision,
        limits: Limits,
        max_new_tokens: int,
    ) -> None:
        self.engines = engines
        self.embeddings = embeddings
        self.model = model
        self.quantized = quantized_copy(model, precision)
        self.prompts = prompts
        self.spec = model.config.model_spec()
        self.margin = limits.margin
        self.max_new_tokens = max_new_tokens
        self.stages = {stage: StageFigures() for stage in STAGES}
        self.tokens = TokenFigures()
        self.prompt = prompts.prompt(QUESTION)
        self.shared = common_prefix([self.prompt])

    @torch.inference_mode()
    def add(self, sample: VerificationSample) -> None:
        regions = regions_from_id_image(sample.ids)
        pixels = preprocess(sample.rgb, self.spec)
        masks = regions.pooling_masks(self.spec.feature_sizes)
        positions = regions.position_grids(self.spec.position_size)

        # PyTorch, from pixels to the two tokens of each region.
        features, image_tokens = self.model.encode_image(torch.from_numpy(pixels))
        torch_tokens = self.model.encode_regions(
            features, [torch.from_numpy(mask) for mask in masks], torch.from_numpy(positions)
        )
        # The same through the engines.
        vision = self.engines[VISION].run({"pixels": pixels})
        inputs = {level: vision[level] for level in LEVELS}
        inputs |= {f"mask_{level}": mask for level, mask in zip(LEVELS, masks, strict=True)}
        extracted = self.engines[MASK_EXTRACTOR].run({**inputs, "position": positions})

        for level, reference in zip(LEVELS, features, strict=True):
            # A map is one direction: single pixels of it may be near zero.
            self.stages["vision_features"].add(vision[level].reshape(1, -1), reference.numpy().reshape(1, -1))
        self.stages["image_tokens"].add(vision["image_tokens"], image_tokens[0].numpy())
        self.stages["mask_tokens"].add(extracted["mask_tokens"], torch_tokens[0].numpy())
        self.stages["position_tokens"].add(extracted["position_tokens"], torch_tokens[1].numpy())
        self._add_decoder(
            (vision["image_tokens"], extracted["mask_tokens"], extracted["position_tokens"]),
            (image_tokens[0], *torch_tokens),
        )

    def _add_decoder(
        self, engine_tokens: tuple[np.ndarray, ...], torch_tokens: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    ) -> None:
        count = len(engine_tokens[1])
        decoder = Decoder(self.engines[DECODER], self.spec)
        answers = [
            generate_region(
                self.model, self.prompt, torch_tokens[0], torch_tokens[1][n], torch_tokens[2][n], self.max_new_tokens
            )[0]
            for n in range(count)
        ]

        # The prefix, then all branches with PyTorch's answers behind them, in one step each.
        prefix_rows = self._rows(self.prompt[: self.shared], engine_tokens, 0)
        length = len(prefix_rows)
        wanted = np.arange(max(0, length - _PREFIX_ROWS), length)
        prefix_logits, prefix = run_causal(decoder, prefix_rows, np.zeros(length, np.int64), wanted)
        tail = self.prompt[self.shared :]
        branches = [self._rows((*tail, *answers[n][:-1]), engine_tokens, n) for n in range(count)]
        owners = np.repeat(np.arange(count), [len(branch) for branch in branches])
        answer_rows = [np.flatnonzero(owners == n)[-len(answer) :] for n, answer in enumerate(answers)]
        rows = np.concatenate(branches)
        answer_logits, _ = run_causal(decoder, rows, owners, np.concatenate(answer_rows), prefix)
        generations = decoder.generate(
            prefix,
            [self._rows(tail, engine_tokens, n) for n in range(count)],
            lambda ids: self.embeddings[np.asarray(ids)].astype(np.float32),
            self.max_new_tokens,
            self.spec.eos_id,
        )

        start = 0
        for n, answer in enumerate(answers):
            engine_logits = answer_logits[start : start + len(answer)]
            start += len(answer)
            for model, exact in ((self.quantized, False), (self.model, True)):
                ids = (*self.prompt, *answer[:-1].tolist())
                embeds = model.embed_prompt(ids, torch_tokens[0], torch_tokens[1][n], torch_tokens[2][n])
                hidden = model.model(inputs_embeds=embeds[None], use_cache=False).last_hidden_state[0]
                reference = model.lm_head(hidden[-len(answer) :]).numpy()
                reference_prefix = model.lm_head(hidden[wanted]).numpy()
                self.stages["answer_logits" if exact else "decoder_graph"].add(engine_logits, reference)
                self.stages["prefix_logits" if exact else "decoder_graph"].add(prefix_logits, reference_prefix)
                if exact:
                    leading = np.sort(np.exp(_log_softmax(reference)), axis=-1)
                    margins = leading[:, -1] - leading[:, -2]
                    self.tokens.add_logits(engine_logits, reference)
                    self.tokens.add_answer(np.asarray(generations[n].tokens), answer, margins, self.margin)

    def _rows(self, ids: Sequence[int], tokens: tuple[np.ndarray, ...], region: int) -> np.ndarray:
        """Input rows of a piece of prompt on the engine's side, float32 [S, H]."""
        image_tokens, mask_tokens, position_tokens = tokens
        own = slice(region, region + 1)
        special = {IMAGE: image_tokens, MASK: mask_tokens[own], POSITION: position_tokens[own]}
        rows = [special[i] if i in special else self.embeddings[i : i + 1].astype(np.float32) for i in map(int, ids)]
        return np.concatenate(rows)


def run_causal(
    decoder: Decoder,
    rows: np.ndarray,
    owners: np.ndarray,
    logit_rows: np.ndarray,
    prefix: Prefix | None = None,
) -> tuple[np.ndarray, Prefix]:
    """Runs whole sequences through the decoder engine in one step, with an empty branch buffer.

    rows: float32 [S, H] of sequences packed one behind the other; owners: int64 [S], which sequence a row is of,
    ascending.
    prefix: what all sequences continue, nothing by default.
    Returns logits [R, V] of logit_rows and the keys and values of the rows.
    """
    # Rows of one sequence are neighbours: a row's place in it is its index minus that of the sequence's first row.
    first = np.searchsorted(owners, owners)
    places = np.arange(len(rows)) - first
    visible = (owners[:, None] == owners[None, :]) & (places[:, None] >= places[None, :])
    mask = np.where(visible, np.float32(0), HIDDEN)
    start = prefix.length if prefix is not None else 0
    return decoder.run(rows, start + places, mask, logit_rows, prefix)


def quantized_copy(model: Osprey, precision: DecoderPrecision) -> Osprey:
    """The model with the weights that the decoder graph computes with, in place of the checkpoint's."""
    result = copy.deepcopy(model)
    linears = [m for m in result.model.layers.modules() if isinstance(m, torch.nn.Linear)]
    for linear, kind in [*((m, precision.llm) for m in linears), (result.lm_head, precision.lm_head)]:
        linear.weight.data = _as_stored(linear.weight.data, kind)
    return result


def _as_stored(weight: torch.Tensor, kind: str) -> torch.Tensor:
    if kind == "fp32":
        return weight
    if kind == "fp16":
        return weight.half().float()
    quantized = quantize_linear(weight.numpy(), bits=int(kind.removeprefix("int")))
    return torch.from_numpy(quantized.dequantize())


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
