"""Run by tests/test_open_clip.py in a process of its own: open_clip's convnext_large_d_320 with random weights.

    python open_clip_reference.py FOLDER SIZE

Writes FOLDER/open_clip.bin (state dictionary, float16) and FOLDER/maps.npz (pixels and res2..res5, float32).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

try:
    import torchvision  # noqa: F401
except RuntimeError:
    # Its wheels are built for CUDA: beside a CPU build of PyTorch the operators do not load, and the import fails over
    # two that it describes. open_clip uses neither.
    for module in [name for name in sys.modules if name.startswith("torchvision")]:
        del sys.modules[module]
    operators = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import open_clip


def main(folder: Path, size: int) -> None:
    with torch.device("meta"):  # the text half is never made
        visual = open_clip.create_model("convnext_large_d_320", device="meta").visual
    visual = visual.to_empty(device="cpu").eval()
    generator = torch.Generator().manual_seed(0)
    state = {f"visual.{name}": tensor for name, tensor in visual.state_dict().items()}
    for name, tensor in state.items():
        # Norms and layer scales far from what they start with, so that leaving one out would show.
        is_scale = tensor.ndim == 1 and name.endswith(("weight", "gamma"))
        tensor.normal_(0.5 if is_scale else 0.0, 0.1 if is_scale else 0.02, generator=generator)
        tensor.copy_(tensor.half())
    torch.save({name: tensor.half() for name, tensor in state.items()}, folder / "open_clip.bin")

    pixels = torch.randn(1, 3, size, size, generator=generator)
    maps = {"pixels": pixels}
    with torch.inference_mode():
        x = visual.trunk.stem(pixels)
        for level, stage in enumerate(visual.trunk.stages, start=2):
            x = stage(x)
            maps[f"res{level}"] = x
    np.savez(folder / "maps.npz", **{name: tensor.numpy() for name, tensor in maps.items()})


main(Path(sys.argv[1]), int(sys.argv[2]))
