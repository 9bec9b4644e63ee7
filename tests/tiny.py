"""The smallest Osprey that has all parts, for tests; give it a vocabulary with `TINY.with_vocabulary(size)`."""

from __future__ import annotations

from osprey_torch.config import OspreyConfig

TINY = OspreyConfig(
    image_size=64,
    vision_depths=(1, 1, 2, 1),
    vision_channels=(8, 12, 16, 24),
    vision_layer_scale=0.5,
    mask_channels=16,
    position_size=14,
    hidden_size=64,
    intermediate_size=96,
    num_layers=2,
    num_heads=4,
    max_positions=512,
)
