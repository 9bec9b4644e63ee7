"""Build a bundle of engines: `osprey build` or `python export/build_engines.py --checkpoint DIR --output DIR`."""

from __future__ import annotations

import argparse
import logging
import sys
from dataclasses import fields
from pathlib import Path

from tqdm.contrib.logging import logging_redirect_tqdm

# Run as a script, Python searches modules beside this file; the packages are one folder up.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from export.build import build_bundle
from export.linears import LINEAR_PRECISIONS
from export.options import DEVICES, FLOAT_PRECISIONS, RUNTIMES, Precisions, Targets
from export.resources import return_freed_memory
from export.segmenter_build import SegmenterOptions, build_segmenter
from export.verify import VerificationError
from export.workspace import partial_folder
from osprey_ros.cli._edge import command, report_error
from osprey_ros.cli._output import logs_on_stderr
from osprey_ros.errors import OspreyError
from osprey_torch.quantize import METHODS

# Options that only one kind of bundle has.
_SEGMENTER = ("precision", "max_prompts", "max_points")
_MODEL = (
    *("vision_weights", "decoder", "max_regions", "max_tokens", "image_size", "llm", "lm_head", "method", "vision"),
    *("mask_extractor", "verify_layers", "force"),
)

_GUIDE = """\
Builds a bundle of engines from an Osprey checkpoint. An int4 bundle for the CPU, compared with PyTorch at the end:

    python export/build_engines.py --checkpoint sunshine-lwt/Osprey-7b --output engines/osprey-7b

For an NVIDIA GPU, vision as TensorRT plans and the decoder with onnxruntime:

    python export/build_engines.py --checkpoint DIR --output engines/osprey-7b --runtime tensorrt --device cuda

Segment Anything (SAM, SAM 2.1, EdgeTAM) as engines that draw masks:

    python export/build_engines.py --segmenter facebook/sam2.1-hiera-tiny --output engines/sam2-tiny

--checkpoint is a folder in the published layout or the name of a repository on the Hugging Face hub. An interrupted
build continues when the same command is given again. --help lists all options."""


@command("build_engines")
def main(argv: list[str] | None = None) -> int:
    """Build a bundle and return the exit status.

    0: built. 1: the engines differ from PyTorch. 2: the input cannot be used. 130, 143: interrupted.
    """
    argv = sys.argv[1:] if argv is None else argv
    if not argv:
        print(_GUIDE)
        return 2
    parser = _parser()
    options = parser.parse_args(argv)
    _check_options(parser, options)
    return_freed_memory()
    packages = ("export", "osprey_torch")
    with logs_on_stderr(0), logs_on_stderr(1, packages), logging_redirect_tqdm(list(map(logging.getLogger, packages))):
        return _build(options)


def _build(options: argparse.Namespace) -> int:
    try:
        if options.segmenter is not None:
            _build_segmenter(options)
            return 0
        options.device = options.device or ("cuda" if "tensorrt" in (options.runtime, options.decoder) else "cpu")
        given = vars(options)
        targets = Targets(**{field.name: given[field.name] for field in fields(Targets)})
        precisions = Precisions(**{field.name: given[field.name] for field in fields(Precisions)})
        build_bundle(
            options.checkpoint,
            options.output,
            options.name,
            not options.no_verify,
            precisions,
            targets,
            vision_weights=options.vision_weights,
            verify_layers=options.verify_layers,
            force=options.force,
        )
    except VerificationError as error:
        print(f"build_engines: {error}", file=sys.stderr)
        print(
            f"build_engines: no bundle was written. The engines are kept in {partial_folder(options.output)}: the same "
            "command with --no-verify makes an unverified bundle from them",
            file=sys.stderr,
        )
        return 1
    except (OspreyError, OSError) as error:
        report_error("build_engines", error)
        _print_how_to_continue(options.output)
        return 2
    except KeyboardInterrupt:
        print("build_engines: interrupted", file=sys.stderr)
        _print_how_to_continue(options.output)
        raise
    return 0


def _build_segmenter(options: argparse.Namespace) -> None:
    device = options.device or ("cuda" if options.runtime == "tensorrt" else "cpu")
    chosen = SegmenterOptions(options.precision, options.runtime, device, options.max_prompts, options.max_points)
    build_segmenter(options.segmenter, options.output, options.name, not options.no_verify, chosen)


