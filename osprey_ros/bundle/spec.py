"""Sizes and token ids of a model that the runtime needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any

from osprey_ros.errors import BundleError

BUILD_COMMAND = "osprey build --checkpoint DIR --output BUNDLE"  # of a checkout
REBUILD = f"rebuild it with `{BUILD_COMMAND}` in a checkout"


@dataclass(frozen=True)
class ModelSpec:
    """Sizes and token ids of a model that the runtime needs. Sizes are in pixels or rows.

    ``mask_id`` and ``pos_id`` are token ids of at least ``vocab_size``. They stand for the two tokens of a region and
    are never looked up in the embedding table.
    """

    image_size: int  # side of the square to which an image is resized
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]
    feature_channels: tuple[int, int, int, int]
    image_tokens: int
    position_size: int  # side of the grid for the position token
    hidden_size: int
    num_layers: int
    num_heads: int
    head_dim: int
    vocab_size: int  # rows of the embedding table
    max_positions: int
    bos_id: int
    eos_id: int
    mask_id: int
    pos_id: int
    feature_strides: tuple[int, int, int, int] = (4, 8, 16, 32)
    extra_eos_ids: tuple[int, ...] = ()  # end an answer as eos_id does
    crop_size: int = 0  # side of the square to which a region's own crop is resized; 0: the model takes no crops
    num_kv_heads: int = 0  # heads of keys and values; 0: as many as num_heads
    crop_margin: float = 1.3  # side of a crop's window as a multiple of the longer side of the region's box

    @property
    def feature_sizes(self) -> tuple[tuple[int, int], ...]:
        """(height, width) of the four feature maps, res2 to res5."""
        return tuple((self.image_size // stride, self.image_size // stride) for stride in self.feature_strides)

    @property
    def crop_feature_sizes(self) -> tuple[tuple[int, int], ...]:
        """(height, width) of the four feature maps of a crop, res2 to res5."""
        return tuple((self.crop_size // stride, self.crop_size // stride) for stride in self.feature_strides)

    @property
    def kv_heads(self) -> int:
        """Number of heads of keys and values."""
        return self.num_kv_heads or self.num_heads

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ModelSpec:
        """Read the ``model`` part of a manifest. Raises BundleError if fields are missing."""
        names = {f.name for f in fields(cls)}
        missing = sorted({f.name for f in fields(cls) if f.default is MISSING} - set(data))
        if missing:
            raise BundleError(f"manifest.json: model lacks {', '.join(missing)}; {REBUILD}")
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items() if k in names}
        return cls(**values)
