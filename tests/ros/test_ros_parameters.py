"""Parameters of the node, and the files generated from them."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from rclpy.parameter import Parameter

from osprey_ros.errors import InputError
from osprey_ros.ros.parameters import PARAMETERS, Settings, descriptor
from osprey_ros.system.settings import Effect, parameter, parameters_of

ROOT = Path(__file__).resolve().parents[2]


def test_every_parameter_has_a_value_a_text_and_a_descriptor() -> None:
    assert list(PARAMETERS) != []
    assert set(PARAMETERS) == set(Settings().values())
    for info in PARAMETERS.values():
        described = descriptor(info)
        assert described.description.startswith(info.text)
        assert described.description.endswith(f"takes effect {info.effect.value}.")
        assert info.text.endswith(".")


def test_the_parameter_file_shows_the_defaults() -> None:
    documented = yaml.safe_load((ROOT / "config" / "osprey.yaml").read_text())["/**"]["ros__parameters"]
    assert documented == Settings().values()


def test_the_generated_files_are_up_to_date() -> None:
    ended = subprocess.run(
        [sys.executable, "tools/generate_parameters.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr


def test_a_name_in_two_dataclasses_is_an_error() -> None:
    @dataclass(frozen=True)
    class Inner:
        speed: float = parameter(1.0, "Speed of the arm.", Effect.FRAME)

    @dataclass(frozen=True)
    class Outer:
        speed: float = parameter(2.0, "Speed of the base.", Effect.FRAME)
        inner: Inner = field(default_factory=Inner)

    assert list(parameters_of(Inner)) == ["speed"]
    with pytest.raises(ValueError, match="parameter speed is defined in both Outer and Inner"):
        parameters_of(Outer)


def test_settings_survive_their_values() -> None:
    changes = {"style": "detailed", "min_area": 7, "slop": 0.5, "threads": 3, "attributes": ["", "material"]}
    settings = Settings.from_values({**Settings().values(), **changes})
    assert (settings.step.style, settings.step.min_area) == ("detailed", 7)
    assert (settings.inputs.slop, settings.threads, settings.attributes) == (0.5, 3, ("material",))
    assert Settings.from_values(settings.values()) == settings


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("style", "poem", "style is 'poem'; it must be one of short, detailed, category"),
        ("reliability", "sometimes", "reliability is 'sometimes'; it must be one of auto, reliable, best_effort"),
        ("max_regions", 0, "max_regions is 0; it must be from 1 to 4096"),
    ],
)
def test_invalid_values_are_refused_with_the_reason(name: str, value: object, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        Settings().changed([Parameter(name, value=value)])


def test_parameters_of_others_are_ignored() -> None:
    assert Settings().changed([Parameter("use_sim_time", value=True)]) == Settings()
