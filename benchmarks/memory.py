"""Measure the peak memory of a fresh process that opens a bundle and describes N regions; one process for each N.

Run as a script, this file is that process. It imports only the runtime.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from osprey_ros.strict_json import to_json

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script from anywhere

from osprey_ros.errors import OspreyError

if TYPE_CHECKING:
    from benchmarks.images import Frame


@dataclass(frozen=True)
class PeakMemory:
    """Largest resident set of the process in bytes, including pages of mapped files."""

    regions: int
    opened: int  # after loading the bundle, before the first image
    peak: int


def measure_memory(
    bundle: str, device: str | None, frame: Frame, counts: Sequence[int], style: str, new_tokens: int, threads: int
) -> list[PeakMemory]:
    """Run one process for each count. Raise OspreyError with the last line of stderr if one fails."""
    measured = []
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "frame.npz"
        np.savez(image, rgb=frame.rgb, ids=frame.ids)
        for count in counts:
            command = [sys.executable, __file__, bundle, device or "", str(image)]
            command += [str(count), style, str(new_tokens), str(threads)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                last = (done.stderr.strip().splitlines() or ["no message"])[-1]
                raise OspreyError(f"the process with {count} regions failed with status {done.returncode}: {last}")
            measured.append(PeakMemory(count, **json.loads(done.stdout)))
    return measured


def _peak() -> int:
    """Return the peak resident set of this program; that of getrusage also includes the parent process."""
    with open("/proc/self/status", encoding="ascii") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def _describe(arguments: argparse.Namespace) -> dict[str, int]:
    from osprey_ros.bundle.bundle import Bundle
    from osprey_ros.decoding.config import GenerationConfig
    from osprey_ros.describer import Describer
    from osprey_ros.regions.regions import regions_from_id_image

    frame = np.load(arguments.image)
    regions = regions_from_id_image(frame["ids"], only=range(1, arguments.regions + 1), masks_anyway=True)
    describer = Describer(Bundle.open(arguments.bundle).on_device(arguments.device or None), threads=arguments.threads)
    opened = _peak()
    describer.set_image(frame["rgb"])
    describer.describe(regions, arguments.style, GenerationConfig(max_new_tokens=arguments.new_tokens))
    return {"opened": opened, "peak": _peak()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("device", help="device of the engines; empty: that of the bundle")
    parser.add_argument("image", help="an .npz with rgb and ids")
    parser.add_argument("regions", type=int)
    parser.add_argument("style")
    parser.add_argument("new_tokens", type=int)
    parser.add_argument("threads", type=int)
    print(to_json(_describe(parser.parse_args())))


if __name__ == "__main__":
    main()
