"""All readers by their names in recipes and commands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from osprey_torch.readers import coco, llava, osprey724k, vcr
from osprey_torch.readers.records import Record, Skipped

Reader = Callable[[Path, Path, Skipped], Iterator[Record]]
READERS: dict[str, Reader] = {
    "image_text_pairs": llava.image_text_pairs,
    "own_masks": coco.own_masks,
    "coco_instances": coco.coco_instances,
    "refcoco": coco.refcoco,
    "refcoco_plus": coco.refcoco_plus,
    "pascal_part": coco.pascal_part,
    "part_imagenet": coco.part_imagenet,
    "visual_genome": coco.visual_genome,
    "vcr": vcr.vcr,
    "conversations": osprey724k.conversations,
    "detailed_descriptions": osprey724k.detailed_descriptions,
    "short_form": osprey724k.short_form,
    "part_level": osprey724k.part_level,
    "lvis_positive_negative": osprey724k.lvis_positive_negative,
}
