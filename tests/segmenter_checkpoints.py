"""Checkpoints of segmenters in the layouts of transformers, of small widths and random weights; sample images."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn

from export.samples import VerificationSample
from osprey_torch.timm_models import timm_in_transformers

FAMILIES = ("sam", "sam2", "edgetam")
SIDE = 64  # of the input in pixels

_DECODER = {"hidden_size": 32, "mlp_dim": 64, "num_attention_heads": 2, "iou_head_hidden_dim": 32}
_PROMPTS = {"hidden_size": 32, "image_size": SIDE, "patch_size": 16, "mask_input_channels": 4}
_PYRAMID = {"backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]], "fpn_hidden_size": 32}


def tiny_model(family: str, seed: int = 0, video: bool = False) -> Any:
    """Return a model of transformers in evaluation mode; video: the class for videos, where there is one."""
    torch.manual_seed(seed)
    model = {"sam": _sam, "sam2": _sam2, "edgetam": _edgetam}[family](video)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=1 / math.sqrt(parameter[0].numel()))
    return model.eval()


def write_tiny(folder: Path, model: Any) -> Path:
    """Write the checkpoint of a model and return its folder."""
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.5, 0.4, 0.3], "image_std": [0.25, 0.2, 0.3]}), encoding="utf-8"
    )
    return folder


def sample_images(count: int = 2) -> list[VerificationSample]:
    """Return images of smooth colors with rectangular regions."""
    generator = np.random.default_rng(3)
    samples = []
    for n in range(count):
        coarse = generator.integers(0, 255, (6, 8, 3), dtype=np.uint8)
        rgb = np.kron(coarse, np.ones((8, 8, 1), np.uint8))
        ids = np.zeros(rgb.shape[:2], np.uint16)
        ids[4:24, 6:40], ids[28:44, 10:30], ids[26:46, 36:60] = 1, 2, 3
        samples.append(VerificationSample(f"sample {n}", rgb, ids))
    return samples


def _sam(video: bool) -> Any:
    tower = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_dim": 64, "window_size": 3}
    more = {
        "image_size": SIDE,
        "patch_size": 16,
        "output_channels": 32,
        "global_attn_indexes": [1],
        "num_pos_feats": 16,
    }
    config = transformers.SamConfig(
        vision_config={**tower, **more}, prompt_encoder_config=_PROMPTS, mask_decoder_config=_DECODER
    )
    return transformers.SamModel(config)


def _sam2(video: bool) -> Any:
    tower = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": 8,
        "num_attention_heads": 1,
        "image_size": [SIDE, SIDE],
        "blocks_per_stage": [1, 1, 2, 1],
        "embed_dim_per_stage": [8, 16, 32, 64],
        "num_attention_heads_per_stage": [1, 1, 2, 2],
        "window_size_per_stage": [4, 2, 3, 2],
        "global_attention_blocks": [3],
        "window_positional_embedding_background_size": [4, 4],
    }
    vision = {"backbone_config": tower, "backbone_channel_list": [64, 32, 16, 8], **_PYRAMID}
    parts = {"vision_config": vision, "prompt_encoder_config": _PROMPTS, "mask_decoder_config": _DECODER}
    if video:
        memory = {"memory_attention_hidden_size": 32, "memory_encoder_hidden_size": 32, "image_size": SIDE}
        return transformers.Sam2VideoModel(transformers.Sam2VideoConfig(**parts, **memory))
    return transformers.Sam2Model(transformers.Sam2Config(**parts))


def _edgetam(video: bool) -> Any:
    shape = {"embed_dim": [8, 16, 24, 32], "depth": [1, 1, 2, 1]}
    with timm_in_transformers():
        tower = transformers.TimmWrapperConfig(
            architecture="repvit_m1",
            model_args={"in_chans": 3, "features_only": True, "out_indices": [0, 1, 2, 3], **shape},
        )
        vision = {"backbone_config": tower, "backbone_channel_list": [32, 24, 16, 8], **_PYRAMID}
        config = transformers.EdgeTamConfig(
            vision_config=vision, prompt_encoder_config=_PROMPTS, mask_decoder_config=_DECODER
        )
        return transformers.EdgeTamModel(config)
