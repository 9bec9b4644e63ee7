"""open_clip's own convnext_large_d_320 and our vision tower are the same function of the same weights file.

open_clip needs torchvision, with which transformers cannot be imported beside a CPU build of PyTorch: it lies in a
folder of its own in the environment (requirements/open_clip.txt) and runs in a process of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import TINY

from benchmarks.make_checkpoint import write_checkpoint
from osprey_torch.checkpoint import Checkpoint
from osprey_torch.config import OSPREY_7B
from osprey_torch.vision import VisionTower

PACKAGES = Path(sys.prefix) / "open_clip"
SIZE = 64


@pytest.mark.skipif(not (PACKAGES / "open_clip").is_dir(), reason=f"open_clip is not installed in {PACKAGES}")
def test_the_four_feature_maps_are_open_clips_own(tmp_path: Path) -> None:
    script = Path(__file__).with_name("open_clip_reference.py")
    environment = os.environ | {"PYTHONPATH": str(PACKAGES)}
    subprocess.run([sys.executable, str(script), str(tmp_path), str(SIZE)], env=environment, check=True)
    maps = np.load(tmp_path / "maps.npz")

    config = replace(
        TINY.with_vocabulary(400),
        vision_depths=OSPREY_7B.vision_depths,
        vision_channels=OSPREY_7B.vision_channels,
    )
    write_checkpoint(config, tmp_path / "checkpoint", vision="none")
    checkpoint = Checkpoint.open(tmp_path / "checkpoint", vision_weights=tmp_path / "open_clip.bin")
    with torch.device("meta"):
        tower = VisionTower(config)
    tower = tower.to_empty(device="cpu").eval()
    for name, parameter in tower.state_dict().items():
        parameter.copy_(torch.from_numpy(checkpoint.read(f"model.vision_tower.{name}")))
    with torch.inference_mode():
        features = tower(torch.from_numpy(maps["pixels"]))

    assert len(features) == 4
    for level, (feature, channels, stride) in enumerate(
        zip(features, OSPREY_7B.vision_channels, (4, 8, 16, 32), strict=True), start=2
    ):
        expected = maps[f"res{level}"]
        assert expected.shape == (1, channels, SIZE // stride, SIZE // stride)
        assert expected.std() > 0.1
        np.testing.assert_allclose(feature.numpy(), expected, atol=1e-4 * np.abs(expected).max(), rtol=0)
