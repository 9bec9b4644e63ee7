"""Open-vocabulary segmentation on simulated scenes: PQ, SQ, RQ, mIoU and AP, as in `osprey eval ovseg_ade`.

The scenes are rendered into --data in the layout of ADE20K, unless they are there already. The classes are the kinds of
the objects in them; the background is void. The share of each object that others hide is known.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_masks

from evaluation.published.command import run_task
from evaluation.published.segmentation_data import PanopticData, read_ade
from evaluation.published.segmentation_task import SegmentationTask
from osprey_ros.cli._edge import command
from osprey_ros.cli._options import add_count_option
from osprey_ros.cli._progress import progress_bar
from osprey_ros.errors import InputError
from osprey_ros.files import completed_file, write_file, write_json
from osprey_sim.home import shipped_models
from osprey_sim.object_sets import HOME, OBJECT_SETS, TABLETOP, SceneSource
from osprey_sim.render import HEIGHT, MIN_AREA, WIDTH, Renderer
from osprey_torch.readers.files import read_json
from osprey_torch.readers.records import Skipped

_SIZES = {TABLETOP: (WIDTH, HEIGHT), HOME: (640, 480)}
_SPLIT = "test"
_WHAT = "scenes.json"


class SceneFolder:
    """Renders test scenes into a folder in the layout of ADE20K.

    Args:
        folder: The folder.
        objects: Set of objects, "tabletop" or "home".
        count: Number of scenes.
    """

    def __init__(self, folder: Path, objects: str, count: int) -> None:
        self._root = folder / "ADEChallengeData2016"
        self._folder, self._objects, self._count = folder, objects, count
        self._scenes: list[tuple[str, np.ndarray, dict[int, tuple[str, float]]]] = []

    def write(self) -> None:
        """Render and write all files. Raises InputError if the folder has other scenes."""
        wanted = {"objects": self._objects, "scenes": self._count, "split": _SPLIT}
        if (self._folder / _WHAT).is_file():
            found = read_json(self._folder / _WHAT)
            if found != wanted:
                raise InputError(f"{self._folder} has other scenes ({found}); choose another --data, or remove it")
            return
        for name in ("images", "annotations_detectron2"):
            (self._root / name / "validation").mkdir(parents=True, exist_ok=True)
        (self._root / "ade20k_panoptic_val").mkdir(exist_ok=True)
        self._render()
        kinds = sorted({kind for _, _, objects in self._scenes for kind, _ in objects.values()})
        self._write_truth(kinds)
        lines = [f"{number}:{kind}" for number, kind in enumerate(kinds, 1)]
        write_file(self._folder / "ade20k_sim_with_prompt_eng.txt", "\n".join(lines) + "\n")
        write_json(self._folder / _WHAT, wanted)

    def _render(self) -> None:
        source, size = SceneSource(self._objects), _SIZES[self._objects]
        least = MIN_AREA * size[0] * size[1] // (WIDTH * HEIGHT)
        with Renderer(*size) as renderer, progress_bar("rendering", " scenes", self._count) as bar:
            source.preload(renderer)
            for seed in range(self._count):
                scene, frame = source.render(renderer, source.sample(seed, _SPLIT), depth=False)
                name = f"sim_{seed:08d}"
                with completed_file(self._root / "images" / "validation" / f"{name}.png") as partial:
                    Image.fromarray(frame.rgb).save(partial)
                objects = {}
                for number in frame.objects(least):
                    own = scene.object(number)
                    alone = renderer.render(replace(scene, objects=[own]), depth=False).instance_ids == number
                    seen = frame.instance_ids == number
                    objects[number] = (own.category, 1 - int(seen.sum()) / max(int(alone.sum()), int(seen.sum())))
                self._scenes.append((name, frame.instance_ids, objects))
                bar.update(1)

    def _write_truth(self, kinds: Sequence[str]) -> None:
        annotations: list[dict[str, Any]] = []
        instances: list[dict[str, Any]] = []
        for name, ids, objects in self._scenes:
            kept = np.where(np.isin(ids, list(objects)), ids, 0).astype(np.int64)
            colors = np.stack([kept % 256, kept // 256 % 256, kept // 65536], axis=-1).astype(np.uint8)
            Image.fromarray(colors).save(self._root / "ade20k_panoptic_val" / f"{name}.png")
            semantic = np.full(ids.shape, 255, np.uint8)
            segments = []
            for number, (kind, hidden) in objects.items():
                mask, category = ids == number, kinds.index(kind)
                semantic[mask] = category
                area = int(mask.sum())
                common = {"category_id": category, "area": area, "iscrowd": 0}
                segments.append({"id": number, **common, "hidden": round(hidden, 4)})
                lengths = coco_masks.encode(np.asfortranarray(mask, np.uint8))
                box = [float(value) for value in coco_masks.toBbox(lengths)]
                lengths["counts"] = lengths["counts"].decode()
                instances.append(
                    {"id": len(instances) + 1, "image_id": name, **common, "bbox": box, "segmentation": lengths}
                )
            Image.fromarray(semantic).save(self._root / "annotations_detectron2" / "validation" / f"{name}.png")
            annotations.append({"image_id": name, "file_name": f"{name}.png", "segments_info": segments})
        images = [{"id": name, "width": ids.shape[1], "height": ids.shape[0]} for name, ids, _ in self._scenes]
        categories = [{"id": number, "name": kind, "isthing": 1} for number, kind in enumerate(kinds)]
        head: dict[str, Any] = {"images": images, "categories": categories}
        write_json(self._root / "ade20k_panoptic_val.json", {**head, "annotations": annotations})
        write_json(self._root / "ade20k_instance_val.json", {**head, "annotations": instances})


class _Simulated(SegmentationTask):
    name = "ovseg_sim"
    about = __doc__ or ""

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        super().add_options(parser)
        add_count_option(parser, "--scenes", 500, "number of test scenes")
        parser.add_argument("--objects", choices=OBJECT_SETS, default=TABLETOP, help="(default: %(default)s)")

    def check(self, arguments: argparse.Namespace) -> None:
        super().check(arguments)
        if arguments.objects == HOME:
            shipped_models()

    def read(self, arguments: argparse.Namespace, skipped: Skipped) -> PanopticData:
        SceneFolder(arguments.data, arguments.objects, arguments.scenes).write()
        return read_ade(arguments.data, arguments.images, arguments.classes, arguments.split, skipped)


@command("osprey eval ovseg_sim")
def main(argv: Sequence[str] | None = None) -> int:
    return run_task(_Simulated(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
