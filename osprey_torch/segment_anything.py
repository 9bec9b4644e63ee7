"""Segment Anything in the layouts of transformers: SAM, SAM 2.1 and EdgeTAM behind the interface of segmenters.

transformers computes all but the prompts. Its padding points take part in attention; here unused points are masked, so
that a prompt gives the same masks with any number of them, and so in plans with a fixed number of points.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from osprey_ros.errors import InputError
from osprey_ros.segmenter.spec import EverythingSpec, SegmenterSpec
from osprey_torch.companion_files import PREPROCESSOR
from osprey_torch.config_values import numbers
from osprey_torch.json_files import read_json
from osprey_torch.segmenter_model import SegmenterModel
from osprey_torch.timm_models import timm_in_transformers
from osprey_torch.weight_layout import CONFIG

log = logging.getLogger(__name__)

_CLASSES = {"sam": "SamModel", "sam2": "Sam2Model", "edgetam": "EdgeTamModel"}
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_ATTENTION = "osprey_prompts"  # name of our attention in the registry of transformers
_MASKED = -1e4  # added to the scores of unused points: their share of a softmax in float32 is exactly 0
_TOP_LEFT = 2  # the least label of a box
_BATCH = 16  # prompts of a run: each layer copies the features of the image, 4 MB, for every prompt


class SegmentAnything(SegmenterModel):
    """A `SamModel`, `Sam2Model` or `EdgeTamModel` of transformers, with its prompts in one form."""

    kinds: Tensor
    no_point: Tensor
    directions: Tensor
    positions: Tensor
    no_mask: Tensor

    def __init__(self, model: Any, spec: SegmenterSpec) -> None:
        """Wrap a model with eager attention. Its decoder gets an attention that leaves out unused points."""
        first = spec.family == "sam"
        names = ("image_embeddings",) if first else ("image_embeddings", "high_res_features_0", "high_res_features_1")
        super().__init__(spec, names, tuple(_blocks(model)))
        self.model = model
        self._first = first
        prompts = model.prompt_encoder
        points = prompts.point_embed
        kinds = points.weight if isinstance(points, nn.Embedding) else torch.cat([one.weight for one in points])
        constants = {
            "kinds": kinds,  # [4, C], of the labels 0 to 3
            "no_point": prompts.not_a_point_embed.weight,  # [1, C]
            "directions": prompts.shared_embedding.positional_embedding,  # [2, C / 2]
            "positions": model.get_image_wide_positional_embeddings(),  # [1, C, h, w]
            "no_mask": prompts.no_mask_embed.weight.reshape(1, -1, 1, 1),
        }
        for name, tensor in constants.items():
            self.register_buffer(name, tensor.detach().clone(), persistent=False)
        _fix_positions(model.vision_encoder, spec.input_size)
        self._bias: list[Tensor] = []
        _mask_prompts(model.mask_decoder, self._bias)

    def encode(self, image: Tensor) -> dict[str, Tensor]:
        if self._first:
            return {"image_embeddings": self.model.vision_encoder(image)[0]}
        *fine, coarse = self.model.get_image_embeddings(image)
        return dict(zip(self.features, (coarse, *fine), strict=True))

    def decode(self, features: dict[str, Tensor], point_coords: Tensor, point_labels: Tensor) -> tuple[Tensor, Tensor]:
        tokens, used = self._embed(point_coords, point_labels)
        decoder = self.model.mask_decoder
        own = decoder.num_mask_tokens + (1 if self._first else 2)  # beside the masks' the token of the IoU and objects'
        shown = torch.nn.functional.pad(used, (own, 0), value=1.0)
        more: dict[str, Any] = {}
        if not self._first:
            more["high_resolution_features"] = [features[name] for name in self.features[1:]]
        with self._masked((1.0 - shown)[:, None, None, :] * _MASKED):
            masks, scores = decoder(
                image_embeddings=features["image_embeddings"],
                image_positional_embeddings=self.positions,
                sparse_prompt_embeddings=tokens[None],
                dense_prompt_embeddings=self.no_mask,
                multimask_output=True,
                **more,
            )[:2]
        return masks[0], scores[0]

    def _embed(self, coords: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the tokens of prompts, float32 [P, N + 1, C], and which of them are used, 1 or 0, [P, N + 1].

        The last one is the token of no point. SAM has it for prompts without a box, the others always.
        """
        size = torch.tensor(self.spec.input_size[::-1], dtype=torch.float32)
        angles = (2.0 * ((coords + 0.5) / size) - 1.0) @ self.directions * (2.0 * math.pi)
        tokens = torch.cat([torch.sin(angles), torch.cos(angles)], dim=-1) + self.kinds[labels.clamp(min=0)]
        last = self.no_point.expand(coords.shape[0], 1, -1)
        used = (labels >= 0).to(torch.float32)
        boxes = (labels >= _TOP_LEFT).to(torch.float32).amax(dim=1, keepdim=True)
        alone = 1.0 - boxes if self._first else torch.ones_like(boxes)
        return torch.cat([tokens, last], dim=1), torch.cat([used, alone], dim=1)

    @contextmanager
    def _masked(self, bias: Tensor) -> Iterator[None]:
        """Add a bias, float32 [P, 1, 1, tokens], to the scores of all attention to tokens."""
        self._bias.append(bias)
        try:
            yield
        finally:
            self._bias.clear()


