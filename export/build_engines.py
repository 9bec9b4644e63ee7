"""Command line of the bundle builder: `python export/build_engines.py --checkpoint DIR --output DIR`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

# Run as a script, Python looks for modules beside this file: the packages lie one folder up.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from export.build import FLOAT_PRECISIONS, BuildError, Precisions, build_bundle
from export.graph_decoder import LINEAR_PRECISIONS
from export.samples import SampleError
from export.verify import VerificationError
from osprey_ros.errors import OspreyError
from osprey_torch.checkpoint import CheckpointError


def main(arguments: list[str] | None = None) -> int:
    """Returns 0 when the bundle is built, 1 when its engines differ from PyTorch, 2 for input that cannot be used."""
    parser = argparse.ArgumentParser(
        prog="build_engines.py", description="Build a bundle of engines from an Osprey checkpoint folder."
    )
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="DIR", help="folder in the published layout")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of the bundle")
    parser.add_argument("--name", help="name of the bundle (default: that of the output folder)")
    parser.add_argument(
        "--no-verify", action="store_true", help="do not compare with PyTorch; the manifest says that it was not done"
    )
    defaults = Precisions()
    parser.add_argument("--llm", choices=LINEAR_PRECISIONS, default=defaults.llm, help="weights of the decoder layers")
    parser.add_argument("--lm-head", choices=("auto", *LINEAR_PRECISIONS), default=defaults.lm_head)
    parser.add_argument(
        "--vision", choices=FLOAT_PRECISIONS, default=defaults.vision, help="weights of the vision part"
    )
    parser.add_argument("--mask-extractor", choices=FLOAT_PRECISIONS, default=defaults.mask_extractor)
    options = parser.parse_args(arguments)
    precisions = Precisions(options.vision, options.mask_extractor, options.llm, options.lm_head)
    try:
        build_bundle(options.checkpoint, options.output, options.name, not options.no_verify, precisions)
    except VerificationError as error:
        print(f"build_engines: {error}", file=sys.stderr)
        print("build_engines: no bundle was written; --no-verify writes it unchecked", file=sys.stderr)
        return 1
    except (BuildError, CheckpointError, SampleError, OspreyError, ValueError, OSError) as error:
        print(f"build_engines: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
