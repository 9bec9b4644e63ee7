"""The parameters of the node, and the file that documents them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from rclpy.parameter import Parameter

from osprey_ros.ros.parameters import OPTIONS, Settings

ROOT = Path(__file__).resolve().parents[2]


def test_every_setting_has_a_descriptor_and_the_other_way_round() -> None:
    assert {option.name for option in OPTIONS} == set(Settings().values())
    assert all(option.descriptor().description for option in OPTIONS)


def test_the_parameter_file_shows_the_defaults() -> None:
    documented = yaml.safe_load((ROOT / "config" / "osprey.yaml").read_text())["/**"]["ros__parameters"]
    defaults = Settings().values()
    assert documented.pop("autostart", defaults["autostart"]) == defaults.pop("autostart")  # the launch file sets it
    assert documented == defaults


def test_settings_survive_their_values() -> None:
    settings = Settings.from_values({**Settings().values(), "style": "detailed", "min_area": 7})
    assert (settings.step.style, settings.step.min_area) == ("detailed", 7)
    assert Settings.from_values(settings.values()) == settings


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("style", "poem", "style is 'poem': it must be one of short, detailed, category"),
        ("reliability", "sometimes", "reliability is 'sometimes': it must be one of auto, reliable, best_effort"),
        ("max_regions", 0, "max_regions is 0: it must be from 1 to 4096"),
    ],
)
def test_impossible_values_are_refused_with_the_reason(name: str, value: object, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Settings().changed([Parameter(name, value=value)])


def test_parameters_of_others_are_passed_over() -> None:
    assert Settings().changed([Parameter("use_sim_time", value=True)]) == Settings()
