"""The small segmenter: its tower is EfficientNet-Lite0, and its engines give what PyTorch gives."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from lite0_weights import write_lite0_weights
from safetensors.torch import save_file

from export.segmenter_build import build_segmenter
from osprey_ros.errors import InputError
from osprey_ros.segmenter.segmenter import Segmenter
from osprey_torch.backbone import BackboneTower, with_backbone
from osprey_torch.backbone_weights import load_backbone
from osprey_torch.config import OspreyConfig
from osprey_torch.segmenters import open_segmenter
from osprey_torch.small_segmenter import SmallSegmenter, SmallSegmenterConfig, Tower

SIZES = SmallSegmenterConfig(height=96, width=128, fine_channels=8, coarse_channels=8, prompt_channels=16)


def write_checkpoint(folder: Path) -> Path:
    torch.manual_seed(0)
    model = SmallSegmenter(SIZES)
    for parameter in model.parameters():  # also those that start at zero
        torch.nn.init.normal_(parameter, std=0.2)
    folder.mkdir()
    save_file(
        {name: value.half().contiguous() for name, value in model.state_dict().items()}, folder / "model.safetensors"
    )
    (folder / "config.json").write_text(json.dumps(SIZES.to_json()))
    return folder


def test_the_tower_is_efficientnet_lite0(tmp_path: Path) -> None:
    path = write_lite0_weights(tmp_path / "lite0.pth")
    tower = Tower()
    tower.load_lite0(torch.load(path, weights_only=True))
    config = with_backbone(OspreyConfig(image_size=96), "tf_efficientnet_lite0")
    published = BackboneTower(config).eval()
    load_backbone(published, config, path)
    pixels = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours, theirs = tower(pixels), published(pixels)
    for own, other in zip(ours[:3], theirs[:3], strict=True):  # the last level ends earlier
        assert torch.allclose(own, other, rtol=0, atol=0.01 * float(other.abs().max()))  # rounded to float16


def test_engines_equal_pytorch(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    build_segmenter(checkpoint, tmp_path / "bundle", verify=False)
    model = open_segmenter(checkpoint)
    image = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
    points = np.array([[[20.0, 30.0], [60.0, 40.0]], [[90.0, 50.0], [5.0, 80.0]]])
    labels, boxes = np.array([[1, 1], [1, 0]]), np.array([[10.0, 10.0, 60.0, 50.0], [40.0, 30.0, 80.0, 60.0]])
    pixels = torch.from_numpy((image.astype(np.float32) - 127) / 128).permute(2, 0, 1)[None]
    for prompts in ({"points": points, "labels": labels}, {"boxes": boxes}, {"points": points, "boxes": boxes}):
        with Segmenter(tmp_path / "bundle", threads=1) as segmenter:
            segmenter.set_image(image)
            found = segmenter.segment(**prompts, all_candidates=True)
        coords = np.zeros((2, 0, 2))
        kinds = np.zeros((2, 0), np.int64)
        if "points" in prompts:
            coords, kinds = points + 0.5, prompts.get("labels", np.ones((2, 2), np.int64))
        if "boxes" in prompts:
            corners = np.stack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
            coords, kinds = np.concatenate([coords, corners], 1), np.concatenate([kinds, np.tile([2, 3], (2, 1))], 1)
        with torch.no_grad():
            encoded = model.encode(pixels)
            logits, scores = model.decode(encoded, torch.from_numpy(coords).float(), torch.from_numpy(kinds))
        ranked = np.sort(scores.numpy(), axis=1)[:, ::-1].ravel()
        assert np.allclose(found.scores, ranked[found.ids - 1], atol=1e-5)
        inside = (logits > 0).sum((2, 3)).numpy() * 16
        order = np.argsort(-scores.numpy(), axis=1, kind="stable")
        areas = np.take_along_axis(inside, order, 1).ravel()[found.ids - 1]
        assert np.allclose(found.areas, areas, rtol=0.3, atol=400)  # resized, without small islands and holes


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"fine_channels": "8"}, "fine_channels = '8'; it must be a number"),
        ({"fine_channels": 16}, "cannot be used"),
        ({"everything": {"speed": 1}}, "everything"),
        ({"width": 100}, "multiple of 32"),
    ],
)
def test_checkpoints_that_do_not_fit(changes: dict[str, object], text: str, tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    (checkpoint / "config.json").write_text(json.dumps({**SIZES.to_json(), **changes}))
    with pytest.raises(InputError, match=text):
        open_segmenter(checkpoint)
