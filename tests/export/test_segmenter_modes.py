"""Points, boxes and everything through `osprey_ros.Segmenter`, against the post-processing of transformers."""

from __future__ import annotations

import ast
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from segmenter_checkpoints import FAMILIES, SIDE, sample_images, tiny_model, write_tiny
from transformers.models.sam import image_processing_pil_sam as pil_sam

from export.segmenter_build import build_segmenter
from osprey_ros import Segmenter
from osprey_ros.segmenter.bundle import SegmenterBundle
from osprey_ros.segmenter.input_image import InputImage
from osprey_ros.segmenter.spec import EverythingSpec

MISMATCH = 0.02  # share of pixels: masks of 16x16 values are interpolated, by transformers in one or two steps
EVERY_MASK = EverythingSpec(
    points_per_side=4, batch=5, min_score=-10.0, min_stability=0.0, max_overlap=1.0, min_area=0, max_regions=1000
)


@dataclass
class Reference:
    """A model of transformers with the post-processing of its family."""

    model: Any
    segmenter: Segmenter

    def __post_init__(self) -> None:
        spec = self.segmenter.spec
        self.pads = spec.resize == "pad"
        square = {"height": SIDE, "width": SIDE}
        self.processor = pil_sam.SamImageProcessorPil(
            size={"longest_edge": SIDE}, pad_size=square, image_mean=spec.image_mean, image_std=spec.image_std
        )

    @torch.no_grad()
    def candidates(self, rgb: np.ndarray, **prompts: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mask logits [P, 3, H, W] of an image and predicted IoUs [P, 3]; prompts in pixels of the image.

        `low` has the logits before they are interpolated, [P, 3, h, w], where the image lies.
        """
        size = rgb.shape[:2]
        if self.pads:
            inputs = self.processor(rgb, return_tensors="pt")
            pixels, sizes = inputs["pixel_values"], (inputs["original_sizes"], inputs["reshaped_input_sizes"])
        else:
            source = InputImage(self.segmenter.spec)
            source.set(rgb)
            pixels, sizes = torch.from_numpy(source.pixels), ([size],)
        if "points" in prompts:
            prompts["input_points"] = self._scaled(prompts.pop("points"), size)
        if "boxes" in prompts:
            prompts["input_boxes"] = self._scaled(prompts.pop("boxes"), size, box=True)
        found = self.model(pixel_values=pixels.float(), **prompts)
        rows, columns = (inputs["reshaped_input_sizes"][0] if self.pads else torch.tensor([SIDE, SIDE])).tolist()
        height, width = found.pred_masks.shape[-2:]
        self.low = found.pred_masks[0][..., : round(rows * height / SIDE), : round(columns * width / SIDE)]
        post_process = self.processor.post_process_masks if self.pads else _post_process_of_sam2()
        return post_process(found.pred_masks, *sizes, binarize=False)[0], found.iou_scores[0]

    def _scaled(self, coords: Any, size: tuple[int, int], box: bool = False) -> torch.Tensor:
        coords = np.array(coords, np.float64)
        if self.pads:
            scaled = pil_sam._normalize_coordinates(SIDE, coords, size, box)
            return torch.from_numpy(scaled.reshape(coords.shape)).float()
        return torch.from_numpy(coords * np.resize([SIDE / size[1], SIDE / size[0]], coords.shape[-1])).float()


def _post_process_of_sam2() -> Any:
    """Return `Sam2ImageProcessor.post_process_masks`; its module cannot be imported without torchvision."""
    path = Path(transformers.__file__).parent / "models" / "sam2" / "image_processing_sam2.py"
    (method,) = (
        node
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name == "post_process_masks"
    )
    names: dict[str, Any] = {"torch": torch, "np": np, "F": torch.nn.functional}
    exec(compile(ast.Module([method], []), path, "exec"), names)
    return lambda *args, **options: names["post_process_masks"](None, *args, **options)


@pytest.fixture(scope="module", params=FAMILIES)
def reference(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """A model, and its bundle without the removal of small islands and holes, which transformers has not."""
    folder, model = tmp_path_factory.mktemp(request.param), tiny_model(request.param)
    build_segmenter(write_tiny(folder / "checkpoint", model), folder / "bundle", samples=sample_images())
    bundle = SegmenterBundle.open(folder / "bundle")
    spec = replace(bundle.manifest.model, everything=EVERY_MASK)
    return Reference(model, Segmenter(SegmenterBundle(bundle.root, replace(bundle.manifest, model=spec)), threads=1))


def _image() -> np.ndarray:
    coarse = np.random.default_rng(5).integers(0, 255, (5, 8, 3), dtype=np.uint8)
    return np.kron(coarse, np.ones((15, 14, 1), np.uint8))  # 75x112


def _check(found: Any, row: int, logits: torch.Tensor, score: torch.Tensor) -> None:
    assert found.scores[row] == pytest.approx(float(score), abs=1e-3)
    assert (_mask(found, row) != (logits.numpy() > 0)).mean() < MISMATCH


def _mask(found: Any, row: int) -> np.ndarray:
    """Return the mask of a region, bool [H, W]."""
    mask = np.zeros(found.shape, np.bool_)
    x, y, width, height = (int(value) for value in found.boxes[row])
    mask[y : y + height, x : x + width] = found.crop(row)
    return mask


def test_points(reference: Reference) -> None:
    rgb, points, labels = _image(), [[30.0, 20.0], [80.0, 60.0], [100.0, 11.0]], [1, 1, 0]
    reference.segmenter.set_image(rgb)
    found = reference.segmenter.segment(points=points, labels=labels, all_candidates=True)
    logits, scores = reference.candidates(rgb, points=[[points]], input_labels=torch.tensor([[labels]]))
    order = scores[0].argsort(descending=True)
    assert list(found.ids) == [1, 2, 3]
    for row, candidate in enumerate(order):
        _check(found, row, logits[0, candidate], scores[0, candidate])
    best = reference.segmenter.segment(points=points, labels=labels)
    assert list(best.ids) == [1]
    _check(best, 0, logits[0, order[0]], scores[0, order[0]])


def test_boxes(reference: Reference) -> None:
    rgb, boxes = _image(), [[10.0, 5.0, 60.0, 40.0], [40.0, 30.0, 111.0, 74.0]]
    reference.segmenter.set_image(rgb)
    given = [[left, top, right - left, bottom - top] for left, top, right, bottom in boxes]
    found = reference.segmenter.segment(boxes=given)
    logits, scores = reference.candidates(rgb, boxes=[boxes])
    assert list(found.ids) == [1, 2]
    for row, best in enumerate(scores.argmax(dim=1)):
        _check(found, row, logits[row, best], scores[row, best])


def test_everything(reference: Reference) -> None:
    """The grid and both filters. The segmenter judges masks before it interpolates them, transformers afterwards; and
    transformers removes duplicates by their boxes, the segmenter by their masks (tests/segmenter)."""
    rgb = _image()
    height, width = rgb.shape[:2]
    grid = pil_sam._build_point_grid(EVERY_MASK.points_per_side) * (width, height)
    labels = torch.ones(1, len(grid), 1, dtype=torch.int64)
    logits, scores = reference.candidates(rgb, points=[grid[:, None]], input_labels=labels)
    low, offset = reference.low, float(reference.low.std()) / 4
    min_score = _gap(scores[scores > 0])  # transformers filters by scores above 0 only
    stability = pil_sam._compute_stability_score(low.flatten(0, 1), 0.0, offset)
    min_stability = _gap(stability[scores.flatten() > min_score])
    size = tuple(low.shape[-2:])
    _, kept, _ = reference.processor.filter_masks(
        low, scores, size, [0, 0, size[1], size[0]], min_score, min_stability, 0.0, offset
    )

    settings = replace(EVERY_MASK, min_score=min_score, min_stability=min_stability, stability_offset=offset)
    reference.segmenter.set_image(rgb)
    found = reference.segmenter.segment_everything(settings)
    assert 0 < len(found) < 3 * len(grid)
    np.testing.assert_allclose(found.scores, np.sort(kept.numpy())[::-1], atol=1e-4)
    for row, score in enumerate(found.scores):
        prompt, candidate = np.unravel_index(int((scores - float(score)).abs().argmin()), tuple(scores.shape))
        _check(found, row, logits[prompt, candidate], scores[prompt, candidate])


def _gap(values: torch.Tensor) -> float:
    """Return a threshold in the widest gap between the second and third quarter of values."""
    middle = values.sort().values[len(values) // 4 : 3 * len(values) // 4]
    widest = int(middle.diff().argmax())
    return float(middle[widest : widest + 2].mean())
