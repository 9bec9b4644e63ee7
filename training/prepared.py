"""What a run starts with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer
from torch.utils.data import Dataset

from osprey_ros.kinds.tree import KindTree
from osprey_torch.model import Osprey
from training.data import Item, Selection


@dataclass(frozen=True)
class Prepared:
    """A model on the CPU, its tokenizer, how many images there are, and the items of a stage given its seed.

    kinds: the tree of kinds that goes into the checkpoint, if there is one. labels: the number of values of each label
    of regions, by default those of tabletops. category_tokens: the token that answers each category, if one does.
    """

    model: Osprey
    tokenizer: Tokenizer
    image_count: int
    items: Callable[[Selection, int], Dataset[Item]]
    kinds: KindTree | None = None
    labels: Mapping[str, int] | None = None
    category_tokens: Sequence[int] = ()
