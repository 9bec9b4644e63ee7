"""A TensorRT plan is loaded only on a machine like the one that built it."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from osprey_ros.bundle.fingerprint import MACHINE_FIELDS, write_fingerprint
from osprey_ros.engines.machine import check_plan
from osprey_ros.errors import BundleError

MACHINE = {
    "gpu": "Orin",
    "compute_capability": "8.7",
    "multiprocessors": "16",
    "tensorrt": "10.3.0",
    "driver": "12.6",
}


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    """The path of a plan with the fingerprint of MACHINE and of its own graph."""
    path = tmp_path / "vision.plan"
    write_fingerprint(path, {**MACHINE, "onnx_sha256": "0" * 64, "options": "fp16"})
    return path


def test_a_plan_of_this_machine_is_accepted(plan: Path, caplog: pytest.LogCaptureFixture) -> None:
    check_plan(plan, MACHINE)
    assert not caplog.records


def test_another_driver_is_a_warning(plan: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        check_plan(plan, {**MACHINE, "driver": "12.8"})
    (record,) = caplog.records
    assert "CUDA version of the driver is 12.8 here and was 12.6 at the build" in record.getMessage()


@pytest.mark.parametrize("field", [name for name in MACHINE_FIELDS if name != "driver"])
def test_any_other_difference_is_refused(plan: Path, field: str) -> None:
    with pytest.raises(BundleError, match=rf"{MACHINE_FIELDS[field]} is other here and was .* at the build; build it"):
        check_plan(plan, {**MACHINE, field: "other"})
    with pytest.raises(BundleError, match="another machine"):
        check_plan(plan, {**MACHINE, field: "other", "driver": "12.8"})
