"""Number of generated inputs for each door: 100 in `make test`, always the same ones; 2,000 new ones in `make fuzz`."""

from __future__ import annotations

import os
import sys

import pytest
from hypothesis import HealthCheck, settings

EXAMPLES = int(os.environ.get("OSPREY_FUZZ", "0"))

settings.register_profile(
    "osprey",
    max_examples=EXAMPLES or 100,
    derandomize=not EXAMPLES,
    deadline=None,
    database=None,
    print_blob=True,
    # Each example gets a folder of its own; the shared parts (bundle, node) are not changed by an example.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("osprey")


@pytest.fixture(autouse=True)
def subnormal_numbers() -> None:
    """Let subnormal numbers be numbers again: training sets them to zero, in the whole process, and they are inputs."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)
