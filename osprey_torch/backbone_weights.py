"""Weight files of vision towers: timm's own names, those behind open_clip's prefix, and EfficientNet-PyTorch's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from osprey_ros.errors import InputError
from osprey_torch.backbone import COUNTER, TRUNK, BackboneTower
from osprey_torch.config import OspreyConfig
from osprey_torch.tensor_files import StoredTensor, list_file, map_file
from osprey_torch.timm_models import create_timm_model

_OPEN_CLIP = "visual.trunk."

# EfficientNet-PyTorch (packages efficientnet-pytorch and efficientnet-lite-pytorch) numbers its blocks through all
# stages, and leaves out the first convolution of a block that does not widen. (timm's name, its name)
_LITE_STEM = "_conv_stem.weight"
_LITE_STEM_NAMES = {"conv_stem": "_conv_stem", "bn1": "_bn0"}
_LITE_HEAD_NAMES = {"conv_head": "_conv_head", "bn2": "_bn1", "classifier": "_fc"}
_LITE_PLAIN = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
_LITE_WIDENING = {
    "conv_pw": "_expand_conv",
    "bn1": "_bn0",
    "conv_dw": "_depthwise_conv",
    "bn2": "_bn1",
    "conv_pwl": "_project_conv",
    "bn3": "_bn2",
}
_LITE_SQUEEZE = {"se.conv_reduce": "_se_reduce", "se.conv_expand": "_se_expand"}
# EfficientNet-Lite was trained on (x - 127) / 128 of pixels x from 0 to 255.
_LITE_MEAN, _LITE_STD = (127 / 255,) * 3, (128 / 255,) * 3


def list_backbone_weights(config: OspreyConfig, path: Path) -> dict[str, StoredTensor]:
    """Return the tensors of the configuration's timm tower in a weights file, by their names in `BackboneTower`.

    The file may have the classifier, too. Raises InputError if it is missing, or does not fit the tower.
    """
    name = config.vision_backbone
    assert name is not None
    with torch.device("meta"):
        tower = {key.removeprefix(TRUNK): tuple(t.shape) for key, t in BackboneTower(config).state_dict().items()}
        whole = [key for key in create_timm_model(name).state_dict() if not key.endswith(COUNTER)]
    found = {key: tensor for key, tensor in list_file(path).items() if not key.endswith(COUNTER)}
    aliases = _aliases(found, [*whole, *tower])
    named = {key: found[alias] for key, alias in aliases.items() if alias in found}
    unknown = sorted(set(found) - set(aliases.values()))
    if any(key.startswith(_OPEN_CLIP) for key in found):  # the text half is not looked at
        unknown = [key for key in unknown if key.startswith(_OPEN_CLIP) and ".head." not in key]
    problems = [
        _listed("lacks", [key for key in tower if key not in named]),
        _listed(
            "has other shapes for",
            [
                f"{key} {named[key].shape}, expected {shape}"
                for key, shape in tower.items()
                if key in named and named[key].shape != shape
            ],
        ),
        _listed("has unknown", unknown),
    ]
    if any(problems):
        wrong = "; ".join(filter(None, problems))
        raise InputError(f"{path} does not fit the vision tower {name!r}: it {wrong}; give the weights of this model")
    return {TRUNK + key: named[key] for key in tower}


def with_pixel_range(config: OspreyConfig, path: Path) -> OspreyConfig:
    """Return the configuration with the mean and deviation that weights of EfficientNet-Lite were trained with.

    Files with timm's names keep those that timm gives.
    """
    if _LITE_STEM in list_file(path) and "_lite" in (config.vision_backbone or ""):
        return replace(config, image_mean=_LITE_MEAN, image_std=_LITE_STD)
    return config


def load_backbone(tower: BackboneTower, config: OspreyConfig, path: Path) -> None:
    """Give a tower the weights of a file, as float32. Raises InputError as `list_backbone_weights` does."""
    stored, mapped = list_backbone_weights(config, path), map_file(path)
    tower.load_state_dict({name: mapped[tensor.name].float() for name, tensor in stored.items()})


def _aliases(found: Mapping[str, StoredTensor], names: Iterable[str]) -> dict[str, str]:
    """Return for each of timm's names the name that it would have in the file."""
    if any(key.startswith(_OPEN_CLIP) for key in found):
        return {name: _OPEN_CLIP + name for name in names}
    if _LITE_STEM in found:
        return _lite_aliases(list(names))
    return {name: name for name in names}


def _lite_aliases(names: list[str]) -> dict[str, str]:
    inside = [tuple(name.split(".", 3)) for name in names if name.startswith("blocks.")]
    numbers = {block: n for n, block in enumerate(sorted({(int(b[1]), int(b[2])) for b in inside}))}
    widening = {(int(b[1]), int(b[2])) for b in inside if b[3] == "conv_pwl.weight"}
    aliases = {}
    for name in names:
        module, _, leaf = name.rpartition(".")
        if name.startswith("blocks."):
            _, stage, index, part = module.split(".", 3)
            block = (int(stage), int(index))
            table = _LITE_SQUEEZE | (_LITE_WIDENING if block in widening else _LITE_PLAIN)
            alias = f"_blocks.{numbers[block]}.{table.get(part, part)}"
        else:
            alias = (_LITE_STEM_NAMES | _LITE_HEAD_NAMES).get(module, module)
        aliases[name] = f"{alias}.{leaf}"
    return aliases


def _listed(what: str, names: list[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{what} {names[0]}{more}" if names else ""