def _check_options(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End with an error for options of the other kind of bundle."""
    kind, other = ("--checkpoint", _SEGMENTER) if options.segmenter is None else ("--segmenter", _MODEL)
    foreign = [f"--{name.replace('_', '-')}" for name in other if getattr(options, name) != parser.get_default(name)]
    if foreign:
        parser.error(f"{', '.join(foreign)} cannot be given with {kind}: leave it out")


def _print_how_to_continue(output: Path) -> None:
    if not output.resolve().name:
        return  # "/" has no folder beside it
    partial = partial_folder(output)
    if partial.is_dir():
        print(
            f"build_engines: complete parts are kept in {partial}: the same command continues with them",
            file=sys.stderr,
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Build a bundle of engines from a checkpoint.")
    source = parser.add_mutually_exclusive_group(required=True)
    text = "folder in the published layout, or a hub id"
    source.add_argument("--checkpoint", metavar="DIR|ORG/NAME", help=text)
    text = "build a segmenter instead: a checkpoint of SAM, SAM 2.1 or EdgeTAM in the layout of transformers"
    source.add_argument("--segmenter", metavar="DIR|ORG/NAME", help=text)
    add = parser.add_argument
    add("--vision-weights", type=Path, metavar="FILE", help="open_clip weights, where the checkpoint has none inside")
    add("--output", type=Path, required=True, metavar="DIR", help="folder of the bundle")
    add("--name", help="name of the bundle (default: that of the output folder)")

    group = parser.add_argument_group("where it will run")
    add = group.add_argument
    add("--runtime", choices=RUNTIMES, default="onnxruntime", help="what runs vision and mask extractor")
    add("--decoder", choices=RUNTIMES, default="onnxruntime", help="what runs the language model")
    add("--device", choices=DEVICES, help="default: cuda where TensorRT is asked for, else cpu")
    most = Targets.max_regions
    add("--max-regions", type=int, default=most, metavar="N", help="regions described at once (%(default)s)")
    add("--max-tokens", type=int, metavar="N", help="rows of image, question and answer (default: all of the model)")
    add("--image-size", type=int, metavar="PIXELS", help="side of the square that images are resized to (the model's)")

    group = parser.add_argument_group("weights")
    add = group.add_argument
    add("--llm", choices=LINEAR_PRECISIONS, default=Precisions.llm, help="the decoder's layers (%(default)s)")
    add(
        "--lm-head",
        choices=("auto", *LINEAR_PRECISIONS),
        default="auto",
        help="the decoder's output layer (auto: fp16 for small models and TensorRT, else int8)",
    )
    text = "how int4 and int8 scales are chosen (%(default)s)"
    add("--method", choices=METHODS, default=Precisions.method, help=text)
    add("--vision", choices=FLOAT_PRECISIONS, default="auto", help="vision (auto: fp32 on the CPU, fp16 on the GPU)")
    add("--mask-extractor", choices=FLOAT_PRECISIONS, default="auto", help="mask extractor, as --vision")

    group = parser.add_argument_group("segmenter", "only with --segmenter, beside --runtime and --device")
    add = group.add_argument
    text = "auto: fp32 on the CPU; on the GPU fp16, and fp32 in blocks that need it"
    add("--precision", choices=FLOAT_PRECISIONS, default="auto", help=text)
    text = "prompts in one run of a TensorRT plan (%(default)s)"
    add("--max-prompts", type=int, default=SegmenterOptions.max_prompts, metavar="N", help=text)
    text = "points of a prompt in a TensorRT plan, two of them for a box (%(default)s)"
    add("--max-points", type=int, default=SegmenterOptions.max_points, metavar="N", help=text)

    group = parser.add_argument_group("checks")
    add = group.add_argument
    add("--no-verify", action="store_true", help="do not compare with PyTorch; the manifest records this")
    add("--verify-layers", type=int, metavar="N", help="compare only the first N layers of the decoder")
    add("--force", action="store_true", help="begin even if memory or disk seem too small")
    return parser


if __name__ == "__main__":
    sys.exit(main())
