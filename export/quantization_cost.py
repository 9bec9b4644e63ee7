"""Measure how quantization changes the answers: `python -m export.quantization_cost --bundle engines/nano`.

Builds the decoder once for every method and generates a short description of the same regions of simulated test
scenes, through the engines as the robot runs them. The reference is the decoder with fp32 weights.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from export.build import Precisions, build_bundle
from export.figures import TokenFigures
from export.samples import VerificationSample, scenes_of_test_split
from export.verify import QUESTION
from export.verify_decoder import Answers, Conversation, ask_engine, follow_with_engine
from export.verify_encoders import EncoderInputs, Tokens, encode_with_engines
from osprey_ros.bundle.bundle import Bundle
from osprey_ros.bundle.manifest import DECODER
from osprey_ros.cli._edge import command
from osprey_ros.cli._options import Parser, add_bundle_option, add_count_option, add_figures_option
from osprey_ros.cli._output import logs_on_stderr, write_figures
from osprey_ros.decoding.decoder import Decoder
from osprey_ros.decoding.prompt import MAX_NEW_TOKENS, PromptBuilder
from osprey_ros.engines.base import load_engine
from osprey_torch.checkpoint import Checkpoint, save_checkpoint
from osprey_torch.quantize import quantize_linear
from osprey_torch.readback import model_from_bundle
from osprey_torch.stored_linears import PRODUCTS

log = logging.getLogger("export.quantization_cost")

_MARGIN = 0.1

REFERENCE = "fp32"
VARIANTS = {
    REFERENCE: Precisions(llm="fp32", lm_head="fp32"),
    "int8 clip": Precisions(llm="int8", method="clip"),
    "int4 rtn": Precisions(llm="int4", method="rtn"),
    "int4 clip": Precisions(llm="int4", method="clip"),
}


@dataclass(frozen=True)
class Row:
    """One way to store the decoder's weights, and its answers compared with those of fp32 weights.

    kl_divergence: mean over the tokens of the fp32 answers, natural logarithm. token_agreement: share of these tokens
    that it would say, too; decided_agreement: of those that lead fp32's second choice by _MARGIN in probability.
    identical: share of regions whose short description is the same to the letter.
    """

    name: str
    decoder_bytes: int
    kl_divergence: float
    token_agreement: float
    decided_agreement: float
    identical: float


def compare(
    folders: dict[str, Path],
    checkpoint: Checkpoint,
    samples: Sequence[VerificationSample],
) -> list[Row]:
    """Return one row for each bundle except REFERENCE. All must be of this checkpoint, with equal encoders."""
    spec = checkpoint.config.model_spec()
    prompt = PromptBuilder(checkpoint.tokenizer, spec).prompt(QUESTION)
    conversation = Conversation(prompt, MAX_NEW_TOKENS["short"], spec.eos_id)
    reference = Bundle.open(folders[REFERENCE])
    table = reference.embeddings()
    encoded = encode_with_engines(
        [EncoderInputs.of(sample, checkpoint.config) for sample in samples],
        lambda role: load_engine(reference.path(reference.engine(role).file)),
    )
    images = [one.tokens for one in encoded]

    log.info("answers: %s", REFERENCE)
    decoder = Decoder(load_engine(folders[REFERENCE] / DECODER), spec)
    exact = [ask_engine(decoder, tokens, table, conversation) for tokens in images]
    rows = []
    for name, folder in folders.items():
        if name == REFERENCE:
            continue
        log.info("answers: %s", name)
        decoder = Decoder(load_engine(folder / DECODER), spec)
        size = (folder / DECODER).stat().st_size
        rows.append(_row(name, size, decoder, images, exact, table, conversation))
    return rows


def _row(
    name: str,
    size: int,
    decoder: Decoder,
    images: Sequence[Tokens],
    exact: Sequence[Answers],
    table: np.ndarray,
    conversation: Conversation,
) -> Row:
    figures = TokenFigures()
    identical = regions = 0
    for tokens, reference in zip(images, exact, strict=True):
        along = follow_with_engine(decoder, tokens, table, conversation, reference.tokens)
        own = ask_engine(decoder, tokens, table, conversation)
        for n, said in enumerate(reference.tokens):
            figures.add(along.tokens[n], along.logits[n], reference.logits[n], _MARGIN)
            identical += int(np.array_equal(said, own.tokens[n]))
            regions += 1
    return Row(
        name,
        size,
        kl_divergence=figures.kl_sum / figures.steps,
        token_agreement=figures.steps_equal / figures.steps,
        decided_agreement=figures.agreement,
        identical=identical / regions,
    )


def distance_from_grid(checkpoint: Checkpoint) -> float:
    """Return the squared error of the int4 decoder weights, relative to their squares; 0 if they are on its grid."""
    error = total = 0.0
    for layer in range(checkpoint.config.num_layers):
        for part in chain(*PRODUCTS.values()):
            weight = checkpoint.read(f"model.layers.{layer}.{part}.weight")
            error += float(np.square(quantize_linear(weight, 4).dequantize() - weight).sum(dtype=np.float64))
            total += float(np.square(weight).sum(dtype=np.float64))
    return error / total


def table_of(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = [
        f"| weights | decoder, MB | KL divergence | same token | where fp32 leads by {_MARGIN} | same description |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.name} | {row.decoder_bytes / 1e6:.2f} | {row.kl_divergence:.2e} | {row.token_agreement:.2%} "
        f"| {row.decided_agreement:.2%} | {row.identical:.1%} |"
        for row in rows
    ]
    return "\n".join(lines)


@command("quantization")
def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group()
    add_bundle_option(source)
    source.add_argument("--checkpoint", type=Path, metavar="DIR", help="take the weights of a checkpoint folder")
    add_count_option(parser, "--regions", 500, "number of regions to compare")
    add_figures_option(parser)
    arguments = parser.parse_args(argv)
    with logs_on_stderr(1, [log.name]), tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        checkpoint = Checkpoint.open(_checkpoint_folder(arguments, work / "checkpoint"))
        log.info("rendering scenes with %d regions", arguments.regions)
        samples = [sample for _, sample in scenes_of_test_split(arguments.regions)]
        folders = {name: work / name.replace(" ", "_") for name in VARIANTS}
        for name, precisions in VARIANTS.items():
            log.info("building %s", name)
            build_bundle(checkpoint.folder, folders[name], verify=False, precisions=precisions)
        rows = compare(folders, checkpoint, samples)
        distance = distance_from_grid(checkpoint)
    print(f"{arguments.regions} regions of {len(samples)} test scenes, reference {REFERENCE}")
    print(f"int4 changes the weights by {distance:.1e} of their square", end="")
    print(": training has settled them on the grid" if distance < 1e-6 else "")
    print(table_of(rows))
    figures = {"regions": arguments.regions, "distance_from_grid": distance, "rows": [asdict(row) for row in rows]}
    write_figures(arguments.json, figures)
    return 0


def _checkpoint_folder(arguments: argparse.Namespace, temporary: Path) -> Path:
    """Return the folder of the checkpoint; that of a bundle is written to `temporary`."""
    if arguments.checkpoint:
        return Path(arguments.checkpoint)
    bundle = Bundle.open(arguments.bundle)
    save_checkpoint(model_from_bundle(bundle), bundle.tokenizer(), temporary, kinds=bundle.kinds())
    return temporary


if __name__ == "__main__":
    raise SystemExit(main())
