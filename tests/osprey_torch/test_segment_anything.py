"""Segment Anything behind the interface of segmenters: what transformers computes, for any number of points."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from segmenter_checkpoints import FAMILIES, SIDE, tiny_model, write_tiny

from osprey_ros.errors import InputError
from osprey_torch.segmenters import open_segmenter

UNUSED = -1


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """A model of transformers, and its checkpoint as it is opened here."""
    model = tiny_model(request.param)
    return model, open_segmenter(write_tiny(tmp_path_factory.mktemp(request.param), model))


def _image() -> torch.Tensor:
    return torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def _check(found: tuple[torch.Tensor, torch.Tensor], row: int, reference: Any) -> None:
    torch.testing.assert_close(found[0][row], reference.pred_masks[0, 0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found[1][row], reference.iou_scores[0, 0], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_prompts_with_unused_points_give_the_masks_of_their_points_alone(pair: tuple[Any, Any]) -> None:
    model, segmenter = pair
    image, rows = _image(), [[1], [1, 0], [1, 1, 0], [0, 1, 1, 1]]
    coords = torch.rand(len(rows), 4, 2, generator=torch.Generator().manual_seed(2)) * SIDE
    labels = torch.tensor([row + [UNUSED] * (4 - len(row)) for row in rows])
    found = segmenter.decode(segmenter.encode(image), coords, labels)
    assert found[0].shape[:2] == (4, 3)
    for n, row in enumerate(rows):
        count = len(row)
        _check(
            found,
            n,
            model(
                pixel_values=image,
                input_points=coords[None, n : n + 1, :count],
                input_labels=labels[None, n : n + 1, :count],
            ),
        )


@torch.no_grad()
def test_boxes_and_boxes_with_points(pair: tuple[Any, Any]) -> None:
    model, segmenter = pair
    image, box = _image(), torch.tensor([[[5.0, 8.0, 40.0, 50.0]]])
    corners, point = box.view(1, 2, 2), torch.tensor([[[20.0, 30.0]]])
    features = segmenter.encode(image)
    found = segmenter.decode(features, torch.cat([corners, point], 1), torch.tensor([[2, 3, UNUSED]]))
    _check(found, 0, model(pixel_values=image, input_boxes=box))
    found = segmenter.decode(features, torch.cat([point, corners], 1), torch.tensor([[0, 2, 3]]))
    points = {"input_points": point[None], "input_labels": torch.tensor([[[0]]])}
    _check(found, 0, model(pixel_values=image, input_boxes=box, **points))


def test_settings_come_from_the_checkpoint(pair: tuple[Any, Any]) -> None:
    spec = pair[1].spec
    assert spec.family in FAMILIES
    assert spec.input_size == (SIDE, SIDE)
    assert spec.resize == ("pad" if spec.family == "sam" else "stretch")
    assert (spec.image_mean, spec.image_std) == ((0.5, 0.4, 0.3), (0.25, 0.2, 0.3))


@torch.no_grad()
def test_a_checkpoint_for_videos_holds_the_model_for_images(tmp_path: Path) -> None:
    video = tiny_model("sam2", video=True)
    segmenter = open_segmenter(write_tiny(tmp_path / "video", video))
    assert segmenter.spec.family == "sam2"
    image = _image()
    coarse = video.get_image_features(image, return_dict=True).fpn_hidden_states[0]
    fine = segmenter.encode(image)["high_res_features_0"]
    torch.testing.assert_close(fine.flatten(2).permute(2, 0, 1), coarse, rtol=1e-4, atol=1e-4)


def test_checkpoints_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a folder"):
        open_segmenter(tmp_path / "absent")
    model = tiny_model("sam")
    folder = write_tiny(tmp_path / "sam", model)
    weights = {name: value for name, value in model.state_dict().items() if "neck.conv1" not in name}
    model.save_pretrained(folder, state_dict=weights)
    with pytest.raises(InputError, match=r"the weights lack vision_encoder\.neck\.conv1\.weight"):
        open_segmenter(folder)
    (folder / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(InputError, match=r"'clip'.*sam2"):
        open_segmenter(folder)
