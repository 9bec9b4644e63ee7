"""What a TensorRT plan depends on, written beside it when it is built and compared before it is loaded.

A plan fits one model of GPU, one version of TensorRT and one ONNX graph. On another machine it may fail, or run and be
wrong or slow: it is never loaded in hope.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from osprey_ros.errors import BundleError

REBUILD = (
    "build it on this machine: `python export/build_engines.py --checkpoint DIR --output BUNDLE --runtime tensorrt`"
)

# The fields that describe a machine, in words. A plan's own fields are "onnx_sha256" and "options".
MACHINE_FIELDS = {
    "gpu": "GPU",
    "compute_capability": "compute capability",
    # Boards of one family share a name; so do the power modes of one board, which switch multiprocessors off.
    "multiprocessors": "number of multiprocessors",
    "tensorrt": "TensorRT version",
    "driver": "CUDA version of the driver",
}


@dataclass(frozen=True)
class Difference:
    """A field in which a plan's fingerprint is not what it should be; None where one of the two lacks it."""

    field: str
    stored: str | None
    current: str | None

    def __str__(self) -> str:
        name = MACHINE_FIELDS.get(self.field, self.field)
        return f"{name} is {self.current or 'unknown'} here and was {self.stored or 'not recorded'} there"


def differences(stored: Mapping[str, str], current: Mapping[str, str]) -> list[Difference]:
    """What in ``stored`` is not as in ``current``; fields that ``current`` does not have are not compared."""
    return [Difference(k, stored.get(k), v) for k, v in current.items() if stored.get(k) != v]


def short_hash(fingerprint: Mapping[str, str]) -> str:
    """Eight hexadecimal digits over all fields, for file names."""
    return hashlib.sha256(json.dumps(dict(fingerprint), sort_keys=True).encode()).hexdigest()[:8]


def plan_name(engine: str, fingerprint: Mapping[str, str]) -> str:
    """File name of a plan: "vision" and its fingerprint give "vision.1f0c2a9e.plan"."""
    return f"{engine}.{short_hash(fingerprint)}.plan"


def sidecar(plan: Path) -> Path:
    """The file beside a plan that holds its fingerprint."""
    return plan.with_name(plan.name + ".json")


def write_fingerprint(plan: Path, fingerprint: Mapping[str, str]) -> None:
    """Writes the fingerprint of a plan beside it."""
    sidecar(plan).write_text(json.dumps(dict(fingerprint), indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_fingerprint(plan: Path) -> dict[str, str]:
    """The fingerprint of a plan. Raises BundleError where there is none or it cannot be read."""
    path = sidecar(plan)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BundleError(f"{plan} has no {path.name} beside it that says where it was built; {REBUILD}") from error
    except (OSError, ValueError) as error:
        raise BundleError(f"{path} cannot be read ({error}); {REBUILD}") from error
    if not isinstance(data, dict) or not all(isinstance(value, str) for value in data.values()):
        raise BundleError(f"{path} is not a fingerprint: it must hold an object of strings; {REBUILD}")
    return data
