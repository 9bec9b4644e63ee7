"""Fingerprints of TensorRT plans: written beside a plan when it is built, compared before it is loaded.

A plan fits one GPU model, one version of TensorRT and one ONNX graph. On another machine it can fail, or give slow or
wrong results. A plan with another fingerprint is rejected.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from osprey_ros.bundle.spec import BUILD_COMMAND
from osprey_ros.errors import BundleError
from osprey_ros.file_errors import read_text
from osprey_ros.strict_json import to_json

REBUILD = f"build it on this machine: `{BUILD_COMMAND} --runtime tensorrt` in a checkout"

# Fields that describe a machine, and their names in messages. A plan has two more: "onnx_sha256" and "options".
MACHINE_FIELDS = {
    "gpu": "GPU",
    "compute_capability": "compute capability",
    # Boards of a family have the same name, and so have the power modes of a board, which turn multiprocessors off.
    "multiprocessors": "number of multiprocessors",
    "tensorrt": "TensorRT version",
    "driver": "CUDA version of the driver",
}
# A plan can be loaded although these fields differ: drivers run what was built with an older or newer one.
HARMLESS_FIELDS = frozenset({"driver"})


@dataclass(frozen=True)
class Difference:
    """A field in which two fingerprints differ. A value is None if its fingerprint lacks the field."""

    field: str
    stored: str | None
    current: str | None

    @property
    def harmless(self) -> bool:
        """True if a plan can be loaded in spite of this difference."""
        return self.field in HARMLESS_FIELDS

    def __str__(self) -> str:
        name = MACHINE_FIELDS.get(self.field, self.field)
        return f"{name} is {self.current or 'unknown'} here and was {self.stored or 'not recorded'} at the build"


def differences(stored: Mapping[str, str], current: Mapping[str, str]) -> list[Difference]:
    """Return the fields of ``current`` that have another value in ``stored``, or none."""
    return [Difference(k, stored.get(k), v) for k, v in current.items() if stored.get(k) != v]


def short_hash(fingerprint: Mapping[str, str]) -> str:
    """Return a hash of all fields for file names: eight hexadecimal digits."""
    return hashlib.sha256(to_json(dict(fingerprint), sort_keys=True).encode()).hexdigest()[:8]


def plan_name(engine: str, fingerprint: Mapping[str, str]) -> str:
    """Return the file name of a plan, such as "vision.1f0c2a9e.plan" for the engine "vision"."""
    return f"{engine}.{short_hash(fingerprint)}.plan"


def sidecar(plan: Path) -> Path:
    """Return the path of the file with the fingerprint of a plan."""
    return plan.with_name(plan.name + ".json")


def write_fingerprint(plan: Path, fingerprint: Mapping[str, str]) -> None:
    """Write the fingerprint of a plan to `sidecar`."""
    sidecar(plan).write_text(to_json(dict(fingerprint), indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_fingerprint(plan: Path) -> dict[str, str]:
    """Read the fingerprint of a plan. Raises BundleError if it is missing or invalid."""
    path = sidecar(plan)
    if not path.exists():
        raise BundleError(f"{plan} has no fingerprint: {path.name} is missing beside it; {REBUILD}")
    text = read_text(path, BundleError, REBUILD)
    try:
        data = json.loads(text)
    except ValueError as error:
        raise BundleError(f"{path} is not valid JSON; {REBUILD}") from error
    if not isinstance(data, dict) or not all(isinstance(value, str) for value in data.values()):
        raise BundleError(f"{path} is not a fingerprint: it must be a JSON object of strings; {REBUILD}")
    return data