def open_segment_anything(folder: Path) -> SegmentAnything:
    """Open a checkpoint of `_CLASSES`, or of their models for videos. Raises InputError if it is incomplete."""
    import transformers

    family = str(read_json(folder / CONFIG)["model_type"]).removesuffix("_video")
    # The backbone of EdgeTAM is a model of timm.
    with timm_in_transformers() if family == "edgetam" else nullcontext():
        level = transformers.logging.get_verbosity()
        # It warns of a checkpoint for videos, which has all that is read.
        transformers.logging.set_verbosity(logging.ERROR)
        try:
            model, found = getattr(transformers, _CLASSES[family]).from_pretrained(
                folder,
                attn_implementation="eager",
                dtype=torch.float32,
                local_files_only=True,
                output_loading_info=True,
            )
        except (OSError, ValueError, RuntimeError, TypeError, ImportError) as error:
            raise InputError(f"{folder} cannot be read as a {_CLASSES[family]} of transformers: {error}") from error
        finally:
            transformers.logging.set_verbosity(level)
    if missing := sorted(found["missing_keys"]):
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise InputError(f"{folder}: the weights lack {', '.join(missing[:3])}{more}; download the checkpoint again")
    return SegmentAnything(model.eval(), _spec(folder, family, model.config))


def _spec(folder: Path, family: str, config: Any) -> SegmenterSpec:
    """Return the settings of the runtime, with the mean and standard deviation of the checkpoint's preprocessor."""
    side = int(config.prompt_encoder_config.image_size)
    path = folder / PREPROCESSOR
    data = read_json(path) if path.is_file() else {}
    try:
        means, deviations = (numbers(data, key, 3) for key in ("image_mean", "image_std"))
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
    (r, g, b), (sr, sg, sb) = means or _IMAGENET_MEAN, deviations or _IMAGENET_STD
    return SegmenterSpec(
        family=family,
        input_size=(side, side),
        resize="pad" if family == "sam" else "stretch",
        interpolation="bilinear",
        image_mean=(r, g, b),
        image_std=(sr, sg, sb),
        pixel_center=0.0,
        everything=EverythingSpec(batch=_BATCH),
    )


def _blocks(model: Any) -> Iterator[str]:
    """Name the blocks of the encoder and of the decoder."""
    encoder = model.vision_encoder
    tower = getattr(encoder, "backbone", None)
    if tower is None:
        yield from _children("vision_encoder", encoder)
    else:
        tower, path = (
            (tower, "backbone") if not hasattr(tower, "timm_model") else (tower.timm_model, "backbone/timm_model")
        )
        yield from _children(f"vision_encoder/{path}", tower)
        yield from ("vision_encoder/neck", "conv_s0", "conv_s1")
    yield from _children("mask_decoder/transformer", model.mask_decoder.transformer)
    yield "mask_decoder"


def _children(path: str, module: nn.Module) -> Iterator[str]:
    """Name the children of a module, and those of its lists one by one."""
    for name, child in module.named_children():
        if isinstance(child, nn.ModuleList):
            yield from (f"{path}/{name}.{index}" for index in range(len(child)))
        else:
            yield f"{path}/{name}"


@torch.no_grad()
def _fix_positions(encoder: Any, input_size: tuple[int, int]) -> None:
    """Compute what the tower derives from its position weights once, for images of one size."""
    tower = getattr(encoder, "backbone", None)
    if tower is None:
        for layer in encoder.layers:
            attention = layer.attn
            if attention.use_rel_pos:
                weights = (attention.rel_pos_h, attention.rel_pos_w)
                sizes = [(len(one) + 1) // 2 for one in weights]
                tables = {id(one): attention.get_rel_pos(n, n, one) for n, one in zip(sizes, weights, strict=True)}
                attention.get_rel_pos = lambda _queries, _keys, one, tables=tables: tables[id(one)]
    elif hasattr(tower, "pos_embed_window"):
        strides = tower.config.patch_stride
        table = tower._get_pos_embed(tuple(side // by for side, by in zip(input_size, strides, strict=True)))
        tower._get_pos_embed = lambda _size: table
    else:
        from timm.models import reparameterize_model

        tower.timm_model = reparameterize_model(tower.timm_model)


def _mask_prompts(decoder: Any, bias: list[Tensor]) -> None:
    """Let all attention to tokens add the bias that the list holds while a decoder runs."""
    from transformers import AttentionInterface

    AttentionInterface.register(_ATTENTION, _attend)
    decoder.config._attn_implementation = _ATTENTION
    for layer in decoder.transformer.layers:
        for attention in (layer.self_attn, layer.cross_attn_image_to_token):
            attention.prompt_bias = bias


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, scaling: float, **_: Any
) -> tuple[Tensor, Tensor]:
    """Attend as transformers' eager attention does, without unused points. Shapes: [P, heads, tokens, width]."""
    scores = (query * scaling) @ key.transpose(2, 3)
    for bias in getattr(module, "prompt_bias", ()):
        scores = scores + bias
    weights = torch.softmax(scores, dim=-1)
    return (weights @ value).transpose(1, 2), weights
